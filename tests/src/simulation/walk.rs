//! Random walks: a world with faults of all kinds, then peace, and all must be well.

use super::disk::Disk;
use super::random::Random;
use super::world::{PATIENCE, Settings, World, id};
use super::{MS, SECOND};
use chat_replica::protocol::{Input, Member, Rules};

/// What came of a walk.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub simulated: u64,
    pub handled: u64,
    pub commits: u64,
    pub acknowledgements: u64,
    pub reads: u64,
    /// The faults made progress impossible by design, e.g. the only disk that held something was wiped.
    pub excused: bool,
}

/// The kinds of faults of one walk, with weights.
#[derive(Clone, Debug)]
struct Weather {
    weights: [(Fault, u64); 24],
    /// Between faults, at most.
    pause: u64,
    down: u64,
}

/// What a walk is to be like, beyond what its seed decides.
#[derive(Clone, Copy, Default)]
pub struct Character {
    /// These faults have these weights.
    pub weights: &'static [(Fault, u64)],
    /// No others happen, apart from restarts and healing.
    pub nothing_else: bool,
    /// Between faults, at most.
    pub pause: Option<u64>,
    /// The rules that hold, if not all.
    pub rules: Option<Rules>,
    /// The last word on what kind of world it is.
    pub settings: Option<fn(&mut Settings)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
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
    Heal,
    Stall,
    Leave,
    Transfer,
    Disk,
    Burst,
    Fence,
    /// One kind of message does not arrive, one way, until links are healed.
    Mute,
    /// A refusal that nobody meant: of a listener's full queue, or a firewall that is loaded anew.
    Hiccup,
    /// A batch that does not go into one message with others.
    Large,
    /// A process dies and comes back at once.
    Bounce,
}

impl Weather {
    fn new(random: &mut Random, character: &Character) -> Weather {
        use Fault::*;
        let all = [
            (Kill, 10),
            (KillBetween, 12),
            (KillPrimary, 10),
            (KillAll, 2),
            (Power, 3),
            (Silence, 3),
            (Restart, 16),
            (RestartAll, 4),
            (Pause, 8),
            (PauseInTurn, 5),
            (CutBoth, 8),
            (CutOneWay, 5),
            (Isolate, 5),
            (Heal, 16),
            (Stall, 4),
            (Leave, 4),
            (Transfer, 4),
            (Disk, 0),
            (Burst, 10),
            (Fence, 0),
            (Mute, 3),
            (Hiccup, 3),
            (Large, 2),
            (Bounce, 4),
        ];
        let mut weights = all;
        for (fault, weight) in &mut weights {
            // Each walk has a character: some kinds of faults often, others never.
            *weight *= random.pick(&[0, 1, 1, 2, 4]);
            if *fault == Fault::Restart || *fault == Fault::Heal {
                *weight = (*weight).max(8);
            }
        }
        if random.chance(80) {
            weights[17].1 = 4;
        }
        if random.chance(100) {
            weights[19].1 = 6;
        }
        let pause = random.pick(&[20, 100, 300, 1000, 2500]) * MS;
        let mut weather = Weather { weights, pause, down: random.pick(&[20, 200, 2000]) * MS };
        weather.take_on(character);
        weather
    }

    fn take_on(&mut self, character: &Character) {
        for (fault, weight) in &mut self.weights {
            let wanted = character.weights.iter().find(|(wanted, _)| wanted == fault);
            let kept = !character.nothing_else || matches!(fault, Fault::Restart | Fault::Heal);
            *weight = wanted.map_or(if kept { *weight } else { 0 }, |(_, weight)| *weight);
        }
        self.pause = character.pause.unwrap_or(self.pause);
    }

    fn next(&self, random: &mut Random) -> Fault {
        let total = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        for (fault, weight) in self.weights {
            if at < weight {
                return fault;
            }
            at -= weight;
        }
        Fault::Restart
    }
}

fn settings(seed: u64, trace: bool) -> Settings {
    let mut random = Random::new(seed ^ 0x5E77_1465);
    let n = random.pick(&[3, 3, 3, 3, 3, 3, 3, 2, 2, 4, 1]);
    let mut settings = Settings::calm(n, seed);
    settings.delay = random.pick(&[(50, 200), (100, 2000), (100, 400), (5 * MS, 30 * MS), (20 * MS, 60 * MS)]);
    settings.sync = random.pick(&[(100, 500), (500, 5 * MS), (MS, 20 * MS), (20 * MS, 120 * MS)]);
    settings.drift_permille = random.pick(&[0, 20, 50]);
    settings.loss_permille = random.pick(&[0, 0, 5, 50]);
    settings.duplicate_permille = random.pick(&[0, 0, 20, 200]);
    settings.reorder_permille = random.pick(&[0, 0, 20, 200]);
    settings.cuts_buffer = random.chance(500);
    settings.refusal_is_proof = random.chance(920);
    settings.min_copies = random.pick(&[1, 1, 1, 1, 2]);
    settings.trace = trace;
    settings
}

