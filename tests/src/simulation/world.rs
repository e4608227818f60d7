//! The world: hosts with disks and processes, a network between them, and one queue of events in simulated time.

use super::MS;
use super::calls::{Connection, Said, Wanted};
use super::client::Client;
use super::disk::Disk;
use super::network::Network;
use super::process::{Busy, Clock, Process};
use super::random::Random;
use super::service::{Read, Seen};
use super::trace::TraceHash;
use super::truth::Truth;
use super::violation::Violation;
use chat_check::History;
use chat_core::{Command, Timestamp, TokenHash};
use chat_replica::desk::BATCH;
use chat_replica::handle::ReadPermit;
use chat_replica::node::Node;
use chat_replica::protocol::*;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::Hasher as _;

/// So many commands do not go into one message with others.
pub(crate) const LARGE: usize = 8_000;

/// What kind of world it is. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Replicas.
    pub n: usize,
    /// Decides everything that is not said here.
    pub seed: u64,
    /// A message's way, at least and at most.
    pub delay: (u64, u64),
    /// A sync, at least and at most.
    pub sync: (u64, u64),
    /// Clocks run up to so many thousandths fast.
    pub drift_permille: u64,
    /// So many of a thousand messages between replicas are lost.
    pub loss_permille: u64,
    /// So many come twice.
    pub duplicate_permille: u64,
    /// So many are overtaken by later ones.
    pub reorder_permille: u64,
    /// While a link is cut, messages wait in its session as TCP keeps them, instead of getting lost.
    pub cuts_buffer: bool,
    /// `crash_proof = "refusal"` (rule 8).
    pub refusal_is_proof: bool,
    /// Rule 13.
    pub min_copies: usize,
    /// So many changes in line go into a log entry of their own, though others are under way.
    pub full: usize,
    /// All of them, except in tests that show what breaks without one.
    pub rules: Rules,
    /// Nothing leaves that rests on what is not durable yet: looked at, rather than left to show in what is lost.
    pub order_is_checked: bool,
    /// Bytes of committed entries that a replica carries out in one turn at most, about.
    pub apply_bytes: usize,
    /// Clients that register, write, read and listen.
    pub clients: usize,
    /// What a client waits between two things at most.
    pub client_pause: u64,
    /// Keep a readable trace of events.
    pub trace: bool,
    /// Panic at the first violation, instead of standing still with it.
    pub strict: bool,
}

impl Settings {
    /// A quiet local network with fast disks, and no clients.
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
            full: BATCH,
            rules: Rules::ALL,
            order_is_checked: true,
            apply_bytes: 1 << 20,
            clients: 0,
            client_pause: 20 * MS,
            trace: true,
            strict: true,
        }
    }
}

/// A machine: a disk, and at most one process.
#[derive(Debug)]
pub struct Host {
    /// The disk, while no process has it.
    pub(crate) spare: Option<Disk>,
    pub(crate) process: Option<Process>,
    /// Every sync takes at least this long, in microseconds.
    pub stall: u64,
    /// By how many milliseconds its wall clock is wrong.
    pub(crate) wall_offset: i64,
    /// Process runs that are truly gone, latest last: what an operator could declare.
    pub(crate) gone: Vec<Member>,
    /// Disks that were taken out for ever.
    pub(crate) wiped: Vec<DiskId>,
}

impl Host {
    pub(crate) fn disk(&self) -> &Disk {
        match &self.process {
            Some(process) => process.node.disk(),
            None => self.spare.as_ref().expect("a disk that no process has is here"),
        }
    }

    pub(crate) fn disk_mut(&mut self) -> &mut Disk {
        match &mut self.process {
            Some(process) => process.node.disk_mut(),
            None => self.spare.as_mut().expect("a disk that no process has is here"),
        }
    }

    /// How many log entries its disk holds.
    pub fn entries(&self) -> u64 {
        self.disk().log.len() as u64
    }

    /// Its disk's id (rule 12).
    pub fn disk_id(&self) -> DiskId {
        self.disk().id
    }

