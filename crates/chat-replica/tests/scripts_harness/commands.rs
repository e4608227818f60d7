//! What a script may say.

use super::network::Link;
use super::output::Quiet;
use super::words::KINDS;
use super::world::{Done, Settings, Trap, World};
use chat_replica::protocol::*;

/// How long `wait until` waits at most, in microseconds.
const PATIENCE: u64 = 10_000_000;
/// How many refusals rule 8 wants.
const REFUSALS: u32 = 3;
/// Bytes of a batch that is proposed as `large`: one fills a message that looks for the place where logs meet.
const LARGE: usize = 60 << 10;

impl World {
    /// Carries out one command. The error says why it cannot be, or which promise broke.
    pub fn run(&mut self, line: &str) -> Done {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let how = words.first().and_then(|word| Quiet::of(word));
        if how.is_some() {
            words.remove(0);
        }
        self.out.begin(how);
        let Some((command, args)) = words.split_first() else { return Err("an empty command".into()) };
        match *command {
            "cluster" | "founded" => self.cluster(command, args),
            "start" => {
                hosts(args)?.into_iter().try_for_each(|id| self.start(id))?;
                self.connect()
            }
            "connect" => self.connect(),
            "kill" => self.kill_command(args),
            "pause" => each(args, |id| self.process(id).map(|process| process.paused = true)),
            "resume" => self.resume(args),
            "stall" => each(args, |id| self.host(id).map(|host| host.stalled = true)),
            "unstall" => each(args, |id| {
                self.host(id)?.stalled = false;
                self.synced(id)?;
                self.take_inputs(id)
            }),
            "propose" => self.propose(line, args),
            "wait" => self.wait_command(args),
            "tick" => each(args, |id| {
                self.process(id)?;
                self.give(id, Input::Tick)
            }),
            "deliver" | "drop" | "double" | "reverse" | "hold" | "release" | "cut" | "heal" | "lose" | "hangup" => {
                self.network_command(command, args)
            }
            "show" => self.show(args),
            "watch" | "hide" => kinds(args)?.into_iter().try_for_each(|kind| {
                self.out.watch(kind, *command == "watch");
                Ok(())
            }),
            "damage" | "wipe" | "save" | "restore" => self.disk_command(command, args),
            _ => self.proof_or_control(command, args),
        }
    }

    /// `cluster 3 min_copies 2 crash_proof never`, before anything else; `founded` starts it, too, and lets it settle.
    fn cluster(&mut self, command: &str, args: &[&str]) -> Done {
        if self.hosts.values().any(|host| host.starts > 0) {
            return Err("the cluster has begun already".into());
        }
        let (n, options) = args.split_first().ok_or("how many hosts?")?;
        let mut settings = Settings { hosts: number(n)?, ..self.settings };
        for option in options.chunks(2) {
            match option {
                ["min_copies", n] => settings.min_copies = number::<usize>(n)?,
                ["crash_proof", "never"] => settings.refusal_is_proof = false,
                _ => return Err(format!("{option:?} is not a setting")),
            }
        }
        self.set(settings);
        if command == "founded" {
            (1..=settings.hosts).try_for_each(|id| self.start(id))?;
            self.connect()?;
            self.wait(200_000, None)?;
            self.out.begin(None);
            self.show(&["1"])?;
        }
        Ok(())
    }

    fn kill_command(&mut self, args: &[&str]) -> Done {
        let trap = match args {
            [_, "before", "it", "syncs"] => Trap::BeforeSync,
            [_, "once", "it", "has", "synced"] => Trap::AfterSync,
            _ => return each(args, |id| self.kill(id)),
        };
        self.process(number(args[0])?)?.trap = Some(trap);
        Ok(())
    }

    fn resume(&mut self, args: &[&str]) -> Done {
        if let [id, "in", "one", "turn"] = args {
            let id = number(id)?;
            let process = self.process(id)?;
            if process.syncing.is_some() {
                return Err(format!("{} takes no turn: its sync hangs", process.name));
            }
            process.paused = false;
            let queued: Vec<Input> = process.inbox.drain(..).collect();
            self.turn(id, queued)?;
        } else {
            each(args, |id| {
                self.process(id)?.paused = false;
                self.take_inputs(id)
            })?;
        }
        self.connect()
    }

