//! An open loop: sends begin when they are due, whether or not those before are answered.

use super::load::everybody;
use super::people::Person;
use crate::processes::Broken;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Of the rate that was asked for, this part must have been reached.
pub(super) const REACHED: f64 = 0.99;

/// What an open loop came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paced {
    pub acknowledged: u64,
    /// From when one was due to its acknowledgement, at most.
    pub longest: Duration,
    /// When the first was due.
    began: Instant,
    /// When the last was acknowledged.
    ended: Instant,
}

impl Paced {
    pub fn per_second(&self) -> f64 {
        self.acknowledged as f64 / (self.ended - self.began).as_secs_f64()
    }
}

/// Has `rate` messages sent per second for `time`, by all senders in turn, each over its own session. `message` says to whom goes what:
/// it is given the message's number, from 0, and when it is due. Waits for all answers.
pub(super) async fn paced<F>(senders: &[Person], rate: usize, time: Duration, message: F) -> Result<Paced, Broken>
where
    F: Fn(u64, Instant) -> (String, String) + Clone + Send + 'static,
{
    let (mut lines, mut running) = (Vec::new(), JoinSet::new());
    for person in senders.iter().cloned() {
        let (line, mut due) = mpsc::unbounded_channel();
        let (submitted, mut answers) = mpsc::unbounded_channel();
        lines.push(line);
        let message = message.clone();
        running.spawn(async move {
            while let Some((number, at)) = due.recv().await {
                let (to, text) = message(number, at);
                // The other end goes only with an error of its own.
                let _ = submitted.send((person.session.submit(&to, &text).await?, at));
            }
            Ok::<_, Broken>((0, Instant::now(), Duration::ZERO))
        });
        running.spawn(async move {
            let (mut count, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
            while let Some((answer, due)) = answers.recv().await {
                answer.await?;
                (count, last) = (count + 1, Instant::now());
                longest = longest.max(last - due);
            }
            Ok((count, last, longest))
        });
    }
    let total = (rate as f64 * time.as_secs_f64()) as u64;
    let began = Instant::now();
    // Timers of the runtime are too coarse: this many wake-ups per second are a matter of microseconds.
    let pacer = std::thread::spawn(move || pace(began, rate, total, &lines));
    let done = everybody(running).await?;
    let paced = pacer.join().map_err(|_| Broken("the pacing thread failed".into()));
    let ended = done.iter().filter(|(count, ..)| *count > 0).map(|(_, last, _)| *last).max().unwrap_or(began);
    let longest = done.iter().map(|(.., longest)| *longest).max().unwrap_or_default();
    paced.map(|()| Paced { acknowledged: done.iter().map(|(count, ..)| count).sum(), longest, began, ended })
}

/// Gives each number, when it is due, to the line whose turn it is.
fn pace(began: Instant, rate: usize, total: u64, lines: &[mpsc::UnboundedSender<(u64, Instant)>]) {
    for (number, line) in (0..total).zip(lines.iter().cycle()) {
        let at = began + due(rate, number);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if line.send((number, at)).is_err() {
            // Its owner has failed, and says why.
            return;
        }
    }
}

/// When a message is due, from the beginning on.
fn due(rate: usize, number: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_evenly_and_do_not_drift() {
        assert_eq!(due(5000, 0), Duration::ZERO);
        assert_eq!(due(5000, 1), Duration::from_micros(200));
        assert_eq!(due(3, 3_000_000), Duration::from_secs(1_000_000));
    }

    #[test]
    fn everybody_has_their_turn_and_nothing_comes_early() {
        let (one, mut of_one) = mpsc::unbounded_channel();
        let (two, mut of_two) = mpsc::unbounded_channel();
        let began = Instant::now();
        pace(began, 1000, 5, &[one, two]);
        let took = began.elapsed();
        let taken = |line: &mut mpsc::UnboundedReceiver<(u64, Instant)>| {
            std::iter::from_fn(|| line.try_recv().ok()).map(|(number, _)| number).collect::<Vec<_>>()
        };
        assert_eq!((taken(&mut of_one), taken(&mut of_two)), (vec![0, 2, 4], vec![1, 3]));
        assert!(took >= due(1000, 4), "{took:?}");
    }
}
