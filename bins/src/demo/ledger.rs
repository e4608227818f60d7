//! What was sent, acknowledged and received, by message number: pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Counts messages numbered from 1, in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub sent: u64,
    pub acknowledged: u64,
    pub received: u64,
    pub doubled: u64,
    pub out_of_order: u64,
    /// The highest number received.
    highest: u64,
    /// Numbers below it that were not.
    skipped: BTreeSet<u64>,
    last: Option<Instant>,
    longest: Duration,
}

impl Ledger {
    /// The next number is sent; returns it.
    pub fn send(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// The next number is acknowledged: answers come in the order of the numbers.
    pub fn acknowledge(&mut self, now: Instant) {
        self.acknowledged += 1;
        if let Some(last) = self.last.replace(now) {
            self.longest = self.longest.max(now - last);
        }
    }

    /// This number arrived.
    pub fn receive(&mut self, number: u64) {
        if number > self.highest {
            self.skipped.extend(self.highest + 1..number);
            self.highest = number;
        } else if self.skipped.remove(&number) {
            self.out_of_order += 1;
        } else {
            self.doubled += 1;
            return;
        }
        self.received += 1;
    }

    /// Acknowledged, and passed over on the stream.
    pub fn lost(&self) -> u64 {
        self.skipped.range(..=self.acknowledged).count() as u64
    }

    /// Acknowledged, and not received: what is still on its way counts too.
    pub fn missing(&self) -> u64 {
        self.lost() + self.acknowledged.saturating_sub(self.highest)
    }

    /// The longest time between two acknowledgements; a time that goes on counts, if something waits.
    pub fn longest_gap(&self, now: Instant) -> Duration {
        let open = self.last.filter(|_| self.sent > self.acknowledged).map(|last| now - last);
        self.longest.max(open.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(acknowledged: u64, received: &[u64]) -> Ledger {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for _ in 0..acknowledged {
            ledger.send();
            ledger.acknowledge(now);
        }
        received.iter().for_each(|number| ledger.receive(*number));
        ledger
    }

    #[test]
    fn what_is_as_promised_counts_as_nothing_else() {
        let ledger = ledger(3, &[1, 2, 3]);
        assert_eq!((ledger.received, ledger.lost(), ledger.missing()), (3, 0, 0));
        assert_eq!((ledger.doubled, ledger.out_of_order), (0, 0));
    }

    #[test]
    fn what_is_not_is_counted() {
        let lossy = ledger(5, &[1, 3, 3, 5]);
        assert_eq!((lossy.received, lossy.lost(), lossy.doubled, lossy.out_of_order), (3, 2, 1, 0));
        let late = ledger(3, &[1, 3, 2]);
        assert_eq!((late.received, late.lost(), late.out_of_order, late.doubled), (3, 0, 1, 0));
        let under_way = ledger(3, &[1]);
        assert_eq!((under_way.lost(), under_way.missing()), (0, 2));
        let unacknowledged = ledger(1, &[1, 3]);
        assert_eq!((unacknowledged.lost(), unacknowledged.missing()), (0, 0));
    }

    #[test]
    fn a_gap_that_goes_on_counts_while_something_waits() {
        let mut ledger = ledger(2, &[]);
        let later = Instant::now() + Duration::from_secs(5);
        assert!(ledger.longest_gap(later) < Duration::from_secs(1));
        ledger.send();
        assert!(ledger.longest_gap(later) > Duration::from_secs(4));
    }
}
