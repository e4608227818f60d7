//! Random walks: a world with faults of all kinds, then peace, and all must be well.

use super::disk::DiskFault;
use super::random::Random;
use super::violation::{Broken, Violation};
use super::weather::{Fault, Weather};
use super::world::{LARGE, Settings, Snapshot, World, id};
use super::{MS, SECOND};
use chat_check::History;
use chat_core::{Lookup as _, Read as _};
use chat_replica::desk::BATCH;
use chat_replica::protocol::{Input, Member};
use std::panic::AssertUnwindSafe;

/// Once faults have stopped, everything must be well within so many simulated microseconds: a committed view of all, every message
/// acknowledged and received, all replicas equal.
pub const PATIENCE: u64 = 10 * SECOND;

/// What came of a walk that broke no promise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Simulated microseconds.
    pub simulated: u64,
    /// Events.
    pub handled: u64,
    /// Log entries that were committed.
    pub commits: u64,
    /// Log entries whose clients were told.
    pub acknowledgements: u64,
    /// How often it was compared whether a read would have been fresh.
    pub reads: u64,
    /// Sends that left clients, repetitions included.
    pub sends: u64,
    /// Sends that clients were told to be done.
    pub acknowledged_sends: u64,
    /// Messages that streams handed to clients.
    pub deliveries: u64,
    /// Reads that clients got an answer to.
    pub reads_answered: u64,
    /// Processes that were killed, or lost power.
    pub crashes: u64,
    /// Processes that were started after the first ones.
    pub restarts: u64,
    /// Replicas that began to serve.
    pub views: u64,
    /// The faults made progress impossible by design, e.g. the only disk that held something was wiped.
    pub excused: bool,
    /// One number for all that happened: the same seed gives the same.
    pub trace_hash: u64,
}

impl Outcome {
    /// Both together, as if they were one walk.
    pub fn add(&mut self, other: &Outcome) {
        self.simulated += other.simulated;
        self.handled += other.handled;
        self.commits += other.commits;
        self.acknowledgements += other.acknowledgements;
        self.reads += other.reads;
        self.sends += other.sends;
        self.acknowledged_sends += other.acknowledged_sends;
        self.deliveries += other.deliveries;
        self.reads_answered += other.reads_answered;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.views += other.views;
        self.trace_hash = self.trace_hash.wrapping_mul(31).wrapping_add(other.trace_hash);
    }
}

/// Everything that a seed decides before the first event. `Debug` shows it all.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The world; may be changed before the walk.
    pub settings: Settings,
    /// What goes wrong; may be changed before the walk.
    pub weather: Weather,
    /// Without faults at first, in microseconds.
    quiet: u64,
    /// With faults then, in microseconds.
    faults: u64,
}

impl Plan {
    /// What this seed decides.
    pub fn of(seed: u64) -> Plan {
        let random = &mut Random::new(seed ^ 0x5E77_1465);
        let n = random.pick(&[3, 3, 3, 3, 3, 3, 3, 2, 2, 4, 1]);
        let settings = Settings {
            delay: random.pick(&[(50, 200), (100, 2000), (100, 400), (5 * MS, 30 * MS), (20 * MS, 60 * MS)]),
            sync: random.pick(&[(100, 500), (500, 5 * MS), (MS, 20 * MS), (20 * MS, 120 * MS)]),
            drift_permille: random.pick(&[0, 20, 50]),
            loss_permille: random.pick(&[0, 0, 5, 50]),
            duplicate_permille: random.pick(&[0, 0, 20, 200]),
            reorder_permille: random.pick(&[0, 0, 20, 200]),
            cuts_buffer: random.chance(500),
            refusal_is_proof: random.chance(920),
            min_copies: random.pick(&[1, 1, 1, 1, 2]),
            full: Random::new(seed ^ 0x0F11_ED00).pick(&[BATCH, BATCH, 1, 2]),
            apply_bytes: random.pick(&[1 << 20, 1 << 20, 600, 1]),
            clients: random.pick(&[1, 2, 2, 3, 4]),
            client_pause: random.pick(&[40, 150, 500]) * MS,
            trace: false,
            strict: false,
            ..Settings::calm(n, seed)
        };
        let weather = Weather::new(random).with_rare(&mut Random::new(seed ^ 0x0BAD_DA75));
        let quiet = if random.chance(600) { random.below(800 * MS) } else { 0 };
        Plan { settings, weather, quiet, faults: SECOND * (2 + random.below(12)) }
    }

