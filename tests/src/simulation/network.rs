//! The network: directed links that can be cut, sessions, and dials.

use super::MS;
use super::world::{Happening, World, host_of};
use chat_replica::protocol::*;
use std::collections::BTreeMap;

/// One end of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub host: usize,
    pub run: u64,
    pub member: Member,
    pub open: bool,
}

/// The dialler's messages to the callee.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub dialer: End,
    pub callee: End,
    /// In order: nothing arrives before this.
    last_arrival: u64,
    /// Kept while the link is cut.
    buffered: Vec<Envelope>,
}

#[derive(Debug)]
pub(crate) struct Network {
    /// `cut[a][b]`: what a sends does not reach b.
    pub cut: Vec<Vec<bool>>,
    /// What a link adds to every message's way, in microseconds.
    pub slow: Vec<Vec<u64>>,
    /// Of what a sends to b, messages of this kind get lost, or all.
    pub muted: Vec<(usize, usize, &'static str)>,
    /// Of what a sends to b, messages of this kind are held back until they are let go.
    pub held: Vec<(usize, usize, &'static str)>,
    /// What is held back, with its session.
    pub held_back: Vec<(u64, Envelope)>,
    /// Dials of the second by the first are refused, although it lives.
    pub rejects: Vec<(usize, usize)>,
    pub sessions: BTreeMap<u64, Session>,
    pub rolled_back: Vec<bool>,
    numbers: u64,
    /// Messages that were sent, by kind: what idling costs.
    pub sent: BTreeMap<&'static str, u64>,
    pub entries_sent: u64,
}

impl Network {
    pub(crate) fn new(n: usize) -> Network {
        Network {
            cut: vec![vec![false; n]; n],
            slow: vec![vec![0; n]; n],
            muted: Vec::new(),
            held: Vec::new(),
            held_back: Vec::new(),
            rejects: Vec::new(),
            sessions: BTreeMap::new(),
            rolled_back: vec![false; n],
            numbers: 0,
            sent: BTreeMap::new(),
            entries_sent: 0,
        }
    }

    fn is_muted(&self, from: usize, to: usize, kind: &str) -> bool {
        self.muted.iter().any(|(a, b, lost)| (*a, *b) == (from, to) && (*lost == kind || *lost == "all"))
    }
}

pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Unwelcome { .. } => "unwelcome",
        Message::Ping(_) => "ping",
        Message::Pong(_) => "pong",
        Message::Poll { .. } => "poll",
        Message::PollReply { .. } => "poll reply",
        Message::RequestVote { .. } => "request vote",
        Message::Vote { .. } => "vote",
        Message::Append(_) => "append",
        Message::AppendReply { .. } => "append reply",
        Message::Transfer { .. } => "transfer",
        Message::Leave { .. } => "leave",
    }
}

impl World {
    fn delay(&mut self) -> u64 {
        self.random.within(self.settings.delay)
    }

