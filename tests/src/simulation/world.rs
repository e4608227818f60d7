//! The world: hosts with disks and processes, a network between them, and one queue of events in simulated time.

use super::disk::Disk;
use super::network::Network;
use super::process::{Busy, Clock, Process};
use super::random::Random;
use super::truth::Truth;
use super::{MS, SECOND};
use chat_replica::protocol::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What kind of world it is. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    pub n: usize,
    pub seed: u64,
    pub delay: (u64, u64),
    pub sync: (u64, u64),
    /// Clocks run up to so many thousandths fast.
    pub drift_permille: u64,
    pub loss_permille: u64,
    pub duplicate_permille: u64,
    pub reorder_permille: u64,
    /// While a link is cut, messages wait in its session as TCP keeps them, instead of getting lost.
    pub cuts_buffer: bool,
    pub refusal_is_proof: bool,
    pub min_copies: usize,
    /// All of them, except in tests that show what breaks without one.
    pub rules: Rules,
    /// Nothing leaves that rests on what is not durable yet: looked at, rather than left to show in what is lost.
    pub order_is_checked: bool,
    /// Keep a readable trace of events.
    pub trace: bool,
}

impl Settings {
    /// A quiet local network with fast disks.
    pub fn calm(n: usize, seed: u64) -> Settings {
        Settings {
            n,
            seed,
            delay: (100, 300),
            sync: (500, 2 * MS),
            drift_permille: 20,
            loss_permille: 0,
            duplicate_permille: 0,
            reorder_permille: 0,
            cuts_buffer: true,
            refusal_is_proof: true,
            min_copies: 1,
            rules: Rules::ALL,
            order_is_checked: true,
            trace: true,
        }
    }
}

#[derive(Debug)]
pub struct Host {
    pub disk: Disk,
    pub process: Option<Process>,
    /// Every sync takes at least this long.
    pub stall: u64,
    /// Process runs that are truly gone, latest last: what an operator could declare.
    pub gone: Vec<Member>,
    /// Disks that were taken out for ever.
    pub wiped: Vec<DiskId>,
}

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    Turn { host: usize, run: u64 },
    Wake { host: usize, run: u64, at: u64 },
    Synced { host: usize, run: u64 },
    Resume { host: usize, run: u64 },
    Deliver { session: u64, envelope: Envelope },
    Dial { host: usize, run: u64, peer: usize },
    Syn { host: usize, run: u64, peer: usize, patience: u64 },
    Refused { host: usize, run: u64, peer: usize },
    Unreachable { host: usize, run: u64, peer: usize },
    Accepted { session: u64 },
    Ended { session: u64, at_dialer: bool },
    SessionTimeout { session: u64, at_dialer: bool },
}

pub struct World {
    pub settings: Settings,
    pub random: Random,
    pub now: u64,
    pub hosts: Vec<Host>,
    pub network: Network,
    pub truth: Truth,
    pub proposals: u64,
    pub runs: u64,
    pub handled: u64,
    pub trace: VecDeque<String>,
    /// When each host began to serve, most recently.
    pub serving_since: Vec<Option<u64>>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: std::collections::HashMap<u64, Happening>,
    number: u64,
}

pub fn id(host: usize) -> ReplicaId {
    ReplicaId(host as u32 + 1)
}

pub fn host_of(id: ReplicaId) -> usize {
    id.0 as usize - 1
}

impl World {
    /// All processes started on empty disks.
    pub fn new(settings: Settings) -> World {
        let mut random = Random::new(settings.seed);
        let host = |random: &mut Random| Host {
            disk: Disk::empty(DiskId(random.bytes16())),
            process: None,
            stall: 0,
            gone: Vec::new(),
            wiped: Vec::new(),
        };
        let hosts = (0..settings.n).map(|_| host(&mut random)).collect();
        let mut world = World {
            network: Network::new(settings.n),
            random,
            now: 1,
            hosts,
            truth: Truth::default(),
            proposals: 0,
            runs: 0,
            handled: 0,
            trace: VecDeque::new(),
            serving_since: vec![None; settings.n],
            settings,
            queue: BinaryHeap::new(),
            happenings: std::collections::HashMap::new(),
            number: 0,
        };
        for host in 0..world.settings.n {
            world.start(host);
        }
        world
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.settings.trace {
            if self.trace.len() == 6000 {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>11.3} ms  {}", self.now as f64 / 1000.0, text()));
        }
    }

