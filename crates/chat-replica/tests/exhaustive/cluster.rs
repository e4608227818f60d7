//! Three replicas, what is under way between them, and what may happen next.

use super::bounds::{Bounds, Budget, MOMENT, QUANTUM, Start};
use super::host::{Host, Link, N, Process, host_of, id};
use super::network::Network;
use super::shared::Shared;
use super::truth::{Broken, Truth};
use chat_replica::protocol::*;
use core::time::Duration;
use std::panic::AssertUnwindSafe;

/// One state of the search.
///
/// Time is part of it, in whole quanta and moments from the start. States that differ only by a shift in time are not taken
/// for one: the budget that was spent for the shift tells them apart anyway.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub hosts: [Shared<Host>; N],
    pub network: Shared<Network>,
    pub truth: Shared<Truth>,
    /// Microseconds of true time.
    pub now: u64,
    pub left: Budget,
}

/// How a message arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    InOrder,
    /// And will arrive once more.
    Doubled,
    /// Before the one that was sent before it.
    Overtaking,
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Receive {
        from: usize,
        to: usize,
        arrival: Arrival,
    },
    Lose {
        from: usize,
        to: usize,
    },
    /// A ping arrives, and its answer too.
    Exchange {
        from: usize,
        to: usize,
    },
    /// A ping arrives; its answer is late or lost.
    Ping {
        from: usize,
        to: usize,
    },
    Pong {
        from: usize,
        to: usize,
    },
    /// A poll, and its answer.
    Poll {
        from: usize,
        to: usize,
    },
    Crash {
        at: usize,
    },
    Restart {
        at: usize,
    },
    /// The sessions with a process that is gone, or cannot be reached, end at this end.
    HangUp {
        at: usize,
        peer: usize,
    },
    Refused {
        at: usize,
        peer: usize,
    },
    /// Both dial each other, and are answered.
    Connect {
        a: usize,
        b: usize,
    },
    Moment,
    /// Every process ticks at the end of each quantum, but for one that sleeps.
    Quanta {
        count: u8,
        asleep: Option<usize>,
    },
    Propose {
        at: usize,
    },
    Cut {
        from: usize,
        to: usize,
    },
    Heal,
    Leave {
        at: usize,
    },
    Damage {
        at: usize,
    },
}

/// What happens, and whether a process is killed in the middle of what it does then: after so many of its effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    pub what: What,
    pub crash: Option<(usize, u8)>,
}

/// A state on its way to the next.
pub struct Run<'b> {
    pub bounds: &'b Bounds,
    pub state: State,
    crash: Option<(usize, u8)>,
    pub effects: [u8; N],
}

fn take(budget: &mut u8) {
    *budget = budget.checked_sub(1).expect("only what the budget allows is tried");
}

impl State {
    pub fn clock(&self, bounds: &Bounds, host: usize) -> Time {
        // From origins of their own: no reading of one means anything to another.
        Time((host as u64 + 1) * 1_000_000_000 + self.now * (1000 + bounds.fast[host]) / 1000)
    }

    pub fn process(&self, host: usize) -> Option<&Process> {
        self.hosts[host].process.as_ref()
    }