    fn propose(&mut self, line: &str, args: &[&str]) -> Done {
        let id = number(args.first().ok_or("to whom?")?)?;
        let batches: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        if batches.is_empty() {
            return Err("what? In quotation marks".into());
        }
        // Spaces make them large; they are not printed.
        let width = if args.get(1) == Some(&"large") { LARGE } else { 0 };
        let times = args.get(1).and_then(|arg| arg.strip_prefix('x')).map_or(Ok(1), number)?;
        for batch in batches.repeat(times) {
            let process = self.process(id)?;
            let why = match process.replica.accepts() {
                Ok(()) => {
                    self.give(id, Input::Propose(format!("{batch:width$}").into()))?;
                    continue;
                }
                Err(NotAccepting::NotServing) => "it does not serve".to_string(),
                Err(NotAccepting::HandingOver) => "it is handing over".to_string(),
                Err(NotAccepting::TooFewCopies(copies)) => format!("too few copies, {copies}"),
            };
            let line = format!("{} refuses \"{batch}\": {why}", process.name);
            self.out.say(line);
        }
        Ok(())
    }

    fn wait_command(&mut self, args: &[&str]) -> Done {
        match args {
            [time] => self.wait(micros(time)?, None).map(drop),
            ["until", id, "serves"] => {
                let served = self.wait(PATIENCE, Some(number(id)?))?;
                if served { Ok(()) } else { Err(format!("{id} does not serve within ten seconds")) }
            }
            _ => Err("wait 350ms, or wait until 2 serves".into()),
        }
    }

    fn network_command(&mut self, command: &str, args: &[&str]) -> Done {
        if args.is_empty() {
            return match command {
                "deliver" => self.deliver_all(),
                "heal" => {
                    self.network.cut.clear();
                    self.network.losing.clear();
                    self.connect()
                }
                "release" => {
                    self.network.held.clear();
                    Ok(())
                }
                _ => Err("which link?".into()),
            };
        }
        if matches!(command, "deliver" | "drop" | "lose") {
            return self.with_kind(command, args);
        }
        for link in links(args)? {
            match command {
                "double" => self.network.double(link),
                "reverse" => self.network.reverse(link),
                "hold" => drop(self.network.held.insert(link)),
                "release" => drop(self.network.held.remove(&link)),
                "cut" => drop(self.network.cut.insert(link)),
                "heal" => drop(self.network.cut.remove(&link)),
                _ => self.end_sessions(link)?,
            }
        }
        if command == "heal" { self.connect() } else { Ok(()) }
    }

    /// `deliver 1->2 append x1`: so many, of that kind, of what waits on the link.
    fn with_kind(&mut self, command: &str, args: &[&str]) -> Done {
        let (last, rest) = args.split_last().ok_or("which link?")?;
        let (most, args) = match last.strip_prefix('x') {
            Some(n) => (number(n)?, rest),
            None => (usize::MAX, args),
        };
        let wanted = args.iter().filter(|word| KINDS.contains(word)).copied().collect::<Vec<_>>();
        let names: Vec<&str> = args.iter().filter(|word| !KINDS.contains(word)).copied().collect();
        for link in links(&names)? {
            match (command, &wanted[..]) {
                ("deliver", []) => self.deliver(link, None, most)?,
                ("deliver", wanted) => wanted.iter().try_for_each(|kind| self.deliver(link, Some(kind), most))?,
                ("drop", []) => self.drop_queued(link, None, most)?,
                ("drop", wanted) => wanted.iter().try_for_each(|kind| self.drop_queued(link, Some(kind), most))?,
                (_, []) => return Err("lose which kind?".into()),
                (_, wanted) => self.network.losing.extend(wanted.iter().map(|kind| (link, kind.to_string()))),
            }
        }
        Ok(())
    }

    fn disk_command(&mut self, command: &str, args: &[&str]) -> Done {
        let id = number(args.first().ok_or("whose disk?")?)?;
        match (command, &args[1..]) {
            ("damage", ["from", from]) => self.idle_disk(id)?.lose_from(number(from)?),
            ("wipe", []) => {
                self.idle_disk(id)?;
                let disk = self.new_disk(id)?;
                *self.idle_disk(id)? = super::disk::Disk::empty(disk);
            }
            ("save", []) => {
                let copy = self.idle_disk(id)?.clone();
                self.host(id)?.copy = Some(copy);
            }
            ("restore", []) => {
                let copy = self.host(id)?.copy.clone().ok_or("there is no copy")?;
                *self.idle_disk(id)? = copy;
            }
            _ => return Err(format!("{command} {args:?} is not understood")),
        }
        Ok(())
    }