struct Walk {
    world: World,
    random: Random,
    weather: Weather,
    snapshots: Vec<Option<Disk>>,
    /// The one host whose disk goes wrong: nothing is promised if more do.
    damaged: Option<usize>,
    hiccup_at: u64,
}

/// Walks once. Panics with what went wrong.
pub fn walk(seed: u64, trace: bool, report: &mut dyn FnMut(&World)) -> Outcome {
    walk_as(&Character::default(), seed, trace, report)
}

/// Walks once, with this character. Panics with what went wrong.
pub fn walk_as(character: &Character, seed: u64, trace: bool, report: &mut dyn FnMut(&World)) -> Outcome {
    let mut random = Random::new(seed ^ 0x000A_1C5E);
    let weather = Weather::new(&mut random, character);
    let mut settings = settings(seed, trace);
    settings.rules = character.rules.unwrap_or(Rules::ALL);
    if let Some(set) = character.settings {
        set(&mut settings);
    }
    let n = settings.n;
    let world = World::new(settings);
    let mut walk = Walk { world, random, weather, snapshots: vec![None; n], damaged: None, hiccup_at: 0 };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| walk.whole()));
    match result {
        Ok(excused) => Outcome {
            simulated: walk.world.now,
            handled: walk.world.handled,
            commits: walk.world.truth.committed.len() as u64,
            acknowledgements: walk.world.truth.acknowledgements,
            reads: walk.world.truth.reads,
            excused,
        },
        Err(panic) => {
            report(&walk.world);
            std::panic::resume_unwind(panic)
        }
    }
}

impl Walk {
    fn whole(&mut self) -> bool {
        if self.random.chance(600) {
            let quiet = self.random.below(800 * MS);
            self.world.run_for(quiet);
        }
        let end = self.world.now + SECOND * (2 + self.random.below(12));
        while self.world.now < end {
            let fault = self.weather.next(&mut self.random);
            self.apply(fault);
            let until = self.world.now + self.random.below(self.weather.pause);
            self.clients_until(until);
        }
        self.peace()
    }

    /// Clients propose now and then.
    fn clients_until(&mut self, until: u64) {
        let n = self.world.settings.n as u64;
        while self.world.now < until {
            let host = self.random.below(n) as usize;
            for _ in 0..1 + self.random.below(3) {
                self.world.propose(host);
            }
            let pause = self.random.below(40 * MS);
            self.world.run_until(until.min(self.world.now + pause));
        }
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
        let world = &mut self.world;
        match fault {
            Fault::Kill => world.kill(a, "is killed"),
            Fault::KillPrimary => world.kill(primary, "is killed"),
            Fault::KillBetween => {
                let effects = self.random.below(12);
                let host = if self.random.chance(500) { a } else { primary };
                if let Some(process) = &mut world.hosts[host].process {
                    process.crash_in = Some(effects);
                }
            }
            Fault::KillAll => {
                for host in 0..world.settings.n {
                    if self.random.chance(800) {
                        world.kill(host, "is killed with the others");
                    }
                }
            }
            Fault::Power => world.cut_power(a),
            Fault::Silence => {
                world.isolate(a);
                world.kill(a, "is killed in silence");
            }
            Fault::Restart => {
                self.restart(a);
            }
            Fault::RestartAll => {
                let first = self.any();
                for host in 0..self.world.settings.n {
                    self.restart((first + host) % self.world.settings.n);
                    let down = self.random.below(self.weather.down);
                    self.world.run_for(down);
                }
            }
            Fault::Pause => world.pause(a, 10 * MS + self.random.below(3500 * MS)),
            Fault::PauseInTurn => {
                let pause = 10 * MS + self.random.below(3000 * MS);
                if let Some(process) = &mut world.hosts[primary].process {
                    process.pause_in_turn = Some(pause);
                }
            }
            Fault::CutBoth => world.cut_both(a, b),
            Fault::CutOneWay => world.cut_one_way(a, b),
            Fault::Isolate => world.isolate(if self.random.chance(500) { a } else { primary }),
            Fault::Heal => world.heal_all(),
            Fault::Stall => {
                let stall = self.random.pick(&[0, 0, 50, 500, 3000]);
                world.hosts[a].stall = stall * MS;
            }
            Fault::Leave => world.leave(a),
            Fault::Transfer => world.input(primary, Input::Transfer { to: None }),
            Fault::Fence => {
                if let Some(gone) = world.hosts[b].gone.last().copied().filter(|_| world.process(b).is_none()) {
                    world.fenced(a, gone);
                }
            }
            Fault::Disk => self.disk_fault(a),
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
            Fault::Large => {
                world.propose_large(primary);
            }
            Fault::Bounce => {
                world.kill(a, "is killed");
                self.restart(a);
            }
            Fault::Burst => {
                for _ in 0..self.random.below(400) {
                    world.propose(primary);
                }
            }
        }
    }

