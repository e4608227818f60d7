//! One simulated process run: the production node, its driver's queues, and its dials.

use super::disk::Disk;
use super::journal::Effect;
use super::service::Service;
use super::world::Settings;
use chat_replica::node::{Node, Turned};
use chat_replica::protocol::*;
use std::collections::VecDeque;

/// A monotonic clock that runs a little fast, from an origin of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub started: u64,
    pub origin: u64,
    pub permille_fast: u64,
}

impl Clock {
    pub fn at(&self, now: u64) -> Time {
        Time(self.origin + (now - self.started) * (1000 + self.permille_fast) / 1000)
    }

    /// When, at the earliest, it shows `time`.
    pub fn shows(&self, time: Time) -> u64 {
        self.started + time.0.saturating_sub(self.origin) * 1000 / (1000 + self.permille_fast) + 1
    }
}

/// Where the driver's loop is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Busy {
    /// Between two turns.
    No,
    /// The effects of a turn happen.
    Acting,
    /// The disk is writing.
    Syncing,
}

/// How a process is about to end, at the end of its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Left,
    RolledBack,
}

/// The dial to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Dial {
    /// The session that this process dialled.
    pub session: Option<u64>,
    /// Who answered there last.
    pub last: Option<Member>,
    /// A dial waits for the process to be resumed.
    pub deferred: bool,
}

/// A process run.
#[derive(Debug)]
pub struct Process {
    pub(crate) run: u64,
    pub(crate) member: Member,
    pub(crate) node: Node<Disk>,
    pub(crate) clock: Clock,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) busy: Busy,
    /// What the last turn still has to do, and what it returned.
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) turned: Turned,
    /// The turn's transaction has landed: what is sent now may rest on it.
    pub(crate) landed: bool,
    /// How long the sync of this turn takes, if there is one.
    pub(crate) sync_takes: u64,
    /// When the sync began in which the process was paused: by its clock it lasts until the process goes on.
    pub(crate) slept_since: Option<u64>,
    /// A thread beside the turns is writing.
    pub(crate) showing: bool,
    pub(crate) paused: bool,
    pub(crate) turn_due: bool,
    pub(crate) wake: u64,
    /// Effects until kill -9, for a crash between any two.
    pub(crate) crash_in: Option<u64>,
    /// Effects until the process stands still, and for how long.
    pub(crate) pause_in: Option<(u64, u64)>,
    pub(crate) dials: Vec<Dial>,
    pub(crate) seen_commit: u64,
    pub(crate) steps: u64,
    pub(crate) leaving: bool,
    pub(crate) ending: Option<Ending>,
    pub(crate) service: Service,
}

impl Process {
    pub(crate) fn new(run: u64, node: Node<Disk>, clock: Clock, settings: &Settings) -> Process {
        let visible = node.disk().state().applied;
        Process {
            run,
            member: node.replica().me(),
            seen_commit: 0,
            node,
            clock,
            inbox: VecDeque::new(),
            busy: Busy::No,
            effects: VecDeque::new(),
            turned: Turned::default(),
            landed: false,
            sync_takes: 0,
            slept_since: None,
            showing: false,
            paused: false,
            turn_due: false,
            wake: u64::MAX,
            crash_in: None,
            pause_in: None,
            dials: vec![Dial::default(); settings.n],
            steps: 0,
            leaving: false,
            ending: None,
            service: Service::new(settings.min_copies, settings.full, visible),
        }
    }

    /// The protocol's state.
    pub fn replica(&self) -> &Replica {
        self.node.replica()
    }

    /// Who it is.
    pub fn member(&self) -> Member {
        self.member
    }

    /// How many turns it has taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the protocol lets it answer reads at `now`, in simulated microseconds: a lease that covers that moment, by a clock
    /// read then (rule 11).
    pub fn may_read(&self, now: u64) -> bool {
        self.replica().lease_until().is_some_and(|until| until > self.clock.at(now))
    }
}
