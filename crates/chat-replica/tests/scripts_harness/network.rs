//! Links with queues, and the sessions on them. A message takes no time; it waits until it is delivered.

use super::words::kind;
use super::world::{Done, World};
use chat_replica::protocol::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// From one host to another.
pub type Link = (u32, u32);

/// The dialler's messages to the callee.
#[derive(Clone, Debug)]
pub struct Session {
    number: u64,
    dialer: (Member, bool),
    callee: (Member, bool),
}

impl Session {
    fn link(&self) -> Link {
        (self.dialer.0.id.0, self.callee.0.id.0)
    }

    fn joins(&self, link: Link) -> bool {
        self.link() == link || self.link() == (link.1, link.0)
    }

    /// The end at this host, and whether it is open.
    fn end(&mut self, host: u32) -> Option<&mut (Member, bool)> {
        let dials = self.dialer.0.id.0 == host;
        let end = if dials { &mut self.dialer } else { &mut self.callee };
        (end.0.id.0 == host).then_some(end)
    }
}

#[derive(Clone, Debug)]
enum What {
    Message(Box<Envelope>),
    /// The other end of the session is gone.
    End,
}

/// Something under way.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// The order in which all parcels were sent.
    sent: u64,
    session: u64,
    what: What,
}

impl Parcel {
    fn kind(&self) -> &'static str {
        match &self.what {
            What::Message(envelope) => kind(&envelope.message),
            What::End => "end",
        }
    }
}

#[derive(Debug, Default)]
pub struct Network {
    numbers: u64,
    sessions: Vec<Session>,
    queues: BTreeMap<Link, VecDeque<Parcel>>,
    pub cut: BTreeSet<Link>,
    pub held: BTreeSet<Link>,
    pub losing: BTreeSet<(Link, String)>,
}

impl Network {
    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn put(&mut self, link: Link, session: u64, what: What) {
        let sent = self.number();
        self.queues.entry(link).or_default().push_back(Parcel { sent, session, what });
    }

    /// Takes from a queue what is of this kind, or everything.
    fn take(&mut self, link: Link, wanted: Option<&str>, most: usize) -> Vec<Parcel> {
        let queue = self.queues.entry(link).or_default();
        let mut taken = Vec::new();
        let mut left = VecDeque::new();
        for parcel in queue.drain(..) {
            if taken.len() < most && wanted.is_none_or(|kind| kind == parcel.kind()) {
                taken.push(parcel);
            } else {
                left.push_back(parcel);
            }
        }
        *queue = left;
        taken
    }

    pub fn double(&mut self, link: Link) {
        let queue = self.queues.entry(link).or_default();
        let again: Vec<Parcel> =
            queue.iter().filter(|parcel| matches!(parcel.what, What::Message(_))).cloned().collect();
        queue.extend(again);
    }

    pub fn reverse(&mut self, link: Link) {
        self.queues.entry(link).or_default().make_contiguous().reverse();
    }
}

impl World {
    /// A process sends. Returns whether the message is lost.
    pub fn transmit(&mut self, host: u32, envelope: &Envelope) -> bool {
        let link = (host, envelope.to.id.0);
        let mine = |s: &&Session| s.dialer == (envelope.from, true) && s.callee.0 == envelope.to;
        let Some(session) = self.network.sessions.iter().find(mine).map(|session| session.number) else { return true };
        let lost = self.network.losing.contains(&(link, kind(&envelope.message).to_string()));
        if lost || self.network.cut.contains(&link) {
            return true;
        }
        self.network.put(link, session, What::Message(Box::new(envelope.clone())));
        false
    }

    /// Delivers everything that is not held, in the order in which it was sent, and what follows from it.
    pub fn deliver_all(&mut self) -> Done {
        for _ in 0..100_000 {
            let due = self.network.queues.iter().filter(|(link, _)| !self.network.held.contains(link));
            let due = due.filter(|(link, _)| self.takes(link.1));
            let first = due.filter_map(|(link, queue)| Some((queue.front()?.sent, *link)));
            let Some((_, link)) = first.min() else { return Ok(()) };
            let parcel = self.network.queues.get_mut(&link).and_then(VecDeque::pop_front);
            if let Some(parcel) = parcel {
                self.arrive(link, parcel)?;
            }
        }
        Err("messages without end".into())
    }

    /// Whether a process at this host would take what arrives: where there is none, it is lost.
    fn takes(&self, host: u32) -> bool {
        let process = self.hosts.get(&host).and_then(|host| host.process.as_ref());
        process.is_none_or(|process| !process.paused && process.syncing.is_none())
    }

    /// Delivers what waits on this link now, and not what follows from it.
    pub fn deliver(&mut self, link: Link, wanted: Option<&str>, most: usize) -> Done {
        let parcels = self.network.take(link, wanted, most);
        if parcels.is_empty() {
            return Err(format!("nothing of that kind waits on {}->{}", link.0, link.1));
        }
        parcels.into_iter().try_for_each(|parcel| self.arrive(link, parcel))
    }

    pub fn drop_queued(&mut self, link: Link, wanted: Option<&str>, most: usize) -> Done {
        let parcels = self.network.take(link, wanted, most);
        if parcels.is_empty() {
            return Err(format!("nothing of that kind waits on {}->{}", link.0, link.1));
        }
        for parcel in parcels {
            if let What::Message(envelope) = &parcel.what {
                let (from, to) = (self.names.of(&envelope.from), self.names.of(&envelope.to));
                let text = self.names.message(&envelope.message);
                self.out.message(parcel.kind(), format!("lost: {from} -> {to}: {text}"));
            }
        }
        Ok(())
    }

