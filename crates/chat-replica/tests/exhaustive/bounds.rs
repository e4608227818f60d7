//! How much may happen in one search.

use chat_replica::protocol::Rules;
use core::time::Duration;

/// The time between two regular ticks. Longer than a candidacy and twice the longest pause between polls, so whatever the
/// protocol waits for by a fixed time has come after one.
pub const QUANTUM: Duration = Duration::from_millis(310);
/// A short while in which no lease ends: longer than the shortest pause between pings, and between polls.
pub const MOMENT: Duration = Duration::from_millis(40);
/// T: over within one quantum, with its drift.
pub const LEASE: Duration = Duration::from_millis(280);

/// What may still happen, of each kind so often.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Crashes.
    pub crashes: u8,
    /// How many of them may come between any two effects of a turn, rather than between turns.
    pub torn: u8,
    pub restarts: u8,
    /// New entries that a primary is given.
    pub proposals: u8,
    /// Pings that arrive, each with its answer or without.
    pub pings: u8,
    /// Short whiles in which no lease ends.
    pub moments: u8,
    /// Quanta: every lease that is not renewed ends.
    pub quanta: u8,
    /// Three quanta at once: whoever says nothing is suspected.
    pub silences: u8,
    /// How often one process sleeps while time passes for the others.
    pub sleeps: u8,
    /// Messages that get lost.
    pub losses: u8,
    /// Messages that arrive twice.
    pub doubles: u8,
    /// Messages that overtake an earlier one.
    pub overtakes: u8,
    /// Links cut, one way.
    pub cuts: u8,
    /// Times that all cut links are made whole.
    pub heals: u8,
    /// Processes told to leave.
    pub leaves: u8,
    /// Times that a disk loses the last entry of its log while its process is down, and knows it.
    pub damages: u8,
}

impl Budget {
    /// Only what is not nothing.
    pub fn words(&self) -> String {
        let all = [
            (self.crashes, "crashes"),
            (self.torn, "of them torn"),
            (self.restarts, "restarts"),
            (self.proposals, "proposals"),
            (self.pings, "pings"),
            (self.moments, "moments"),
            (self.quanta, "quanta"),
            (self.silences, "silences"),
            (self.sleeps, "sleeps"),
            (self.losses, "losses"),
            (self.doubles, "doubles"),
            (self.overtakes, "overtakes"),
            (self.cuts, "cuts"),
            (self.heals, "heals"),
            (self.leaves, "leaves"),
            (self.damages, "damages"),
        ];
        let some: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        some.join(", ")
    }
}

/// Where a search begins. Replica 1 leads, all that was sent has arrived, and the members hold each other's leases.
/// Production code gets there by itself: it is founded, driven by the same actions, and checked on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// All three are members.
    Three,
    /// 3 crashed and was left out; it is down.
    PairWithoutThird,
    /// The same, but 3 runs again, and has begun sessions with 1: a learner, and nothing that it is sent has arrived.
    PairAndLearner,
    /// 2 and 3 crashed and were left out; both are down.
    Alone,
}

/// One search.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub name: &'static str,
    pub start: Start,
    pub budget: Budget,
    /// By how many thousandths each clock runs fast.
    pub fast: [u64; 3],
    pub lease: Duration,
    /// All, but where it is to be shown that the search would find what they prevent.
    pub rules: Rules,
    /// What it must get to see; otherwise the bounds are too narrow to mean anything.
    pub reaches: &'static [&'static str],
}

impl Bounds {
    pub const fn new(name: &'static str, start: Start, budget: Budget, reaches: &'static [&'static str]) -> Bounds {
        Bounds { name, start, budget, fast: [0; 3], lease: LEASE, rules: Rules::ALL, reaches }
    }
}