    /// The cluster that its disk belongs to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.disk().cluster
    }

    /// Whether its log begins as that disk's does.
    pub fn begins_as(&self, Snapshot(disk): &Snapshot) -> bool {
        self.disk().log.first() == disk.log.first()
    }

    /// What the disk holds now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(Box::new(self.disk().clone()))
    }

    /// Its process is killed after so many more effects; see [`World::kill`].
    pub fn crash_after(&mut self, effects: u64) {
        if let Some(process) = &mut self.process {
            process.crash_in = Some(effects);
        }
    }
}

/// A disk as it was.
#[derive(Clone, Debug)]
pub struct Snapshot(pub(crate) Box<Disk>);

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Turn { host: usize, run: u64 },
    Wake { host: usize, run: u64, at: u64 },
    Synced { host: usize, run: u64 },
    Shown { host: usize, run: u64 },
    Resume { host: usize, run: u64 },
    Deliver { session: u64, envelope: Envelope },
    Dial { host: usize, run: u64, peer: usize },
    Syn { host: usize, run: u64, peer: usize, patience: u64 },
    Refused { host: usize, run: u64, peer: usize },
    Unreachable { host: usize, run: u64, peer: usize },
    Accepted { session: u64 },
    Ended { session: u64, at_dialer: bool },
    SessionTimeout { session: u64, at_dialer: bool },
    Client { client: usize, at: u64 },
    Asked { connection: u64, wanted: Wanted },
    Told { connection: u64, said: Said },
    Look { host: usize, run: u64, read: Box<Read>, permit: Option<ReadPermit> },
    Recheck { host: usize, run: u64, read: Box<Read>, permit: Option<ReadPermit>, seen: Box<Seen>, applied: u64 },
    Beat { host: usize, run: u64, connection: u64 },
}

impl Happening {
    /// For the trace's hash: what kind it is, and whom it concerns.
    fn words(&self) -> [u64; 2] {
        match self {
            Happening::Turn { host, .. } => [1, *host as u64],
            Happening::Wake { host, .. } => [2, *host as u64],
            Happening::Synced { host, .. } => [3, *host as u64],
            Happening::Resume { host, .. } => [4, *host as u64],
            Happening::Deliver { session, .. } => [5, *session],
            Happening::Dial { host, .. } => [6, *host as u64],
            Happening::Syn { host, .. } => [7, *host as u64],
            Happening::Refused { host, .. } => [8, *host as u64],
            Happening::Unreachable { host, .. } => [9, *host as u64],
            Happening::Accepted { session } => [10, *session],
            Happening::Ended { session, .. } => [11, *session],
            Happening::SessionTimeout { session, .. } => [12, *session],
            Happening::Client { client, .. } => [13, *client as u64],
            Happening::Asked { connection, .. } => [14, *connection],
            Happening::Told { connection, .. } => [15, *connection],
            Happening::Look { host, .. } => [16, *host as u64],
            Happening::Recheck { applied, .. } => [17, *applied],
            Happening::Beat { connection, .. } => [18, *connection],
            Happening::Shown { host, .. } => [19, *host as u64],
        }
    }
}