    fn proof_or_control(&mut self, command: &str, args: &[&str]) -> Done {
        let named = |at: usize| args.get(at).map(|id| number::<u32>(id)).transpose();
        let id = named(0)?.ok_or_else(|| format!("{command}: not a command, or without its host"))?;
        if command == "refuse" {
            return self.refuse_command(args);
        }
        self.process(id)?;
        match command {
            "unreachable" => {
                let peer = ReplicaId(named(1)?.ok_or("unreachable to whom?")?);
                self.give(id, Input::Unreachable { peer })
            }
            "declare-crashed" => self.declare(id, ReplicaId(named(1)?.ok_or("who?")?)),
            "fence" => {
                let target = named(1)?.ok_or("fence whom?")?;
                if self.member(target).is_some() {
                    return Err(format!("a fence does not lie here: kill {target} first"));
                }
                let named = self.process(id)?.replica.named_in_view(ReplicaId(target));
                let peer = named.ok_or("no view names it: a fence is only asked for the primary")?;
                self.give(id, Input::Fenced { peer })
            }
            "confirm" => self.give(id, Input::Confirm),
            "transfer" => self.give(id, Input::Transfer { to: named(1)?.map(ReplicaId) }),
            "leave" => args.iter().try_for_each(|id| self.give(number(id)?, Input::Leave)),
            _ => Err(format!("{command} is not a command")),
        }
    }

    /// `refuse 1`: everybody's dials to 1, often enough. `refuse 2 1 x2 [forged]`: those of 2, twice.
    fn refuse_command(&mut self, args: &[&str]) -> Done {
        match args {
            [target] => {
                let target = number(target)?;
                let dialers: Vec<u32> = self.hosts.keys().copied().filter(|id| self.member(*id).is_some()).collect();
                dialers.into_iter().try_for_each(|id| self.refuse(id, target, REFUSALS, false))
            }
            [host, target, rest @ ..] => {
                let times = rest.iter().find_map(|word| word.strip_prefix('x')).map_or(Ok(REFUSALS), number)?;
                self.refuse(number(host)?, number(target)?, times, rest.contains(&"forged"))
            }
            [] => Err("whose dials, to whom?".into()),
        }
    }

    /// As the driver: a word that the replica knows to be wrong, or that is of no use to it, is not taken.
    fn declare(&mut self, id: u32, peer: ReplicaId) -> Done {
        let process = self.process(id)?;
        let (name, replica) = (process.name.clone(), &process.replica);
        let why = match replica.named_in_view(peer) {
            None => "it is not in the view",
            Some(_) if !replica.is_live() => "it was restarted since that view, and needs the disks",
            Some(member) if replica.in_contact(&member) => "it is in contact with it",
            Some(peer) => return self.give(id, Input::DeclaredCrashed { peer }),
        };
        self.out.say(format!("{name} does not take that word: {why}"));
        Ok(())
    }

    fn show(&mut self, args: &[&str]) -> Done {
        let (what, args) = match args.split_first() {
            Some((what @ (&"log" | &"leases" | &"links"), rest)) => (*what, rest),
            _ => ("status", args),
        };
        if what == "links" {
            self.show_links();
            return Ok(());
        }
        let ids = if args.is_empty() { self.hosts.keys().copied().collect() } else { hosts(args)? };
        for id in ids {
            let line = match (self.member(id), what) {
                (None, "log") => format!("disk of {id}: {}", self.log_on_disk(id)?),
                (None, _) => format!("{id} is down"),
                (Some(_), "log") => self.log_line(id)?,
                (Some(_), "leases") => self.lease_line(id)?,
                _ => self.status_line(id)?,
            };
            self.out.say(line);
        }
        Ok(())
    }

    fn log_on_disk(&mut self, id: u32) -> Result<String, String> {
        let log = self.host(id)?.disk.log.clone();
        let words = log.iter().map(|entry| format!("{} of {}", self.names.entry(entry), entry.epoch));
        Ok(words.collect::<Vec<_>>().join(", "))
    }

