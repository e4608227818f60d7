//! Hosts, their disks and processes, and time, which passes only when a script says so.

use super::disk::Disk;
use super::network::Network;
use super::output::Output;
use super::words::Names;
use chat_replica::protocol::*;
use std::collections::{BTreeMap, VecDeque};

/// What a command that cannot be carried out, or a broken promise, says.
pub type Done = Result<(), String>;

/// How all replicas of a script are started.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub hosts: u32,
    pub min_copies: usize,
    pub refusal_is_proof: bool,
}

/// Where in its turn a process is to be killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    BeforeSync,
    AfterSync,
}

#[derive(Debug)]
pub struct Process {
    pub member: Member,
    pub name: String,
    pub replica: Replica,
    pub wake: u64,
    pub inbox: VecDeque<Input>,
    /// A turn whose sync hangs, and since when.
    pub syncing: Option<(Effects, u64)>,
    pub paused: bool,
    pub trap: Option<Trap>,
    /// Who answered last at each peer's address.
    pub answered: BTreeMap<u32, Member>,
    pub seen: Seen,
}

/// What was printed of a process.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub committed: u64,
    pub standing: Option<(Standing, Option<ReplicaId>)>,
}

#[derive(Debug)]
pub struct Host {
    pub disk: Disk,
    /// How many disks this host has had.
    pub disks: u8,
    pub starts: u32,
    pub process: Option<Process>,
    /// A copy of the disk, for a later rollback.
    pub copy: Option<Disk>,
    /// Syncs of this disk hang.
    pub stalled: bool,
}

/// What has committed, wherever: one history.
#[derive(Debug, Default)]
pub struct Truth {
    pub committed: Vec<Entry>,
    /// Up to here a client was told.
    pub acknowledged: u64,
}

#[derive(Debug)]
pub struct World {
    pub settings: Settings,
    pub hosts: BTreeMap<u32, Host>,
    pub network: Network,
    pub names: Names,
    pub out: Output,
    /// Microseconds; all clocks show the same.
    pub now: u64,
    pub truth: Truth,
}

fn disk_id(host: u32, nth: u8) -> DiskId {
    let mut id = [0; 16];
    (id[0], id[1]) = (host as u8, nth);
    DiskId(id)
}

impl World {
    pub fn new() -> World {
        let settings = Settings { hosts: 3, min_copies: 1, refusal_is_proof: true };
        let mut world = World {
            settings,
            hosts: BTreeMap::new(),
            network: Network::default(),
            names: Names::default(),
            out: Output::new(),
            now: 1_000_000,
            truth: Truth::default(),
        };
        world.set(settings);
        world
    }

    /// Begins anew with these settings.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        let host = |id: u32| Host {
            disk: Disk::empty(disk_id(id, 1)),
            disks: 1,
            starts: 0,
            process: None,
            copy: None,
            stalled: false,
        };
        self.hosts = (1..=settings.hosts).map(|id| (id, host(id))).collect();
    }

    pub fn host(&mut self, id: u32) -> Result<&mut Host, String> {
        self.hosts.get_mut(&id).ok_or_else(|| format!("there is no host {id}"))
    }

    /// The process at this host; the script expects one.
    pub fn process(&mut self, id: u32) -> Result<&mut Process, String> {
        self.host(id)?.process.as_mut().ok_or_else(|| format!("no process runs at host {id}"))
    }

    /// The disk at this host; the script expects that no process uses it.
    pub fn idle_disk(&mut self, id: u32) -> Result<&mut Disk, String> {
        let host = self.host(id)?;
        if host.process.is_some() {
            return Err(format!("a process runs at host {id}: kill it first"));
        }
        Ok(&mut host.disk)
    }

    pub fn member(&self, id: u32) -> Option<Member> {
        self.hosts.get(&id)?.process.as_ref().map(|process| process.member)
    }

    pub fn start(&mut self, id: u32) -> Done {
        self.idle_disk(id)?;
        let (settings, now) = (self.settings, self.now);
        let host = self.host(id)?;
        host.starts += 1;
        let nonce = u64::from(host.starts);
        let found = host.disk.start(nonce);
        let member = Member { id: ReplicaId(id), disk: host.disk.id, incarnation: host.disk.starts };
        let peers = (1..=settings.hosts).filter(|peer| *peer != id).map(ReplicaId).collect();
        let seed = u64::from(id) * 1000 + nonce;
        let mut config = Config::new(member, peers, ClusterId([id as u8; 16]), seed);
        config.min_copies = settings.min_copies;
        config.refusal_is_proof = settings.refusal_is_proof;
        let replica = Replica::new(config, found, Time(now));
        let starts = host.starts;
        let name = self.names.add(member, starts);
        let seen = Seen { committed: replica.committed(), standing: None };
        self.host(id)?.process = Some(Process {
            member,
            name,
            replica,
            wake: now,
            inbox: VecDeque::new(),
            syncing: None,
            paused: false,
            trap: None,
            answered: BTreeMap::new(),
            seen,
        });
        self.give(id, Input::Tick)
    }

    /// The process is gone, between two of its effects; its kernel ends its sessions, behind what it has sent.
    pub fn kill(&mut self, id: u32) -> Done {
        self.process(id)?;
        self.host(id)?.process = None;
        self.hang_up(id);
        Ok(())
    }

    pub fn new_disk(&mut self, id: u32) -> Result<DiskId, String> {
        let host = self.host(id)?;
        host.disks += 1;
        Ok(disk_id(id, host.disks))
    }

    /// Time passes, and the network delivers what is not held.
    pub fn wait(&mut self, micros: u64, until_serves: Option<u32>) -> Result<bool, String> {
        let (began, end) = (self.now, self.now + micros);
        loop {
            self.out.waited(self.now - began);
            self.deliver_all()?;
            if until_serves.is_some_and(|id| self.serves(id)) {
                return Ok(true);
            }
            let due = |host: &Host| host.process.as_ref().filter(|p| !p.paused && p.syncing.is_none()).map(|p| p.wake);
            let next = self.hosts.values().filter_map(due).min().unwrap_or(end).max(self.now);
            if next >= end {
                self.now = end;
                return Ok(false);
            }
            self.now = next;
            self.out.waited(self.now - began);
            let ids: Vec<u32> = self.hosts.keys().copied().collect();
            for id in ids {
                if self.hosts.get(&id).and_then(due).is_some_and(|wake| wake <= next) {
                    self.give(id, Input::Tick)?;
                }
            }
        }
    }

    pub fn serves(&self, id: u32) -> bool {
        let process = self.hosts.get(&id).and_then(|host| host.process.as_ref());
        process.is_some_and(|process| process.replica.serving().is_some())
    }
}