    pub fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now + delay, what);
    }

    pub fn at(&mut self, time: u64, what: Happening) {
        self.number += 1;
        self.queue.push(Reverse((time.max(self.now), self.number)));
        self.happenings.insert(self.number, what);
    }

    /// Starts a process on a host's disk.
    pub fn start(&mut self, host: usize) {
        if self.hosts[host].process.is_some() {
            return;
        }
        self.runs += 1;
        let (run, n) = (self.runs, self.settings.n);
        let nonce = self.random.next() >> 1;
        let found = self.hosts[host].disk.start(nonce);
        let disk = &self.hosts[host].disk;
        let me = Member { id: id(host), disk: disk.id, incarnation: disk.starts };
        let peers = (0..n).filter(|peer| *peer != host).map(id).collect();
        let cluster = ClusterId(self.random.bytes16());
        let mut config = Config::new(me, peers, cluster, self.random.next());
        config.refusal_is_proof = self.settings.refusal_is_proof;
        config.min_copies = self.settings.min_copies;
        config.rules = self.settings.rules;
        let origin = if self.random.chance(300) { 0 } else { self.random.below(1 << 40) };
        let permille_fast = self.random.below(self.settings.drift_permille + 1);
        let clock = Clock { started: self.now, origin, permille_fast };
        let replica = Replica::new(config, found, clock.at(self.now));
        let process = Process::new(run, replica, clock, &self.hosts[host].disk, n);
        self.note(|| format!("{me} starts"));
        self.hosts[host].process = Some(process);
        self.check_commits(host);
        for peer in (0..n).filter(|peer| *peer != host) {
            self.after(0, Happening::Dial { host, run, peer });
        }
        self.schedule_turn(host);
    }

    pub fn process(&self, host: usize) -> Option<&Process> {
        self.hosts[host].process.as_ref()
    }

    /// The process, if it is this run.
    pub fn running(&mut self, host: usize, run: u64) -> Option<&mut Process> {
        self.hosts[host].process.as_mut().filter(|process| process.run == run)
    }

    /// Puts an input into a process's queue.
    pub fn input(&mut self, host: usize, input: Input) {
        if let Some(process) = &mut self.hosts[host].process {
            process.inbox.push_back(input);
            self.schedule_turn(host);
        }
    }

    pub fn schedule_turn(&mut self, host: usize) {
        let latency = 5 + self.random.below(40);
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.paused || process.turn_due || !matches!(process.busy, Busy::No) {
            return;
        }
        process.turn_due = true;
        let run = process.run;
        self.after(latency, Happening::Turn { host, run });
    }

    /// Runs until `time`.
    pub fn run_until(&mut self, time: u64) {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > time {
                break;
            }
            self.queue.pop();
            self.now = at;
            self.handled += 1;
            let what = self.happenings.remove(&number).expect("scheduled");
            self.handle(what);
        }
        self.now = time;
    }

    pub fn run_for(&mut self, duration: u64) {
        self.run_until(self.now + duration);
    }

    /// Runs until `done`, looking every millisecond; `false` if that is not so after `patience`.
    pub fn run_until_so(&mut self, patience: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + patience;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.run_for(MS);
        }
        done(self)
    }

    fn handle(&mut self, what: Happening) {
        match what {
            Happening::Turn { host, run } => {
                if self.running(host, run).is_some() {
                    self.turn(host);
                }
            }
            Happening::Wake { host, run, at } => {
                if self.running(host, run).is_some_and(|process| process.wake == at) {
                    self.schedule_turn(host);
                }
            }
            Happening::Synced { host, run } => self.synced(host, run),
            Happening::Resume { host, run } => self.resume(host, run),
            network => self.network_event(network),
        }
    }

    /// The hosts that serve.
    pub fn serving(&self) -> Vec<usize> {
        (0..self.settings.n).filter(|host| self.process(*host).is_some_and(|p| p.replica.status().serving)).collect()
    }

    /// Gives a new batch to this host, if it takes it.
    pub fn propose(&mut self, host: usize) -> bool {
        let takes = self.process(host).is_some_and(|process| process.replica.accepts().is_ok());
        if takes {
            self.proposals += 1;
            let batch = bytes::Bytes::copy_from_slice(&self.proposals.to_le_bytes());
            self.input(host, Input::Propose(batch));
        }
        takes
    }

    /// The same, too large for one message with others.
    pub fn propose_large(&mut self, host: usize) -> bool {
        let takes = self.process(host).is_some_and(|process| process.replica.accepts().is_ok());
        if takes {
            self.proposals += 1;
            let mut batch = self.proposals.to_le_bytes().to_vec();
            batch.resize(300 << 10, 0);
            self.input(host, Input::Propose(batch.into()));
        }
        takes
    }

    pub fn tail(&self, lines: usize) -> String {
        let from = self.trace.len().saturating_sub(lines);
        self.trace.iter().skip(from).cloned().collect::<Vec<_>>().join("\n")
    }

    pub fn describe(&self) -> String {
        let mut text = format!("acknowledged {}, committed {}\n", self.truth.acknowledged, self.truth.committed.len());
        for (at, host) in self.hosts.iter().enumerate() {
            match &host.process {
                Some(process) => {
                    let views = process.replica.log().views_in_force();
                    text += &format!("{:?}\n    views {views:?}\n", process.replica.status());
                }
                None => text += &format!("{} is down, disk: {} entries\n", id(at), host.disk.log.len()),
            }
        }
        text
    }
}

pub const PATIENCE: u64 = 10 * SECOND;