    /// What waits on all links, without delivering it.
    pub fn show_links(&mut self) {
        let mut lines = Vec::new();
        for ((from, to), queue) in &self.network.queues {
            let shown = queue.iter().filter(|parcel| self.out.shows(parcel.kind()));
            let words = shown.map(|parcel| match &parcel.what {
                What::Message(envelope) => self.names.message(&envelope.message),
                What::End => "end of the session".into(),
            });
            let words: Vec<String> = words.collect();
            if !words.is_empty() {
                lines.push(format!("on {from}->{to}: {}", words.join(" | ")));
            }
        }
        lines.into_iter().for_each(|line| self.out.say(line));
    }

    fn arrive(&mut self, link: Link, parcel: Parcel) -> Done {
        let at = self.member(link.1);
        let Some(session) = self.network.sessions.iter_mut().find(|s| s.number == parcel.session) else {
            return Ok(());
        };
        match parcel.what {
            What::Message(envelope) => {
                if session.callee.1 && Some(session.callee.0) == at {
                    self.give(link.1, Input::Receive(*envelope))?;
                }
                Ok(())
            }
            What::End => self.session_ended(parcel.session, link.1),
        }
    }

    /// The process at this host learns that a session of its own is over.
    fn session_ended(&mut self, number: u64, host: u32) -> Done {
        let here = self.member(host);
        let Some(session) = self.network.sessions.iter_mut().find(|s| s.number == number) else { return Ok(()) };
        let other = if session.dialer.0.id.0 == host { session.callee.0 } else { session.dialer.0 };
        let Some(end) = session.end(host).filter(|end| end.1) else { return Ok(()) };
        end.1 = false;
        let member = end.0;
        self.network.sessions.retain(|s| s.dialer.1 || s.callee.1);
        if here != Some(member) {
            return Ok(());
        }
        let (dialed, answered) = (member, other);
        let open = |s: &Session| {
            (s.dialer == (dialed, true) && s.callee.0 == answered)
                || (s.callee == (dialed, true) && s.dialer.0 == answered)
        };
        if !self.network.sessions.iter().any(open) {
            let line = format!("{}: its sessions with {} have ended", self.names.of(&member), self.names.of(&other));
            self.out.detail(line);
        }
        self.give(host, Input::SessionDown { session: number, peer: other.id })
    }

    /// A process is gone: its kernel ends its sessions, behind what is under way.
    pub fn hang_up(&mut self, host: u32) {
        let mut ends = Vec::new();
        for session in &mut self.network.sessions {
            let (a, b) = session.link();
            let other = if a == host { b } else { a };
            if let Some(end) = session.end(host).filter(|end| end.1) {
                end.1 = false;
                ends.push((session.number, other));
            }
        }
        for (number, other) in ends {
            if !self.network.cut.contains(&(host, other)) {
                self.network.put((host, other), number, What::End);
            }
        }
    }

    /// Both ends of all sessions between two hosts find that they are over.
    pub fn end_sessions(&mut self, link: Link) -> Done {
        let numbers: Vec<u64> = self.network.sessions.iter().filter(|s| s.joins(link)).map(|s| s.number).collect();
        for number in numbers {
            self.session_ended(number, link.0)?;
            self.session_ended(number, link.1)?;
        }
        Ok(())
    }

    /// Everybody dials everybody whom it has no session with, where the link is whole in both directions.
    pub fn connect(&mut self) -> Done {
        let ids: Vec<u32> = self.hosts.keys().copied().collect();
        for a in &ids {
            for b in ids.iter().filter(|b| a != *b) {
                self.dial((*a, *b))?;
            }
        }
        Ok(())
    }

    fn dial(&mut self, link: Link) -> Done {
        let cut = self.network.cut.contains(&link) || self.network.cut.contains(&(link.1, link.0));
        let (Some(dialer), Some(callee)) = (self.member(link.0), self.member(link.1)) else { return Ok(()) };
        if cut || !self.takes(link.0) || !self.takes(link.1) {
            return Ok(());
        }
        self.reset_stale(link)?;
        if self.network.sessions.iter().any(|s| s.dialer == (dialer, true) && s.callee == (callee, true)) {
            return Ok(());
        }
        let number = self.network.number();
        self.network.sessions.push(Session { number, dialer: (dialer, true), callee: (callee, true) });
        self.process(link.0)?.answered.insert(link.1, callee);
        self.give(link.1, Input::SessionUp { session: number, peer: dialer, outbound: false })?;
        self.give(link.0, Input::SessionUp { session: number, peer: callee, outbound: true })
    }

    /// A reset answers whatever still uses a session whose other end is gone.
    fn reset_stale(&mut self, link: Link) -> Done {
        let half = |s: &&Session| s.joins(link) && s.dialer.1 != s.callee.1;
        let stale: Vec<u64> = self.network.sessions.iter().filter(half).map(|s| s.number).collect();
        for number in stale {
            self.session_ended(number, link.0)?;
            self.session_ended(number, link.1)?;
        }
        Ok(())
    }

    /// A dial ends with exactly ECONNREFUSED. Unless the script says that the refusal is forged, the host must be reached and
    /// nobody may listen there.
    pub fn refuse(&mut self, host: u32, target: u32, times: u32, forged: bool) -> Done {
        let cut = self.network.cut.contains(&(host, target)) || self.network.cut.contains(&(target, host));
        if !forged && (cut || self.member(target).is_some()) {
            return Err(format!("host {target} does not refuse: its process runs, or the link is cut"));
        }
        let Some(peer) = self.process(host)?.answered.get(&target).copied() else {
            return Err(format!("nobody at host {target} has answered host {host} yet"));
        };
        (0..times).try_for_each(|_| self.give(host, Input::Refused { peer }))
    }
}