/// A happening and its time; the earliest first, and of one time the one that was scheduled first.
#[derive(Debug)]
struct Scheduled {
    at: u64,
    number: u64,
    what: Happening,
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

/// Hosts, the network between them, clients, and all that will happen, in simulated microseconds.
#[derive(Debug)]
pub struct World {
    /// What kind of world it is; may be changed on the way.
    pub settings: Settings,
    /// The time.
    pub now: u64,
    /// The machines.
    pub hosts: Vec<Host>,
    /// The one history of what was committed and acknowledged.
    pub truth: Truth,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    /// By client and host: what is lost on the way up, and down.
    pub(crate) client_cuts: Vec<Vec<[bool; 2]>>,
    pub(crate) connections: BTreeMap<u64, Connection>,
    pub(crate) history: History,
    /// Clients write and read nothing new.
    pub(crate) quiet: bool,
    pub(crate) hash: TraceHash,
    pub(crate) violation: Option<Violation>,
    pub(crate) trace: VecDeque<String>,
    /// When each host began to serve, most recently.
    pub(crate) serving_since: Vec<Option<u64>>,
    pub(crate) proposals: u64,
    pub(crate) runs: u64,
    pub(crate) handled: u64,
    pub(crate) crashes: u64,
    pub(crate) views: u64,
    pub(crate) calls: u64,
    pub(crate) sends: u64,
    pub(crate) acknowledged_sends: u64,
    pub(crate) reads_answered: u64,
    queue: BinaryHeap<Scheduled>,
    pub(crate) number: u64,
}

/// The replica on a host.
pub fn id(host: usize) -> ReplicaId {
    ReplicaId(host as u32 + 1)
}

pub(crate) fn host_of(id: ReplicaId) -> usize {
    id.0 as usize - 1
}

impl World {
    /// All processes started on empty disks.
    pub fn new(settings: Settings) -> World {
        let mut random = Random::new(settings.seed);
        let host = |random: &mut Random| Host {
            spare: Some(Disk::empty(DiskId(random.bytes16()))),
            process: None,
            stall: 0,
            wall_offset: 0,
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
            clients: Vec::new(),
            client_cuts: Vec::new(),
            connections: BTreeMap::new(),
            history: History::default(),
            quiet: false,
            hash: TraceHash::default(),
            violation: None,
            trace: VecDeque::new(),
            serving_since: vec![None; settings.n],
            proposals: 0,
            runs: 0,
            handled: 0,
            crashes: 0,
            views: 0,
            calls: 0,
            sends: 0,
            acknowledged_sends: 0,
            reads_answered: 0,
            settings,
            queue: BinaryHeap::new(),
            number: 0,
        };
        (0..world.settings.n).for_each(|host| world.start(host));
        (0..world.settings.clients).for_each(|_| world.start_client(world.settings.client_pause));
        world
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.settings.trace {
            if self.trace.len() == 6000 {
                self.trace.pop_front();
            }
            self.trace.push_back(format!("{:>11.3} ms  {}", self.now as f64 / 1000.0, text()));
        }
    }

    pub(crate) fn after(&mut self, delay: u64, what: Happening) {
        self.at(self.now + delay, what);
    }

    pub(crate) fn at(&mut self, time: u64, what: Happening) {
        self.number += 1;
        self.queue.push(Scheduled { at: time.max(self.now), number: self.number, what });
    }

    /// Starts a process on a host's disk, unless one runs there.
    pub fn start(&mut self, host: usize) {
        let Some(mut disk) = self.hosts[host].spare.take() else { return };
        self.runs += 1;
        let (run, n) = (self.runs, self.settings.n);
        let found = disk.start(self.random.next() >> 1);
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
        let node = Node::new(replica, disk).applying_at_most(self.settings.apply_bytes);
        self.hosts[host].process = Some(Process::new(run, node, clock, &self.settings));
        self.note(|| format!("{me} starts"));
        self.check_commits(host);
        for peer in (0..n).filter(|peer| *peer != host) {
            self.after(0, Happening::Dial { host, run, peer });
        }
        self.schedule_turn(host);
    }

    /// The process on a host, if one runs.
    pub fn process(&self, host: usize) -> Option<&Process> {
        self.hosts[host].process.as_ref()
    }

    /// The process, if it is this run.
    pub(crate) fn running(&mut self, host: usize, run: u64) -> Option<&mut Process> {
        self.hosts[host].process.as_mut().filter(|process| process.run == run)
    }

    /// Puts an input into a process's queue.
    pub fn input(&mut self, host: usize, input: Input) {
        if let Some(process) = &mut self.hosts[host].process {
            process.inbox.push_back(input);
            self.schedule_turn(host);
        }
    }

    pub(crate) fn schedule_turn(&mut self, host: usize) {
        let latency = 5 + self.random.below(40);
        let Some(process) = &mut self.hosts[host].process else { return };
        if process.paused || process.turn_due || process.busy != Busy::No {
            return;
        }
        process.turn_due = true;
        let run = process.run;
        self.after(latency, Happening::Turn { host, run });
    }

