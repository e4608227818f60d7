//! Whether the service goes on: when somebody was last answered, and how long nobody was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Heard by everybody who sends.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    acknowledged: AtomicU64,
    /// When the last answer came, in µs since it began.
    last: AtomicU64,
    /// The longest time between two answers since [`Pulse::measure`], in µs.
    longest: AtomicU64,
    /// When the newest message that was answered was sent, in µs since it began.
    newest: AtomicU64,
    /// The newest message that has a time, and how far the wall clock that gave it is off, in s.
    off: Mutex<(u64, i64)>,
}

impl Pulse {
    pub fn new() -> Pulse {
        let zero = || AtomicU64::new(0);
        Pulse {
            begun: Instant::now(),
            acknowledged: zero(),
            last: zero(),
            longest: zero(),
            newest: zero(),
            off: Mutex::default(),
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_micros() as u64
    }

    /// A message that was sent then is acknowledged now.
    pub fn acknowledge(&self, sent: Instant) {
        self.newest.fetch_max(self.micros(sent), Ordering::Relaxed);
        let now = self.micros(Instant::now());
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        self.longest.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// A message that was sent then was given a wall clock's time, in ms since 1970.
    pub fn tell_time(&self, sent: Instant, stamp: i64) {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let mut off = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        *off = (*off).max((self.micros(sent), (stamp - here) / 1000));
    }

    /// How far the wall clock is off, in s, about, which the newest message has its time from.
    pub fn off(&self) -> i64 {
        self.off.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The longest gap is that from here on.
    pub fn measure(&self) {
        self.last.fetch_max(self.micros(Instant::now()), Ordering::Relaxed);
        self.longest.store(0, Ordering::Relaxed);
    }

    /// The longest time without an answer since [`Pulse::measure`]; one that goes on counts.
    pub fn longest(&self) -> Duration {
        let open = self.micros(Instant::now()).saturating_sub(self.last.load(Ordering::Relaxed));
        Duration::from_micros(open.max(self.longest.load(Ordering::Relaxed)))
    }

    /// Whether something that was sent after `then` was answered.
    pub fn beats_since(&self, then: Instant) -> bool {
        self.newest.load(Ordering::Relaxed) > self.micros(then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_later_is_progress() {
        let pulse = Pulse::new();
        let sent = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        let healed = Instant::now();
        pulse.acknowledge(sent);
        assert!(!pulse.beats_since(healed));
        std::thread::sleep(Duration::from_millis(2));
        pulse.acknowledge(Instant::now());
        assert!(pulse.beats_since(healed));
        assert_eq!(pulse.acknowledged(), 2);
    }

    #[test]
    fn a_gap_that_goes_on_counts() {
        let pulse = Pulse::new();
        pulse.acknowledge(Instant::now());
        pulse.measure();
        std::thread::sleep(Duration::from_millis(5));
        assert!(pulse.longest() >= Duration::from_millis(5));
    }
}