    /// Where a search with these bounds begins.
    pub fn start(bounds: &Bounds) -> State {
        let state = State {
            hosts: [0, 1, 2].map(|host| Shared::new(Host::empty(host))),
            network: Shared::new(Network::default()),
            truth: Shared::new(Truth::default()),
            now: 0,
            left: Budget { pings: u8::MAX, crashes: 2, restarts: 4, moments: 99, quanta: 9, ..Budget::default() },
        };
        let mut run = Run { bounds, state, crash: None, effects: [0; N] };
        (0..N).for_each(|at| run.happen(What::Restart { at }));
        [(0, 1), (0, 2), (1, 2)].into_iter().for_each(|(a, b)| run.happen(What::Connect { a, b }));
        run.settle();
        run.happen(What::Quanta { count: 1, asleep: None });
        run.settle();
        let lost: &[usize] = match bounds.start {
            Start::Three => &[],
            Start::PairWithoutThird | Start::PairAndLearner => &[2],
            Start::Alone => &[2, 1],
        };
        if !lost.is_empty() {
            run.leave_out(lost);
        }
        if bounds.start == Start::PairAndLearner {
            run.happen(What::Restart { at: 2 });
            run.happen(What::Connect { a: 0, b: 2 });
        }
        let mut state = run.state;
        let truth = state.truth.edit();
        assert_eq!(truth.broken, None, "the start is sound");
        *truth = Truth {
            committed: std::mem::take(&mut truth.committed),
            committers: std::mem::take(&mut truth.committers),
            ..Truth::default()
        };
        state.left = bounds.budget;
        if bounds.budget.pings == 0 {
            state.network.edit().forget_pings();
        }
        state.seal();
        assert!(state.process(0).is_some_and(|process| process.replica.accepts().is_ok()), "replica 1 serves");
        state
    }

    pub fn seal(&mut self) {
        self.hosts.iter_mut().for_each(Shared::seal);
        self.network.seal();
        self.truth.seal();
    }

    /// Whether the sessions of `at` with `peer` can end: it is gone, or a link between them is cut.
    fn can_hang_up(&self, at: usize, peer: usize) -> bool {
        let Some(session) = self.process(at).and_then(|process| process.links[peer].session) else { return false };
        self.hosts[peer].member() != Some(session) || !self.network.is_whole(at, peer)
    }

    fn can_be_refused(&self, at: usize, peer: usize) -> bool {
        let Some(process) = self.process(at) else { return false };
        let link = &process.links[peer];
        link.session.is_none()
            && link.answered.is_some()
            && link.refused_at.is_none_or(|before| before < self.now)
            && self.hosts[peer].process.is_none()
            && self.network.is_whole(at, peer)
    }

    fn can_connect(&self, a: usize, b: usize) -> bool {
        let (Some(left), Some(right)) = (self.process(a), self.process(b)) else { return false };
        let stale = |link: &Link, member: Member| link.session != Some(member);
        self.network.is_whole(a, b)
            && stale(&left.links[b], right.replica.me())
            && stale(&right.links[a], left.replica.me())
    }

    /// All that may happen next, but for crashes in the middle of it.
    pub fn possible(&self, out: &mut Vec<What>) {
        let left = &self.left;
        for (from, to) in pairs() {
            self.possible_between(from, to, out);
        }
        for at in 0..N {
            match self.process(at) {
                Some(process) => {
                    if left.crashes > 0 {
                        out.push(What::Crash { at });
                    }
                    if left.proposals > 0 && process.replica.accepts().is_ok() {
                        out.push(What::Propose { at });
                    }
                    if left.leaves > 0 {
                        out.push(What::Leave { at });
                    }
                }
                None => {
                    if left.restarts > 0 {
                        out.push(What::Restart { at });
                    }
                    if left.damages > 0 && self.hosts[at].disk.log.len() > 1 {
                        out.push(What::Damage { at });
                    }
                }
            }
        }
        if left.heals > 0 && self.network.cut != [[false; N]; N] {
            out.push(What::Heal);
        }
        if left.moments > 0 {
            out.push(What::Moment);
        }
        for (budget, count) in [(left.quanta, 1), (left.silences, 3)] {
            if budget > 0 {
                out.push(What::Quanta { count, asleep: None });
                if left.sleeps > 0 {
                    let up = (0..N).filter(|at| self.process(*at).is_some());
                    out.extend(up.map(|at| What::Quanta { count, asleep: Some(at) }));
                }
            }
        }
    }

