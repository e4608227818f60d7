//! One replica's disk, and its process while it runs.

pub use super::disk::Disk;

use super::bounds::{Bounds, QUANTUM};
use chat_replica::protocol::*;
use core::time::Duration;

pub const N: usize = 3;

pub fn id(host: usize) -> ReplicaId {
    ReplicaId(host as u32 + 1)
}

pub fn host_of(id: ReplicaId) -> usize {
    id.0 as usize - 1
}

/// What a process has to do with one peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Link {
    /// In session with this run, both ways.
    pub session: Option<Member>,
    /// The run that answered our dial last.
    pub answered: Option<Member>,
    /// When a dial was refused last: once in an instant is enough, as only the first of a row counts here.
    pub refused_at: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Process {
    pub replica: Replica,
    pub links: [Link; N],
    /// It has proven a crash by refusal.
    pub proved: bool,
    pub left: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host {
    pub disk: Disk,
    pub process: Option<Process>,
}

impl Host {
    pub fn empty(host: usize) -> Host {
        Host { disk: Disk::empty(DiskId([host as u8 + 1; 16])), process: None }
    }

    pub fn member(&self) -> Option<Member> {
        self.process.as_ref().map(|process| process.replica.me())
    }

    /// A new process run on what the disk holds.
    pub fn start(&mut self, host: usize, bounds: &Bounds, now: Time) {
        let found = self.disk.start(7);
        let me = Member { id: id(host), disk: self.disk.id, incarnation: self.disk.starts };
        let peers = (0..N).filter(|peer| *peer != host).map(id).collect();
        // No jitter: every order is tried anyway, and what it would draw would tell equal states apart. One refusal is
        // enough: in a row they only guard against refusals that are not true, and here all are. A tick in each
        // quantum is no pause (that is half of `suspect_after`); the third without a word is silence.
        let config = Config {
            ping_interval: QUANTUM,
            lease: bounds.lease,
            suspect_after: 2 * QUANTUM + QUANTUM / 5,
            refusals: 1,
            rules: bounds.rules,
            stall_limit: Duration::from_secs(3600),
            ..Config::new(me, peers, ClusterId([9; 16]), 0)
        };
        let replica = Replica::new(config, found, now);
        self.process = Some(Process { replica, links: [Link::default(); N], proved: false, left: false });
    }
}
