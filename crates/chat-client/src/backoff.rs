//! How long to wait before the next attempt: a pure function.
//!
//! A planned hand-over takes a few milliseconds and a failover some 20, so the first attempts come quickly; a cluster that stays
//! away is asked four times a second. The jitter keeps many clients from coming back at the same instant.

use std::time::Duration;

use rand::{Rng, RngExt as _};

const FIRST: Duration = Duration::from_millis(3);
const MOST: Duration = Duration::from_millis(250);

/// The pause before attempt number `attempt`, counted from 0: between half and all of 3 ms * 1.5^attempt, which is
/// at most 250 ms.
pub(crate) fn delay(attempt: u32, rng: &mut impl Rng) -> Duration {
    // 1.5^11 * 3 ms is above MOST already, so the exponent need not grow further.
    let most = FIRST.mul_f64(1.5_f64.powi(attempt.min(16) as i32)).min(MOST);
    rng.random_range(most / 2..=most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(attempt: u32, seed: u64) {
            let delay = delay(attempt, &mut SmallRng::seed_from_u64(seed));
            prop_assert!(delay >= FIRST / 2 && delay <= MOST, "{delay:?}");
        }

        #[test]
        fn the_same_seed_gives_the_same_delays(attempt in 0..20_u32, seed: u64) {
            let one = delay(attempt, &mut SmallRng::seed_from_u64(seed));
            prop_assert_eq!(one, delay(attempt, &mut SmallRng::seed_from_u64(seed)));
        }

        #[test]
        fn grows_until_the_bound(attempt in 0..20_u32, seed: u64) {
            let mut rng = SmallRng::seed_from_u64(seed);
            // Half of the ceiling two steps on is above the ceiling here: jitter cannot hide the growth.
            prop_assert!(delay(attempt, &mut rng) <= delay(attempt + 2, &mut rng) || attempt >= 6);
        }
    }

    #[test]
    fn jitter_spreads() {
        let mut rng = SmallRng::seed_from_u64(1);
        let delays: std::collections::HashSet<_> = (0..100).map(|_| delay(5, &mut rng)).collect();
        assert!(delays.len() > 90);
    }
}