    fn log_line(&mut self, id: u32) -> Result<String, String> {
        let host = self.hosts.get(&id).ok_or("no such host")?;
        let process = host.process.as_ref().ok_or("not running")?;
        let log = process.replica.log();
        let mut words = Vec::new();
        for index in 1..=log.last().index {
            let entry = log.read(index, 0, &host.disk).into_iter().next().ok_or("an entry is missing")?;
            words.push(format!("{} of {}", self.names.entry(&entry), entry.epoch));
        }
        Ok(format!("{}: {}; committed {}", process.name, words.join(", "), log.committed()))
    }

    fn lease_line(&mut self, id: u32) -> Result<String, String> {
        let now = self.now;
        let process = self.process(id)?;
        let status = process.replica.status();
        let from: Vec<String> = status.leases_from.iter().map(|id| id.to_string()).collect();
        let from = if from.is_empty() { "nobody".into() } else { from.join(" and ") };
        let reads = match process.replica.lease_until().filter(|until| until.0 > now) {
            Some(Time(u64::MAX)) => "may answer reads, as it is alone".into(),
            Some(until) => format!("may answer reads for {}", super::output::duration(until.0 - now)),
            None => "may not answer reads".into(),
        };
        Ok(format!("{}: leases from {from}; {reads}", process.name))
    }

    fn status_line(&mut self, id: u32) -> Result<String, String> {
        let process = self.process(id)?;
        let (name, status) = (process.name.clone(), process.replica.status());
        let leader = status.leader.map_or(String::new(), |leader| leader.to_string());
        let standing = match (status.standing, status.serving) {
            (Standing::Primary, true) => "primary, serves".into(),
            (Standing::Primary, false) => "primary, does not serve".into(),
            (Standing::Backup, _) => format!("backup of {leader}"),
            (Standing::Learner, _) => format!("learner of {leader}"),
            (Standing::Waiting, _) => "without a primary".into(),
        };
        let mut line = format!("{name}: {standing}; promised {}", status.epoch);
        line += &format!("; log to {}, committed {}", status.last, status.committed);
        if let Some(view) = &status.view {
            line += &format!("; {}", self.names.view(view));
        }
        if let Some(until) = status.impaired_until {
            line += &format!("; impaired until {until}");
        }
        if !status.waiting_for.is_empty() {
            let ids: Vec<String> = status.waiting_for.iter().map(|id| id.to_string()).collect();
            line += &format!("; waits for {}", ids.join(" and "));
        }
        Ok(line)
    }
}

fn number<N: std::str::FromStr>(word: &str) -> Result<N, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn hosts(args: &[&str]) -> Result<Vec<u32>, String> {
    if args.is_empty() { Err("which hosts?".into()) } else { args.iter().map(|word| number(word)).collect() }
}

fn each(args: &[&str], mut of: impl FnMut(u32) -> Done) -> Done {
    hosts(args)?.into_iter().try_for_each(&mut of)
}

/// 1->2 is one direction, 1-2 both.
fn links(args: &[&str]) -> Result<Vec<Link>, String> {
    let mut links = Vec::new();
    for word in args {
        if let Some((from, to)) = word.split_once("->") {
            links.push((number(from)?, number(to)?));
        } else if let Some((a, b)) = word.split_once('-') {
            let (a, b) = (number(a)?, number(b)?);
            links.extend([(a, b), (b, a)]);
        } else {
            return Err(format!("{word} is neither a link nor a kind of message"));
        }
    }
    Ok(links)
}

fn kinds<'w>(args: &[&'w str]) -> Result<Vec<&'w str>, String> {
    let known = |word: &&'w str| {
        let word = *word;
        KINDS.contains(&word).then_some(word).ok_or_else(|| format!("{word} is not a kind of message"))
    };
    args.iter().map(known).collect()
}

fn micros(word: &str) -> Result<u64, String> {
    match (word.strip_suffix("ms"), word.strip_suffix('s')) {
        (Some(n), _) => Ok(number::<u64>(n)? * 1000),
        (None, Some(n)) => Ok(number::<u64>(n)? * 1_000_000),
        _ => Err(format!("{word}: 350ms or 2s")),
    }
}
