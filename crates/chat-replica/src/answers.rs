//! How answers leave the driver: those of one log entry together.
//!
//! Each answer wakes a task, and a thread if that sleeps. Given by the driver, the first would bring a thread to the processor that the driver needs to
//! give the second, and so with each of them. So many go to one task, which gives them on its own thread, where nothing needs to be woken for that.

use crate::desk::Tell;
use crate::handle::{Declined, Done};
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
pub(crate) type Answer = oneshot::Sender<Result<Done, Declined>>;

type Given = (Answer, Result<Done, Declined>);

/// So few are given by the driver itself: one that is waited for alone leaves without another hop.
const FEW: usize = 2;
/// How many entries' answers wait to be given at most; beyond, the driver gives them.
const ENTRIES: usize = 64;

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Answers {
    outbox: mpsc::Sender<Vec<Given>>,
}

impl Answers {
    /// With a task of the current runtime, which ends with this.
    pub fn start() -> Answers {
        let (outbox, mut inbox) = mpsc::channel(ENTRIES);
        tokio::spawn(async move {
            while let Some(answers) = inbox.recv().await {
                give(answers);
            }
        });
        Answers { outbox }
    }

    /// Lets go together of what answers this gives.
    pub fn together<T>(&self, tell_all: impl FnOnce(Tell<'_, Answer>) -> T) -> T {
        let mut answers = Vec::new();
        let told = tell_all(&mut |answer, what| answers.push((answer, what)));
        self.leave(answers);
        told
    }

    fn leave(&self, answers: Vec<Given>) {
        if answers.len() <= FEW {
            return give(answers);
        }
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(answers) | Closed(answers)) = self.outbox.try_send(answers) {
            give(answers);
        }
    }
}

/// Whoever asked may have gone.
fn give(answers: Vec<Given>) {
    answers.into_iter().for_each(|(answer, what)| drop(answer.send(what)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many answers together, and where they arrive.
    fn given(answers: &Answers, count: usize) -> Vec<oneshot::Receiver<Result<Done, Declined>>> {
        let (asked, waiting): (Vec<Answer>, Vec<_>) = (0..count).map(|_| oneshot::channel()).unzip();
        answers.together(|tell| asked.into_iter().for_each(|answer| tell(answer, Err(Declined::Unknown))));
        waiting
    }

    #[tokio::test]
    async fn every_answer_arrives_however_many_there_are() {
        let answers = Answers::start();
        for count in [1, FEW, FEW + 1, 100] {
            for given in given(&answers, count) {
                assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
            }
        }
    }

    #[tokio::test]
    async fn answers_arrive_though_their_task_is_behind_or_gone() {
        let answers = Answers::start();
        // Nothing here lets the task run.
        let waiting: Vec<_> = (0..3 * ENTRIES).flat_map(|_| given(&answers, FEW + 1)).collect();
        drop(answers);
        for given in waiting {
            assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
        }
    }
}
