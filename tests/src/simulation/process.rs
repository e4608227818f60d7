//! One simulated process run: the production replica, its driver's queue, and its dials.

use super::disk::Disk;
use chat_replica::protocol::*;
use std::collections::VecDeque;

/// A monotonic clock that runs a little fast, from an origin of its own.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
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

/// What a turn still has to do.
#[derive(Debug)]
pub enum Busy {
    No,
    /// Computed, and nothing has left yet.
    Stepped(Effects),
    /// The disk is writing.
    Syncing(Effects),
    /// Durable; what rests on it has not left yet.
    Durable(Effects),
}

/// The dial to one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dial {
    /// The session that this process dialled.
    pub session: Option<u64>,
    /// Who answered there last.
    pub last: Option<Member>,
    /// A dial waits for the process to be resumed.
    pub deferred: bool,
}

#[derive(Debug)]
pub struct Process {
    pub run: u64,
    pub member: Member,
    pub replica: Replica,
    pub clock: Clock,
    pub inbox: VecDeque<Input>,
    pub busy: Busy,
    /// The last sync took this long, and the replica was not told yet.
    pub synced: Option<u64>,
    pub sync_began: u64,
    pub paused: bool,
    pub turn_due: bool,
    pub wake: u64,
    /// Effects until kill -9, for a crash between any two.
    pub crash_in: Option<u64>,
    /// Pause between the reading of the clock and the first effect of the next turn.
    pub pause_in_turn: Option<u64>,
    pub dials: Vec<Dial>,
    /// The log as this process knows it, durable or not.
    pub log: Vec<Entry>,
    pub seen_commit: u64,
    pub steps: u64,
    pub leaving: bool,
    pub left: bool,
}

impl Process {
    pub fn new(run: u64, replica: Replica, clock: Clock, disk: &Disk, n: usize) -> Process {
        Process {
            run,
            member: replica.me(),
            seen_commit: 0,
            replica,
            clock,
            inbox: VecDeque::new(),
            busy: Busy::No,
            synced: None,
            sync_began: 0,
            paused: false,
            turn_due: false,
            wake: u64::MAX,
            crash_in: None,
            pause_in_turn: None,
            dials: vec![Dial::default(); n],
            log: disk.log.clone(),
            steps: 0,
            leaving: false,
            left: false,
        }
    }

    pub fn follow_log(&mut self, effects: &Effects) {
        for what in &effects.persist {
            match what {
                Persist::Append(entry) => self.log.push(entry.clone()),
                Persist::CutBack(from) => self.log.truncate(*from as usize - 1),
                _ => {}
            }
        }
        assert_eq!(self.log.len() as u64, self.replica.log().last().index, "what is persisted is what is in the log");
    }

    /// A lease that covers this moment, by a clock read now (rule 11).
    pub fn may_read(&self, now: u64) -> bool {
        self.replica.lease_until().is_some_and(|until| until > self.clock.at(now))
    }
}
