//! Where a mailbox's `delivered` mark can have been, as far as acknowledgements tell.

use std::collections::HashMap;

use crate::history::{Answer, History, Micros, Outcome, Request};

/// Of each mailbox: what was acknowledged, and when.
pub(crate) struct Levels<'a> {
    /// The highest mark that was known to be set, from these times on. Ascending in both.
    certain: HashMap<&'a str, Vec<(Micros, u64)>>,
    /// The highest mark that can have been set, from these times on. Ascending in both.
    possible: HashMap<&'a str, Vec<(Micros, u64)>>,
}

impl<'a> Levels<'a> {
    pub fn of(history: &'a History) -> Self {
        let mut levels = Levels { certain: HashMap::new(), possible: HashMap::new() };
        for call in &history.calls {
            let Request::Acknowledge { delivered, read } = call.request else { continue };
            if matches!(call.outcome, Outcome::Rejected(_)) {
                continue;
            }
            if let Some(asked) = delivered.max(read) {
                levels.possible.entry(&call.account).or_default().push((call.begun, asked));
            }
            if let (Outcome::Done(Answer::Marks(marks)), Some(ended)) = (&call.outcome, call.ended) {
                levels.certain.entry(&call.account).or_default().push((ended, marks.delivered));
            }
        }
        levels.certain.values_mut().chain(levels.possible.values_mut()).for_each(ascend);
        levels
    }

    /// The mark was at least here for whatever began after `at`.
    pub fn certain(&self, account: &str, at: Micros) -> u64 {
        // An acknowledgement that ended in the same microsecond can have come after.
        look(&self.certain, account, |time| time < at)
    }

    /// The mark was at most here at `at`.
    pub fn possible(&self, account: &str, at: Micros) -> u64 {
        look(&self.possible, account, |time| time <= at)
    }
}

fn ascend(levels: &mut Vec<(Micros, u64)>) {
    levels.sort_unstable();
    let mut highest = 0;
    for (_, level) in levels {
        highest = highest.max(*level);
        *level = highest;
    }
}

fn look(levels: &HashMap<&str, Vec<(Micros, u64)>>, account: &str, counts: impl Fn(Micros) -> bool) -> u64 {
    let Some(levels) = levels.get(account) else { return 0 };
    let count = levels.partition_point(|&(time, _)| counts(time));
    count.checked_sub(1).map_or(0, |last| levels[last].1)
}
