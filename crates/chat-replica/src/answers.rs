//! How answers leave the driver: those of one log entry together.
//!
//! Each answer wakes a task, and a thread if that sleeps. Given by the driver, the first would bring a thread to the processor that the driver needs to
//! give the second, and so with each of them. So many go to one task, which gives them on its own thread, where nothing needs to be woken for that.

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
    collected: Vec<Given>,
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
        Answers { collected: Vec::new(), outbox }
    }

    /// One more, to leave with the next [`Answers::leave`].
    pub fn put(&mut self, answer: Answer, what: Result<Done, Declined>) {
        self.collected.push((answer, what));
    }

    /// Lets go of them.
    pub fn leave(&mut self) {
        let answers = std::mem::take(&mut self.collected);
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

    #[tokio::test]
    async fn every_answer_arrives_however_many_there_are() {
        let mut answers = Answers::start();
        for count in [1, FEW, FEW + 1, 100] {
            let mut waiting = Vec::new();
            for _ in 0..count {
                let (answer, given) = oneshot::channel();
                answers.put(answer, Err(Declined::Unknown));
                waiting.push(given);
            }
            answers.leave();
            for given in waiting {
                assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
            }
        }
    }

    #[tokio::test]
    async fn answers_arrive_though_their_task_is_behind_or_gone() {
        let mut answers = Answers::start();
        let mut waiting = Vec::new();
        // Nothing here lets the task run.
        for _ in 0..3 * ENTRIES * (FEW + 1) {
            let (answer, given) = oneshot::channel();
            answers.put(answer, Err(Declined::Unknown));
            waiting.push(given);
            if answers.collected.len() > FEW {
                answers.leave();
            }
        }
        drop(answers);
        for given in waiting {
            assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
        }
    }
}