    /// Walks once, and lets `report` look at the world in which a promise was broken.
    ///
    /// # Errors
    /// What was broken. A panic of production code is a violation like others.
    pub fn walk(&self, report: &mut dyn FnMut(&World)) -> Result<Outcome, Violation> {
        let seed = self.settings.seed;
        let world = World::new(self.settings.clone());
        let snapshots = vec![None; self.settings.n];
        let random = Random::new(seed ^ 0x000A_1C5E);
        let mut walk = Walk { world, random, plan: self, snapshots, damaged: None, hiccup_at: 0 };
        let excused = std::panic::catch_unwind(AssertUnwindSafe(|| walk.whole())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            walk.world.settings.strict = false;
            walk.world.violate(Broken::Panic, "production code", text.unwrap_or_default());
            false
        });
        let world = &mut walk.world;
        if world.violation.is_some() {
            report(world);
        }
        match world.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(walk.outcome(excused)),
        }
    }
}

/// Walks once as the seed decides, with a readable trace if that is wanted; `report` may look at the world in which a promise was broken.
///
/// # Errors
/// What was broken.
pub fn walk(seed: u64, trace: bool, report: &mut dyn FnMut(&World)) -> Result<Outcome, Violation> {
    let mut plan = Plan::of(seed);
    plan.settings.trace = trace;
    plan.walk(report)
}

struct Walk<'p> {
    world: World,
    random: Random,
    plan: &'p Plan,
    snapshots: Vec<Option<Snapshot>>,
    /// The one host whose disk goes wrong: nothing is promised if more do.
    damaged: Option<usize>,
    /// When a dial was last refused that nobody meant to refuse.
    hiccup_at: u64,
}