    /// A process sends: on the session that it dialled, if there is one with that very process run.
    pub(crate) fn transmit(&mut self, host: usize, envelope: Envelope) {
        *self.network.sent.entry(kind(&envelope.message)).or_default() += 1;
        if let Message::Append(append) = &envelope.message {
            self.network.entries_sent += append.entries.len() as u64;
        }
        let to = host_of(envelope.to.id);
        let Some(process) = self.process(host) else { return };
        let Some(number) = process.dials[to].session else { return };
        if self.random.chance(self.settings.loss_permille) {
            return;
        }
        let kind = kind(&envelope.message);
        if self.network.held.contains(&(host, to, kind)) {
            self.network.held_back.push((number, envelope));
            return;
        }
        if self.network.is_muted(host, to, kind) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.settings.duplicate_permille));
        for _ in 0..copies {
            let reorder = self.random.chance(self.settings.reorder_permille);
            let delay =
                self.delay() + self.network.slow[host][to] + if reorder { self.random.below(50 * MS) } else { 0 };
            let now = self.now;
            let Some(session) = self.network.sessions.get_mut(&number) else { return };
            if self.network.cut[host][to] {
                if self.settings.cuts_buffer && session.buffered.len() < 400 {
                    session.buffered.push(envelope.clone());
                }
                continue;
            }
            let arrival = if reorder { now + delay } else { session.last_arrival.max(now + delay) };
            session.last_arrival = session.last_arrival.max(arrival);
            self.at(arrival, Happening::Deliver { session: number, envelope: envelope.clone() });
        }
    }

    pub(crate) fn network_event(&mut self, what: Happening) {
        match what {
            Happening::Deliver { session, envelope } => self.deliver(session, envelope),
            Happening::Dial { host, run, peer } => self.dial(host, run, peer),
            Happening::Syn { host, run, peer, patience } => self.syn(host, run, peer, patience),
            Happening::Accepted { session } => self.accepted(session),
            Happening::Refused { host, run, peer } => {
                let Some(process) = self.running(host, run) else { return };
                if let Some(last) = process.dials[peer].last {
                    self.input(host, Input::Refused { peer: last });
                }
                self.after(5 * MS, Happening::Dial { host, run, peer });
            }
            Happening::Unreachable { host, run, peer } => {
                if self.running(host, run).is_some() {
                    self.input(host, Input::Unreachable { peer: super::world::id(peer) });
                    self.after(5 * MS, Happening::Dial { host, run, peer });
                }
            }
            Happening::Ended { session, at_dialer } => self.ended(session, at_dialer),
            Happening::SessionTimeout { session, at_dialer } => {
                let Some(s) = self.network.sessions.get(&session) else { return };
                let (a, b) = (s.dialer.host, s.callee.host);
                if self.network.cut[a][b] || self.network.cut[b][a] {
                    self.ended(session, at_dialer);
                }
            }
            other => unreachable!("{other:?} is not the network's"),
        }
    }

    fn deliver(&mut self, number: u64, envelope: Envelope) {
        let Some(session) = self.network.sessions.get_mut(&number) else { return };
        let (from, to) = (session.dialer, session.callee);
        if !to.open {
            return;
        }
        if self.network.cut[from.host][to.host] {
            if self.settings.cuts_buffer {
                session.buffered.push(envelope);
            }
            return;
        }
        if self.running(to.host, to.run).is_some() {
            self.input(to.host, Input::Receive(envelope));
        }
    }

    fn dial(&mut self, host: usize, run: u64, peer: usize) {
        let patience = 50 * MS + self.random.below(200 * MS);
        let delay = self.delay();
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            process.dials[peer].deferred = true;
            return;
        }
        if process.dials[peer].session.is_none() {
            let patience = self.now + patience;
            self.after(delay, Happening::Syn { host, run, peer, patience });
        }
    }

    /// A dial arrives: only a host that is reached and where nobody listens refuses.
    fn syn(&mut self, host: usize, run: u64, peer: usize, patience: u64) {
        let Some(dialer) = self.running(host, run).map(|process| process.member) else { return };
        let cut = self.network.cut[host][peer] || self.network.cut[peer][host];
        let back = self.delay();
        match self.process(peer) {
            _ if self.network.rejects.contains(&(host, peer)) => {
                self.after(back, Happening::Refused { host, run, peer });
            }
            _ if cut => self.at(patience, Happening::Unreachable { host, run, peer }),
            None => self.after(back, Happening::Refused { host, run, peer }),
            Some(process) if process.paused => {
                // Connected, but the greeting waits until the process goes on.
                if self.now > patience {
                    self.after(back, Happening::Unreachable { host, run, peer });
                } else {
                    self.after(10 * MS, Happening::Syn { host, run, peer, patience });
                }
            }
            Some(process) => {
                let callee = End { host: peer, run: process.run, member: process.member, open: true };
                let dialer = End { host, run, member: dialer, open: true };
                self.network.numbers += 1;
                let number = self.network.numbers;
                let session = Session { dialer, callee, last_arrival: self.now, buffered: Vec::new() };
                self.network.sessions.insert(number, session);
                let up = Input::SessionUp { session: number, peer: dialer.member, outbound: false };
                self.input(peer, up);
                self.after(back, Happening::Accepted { session: number });
            }
        }
    }

    /// The callee's greeting arrives at the dialler.
    fn accepted(&mut self, number: u64) {
        let Some(session) = self.network.sessions.get(&number) else { return };
        let (dialer, callee) = (session.dialer, session.callee);
        if !dialer.open {
            return;
        }
        let Some(process) = self.running(dialer.host, dialer.run) else { return };
        process.dials[callee.host].session = Some(number);
        process.dials[callee.host].last = Some(callee.member);
        self.input(dialer.host, Input::SessionUp { session: number, peer: callee.member, outbound: true });
        if self.process(callee.host).is_none_or(|process| process.run != callee.run) {
            self.tell_end(number, true);
        }
    }

    /// One end learns that the session is over.
    pub(crate) fn ended(&mut self, number: u64, at_dialer: bool) {
        let Some(session) = self.network.sessions.get_mut(&number) else { return };
        let (a, b) = (session.dialer, session.callee);
        let (end, other) = if at_dialer { (&mut session.dialer, b) } else { (&mut session.callee, a) };
        if !end.open {
            return;
        }
        end.open = false;
        let here = *end;
        if !session.dialer.open && !session.callee.open {
            self.network.sessions.remove(&number);
        }
        let Some(process) = self.running(here.host, here.run) else { return };
        if at_dialer && process.dials[other.host].session == Some(number) {
            process.dials[other.host].session = None;
        }
        self.input(here.host, Input::SessionDown { session: number, peer: other.member.id });
        if at_dialer {
            self.after(0, Happening::Dial { host: here.host, run: here.run, peer: other.host });
        }
        self.tell_end(number, !at_dialer);
    }

    /// The end of a session goes to one of its ends, behind what is under way, unless the link is cut.
    fn tell_end(&mut self, number: u64, at_dialer: bool) {
        let delay = self.delay();
        let Some(session) = self.network.sessions.get(&number) else { return };
        let (to, from) = if at_dialer { (session.dialer, session.callee) } else { (session.callee, session.dialer) };
        if !to.open || self.network.cut[from.host][to.host] {
            return;
        }
        let at = (self.now + delay).max(if at_dialer { 0 } else { session.last_arrival + 1 });
        self.at(at, Happening::Ended { session: number, at_dialer });
    }

    /// A process is gone: its kernel ends its sessions.
    pub(crate) fn hang_up(&mut self, host: usize, run: u64) {
        let numbers: Vec<u64> = self.network.sessions.keys().copied().collect();
        for number in numbers {
            let Some(session) = self.network.sessions.get_mut(&number) else { continue };
            let at_dialer = session.dialer.host == host && session.dialer.run == run;
            let at_callee = session.callee.host == host && session.callee.run == run;
            if at_dialer {
                session.dialer.open = false;
            }
            if at_callee {
                session.callee.open = false;
            }
            if at_dialer || at_callee {
                self.tell_end(number, at_callee);
            }
        }
    }

    /// From now on nothing of what a sends reaches b. Silence: sessions last, until somebody loses patience.
    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        if a == b || self.network.cut[a][b] {
            return;
        }
        self.network.cut[a][b] = true;
        let between: Vec<u64> = self.sessions_between(a, b);
        for session in between {
            for at_dialer in [true, false] {
                if self.random.chance(500) {
                    let patience = 300 * MS + self.random.below(4000 * MS);
                    self.after(patience, Happening::SessionTimeout { session, at_dialer });
                }
            }
        }
    }

    fn sessions_between(&self, a: usize, b: usize) -> Vec<u64> {
        let touches =
            |s: &Session| (s.dialer.host, s.callee.host) == (a, b) || (s.dialer.host, s.callee.host) == (b, a);
        self.network.sessions.iter().filter(|(_, session)| touches(session)).map(|(number, _)| *number).collect()
    }

    /// What a sends reaches b again.
    pub fn heal(&mut self, a: usize, b: usize) {
        if !self.network.cut[a][b] {
            return;
        }
        self.network.cut[a][b] = false;
        for number in self.sessions_between(a, b) {
            let Some(session) = self.network.sessions.get_mut(&number) else { continue };
            if session.dialer.host == a {
                let waiting = std::mem::take(&mut session.buffered);
                let mut arrival = session.last_arrival.max(self.now);
                for envelope in waiting {
                    arrival += 10 + self.random.below(100);
                    self.at(arrival, Happening::Deliver { session: number, envelope });
                }
                if let Some(session) = self.network.sessions.get_mut(&number) {
                    session.last_arrival = arrival;
                }
            }
            // A reset answers whatever still uses a session that the other end has given up.
            let Some(session) = self.network.sessions.get(&number) else { continue };
            let (dialer_open, callee_open) = (session.dialer.open, session.callee.open);
            if !callee_open {
                self.tell_end(number, true);
            }
            if !dialer_open {
                self.tell_end(number, false);
            }
        }
    }

    /// Whether messages can go both ways between the processes of two hosts.
    pub fn are_connected(&self, a: usize, b: usize) -> bool {
        let way =
            |from: usize, to: usize| self.process(from).is_some_and(|process| process.dials[to].session.is_some());
        way(a, b) && way(b, a)
    }

    /// Dials that were due while the process was paused.
    pub(crate) fn dial_again(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let run = process.run;
        let due: Vec<usize> = (0..process.dials.len()).filter(|peer| process.dials[*peer].deferred).collect();
        for peer in due {
            if let Some(process) = &mut self.hosts[host].process {
                process.dials[peer].deferred = false;
            }
            self.after(0, Happening::Dial { host, run, peer });
        }
    }
}
