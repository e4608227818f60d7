//! What a run found that must never be.

use std::fmt;

/// Which promise does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Broken {
    /// Two replicas committed different entries in one place, or a commit index moved back.
    OneHistory,
    /// Two replicas committed in one epoch.
    OneCommitter,
    /// A read was answered, or could have been, from a state that lacks what was acknowledged before (rule 11).
    FreshReads,
    /// Something that promises left before what it promises was durable.
    DurableFirst,
    /// A disk was asked for what it must never be asked for: to cut back a committed entry, to take back a promise.
    SoundDisk,
    /// The same entries gave different results or states on two replicas.
    OneState,
    /// A message came twice, out of order, or not at all; or one request was carried out twice.
    OnceInOrder,
    /// A process was taken for crashed that runs (rule 8).
    TrueProof,
    /// A write was taken where fewer disks would hold it than were asked for (rule 13).
    Copies,
    /// The protocol itself says that it cannot go on.
    Fatal,
    /// Faults stopped, and not everything was well within the time allowed.
    Progress,
    /// What the clients saw, and what the replicas hold, judged at the end.
    Judgement,
    /// The same seed did not do the same.
    Determinism,
    /// Production code panicked.
    Panic,
}

/// A promise that does not hold, when and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The seed of the run.
    pub seed: u64,
    /// Simulated microseconds since the run began.
    pub at: u64,
    /// Which promise.
    pub broken: Broken,
    /// At whom: a process run, a client, or nobody in particular.
    pub place: String,
    /// What was seen.
    pub what: String,
}

impl Broken {
    /// Whether something was lost, or could have been: all but what is only late, and what a run says of itself.
    pub fn is_unsafe(self) -> bool {
        !matches!(self, Broken::Progress | Broken::Determinism | Broken::Panic)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { seed, at, broken, place, what } = self;
        write!(f, "seed {seed}, after {:.3} ms, {place}: {broken:?}: {what}", *at as f64 / 1000.0)
    }
}

impl std::error::Error for Violation {}