impl Walk<'_> {
    fn outcome(&self, excused: bool) -> Outcome {
        let world = &self.world;
        Outcome {
            simulated: world.now,
            handled: world.handled,
            commits: world.truth.committed(),
            acknowledgements: world.truth.acknowledgements(),
            reads: world.truth.reads,
            sends: world.sends,
            acknowledged_sends: world.acknowledged_sends,
            deliveries: world.history.deliveries.len() as u64,
            reads_answered: world.reads_answered,
            crashes: world.crashes,
            restarts: world.runs - self.plan.settings.n as u64,
            views: world.views,
            excused,
            trace_hash: world.trace_hash(),
        }
    }

    /// Whether the faults made progress impossible by design.
    fn whole(&mut self) -> bool {
        self.world.run_for(self.plan.quiet);
        let end = self.world.now + self.plan.faults;
        while self.world.now < end && self.world.violation.is_none() {
            let fault = self.plan.weather.next(&mut self.random);
            self.apply(fault);
            let pause = self.random.below(self.plan.weather.pause);
            self.world.run_for(pause);
        }
        self.world.violation.is_none() && self.peace()
    }

    fn primary_or_any(&mut self) -> usize {
        let serving = self.world.serving();
        if serving.is_empty() { self.any() } else { self.random.pick(&serving) }
    }

    fn any(&mut self) -> usize {
        self.random.below(self.world.settings.n as u64) as usize
    }

    fn apply(&mut self, fault: Fault) {
        let (a, b) = (self.any(), self.any());
        let primary = self.primary_or_any();
        let one = if self.random.chance(500) { a } else { primary };
        let world = &mut self.world;
        match fault {
            Fault::Kill => world.kill(a, "is killed"),
            Fault::KillPrimary => world.kill(primary, "is killed"),
            Fault::KillBetween => world.hosts[one].crash_after(self.random.below(16)),
            Fault::KillAll => {
                for host in 0..world.settings.n {
                    if self.random.chance(800) {
                        world.kill(host, "is killed with the others");
                    }
                }
            }
            Fault::Power => world.cut_power(one),
            Fault::Silence => {
                world.isolate(a);
                world.kill(a, "is killed in silence");
            }
            Fault::Restart => self.restart(a),
            Fault::RestartAll => self.restart_all(),
            Fault::Pause => world.pause(a, 10 * MS + self.random.below(3500 * MS)),
            Fault::PauseInTurn => {
                let pause = 10 * MS + self.random.below(3000 * MS);
                let after = self.random.pick(&[0, 0, 1, 2, 5]);
                world.pause_after(primary, after, pause);
            }
            Fault::CutBoth => world.cut_both(a, b),
            Fault::CutOneWay => world.cut_one_way(a, b),
            Fault::Isolate => world.isolate(one),
            Fault::SlowLink => world.slow_link(a, b, self.random.pick(&[0, 20, 200, 600]) * MS),
            Fault::CutClient => {
                let client = self.random.below(world.settings.clients as u64) as usize;
                world.cut_client(client, one, self.random.chance(700), self.random.chance(700));
            }
            Fault::Heal => {
                world.heal_all();
                world.heal_clients();
            }
            Fault::Stall => world.hosts[a].stall = self.random.pick(&[0, 0, 50, 500, 3000]) * MS,
            Fault::FullDisk => world.disk_fails(one, DiskFault::Write(self.random.below(6))),
            Fault::SyncError => world.disk_fails(one, DiskFault::Sync),
            Fault::ReadError => world.disk_fails(one, DiskFault::Read),
            Fault::WallJump => {
                let far = self.random.pick(&[1_000, 3_600_000, 40 * 24 * 3_600_000]);
                world.jump_wall(one, if self.random.chance(500) { far } else { -far });
            }
            Fault::Leave => world.leave(a),
            Fault::Transfer => world.input(primary, Input::Transfer { to: None }),
            Fault::Fence => {
                if let Some(gone) = world.hosts[b].gone.last().copied().filter(|_| world.process(b).is_none()) {
                    world.fenced(a, gone);
                }
            }
            Fault::Disk => self.disk_fault(a),
            Fault::Burst => (0..self.random.below(400)).for_each(|_| world.burst(primary)),
            Fault::Mute => {
                let kind = self.random.pick(&["append", "append reply", "ping", "pong", "vote", "leave", "hello"]);
                if a != b {
                    world.mute(a, b, kind);
                }
            }
            Fault::Hiccup => {
                // Never several in a row: that would be a firewall that forges them.
                if a != b && world.now > self.hiccup_at + SECOND {
                    self.hiccup_at = world.now;
                    world.refuse_once(a, b);
                }
            }
            // Through the line as all others: what goes past it is taken for what the desk has asked for.
            Fault::Large => (0..LARGE).for_each(|_| world.burst(primary)),
            Fault::Bounce => {
                world.kill(a, "is killed, to come back at once");
                self.restart(a);
            }
        }
    }

    fn restart(&mut self, host: usize) {
        if self.world.process(host).is_none() {
            self.world.start(host);
            if self.plan.weather.has(Fault::Disk) && self.random.chance(300) {
                self.snapshots[host] = Some(self.world.hosts[host].snapshot());
            }
        }
    }

    fn restart_all(&mut self) {
        let (n, first) = (self.world.settings.n, self.any());
        for host in 0..n {
            self.restart((first + host) % n);
            let down = self.random.below(self.plan.weather.down);
            self.world.run_for(down);
        }
    }

    fn disk_fault(&mut self, host: usize) {
        if self.world.settings.n < 3 {
            return;
        }
        let host = *self.damaged.get_or_insert(host);
        match self.random.below(3) {
            0 => {
                if self.world.is_known_elsewhere(host) {
                    self.world.wipe(host);
                }
            }
            1 => self.world.damage(host),
            _ => {
                let snapshot = self.snapshots[host].take();
                if let Some(snapshot) = snapshot.filter(|snapshot| self.world.would_be_noticed(host, snapshot)) {
                    self.world.roll_back(host, snapshot);
                }
            }
        }
    }

    /// No more faults: within [`PATIENCE`] all is well, or a damaged disk is to blame.
    fn peace(&mut self) -> bool {
        self.world.make_peace();
        if !self.wait_until(|world| world.is_well()) {
            let excused = self.damaged.is_some_and(|host| self.world.is_stuck_on(host));
            if !excused {
                self.world.stuck("not all are in one view");
            }
            return excused;
        }
        if self.world.settings.min_copies > self.world.settings.n {
            return false;
        }
        if !self.wait_until(|world| world.clients_are_done()) {
            self.world.stuck("not every message was acknowledged and received");
            return false;
        }
        if !self.writes_reach_everybody() {
            self.world.stuck("not everything reaches everybody");
            return false;
        }
        self.world.judge_all();
        false
    }

    /// One that was deposed, and whose last sync still takes its time, does not know yet: a write there gets lost, and is repeated.
    fn writes_reach_everybody(&mut self) -> bool {
        let before = self.world.truth.acknowledgements();
        let done = |world: &World| world.truth.acknowledgements() > before && world.all_agree() && world.is_well();
        let end = self.world.now + PATIENCE;
        while self.world.now < end && self.world.violation.is_none() {
            (0..self.world.settings.n).for_each(|host| self.world.start(host));
            for primary in self.world.serving() {
                self.world.burst(primary);
            }
            if self.world.run_until_so(SECOND, done) {
                return true;
            }
        }
        self.world.violation.is_some()
    }

    /// Those that were leaving go, and come back.
    fn wait_until(&mut self, so: impl Fn(&World) -> bool) -> bool {
        let end = self.world.now + PATIENCE;
        while self.world.now < end && self.world.violation.is_none() {
            (0..self.world.settings.n).for_each(|host| self.world.start(host));
            if self.world.run_until_so(50 * MS, &so) {
                return true;
            }
        }
        // What is broken is worse than what is late.
        self.world.violation.is_some()
    }
}