    fn possible_between(&self, from: usize, to: usize, out: &mut Vec<What>) {
        let left = &self.left;
        let queue = &self.network.messages[from][to];
        if !queue.is_empty() {
            out.push(What::Receive { from, to, arrival: Arrival::InOrder });
            if left.losses > 0 {
                out.push(What::Lose { from, to });
            }
            if left.doubles > 0 {
                out.push(What::Receive { from, to, arrival: Arrival::Doubled });
            }
        }
        if queue.len() > 1 && left.overtakes > 0 {
            out.push(What::Receive { from, to, arrival: Arrival::Overtaking });
        }
        if left.pings > 0 && self.network.pings[from][to].is_some() {
            out.push(What::Exchange { from, to });
            out.push(What::Ping { from, to });
        }
        if self.network.polls[from][to].is_some() {
            out.push(What::Poll { from, to });
        }
        if self.network.pongs[from][to].is_some() {
            out.push(What::Pong { from, to });
        }
        if self.can_hang_up(from, to) {
            out.push(What::HangUp { at: from, peer: to });
        }
        if self.can_be_refused(from, to) {
            out.push(What::Refused { at: from, peer: to });
        }
        if from < to && self.can_connect(from, to) {
            out.push(What::Connect { a: from, b: to });
        }
        if left.cuts > 0 && !self.network.cut[from][to] {
            out.push(What::Cut { from, to });
        }
    }
}

fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..N).flat_map(|from| (0..N).map(move |to| (from, to))).filter(|(from, to)| from != to)
}

impl<'b> Run<'b> {
    /// The state after an action; `None` if nobody had so many effects that the crash could come in between.
    pub fn next(bounds: &'b Bounds, state: &State, action: Action) -> Option<State> {
        let mut run = Run { bounds, state: state.clone(), crash: action.crash, effects: [0; N] };
        run.happen(action.what);
        if run.crash.is_some() {
            return None;
        }
        run.state.seal();
        Some(run.state)
    }

    /// How many effects each process has in what happens.
    pub fn effects(bounds: &'b Bounds, state: &State, what: What) -> [u8; N] {
        let mut run = Run { bounds, state: state.clone(), crash: None, effects: [0; N] };
        run.happen(what);
        run.effects
    }

    pub fn happen(&mut self, what: What) {
        match what {
            What::Receive { from, to, arrival } => self.receive(from, to, arrival),
            What::Lose { from, to } => {
                take(&mut self.state.left.losses);
                self.state.network.edit().messages[from][to].remove(0);
            }
            What::Exchange { from, to } => {
                self.ping(from, to);
                self.pong(to, from);
            }
            What::Ping { from, to } => self.ping(from, to),
            What::Pong { from, to } => self.pong(from, to),
            What::Poll { from, to } => self.poll(from, to),
            What::Crash { at } => {
                take(&mut self.state.left.crashes);
                self.kill(at);
            }
            What::Restart { at } => self.restart(at),
            What::HangUp { at, peer } => {
                let input = self.end_sessions(at, peer);
                self.turn(at, input.into_iter().collect());
            }
            What::Refused { at, peer } => {
                let now = self.state.now;
                let Some(process) = &mut self.state.hosts[at].edit().process else { return };
                process.links[peer].refused_at = Some(now);
                let inputs = process.links[peer].answered.map(|peer| Input::Refused { peer });
                self.turn(at, inputs.into_iter().collect());
            }
            What::Connect { a, b } => self.connect(a, b),
            What::Moment => {
                take(&mut self.state.left.moments);
                self.pass(MOMENT, None);
            }
            What::Quanta { count, asleep } => self.quanta(count, asleep),
            What::Propose { at } => {
                let number = self.bounds.budget.proposals.wrapping_sub(self.state.left.proposals);
                take(&mut self.state.left.proposals);
                self.turn(at, vec![Input::Propose(vec![number].into())]);
            }
            What::Cut { from, to } => {
                take(&mut self.state.left.cuts);
                self.state.network.edit().cut(from, to);
            }
            What::Heal => {
                take(&mut self.state.left.heals);
                self.state.network.edit().cut = Default::default();
            }
            What::Leave { at } => {
                take(&mut self.state.left.leaves);
                self.turn(at, vec![Input::Leave]);
            }
            What::Damage { at } => {
                take(&mut self.state.left.damages);
                let disk = &mut self.state.hosts[at].edit().disk;
                disk.lose_tail(disk.log.len() as u64);
            }
        }
    }

