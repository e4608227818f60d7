//! The faults of one walk: which kinds, how often, and how long things stay down.

use super::MS;
use super::random::Random;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Kill,
    KillBetween,
    KillPrimary,
    KillAll,
    Power,
    Silence,
    Restart,
    RestartAll,
    Pause,
    PauseInTurn,
    CutBoth,
    CutOneWay,
    Isolate,
    SlowLink,
    CutClient,
    Heal,
    Stall,
    FullDisk,
    SyncError,
    ReadError,
    WallJump,
    Leave,
    Transfer,
    Disk,
    Burst,
    Fence,
}

/// The kinds of faults of one walk, with weights.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// How often each kind comes, relative to the others; kinds that never come are not there.
    pub faults: Vec<(Fault, u64)>,
    /// Between faults, at most.
    pub pause: u64,
    /// Between restarts, at most.
    pub down: u64,
}

const ALL: [(Fault, u64); 24] = [
    (Fault::Kill, 10),
    (Fault::KillBetween, 14),
    (Fault::KillPrimary, 10),
    (Fault::KillAll, 2),
    (Fault::Power, 4),
    (Fault::Silence, 3),
    (Fault::Restart, 16),
    (Fault::RestartAll, 4),
    (Fault::Pause, 8),
    (Fault::PauseInTurn, 6),
    (Fault::CutBoth, 8),
    (Fault::CutOneWay, 5),
    (Fault::Isolate, 5),
    (Fault::SlowLink, 4),
    (Fault::CutClient, 6),
    (Fault::Heal, 16),
    (Fault::Stall, 4),
    (Fault::FullDisk, 2),
    (Fault::SyncError, 3),
    (Fault::ReadError, 1),
    (Fault::WallJump, 3),
    (Fault::Leave, 4),
    (Fault::Transfer, 4),
    (Fault::Burst, 6),
];

impl Weather {
    pub fn new(random: &mut Random) -> Weather {
        let mut faults = Vec::new();
        for (fault, weight) in ALL {
            // Each walk has a character: some kinds of faults often, others never.
            let weight = weight * random.pick(&[0, 1, 1, 2, 4]);
            let least = if matches!(fault, Fault::Restart | Fault::Heal) { 8 } else { 0 };
            faults.push((fault, weight.max(least)));
        }
        if random.chance(80) {
            faults.push((Fault::Disk, 4));
        }
        if random.chance(100) {
            faults.push((Fault::Fence, 6));
        }
        faults.retain(|(_, weight)| *weight > 0);
        let pause = random.pick(&[20, 100, 300, 1000, 2500]) * MS;
        Weather { faults, pause, down: random.pick(&[20, 200, 2000]) * MS }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(has, _)| *has == fault)
    }

    pub fn next(&self, random: &mut Random) -> Fault {
        let total = self.faults.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        for (fault, weight) in &self.faults {
            if at < *weight {
                return *fault;
            }
            at -= weight;
        }
        Fault::Restart
    }
}