impl World {
    fn stuck(&mut self, what: &str) {
        let seconds = PATIENCE / SECOND;
        self.violate(Broken::Progress, "the cluster", format!("{what} after {seconds} s without faults"));
    }

    /// All faults end; clients only finish what they began.
    fn make_peace(&mut self) {
        self.note(|| "PEACE".to_string());
        self.quiet = true;
        self.settings.loss_permille = 0;
        self.settings.duplicate_permille = 0;
        self.settings.reorder_permille = 0;
        self.heal_all();
        self.heal_clients();
        for host in 0..self.settings.n {
            self.hosts[host].stall = 0;
            self.hosts[host].disk().fault.set(None);
            if self.process(host).is_some_and(|process| process.leaving) {
                self.kill(host, "was leaving and is killed");
            }
            if let Some(process) = &mut self.hosts[host].process {
                process.crash_in = None;
                process.pause_in = None;
                let run = process.run;
                self.resume(host, run);
            }
        }
    }

    /// The end: what clients saw, and what replicas hold.
    fn judge_all(&mut self) {
        if self.violation.is_some() {
            return;
        }
        let mut history = std::mem::take(&mut self.history);
        history.finals = (0..self.settings.n).filter_map(|host| self.final_state(host)).collect();
        let report = chat_check::check_all(&history);
        if !report.is_good() {
            self.violate(Broken::Judgement, "the clients", &report);
        }
        self.history = History { finals: Vec::new(), ..history };
    }

    fn final_state(&mut self, host: usize) -> Option<chat_check::Replica> {
        let process = self.hosts[host].process.as_ref()?;
        let (member, state) = (process.member, process.node.disk().state());
        let (applied, store) = (state.applied, &state.store);
        let Ok(hash) = chat_core::state_hash(store);
        let mut mailboxes = Vec::new();
        let Ok(accounts) = store.accounts(&chat_core::Pattern::parse("*").ok()?, None, 1000);
        for account in accounts {
            let Ok(marks) = store.marks(account.id);
            let Ok(messages) = store.messages_after(account.id, 0, usize::MAX);
            let chat_core::Marks { read, delivered, last } = marks;
            mailboxes.push(chat_check::Mailbox {
                account: account.name.as_str().into(),
                deleted: false,
                marks: Some(chat_check::Marks { read, delivered, last }),
                messages: messages.iter().map(super::client::told).collect(),
            });
        }
        let verdict = self.truth.state(member, applied, hash);
        self.judge(member, verdict);
        let hash = Some(hash.iter().map(|byte| format!("{byte:02x}")).collect());
        Some(chat_check::Replica { id: id(host).0, applied, hash, mailboxes })
    }

    /// One serves, in a committed view of all the present processes.
    pub fn is_well(&self) -> bool {
        let serving = self.serving();
        let [primary] = serving[..] else { return false };
        let Some(status) = self.process(primary).map(|process| process.replica().status()) else { return false };
        let named = |host: usize| {
            self.process(host).is_some_and(|p| status.view.as_ref().is_some_and(|view| view.names(&p.member)))
        };
        (0..self.settings.n).all(named)
    }

    /// Whether some view in force wants the word of a disk that is gone, or impaired: only `recover` gives that up (rule 10).
    pub(crate) fn is_stuck_on(&self, host: usize) -> bool {
        let disk = self.hosts[host].disk();
        let counts = disk.impaired_until.is_none();
        // It may have lost entries that nobody committed: it cannot know, and counts again when the log is that long.
        if disk.impaired_until.is_some_and(|until| until > self.truth.committed()) {
            return true;
        }
        let wanted = |member: &Member| member.id == id(host) && !(member.disk == disk.id && counts);
        self.hosts
            .iter()
            .filter_map(|host| host.process.as_ref())
            .any(|process| process.replica().log().views_in_force().iter().any(|at| at.view.members.iter().any(wanted)))
    }

    /// Everybody's log and disk hold all that was committed, and everybody has carried it out.
    pub fn all_agree(&self) -> bool {
        let end = self.truth.committed();
        self.hosts.iter().all(|host| {
            let applied = host.process.as_ref().map(|process| process.node.disk().state().applied);
            self.truth.is_in(&host.disk().log) && applied == Some(end)
        }) && end >= self.truth.acknowledged()
    }
}
