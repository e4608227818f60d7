//! How long to wait before the next dial. Pure.

use std::time::Duration;

/// How the last one went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Went {
    /// A session, for so long.
    Session(Duration),
    /// The connection was refused.
    Refused,
    /// It was made and broke before the peer said who it is.
    Broke,
    /// Anything else.
    Silence,
}

/// A session that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(5);
const QUICK_TIMES: u32 = 10;

/// Waits in a row grow. Refusals are asked for quickly, as rule 8 wants several while the lease lasts, and cost the other
/// host next to nothing; silence is asked seldom, with jitter, so that those who lost one peer do not return in step.
#[derive(Default, Debug)]
pub(super) struct Pace {
    refused: u32,
    broke: u32,
}

impl Pace {
    /// The wait after one that went so; `random` is any number.
    pub fn pause(&mut self, went: Went, random: u32) -> Duration {
        if went != Went::Refused {
            self.refused = 0;
        }
        match went {
            Went::Session(lasted) if lasted >= GOOD => {
                self.broke = 0;
                Duration::ZERO
            }
            // A peer that dies while it is dialled breaks the connection: the refusal is a moment away. A peer that does
            // so for ever is asked like a silent one.
            Went::Session(_) | Went::Broke => {
                self.broke = self.broke.saturating_add(1);
                match self.broke {
                    1 => Duration::ZERO,
                    n if n <= QUICK_TIMES => QUICK,
                    _ => quiet(random),
                }
            }
            Went::Refused => {
                self.broke = 0;
                self.refused = self.refused.saturating_add(1);
                QUICK * (1 + self.refused.saturating_sub(QUICK_TIMES)).min(10)
            }
            Went::Silence => quiet(random),
        }
    }
}

/// 100 to 200 ms.
fn quiet(random: u32) -> Duration {
    Duration::from_millis(100 + u64::from(random % 101))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(pace: &mut Pace, went: Went) -> u128 {
        pace.pause(went, 250).as_millis()
    }

    #[test]
    fn a_good_session_is_replaced_at_once_and_refusals_slow_down() {
        let mut pace = Pace::default();
        assert_eq!(millis(&mut pace, Went::Session(Duration::from_secs(60))), 0);
        let waits: Vec<u128> = (0..25).map(|_| millis(&mut pace, Went::Refused)).collect();
        assert_eq!(waits[..10], [5; 10]);
        assert_eq!(waits[10..19], [10, 15, 20, 25, 30, 35, 40, 45, 50]);
        assert_eq!(waits[19..], [50; 6]);
    }

    #[test]
    fn sessions_that_never_last_do_not_become_a_storm() {
        let mut pace = Pace::default();
        let waits: Vec<u128> = (0..12).map(|_| millis(&mut pace, Went::Session(Duration::ZERO))).collect();
        assert_eq!(waits, [0, 5, 5, 5, 5, 5, 5, 5, 5, 5, 148, 148]);
        assert_eq!(millis(&mut pace, Went::Refused), 5);
        assert_eq!(millis(&mut pace, Went::Broke), 0);
    }

    #[test]
    fn silence_is_asked_seldom() {
        let mut pace = Pace::default();
        for random in [0, 1, 100, u32::MAX] {
            let wait = pace.pause(Went::Silence, random).as_millis();
            assert!((100..=200).contains(&wait), "{wait}");
        }
    }
}