    fn restart(&mut self, host: usize) {
        if self.world.process(host).is_none() {
            self.world.start(host);
            if self.random.chance(300) {
                self.snapshots[host] = Some(self.world.hosts[host].disk.clone());
            }
        }
    }

    fn disk_fault(&mut self, host: usize) {
        if self.world.settings.n < 3 {
            return;
        }
        let host = *self.damaged.get_or_insert(host);
        match self.random.below(3) {
            0 => self.world.wipe(host),
            1 => self.world.damage(host),
            _ => {
                let snapshot = self.snapshots[host].take();
                if let Some(snapshot) = snapshot.filter(|snapshot| self.world.would_be_noticed(host, snapshot)) {
                    self.world.roll_back(host, snapshot);
                }
            }
        }
    }

    /// No more faults: within ten seconds all is well, or a damaged disk is to blame.
    fn peace(&mut self) -> bool {
        let n = self.world.settings.n;
        self.world.note(|| "PEACE".to_string());
        self.world.settings.loss_permille = 0;
        self.world.settings.duplicate_permille = 0;
        self.world.settings.reorder_permille = 0;
        self.world.heal_all();
        for host in 0..n {
            self.world.hosts[host].stall = 0;
            if self.world.process(host).is_some_and(|process| process.leaving) {
                self.world.kill(host, "was leaving and is killed");
            }
            if let Some(process) = &mut self.world.hosts[host].process {
                process.crash_in = None;
                process.pause_in_turn = None;
                let run = process.run;
                self.world.resume(host, run);
            }
        }
        let mut well = false;
        let end = self.world.now + PATIENCE;
        while !well && self.world.now < end {
            // Those that were leaving go, and come back.
            (0..n).for_each(|host| self.world.start(host));
            well = self.world.run_until_so(50 * MS, |world| world.is_well());
        }
        if !well {
            let excused = self.damaged.is_some_and(|host| self.world.is_stuck_on(host));
            assert!(excused, "NO PROGRESS within {} s of peace", PATIENCE / SECOND);
            return true;
        }
        if self.world.settings.min_copies > n {
            return false;
        }
        let mut taken = false;
        let end = self.world.now + PATIENCE;
        while !taken && self.world.now < end {
            (0..n).for_each(|host| self.world.start(host));
            taken = self.world.serving().first().copied().is_some_and(|primary| self.world.propose(primary));
            self.world.run_for(5 * MS);
        }
        assert!(taken, "nobody takes a batch");
        let done = self.world.run_until_so(PATIENCE, |world| world.all_agree() && world.is_well());
        assert!(done, "not everything reaches everybody");
        false
    }
}

impl World {
    /// One serves, in a committed view of all the present processes.
    pub fn is_well(&self) -> bool {
        let serving = self.serving();
        let [primary] = serving[..] else { return false };
        let Some(status) = self.process(primary).map(|process| process.replica.status()) else { return false };
        let named = |host: usize| {
            self.process(host).is_some_and(|p| status.view.as_ref().is_some_and(|view| view.names(&p.member)))
        };
        (0..self.settings.n).all(named)
    }

    /// Whether some view in force wants the word of a disk that is gone, or impaired: only `recover` gives that up (rule 10).
    pub fn is_stuck_on(&self, host: usize) -> bool {
        let disk = &self.hosts[host].disk;
        let counts = disk.impaired_until.is_none();
        // It may have lost entries that nobody committed: it cannot know, and counts again when the log is that long.
        if disk.impaired_until.is_some_and(|until| until > self.truth.committed.len() as u64) {
            return true;
        }
        let wanted = |member: &Member| member.id == id(host) && !(member.disk == disk.id && counts);
        self.hosts
            .iter()
            .filter_map(|host| host.process.as_ref())
            .any(|process| process.replica.log().views_in_force().iter().any(|at| at.view.members.iter().any(wanted)))
    }

    /// Everybody's log and disk hold all that was committed, and everybody knows it committed.
    pub fn all_agree(&self) -> bool {
        self.hosts.iter().all(|host| {
            let committed = host.process.as_ref().map(|process| process.replica.committed());
            self.truth.is_in(&host.disk.log) && committed == Some(self.truth.committed.len() as u64)
        }) && self.truth.committed.len() as u64 >= self.truth.acknowledged
    }
}
