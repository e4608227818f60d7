//! Figures, for people and for programs.

use std::time::Duration;

/// Durations of single operations.
#[derive(Debug, Default)]
pub(crate) struct Times {
    sorted: Vec<Duration>,
}

impl Times {
    pub fn of(mut times: Vec<Duration>) -> Times {
        times.sort_unstable();
        Times { sorted: times }
    }

    /// The smallest time that this part of them does not exceed: 0.5 is the median. Zero where there are none.
    pub fn at(&self, part: f64) -> Duration {
        let rank = (part * self.sorted.len() as f64).ceil() as usize;
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get(rank.saturating_sub(1).min(last)).copied().unwrap_or_default()
    }

    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_sorted_times() {
        let times = Times::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(times.at(0.5), Duration::from_millis(50));
        assert_eq!(times.at(0.99), Duration::from_millis(99));
        assert_eq!(times.at(1.0), Duration::from_millis(100));
        assert_eq!(Times::default().at(0.5), Duration::ZERO);
    }
}