    fn receive(&mut self, from: usize, to: usize, arrival: Arrival) {
        let left = &mut self.state.left;
        let queue = &mut self.state.network.edit().messages[from][to];
        let envelope = match arrival {
            Arrival::InOrder => queue.remove(0),
            Arrival::Doubled => {
                take(&mut left.doubles);
                queue[0].clone()
            }
            Arrival::Overtaking => {
                take(&mut left.overtakes);
                queue.remove(1)
            }
        };
        self.turn(to, vec![Input::Receive(envelope)]);
    }

    fn ping(&mut self, from: usize, to: usize) {
        take(&mut self.state.left.pings);
        let ping = self.state.network.edit().pings[from][to].take();
        self.turn(to, ping.map(Input::Receive).into_iter().collect());
    }

    fn pong(&mut self, from: usize, to: usize) {
        let pong = self.state.network.edit().pongs[from][to].take();
        if let Some(pong) = pong {
            self.turn(to, vec![Input::Receive(pong)]);
        }
        if self.state.left.pings == 0 {
            let pongs = self.state.network.pongs.clone();
            let network = self.state.network.edit();
            network.forget_pings();
            network.pongs = pongs;
        }
    }

    fn poll(&mut self, from: usize, to: usize) {
        let poll = self.state.network.edit().polls[from][to].take();
        self.turn(to, poll.map(Input::Receive).into_iter().collect());
        let queue = &mut self.state.network.edit().messages[to][from];
        let answered = queue.iter().rposition(|envelope| matches!(envelope.message, Message::PollReply { .. }));
        let answer = answered.map(|at| queue.remove(at));
        self.turn(from, answer.map(Input::Receive).into_iter().collect());
    }

    fn quanta(&mut self, count: u8, asleep: Option<usize>) {
        let left = &mut self.state.left;
        take(if count == 1 { &mut left.quanta } else { &mut left.silences });
        if asleep.is_some() {
            take(&mut left.sleeps);
        }
        for _ in 0..count {
            self.pass(QUANTUM, asleep);
        }
    }

    /// The order of the ticks does not matter: no process sees anything of another's.
    fn pass(&mut self, time: Duration, asleep: Option<usize>) {
        self.state.now += time.as_micros() as u64;
        for at in (0..N).filter(|at| Some(*at) != asleep) {
            self.turn(at, vec![Input::Tick]);
        }
    }

    fn restart(&mut self, at: usize) {
        take(&mut self.state.left.restarts);
        let now = self.state.clock(self.bounds, at);
        self.state.hosts[at].edit().start(at, self.bounds, now);
        self.turn(at, vec![Input::Tick]);
    }

    /// What it has done so far stays done: on its disk, and under way.
    fn kill(&mut self, at: usize) {
        self.state.hosts[at].edit().process = None;
        let network = self.state.network.edit();
        (0..N).for_each(|from| network.drop_from_to(from, at));
    }

    /// What is still under way in a session that ended does not arrive. Both its directions end as one: only in between
    /// could a peer be spoken to but not heard, which a cut link does, too.
    fn end_sessions(&mut self, at: usize, peer: usize) -> Option<Input> {
        let process = self.state.hosts[at].edit().process.as_mut()?;
        let member = process.links[peer].session.take()?;
        self.state.network.edit().drop_from_to(peer, at);
        Some(Input::SessionDown { session: member.incarnation.count, peer: member.id })
    }

    /// Session numbers: the other's process run. Its two sessions go by one number, as they begin and end together.
    fn connect(&mut self, a: usize, b: usize) {
        let (Some(left), Some(right)) = (self.state.hosts[a].member(), self.state.hosts[b].member()) else { return };
        let ends = [(b, left), (a, right)];
        let over = ends.map(|(at, member)| self.end_sessions(at, host_of(member.id)));
        for (at, member) in ends {
            if let Some(process) = &mut self.state.hosts[at].edit().process {
                let link = Link { session: Some(member), answered: Some(member), refused_at: None };
                process.links[host_of(member.id)] = link;
            }
        }
        for ((at, member), over) in ends.into_iter().zip(over) {
            let session = member.incarnation.count;
            let up = |outbound| Input::SessionUp { session, peer: member, outbound };
            self.turn(at, over.into_iter().chain([up(false), up(true)]).collect());
        }
        // Nothing goes before a greeting in a session. Where none can get lost, it comes at once.
        let budget = &self.bounds.budget;
        if budget.losses == 0 && budget.overtakes == 0 {
            [(a, b), (b, a)].into_iter().for_each(|(from, to)| self.greet(from, to));
        }
    }

