//! The faults of one walk: which kinds, how often, and how long things stay down.

use super::MS;
use super::random::Random;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A process dies.
    Kill,
    /// A process dies between two effects of a turn.
    KillBetween,
    /// The one that serves dies.
    KillPrimary,
    /// Most die at once.
    KillAll,
    /// Power is lost, with what was not synced.
    Power,
    /// A process dies where nobody can see it.
    Silence,
    /// A process comes back.
    Restart,
    /// All come back.
    RestartAll,
    /// A process stands still for a while.
    Pause,
    /// A process stands still between two effects of a turn.
    PauseInTurn,
    /// Nothing passes between two.
    CutBoth,
    /// Nothing passes from one to another.
    CutOneWay,
    /// Nothing passes between one and the others.
    Isolate,
    /// Messages from one to another take longer.
    SlowLink,
    /// Nothing passes between a client and a replica, one way or both.
    CutClient,
    /// All links are whole again.
    Heal,
    /// Syncs of a disk take long.
    Stall,
    /// A disk fills up.
    FullDisk,
    /// A sync fails.
    SyncError,
    /// A disk cannot be read.
    ReadError,
    /// A wall clock jumps.
    WallJump,
    /// A process is told to go.
    Leave,
    /// The primary is told to hand over.
    Transfer,
    /// A disk is replaced, damaged, or rolled back.
    Disk,
    /// Many writes at once.
    Burst,
    /// A fencing command tells of one that is gone.
    Fence,
    /// One kind of message does not arrive, one way, until links are healed.
    Mute,
    /// A refusal that nobody meant: of a listener's full queue, or a firewall that is loaded anew.
    Hiccup,
    /// More writes at once than go into one message.
    Large,
    /// A process dies and comes back at once.
    Bounce,
}

/// The kinds of faults of one walk, with weights.
#[derive(Clone, Debug)]
pub struct Weather {
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
    pub(super) fn new(random: &mut Random) -> Weather {
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

    /// Some walks have faults of a rarer kind.
    pub(super) fn with_rare(mut self, random: &mut Random) -> Weather {
        if random.chance(500) {
            for (fault, weight) in [(Fault::Mute, 3), (Fault::Hiccup, 3), (Fault::Large, 1), (Fault::Bounce, 4)] {
                self.set(fault, weight * random.pick(&[0, 1, 1, 2, 4]));
            }
        }
        self
    }

    /// This kind comes so often, relative to the others.
    pub fn set(&mut self, fault: Fault, weight: u64) {
        self.faults.retain(|(has, _)| *has != fault);
        if weight > 0 {
            self.faults.push((fault, weight));
        }
    }

    /// Whether this kind comes at all.
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.iter().any(|(has, _)| *has == fault)
    }

    pub(super) fn next(&self, random: &mut Random) -> Fault {
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