    /// Runs until `time`, or until a promise is broken.
    pub fn run_until(&mut self, time: u64) {
        while self.violation.is_none() && self.queue.peek().is_some_and(|next| next.at <= time) {
            let Some(Scheduled { at, what, .. }) = self.queue.pop() else { break };
            self.now = at;
            self.handled += 1;
            self.hash.write_u64(at);
            what.words().into_iter().for_each(|word| self.hash.write_u64(word));
            self.handle(what);
        }
        if self.violation.is_none() {
            self.now = time;
        }
    }

    /// Runs for so many microseconds.
    pub fn run_for(&mut self, duration: u64) {
        self.run_until(self.now + duration);
    }

    /// Runs until `done`, looking every millisecond; `false` if that is not so after `patience`.
    pub fn run_until_so(&mut self, patience: u64, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + patience;
        while self.now < end && self.violation.is_none() {
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
            Happening::Shown { host, run } => self.shown(host, run),
            Happening::Resume { host, run } => self.resume(host, run),
            Happening::Client { client, at } => self.client(client, at),
            Happening::Asked { connection, wanted } => self.asked(connection, wanted),
            Happening::Told { connection, said } => self.told(connection, said),
            Happening::Look { host, run, read, permit } => self.look(host, run, read, permit),
            Happening::Recheck { host, run, read, permit, seen, applied } => {
                self.recheck(host, run, read, permit, seen, applied);
            }
            Happening::Beat { host, run, connection } => self.beat(host, run, connection),
            network => self.network_event(network),
        }
    }

    /// The hosts that serve.
    pub fn serving(&self) -> Vec<usize> {
        (0..self.settings.n).filter(|host| self.process(*host).is_some_and(|p| p.replica().status().serving)).collect()
    }

    /// When a host began to serve, if it does.
    pub fn serving_since(&self, host: usize) -> Option<u64> {
        self.serving_since[host]
    }

    /// Gives a new batch to this host, past its line, if it takes it. For worlds without clients.
    pub fn propose(&mut self, host: usize) -> bool {
        let takes = self.process(host).is_some_and(|process| process.replica().accepts().is_ok());
        if takes {
            let command = self.no_change();
            self.input(host, Input::Propose(chat_core::codec::encode(&[command]).into()));
        }
        takes
    }

    /// The same, too large for one message with others. For worlds without clients.
    pub fn propose_large(&mut self, host: usize) -> bool {
        let takes = self.process(host).is_some_and(|process| process.replica().accepts().is_ok());
        if takes {
            let commands: Vec<Command> = (0..LARGE).map(|_| self.no_change()).collect();
            self.input(host, Input::Propose(chat_core::codec::encode(&commands).into()));
        }
        takes
    }

    /// A command that is carried out, and changes nothing.
    pub(crate) fn no_change(&mut self) -> Command {
        self.proposals += 1;
        let mut token = [0; 32];
        token[..8].copy_from_slice(&self.proposals.to_le_bytes());
        Command::CloseSession { token: TokenHash(token), at: Timestamp(0) }
    }

    /// What was sent between replicas since the last such call, by kind, and how many log entries were in it.
    pub fn take_sent(&mut self) -> (BTreeMap<&'static str, u64>, u64) {
        (std::mem::take(&mut self.network.sent), std::mem::take(&mut self.network.entries_sent))
    }

    /// The promise that was broken, if one was.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// One number for all that has happened.
    pub fn trace_hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The last lines of the trace.
    pub fn tail(&self, lines: usize) -> String {
        let from = self.trace.len().saturating_sub(lines);
        self.trace.iter().skip(from).cloned().collect::<Vec<_>>().join("\n")
    }

    /// How everything is.
    pub fn describe(&self) -> String {
        let mut text = format!("acknowledged {}, committed {}\n", self.truth.acknowledged(), self.truth.committed());
        for (at, host) in self.hosts.iter().enumerate() {
            match &host.process {
                Some(process) => {
                    let views = process.replica().log().views_in_force();
                    text += &format!("{:?}\n    views {views:?}\n", process.replica().status());
                }
                None => text += &format!("{} is down, disk: {} entries\n", id(at), host.entries()),
            }
        }
        for client in &self.clients {
            text += &format!("{client:?}\n");
        }
        text
    }
}