    fn greet(&mut self, from: usize, to: usize) {
        while let Some(Message::Hello(_)) = self.state.network.messages[from][to].first().map(|first| &first.message) {
            self.receive(from, to, Arrival::InOrder);
        }
    }

    /// A turn of the driver, as in `Node::turn`, and those that follow from its syncs at once. Nothing that others do
    /// in the meantime could be seen by this process before: what they send waits for the next turn, and time that a
    /// sync takes is time that its messages take.
    fn turn(&mut self, at: usize, inputs: Vec<Input>) {
        let mut inputs = inputs;
        while let Some(effects) = self.step(at, inputs) {
            for envelope in effects.send {
                if self.transmit(at, envelope) && self.dies(at) {
                    return;
                }
            }
            // Answers to clients leave before the sync of the turn that commits.
            if self.tell_truth(at, &effects.events, &effects.persist) && self.dies(at) {
                return;
            }
            if self.state.truth.broken.is_some() {
                return;
            }
            self.write(at, &effects.persist);
            if !effects.persist.is_empty() && self.dies(at) {
                return;
            }
            for envelope in effects.send_after {
                if self.transmit(at, envelope) && self.dies(at) {
                    return;
                }
            }
            if self.state.process(at).is_some_and(|process| process.left) {
                self.kill(at);
                return;
            }
            if effects.persist.is_empty() {
                return;
            }
            inputs = vec![Input::Persisted { took: Duration::ZERO }];
        }
    }

    fn step(&mut self, at: usize, inputs: Vec<Input>) -> Option<Effects> {
        let now = self.state.clock(self.bounds, at);
        let host = self.state.hosts[at].edit();
        let (disk, process) = (&host.disk, host.process.as_mut()?);
        let stepped = std::panic::catch_unwind(AssertUnwindSafe(|| process.replica.step(now, inputs, disk)));
        stepped.map_err(|why| self.state.truth.edit().breaks(Broken::Fatal(in_words(&*why)))).ok()
    }

    fn transmit(&mut self, from: usize, envelope: Envelope) -> bool {
        let to = host_of(envelope.to.id);
        let in_session = |state: &State, a: usize, b: usize, with: Member| {
            state.process(a).is_some_and(|process| process.links[b].session == Some(with))
        };
        let ping = matches!(envelope.message, Message::Ping(_) | Message::Pong(_));
        if !in_session(&self.state, from, to, envelope.to)
            || !in_session(&self.state, to, from, envelope.from)
            || ping && self.state.left.pings == 0 && !matches!(envelope.message, Message::Pong(_))
        {
            return false;
        }
        self.state.network.edit().send(envelope)
    }

    /// Counts an effect, and whether it was the last before the crash that is to come.
    fn dies(&mut self, at: usize) -> bool {
        self.effects[at] += 1;
        if self.crash != Some((at, self.effects[at])) {
            return false;
        }
        self.crash = None;
        take(&mut self.state.left.crashes);
        take(&mut self.state.left.torn);
        self.kill(at);
        true
    }

