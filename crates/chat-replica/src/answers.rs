//! How answers leave the driver: those of one log entry together, a part for each event loop.
//!
//! Each answer wakes a task, and a thread if that sleeps. Given by the driver, the first would bring a thread to the processor that the driver needs to
//! give the second, and so with each of them. So those that an event loop waits for go to one task there, which gives them where nothing needs to be woken for
//! that.

use crate::desk::Tell;
use crate::handle::{Declined, Done};
use tokio::runtime::{Handle, Id};
use tokio::sync::{mpsc, oneshot};

/// Where an answer goes.
#[derive(Debug)]
pub(crate) struct Answer {
    sender: oneshot::Sender<Result<Done, Declined>>,
    /// The runtime on which it is waited for.
    on: Option<Id>,
}

type Given = (Answer, Result<Done, Declined>);

/// So few are given by the driver itself: one that is waited for alone leaves without another hop.
const FEW: usize = 2;
/// How many entries' answers wait to be given at most; beyond, the driver gives them.
const ENTRIES: usize = 64;

impl Answer {
    /// For somebody who waits on the current runtime, if there is one.
    pub fn channel() -> (Answer, oneshot::Receiver<Result<Done, Declined>>) {
        let (sender, receiver) = oneshot::channel();
        let on = Handle::try_current().ok().map(|runtime| runtime.id());
        (Answer { sender, on }, receiver)
    }
}

/// The driver's end.
#[derive(Debug)]
pub(crate) struct Answers {
    loops: Vec<Loop>,
}

#[derive(Debug)]
struct Loop {
    id: Id,
    outbox: mpsc::Sender<Vec<Given>>,
    /// What is to leave together.
    gathered: Vec<Given>,
}

impl Answers {
    /// With a task on each of these runtimes and on the current one, which ends with this.
    pub fn start(runtimes: &[Handle]) -> Answers {
        let mut loops: Vec<Loop> = runtimes.iter().map(Loop::start).collect();
        let here = Handle::current();
        if loops.iter().all(|each| each.id != here.id()) {
            loops.push(Loop::start(&here));
        }
        Answers { loops }
    }

    /// Lets go together of what answers this gives.
    pub fn together<T>(&mut self, tell_all: impl FnOnce(Tell<'_, Answer>) -> T) -> T {
        let told = tell_all(&mut |answer, what| match self.loops.iter_mut().find(|each| Some(each.id) == answer.on) {
            Some(waits) => waits.gathered.push((answer, what)),
            None => give([(answer, what)]),
        });
        self.loops.iter_mut().for_each(Loop::leave);
        told
    }
}

impl Loop {
    fn start(runtime: &Handle) -> Loop {
        let (outbox, mut inbox) = mpsc::channel(ENTRIES);
        runtime.spawn(async move {
            while let Some(answers) = inbox.recv().await {
                give(answers);
            }
        });
        Loop { id: runtime.id(), outbox, gathered: Vec::new() }
    }

    fn leave(&mut self) {
        if self.gathered.len() <= FEW {
            return give(self.gathered.drain(..));
        }
        use mpsc::error::TrySendError::{Closed, Full};
        if let Err(Full(answers) | Closed(answers)) = self.outbox.try_send(std::mem::take(&mut self.gathered)) {
            give(answers);
        }
    }
}

/// Whoever asked may have gone.
fn give(answers: impl IntoIterator<Item = Given>) {
    answers.into_iter().for_each(|(answer, what)| drop(answer.sender.send(what)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::EventLoops;

    /// So many answers together, and where they arrive.
    fn given(answers: &mut Answers, count: usize) -> Vec<oneshot::Receiver<Result<Done, Declined>>> {
        let (asked, waiting): (Vec<Answer>, Vec<_>) = (0..count).map(|_| Answer::channel()).unzip();
        answers.together(|tell| asked.into_iter().for_each(|answer| tell(answer, Err(Declined::Unknown))));
        waiting
    }

    #[tokio::test]
    async fn every_answer_arrives_however_many_there_are() {
        let mut answers = Answers::start(&[]);
        for count in [1, FEW, FEW + 1, 100] {
            for given in given(&mut answers, count) {
                assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
            }
        }
    }

    #[tokio::test]
    async fn answers_arrive_though_their_task_is_behind_or_gone() {
        let mut answers = Answers::start(&[]);
        // Nothing here lets the task run.
        let waiting: Vec<_> = (0..3 * ENTRIES).flat_map(|_| given(&mut answers, FEW + 1)).collect();
        drop(answers);
        for given in waiting {
            assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
        }
    }

    /// On other threads, and where there is no runtime at all.
    #[tokio::test]
    async fn answers_arrive_on_every_event_loop_and_elsewhere() {
        let loops = EventLoops::threads().expect("threads");
        let mut answers = Answers::start(loops.runtimes());
        let mut waiting = Vec::new();
        let mut asked = Vec::new();
        for runtime in loops.runtimes() {
            for _ in 0..FEW + 1 {
                let (asks, answer) = oneshot::channel();
                waiting.push(runtime.spawn(async move {
                    let (asked, given) = Answer::channel();
                    asks.send(asked).expect("it is waited for");
                    given.await
                }));
                asked.push(answer.await.expect("it asks"));
            }
        }
        let (elsewhere, given) = std::thread::spawn(Answer::channel).join().expect("no panic");
        asked.push(elsewhere);
        assert!(asked.iter().take(FEW + 1).all(|asked| asked.on == Some(loops.runtimes()[0].id())));
        answers.together(|tell| asked.into_iter().for_each(|asked| tell(asked, Err(Declined::Unknown))));
        assert!(matches!(given.await, Ok(Err(Declined::Unknown))));
        for waiting in waiting {
            assert!(matches!(waiting.await.expect("no panic"), Ok(Err(Declined::Unknown))));
        }
    }
}