    fn write(&mut self, at: usize, persist: &[Persist]) {
        let host = self.state.hosts[at].edit();
        let Some(process) = &host.process else { return };
        let (disk, committed) = (&mut host.disk, process.replica.committed());
        let undone = |what: &Persist| match what {
            Persist::CutBack(from) => disk.log[*from as usize - 1..].iter().any(|entry| entry.body.view().is_some()),
            _ => false,
        };
        let view_undone = persist.iter().any(undone);
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| disk.commit(persist, committed)));
        if view_undone {
            self.state.truth.edit().view_undone = true;
        }
        if let Err(why) = written {
            self.state.truth.edit().breaks(Broken::Fatal(in_words(&*why)));
        }
    }

    /// Compares what this step committed and said with what is true. Whether it committed anything.
    fn tell_truth(&mut self, at: usize, events: &[Event], persist: &[Persist]) -> bool {
        let host = self.state.hosts[at].edit();
        let Some(process) = &mut host.process else { return false };
        let (me, serving) = (process.replica.me(), process.replica.serving());
        let (before, committed) = (host.disk.bound, process.replica.committed());
        for event in events {
            match event {
                Event::Proven(_, how) => process.proved |= how.contains("refuses"),
                Event::Left => process.left = true,
                _ => {}
            }
        }
        let proved = process.proved;
        if committed > before {
            let mut log = host.disk.log.clone();
            for what in persist {
                match what {
                    Persist::CutBack(from) => log.truncate(*from as usize - 1),
                    Persist::Append(entry) => log.push(entry.clone()),
                    _ => {}
                }
            }
            let truth = self.state.truth.edit();
            for entry in &log[before as usize..committed as usize] {
                let view = log[..entry.index as usize - 1].iter().rev().find_map(|entry| entry.body.view());
                truth.commit(me, serving, entry, view);
            }
        }
        self.tell_events(me, proved, events);
        committed > before
    }

    fn tell_events(&mut self, me: Member, proved: bool, events: &[Event]) {
        for event in events {
            match event {
                Event::Fatal(why) => self.state.truth.edit().breaks(Broken::Fatal(format!("{me}: {why}"))),
                Event::RolledBack { by, known } => {
                    let why = format!("{me} is told by {by} that it is not {known:?}");
                    self.state.truth.edit().breaks(Broken::Fatal(why));
                }
                Event::Proven(member, _) if self.state.hosts[host_of(member.id)].member() == Some(*member) => {
                    self.state.truth.edit().breaks(Broken::FalseProof(format!("{member} is alive, but not for {me}")));
                }
                Event::Serving(_) => {
                    let truth = self.state.truth.edit();
                    truth.takeover_on_proof |= proved;
                    truth.takeover_by_majority |= !proved;
                }
                _ => {}
            }
        }
    }

    /// One message, or else one ping with its answer. Whether there was any.
    fn step_of_settling(&mut self) -> bool {
        for (from, to) in pairs() {
            if !self.state.network.messages[from][to].is_empty() {
                self.happen(What::Receive { from, to, arrival: Arrival::InOrder });
                return true;
            }
        }
        for (from, to) in pairs() {
            if self.state.network.polls[from][to].is_some() {
                self.happen(What::Poll { from, to });
                return true;
            }
        }
        for (from, to) in pairs() {
            if self.state.network.pings[from][to].is_some() {
                self.state.left.pings = u8::MAX;
                self.happen(What::Exchange { from, to });
                return true;
            }
        }
        false
    }

    /// Everything arrives, and a moment later what follows from it, until the members hold each other's leases.
    fn settle(&mut self) {
        for _ in 0..4 {
            while self.step_of_settling() {}
            self.happen(What::Moment);
        }
        while self.step_of_settling() {}
    }

    /// Crashes, all at once, and the proof of them by refusal.
    fn leave_out(&mut self, lost: &[usize]) {
        lost.iter().for_each(|at| self.happen(What::Crash { at: *at }));
        for (at, peer) in pairs() {
            if self.state.can_hang_up(at, peer) {
                self.happen(What::HangUp { at, peer });
            }
            if self.state.can_be_refused(at, peer) {
                self.happen(What::Refused { at, peer });
            }
        }
        self.settle();
        let named = |lost: &usize| self.state.process(0).is_some_and(|p| p.replica.named_in_view(id(*lost)).is_some());
        assert!(!lost.iter().any(named), "whoever crashed was left out");
    }
}

fn in_words(why: &(dyn std::any::Any + Send)) -> String {
    let text = why.downcast_ref::<String>().map(String::as_str).or(why.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}
