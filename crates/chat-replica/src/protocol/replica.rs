//! The state machine: one replica's part in the protocol. [`Replica::step`] takes what happened and returns what to do.

use super::config::{Config, Recovered};
use super::effects::{Effects, Event, Input, Persist};
use super::election::{Candidate, Polling, Voted};
use super::handover::Leaving;
use super::log::{Log, LogRead};
use super::message::*;
use super::peer::{Admission, Peer};
use super::primary::Primary;
use super::rules::Rule;
use super::types::*;
use std::collections::BTreeMap;

/// A greeting within so long of our own is its answer, and wants none.
const GREETING: core::time::Duration = core::time::Duration::from_millis(500);

/// What a replica is at a moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    /// Follows a primary, or waits for one.
    Follower,
    /// Has taken an epoch and collects votes (rules 3, 4).
    Candidate(Candidate),
    /// Has won: changes the view, writes (rules 1, 5, 6, 7).
    Primary(Primary),
}

/// The primary that a follower hears.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leader {
    pub member: Member,
    pub heard_at: Time,
}

/// One replica's part in the protocol: no clock, no I/O, no randomness but its seed. Two that are equal go on alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    pub(super) config: Config,
    pub(super) me: Member,
    pub(super) now: Time,
    pub(super) cluster: Option<ClusterId>,
    pub(super) promised: Epoch,
    /// The highest epoch seen in any message: the next candidacy goes above (rule 3).
    pub(super) seen: Epoch,
    pub(super) log: Log,
    pub(super) deaths: Vec<Death>,
    pub(super) impaired_until: Option<u64>,
    /// The promise that this process run found on its disk.
    promised_at_start: Epoch,
    pub(super) peers: BTreeMap<ReplicaId, Peer>,
    pub(super) role: Role,
    pub(super) leader: Option<Leader>,
    /// The log is known to be equal to the present primary's up to here.
    pub(super) verified: u64,
    /// When this process last came back from a pause of its own: silence is not counted across it.
    pub(super) resumed_at: Time,
    pub(super) polling: Option<Polling>,
    /// The last vote that we gave to another, until a primary is heard or we stand; it counts only until its candidate had its time.
    pub(super) voted: Option<Voted>,
    pub(super) next_poll: Time,
    pub(super) next_ping: Time,
    /// Peers must be asked again before the next regular ping: for a lease in a new view, or whom they are in contact with.
    pub(super) ping_soon: bool,
    pub(super) pinged_at: Option<Time>,
    /// Peers whose pings go unanswered because a candidacy would leave them out (rule 7).
    pub(super) withheld: Vec<ReplicaId>,
    pub(super) leaving: Option<Leaving>,
    /// This process has told the primary that it relies on no lease: it may not stand any more, for ever.
    pub(super) relinquished: bool,
    pub(super) suspected: Option<Member>,
    /// How long the last sync took.
    pub(super) sync_took: core::time::Duration,
    pub(super) random: u64,
    pub(super) out: Effects,
}

impl Replica {
    /// A replica as its disk was found. `config.me` holds the incarnation that is durable by now.
    pub fn new(config: Config, found: Recovered, now: Time) -> Replica {
        let peers = config.peers.iter().map(|id| {
            let known = found.known.iter().filter(|known| known.id == *id).copied().collect();
            (*id, Peer::with_known(known))
        });
        let log = Log::recovered(found.log);
        let newest = log.newest_view().map_or(Epoch::ZERO, |at| at.view.epoch);
        Replica {
            me: config.me,
            now,
            cluster: found.cluster,
            promised: found.promised,
            seen: found.promised.max(newest).max(log.last().epoch),
            verified: log.committed(),
            log,
            deaths: found.deaths,
            impaired_until: found.impaired_until,
            promised_at_start: found.promised,
            peers: peers.collect(),
            role: Role::Follower,
            leader: None,
            resumed_at: now,
            polling: None,
            voted: None,
            next_poll: now,
            next_ping: now,
            ping_soon: false,
            pinged_at: None,
            withheld: Vec::new(),
            leaving: None,
            relinquished: false,
            suspected: None,
            sync_took: core::time::Duration::ZERO,
            random: config.seed | 1,
            out: Effects::default(),
            config,
        }
    }

    /// Whether this rule holds: always, except in tests that show what breaks without it.
    pub(super) fn holds(&self, rule: Rule) -> bool {
        self.config.rules.hold(rule)
    }

    /// Takes what happened, in order, and returns what to do. `now` was read after the last of it happened.
    pub fn step(&mut self, now: Time, inputs: impl IntoIterator<Item = Input>, disk: &dyn LogRead) -> Effects {
        if now.since(self.now) > self.config.suspect_after / 2 {
            self.resumed_at = now;
        }
        self.now = now.max(self.now);
        for input in inputs {
            self.take(input, disk);
        }
        self.settle(disk);
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input, disk: &dyn LogRead) {
        match input {
            Input::Tick => {}
            Input::Receive(envelope) => self.receive(envelope, disk),
            Input::SessionUp { session, peer, outbound } => self.session_up(session, peer, outbound),
            Input::SessionDown { session, peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.session_down(session);
                }
            }
            Input::Refused { peer } => self.refused(peer),
            Input::Unreachable { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.unreachable();
                }
            }
            Input::DeclaredCrashed { peer } => self.declared_crashed(peer, "declared"),
            Input::Fenced { peer } => self.fenced(peer),
            Input::Propose(batch) => self.propose(batch),
            Input::Persisted { took } => self.persisted(took),
            Input::Confirm => self.ping_soon = true,
            Input::Transfer { to } => self.begin_transfer(to),
            Input::Leave => self.begin_leaving(),
        }
    }

    /// What follows from the new state, whatever led to it.
    fn settle(&mut self, disk: &dyn LogRead) {
        self.prove_by_refusal();
        self.found_if_all_met();
        self.elect();
        self.lead();
        self.leave();
        self.replicate(disk);
        self.ping();
    }

    /// When to step again at the latest, if nothing happens before.
    pub fn wake_at(&self) -> Time {
        let soon = self.now.after(core::time::Duration::from_millis(10));
        let act = match &self.role {
            _ if self.leaving.is_some() => soon,
            Role::Follower if self.hears_primary() => self.next_ping,
            Role::Follower => self.next_look(),
            Role::Candidate(_) => soon,
            Role::Primary(primary) if self.has_more_to_send(&primary.progress) => self.now,
            Role::Primary(primary) if primary.is_restless() => soon,
            Role::Primary(_) => self.next_ping,
        };
        act.min(self.ping_due())
    }

    fn session_up(&mut self, session: u64, member: Member, outbound: bool) {
        if !self.admit(&member) {
            return;
        }
        let now = self.now;
        let Some(peer) = self.peers.get_mut(&member.id) else { return };
        if peer.was_proven(&member) {
            self.out.events.push(Event::ProofContradicted(member));
        }
        peer.session_up(session, member, outbound);
        peer.heard(now);
        if outbound {
            self.greet(member);
            self.restart_progress(member);
        }
        // Inbound too: only from now on do its answers reach us, and proof will rest on the lease that they bring.
        self.ping_soon = true;
    }

    /// Says who we are: at the start of a session, and again to a peer that has not said who it is.
    pub(super) fn greet(&mut self, member: Member) {
        let (hello, now) = (self.hello(), self.now);
        if let Some(peer) = self.peers.get_mut(&member.id) {
            peer.greeted_at = Some(now);
        }
        self.send(member, Message::Hello(hello));
    }

    pub(super) fn hello(&self) -> Hello {
        let mut founders: Vec<ReplicaId> = self.peers.keys().copied().chain([self.me.id]).collect();
        founders.sort_unstable();
        Hello {
            promised: self.promised,
            last: self.log.last(),
            committed: self.log.committed(),
            deaths: self.deaths.clone(),
            impaired: self.impaired_until.is_some(),
            founders,
        }
    }

    /// Rule 12: remembers a new process run durably; a stale one is told so and not listened to.
    fn admit(&mut self, from: &Member) -> bool {
        let Some(peer) = self.peers.get_mut(&from.id) else { return false };
        match peer.admission(from, self.config.rules) {
            Admission::Same => {}
            Admission::New => {
                peer.remember(*from);
                self.out.persist.push(Persist::Known(*from));
            }
            Admission::Stale(known) => {
                self.send(*from, Message::Unwelcome { known });
                return false;
            }
        }
        peer.meet(*from);
        true
    }

    /// Rule 12: what does not match cluster, sender's disk and incarnation is refused.
    fn receive(&mut self, envelope: Envelope, disk: &dyn LogRead) {
        let Envelope { cluster, from, to, message } = envelope;
        let same_cluster = cluster.is_none() || self.cluster.is_none() || cluster == self.cluster;
        let same_cluster = same_cluster || !self.holds(Rule::SameCluster);
        if to != self.me || !same_cluster || from.id == self.me.id {
            return;
        }
        if !self.admit(&from) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&from.id) else { return };
        if peer.was_proven(&from) && !peer.in_session(&from) {
            // Its last words, late.
            return;
        }
        peer.heard(self.now);
        match message {
            Message::Hello(hello) => self.on_hello(from, hello),
            Message::Unwelcome { known } => self.on_unwelcome(from, known),
            Message::Ping(ping) => self.on_ping(from, ping),
            Message::Pong(pong) => self.on_pong(from, pong),
            Message::Poll { ballot, last } => self.on_poll(from, ballot, last),
            Message::PollReply { ballot, willing, promised } => self.on_poll_reply(from, ballot, willing, promised),
            Message::RequestVote { epoch, last } => self.on_request_vote(from, epoch, last),
            Message::Vote { epoch, granted, promised, last } => self.on_vote(from, epoch, granted, promised, last),
            Message::Append(append) => self.on_append(from, cluster, append, disk),
            Message::AppendReply { epoch, promised, matched, conflict } => {
                self.on_append_reply(from, epoch, promised, matched, conflict)
            }
            Message::Transfer { epoch } => self.on_transfer(from, epoch),
            Message::Leave { epoch } => self.on_leave(from, epoch),
        }
    }

    fn on_hello(&mut self, from: Member, hello: Hello) {
        self.see(hello.promised);
        let Some(peer) = self.peers.get_mut(&from.id) else { return };
        peer.learn_deaths(from.disk, &hello.deaths);
        peer.last = hello.last;
        peer.hello = Some(hello);
        let just_greeted = peer.greeted_at.is_some_and(|at| self.now.since(at) < GREETING);
        if !just_greeted && peer.reachable() == Some(from) {
            // A greeting that we did not begin asks for ours: the first one got lost.
            self.greet(from);
        }
        self.meet_progress(from);
        // A successor's word may be the proof that a candidacy waits for.
        self.next_poll = self.now;
    }

    /// A peer has seen this disk further on: it was rolled back or cloned, and must not vote as what it was (rule 12).
    fn on_unwelcome(&mut self, from: Member, known: Incarnation) {
        if known == self.me.incarnation || known.count < self.me.incarnation.count {
            return;
        }
        self.out.events.push(Event::RolledBack { by: from.id, known });
    }

    pub(super) fn see(&mut self, epoch: Epoch) {
        self.seen = self.seen.max(epoch);
    }

    /// Rule 2. The caller answers only after what it pushed here is durable.
    pub(super) fn promise(&mut self, epoch: Epoch) {
        debug_assert!(epoch > self.promised, "promises only grow");
        self.promised = epoch;
        self.see(epoch);
        self.verified = self.log.committed();
        if self.holds(Rule::PromiseDurable) {
            self.out.persist.push(Persist::Promise(epoch));
        }
    }

    pub(super) fn send(&mut self, to: Member, message: Message) {
        self.out.send.push(Envelope { cluster: self.cluster, from: self.me, to, message });
    }

    pub(super) fn send_after(&mut self, to: Member, message: Message) {
        self.out.send_after.push(Envelope { cluster: self.cluster, from: self.me, to, message });
    }

    /// The peers that messages reach now.
    pub(super) fn reachable(&self) -> Vec<Member> {
        self.peers.values().filter_map(Peer::reachable).collect()
    }

    pub(super) fn reachable_id(&self, id: ReplicaId) -> Option<Member> {
        self.peers.get(&id).and_then(Peer::reachable)
    }

    /// How long this peer has been silent, not counting pauses of our own.
    pub(super) fn silent_for(&self, id: ReplicaId) -> core::time::Duration {
        let heard = self.peers.get(&id).and_then(|peer| peer.heard_at).unwrap_or_default();
        self.now.since(heard.max(self.resumed_at))
    }

    /// Uniform enough for jitter (splitmix64).
    pub(super) fn jitter(&mut self, up_to: core::time::Duration) -> core::time::Duration {
        if self.config.seed == 0 {
            return core::time::Duration::ZERO;
        }
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        core::time::Duration::from_micros(z % (up_to.as_micros() as u64).max(1))
    }

    fn persisted(&mut self, took: core::time::Duration) {
        self.log.set_durable(self.log.last().index);
        self.sync_took = took;
        match &mut self.role {
            // Its own vote counts once it is durable (rule 2).
            Role::Candidate(candidate) => candidate.own_vote_durable(self.now, took),
            Role::Primary(_) if took > self.config.stall_limit => self.begin_transfer(None),
            _ => {}
        }
    }

    /// Moves the commit index, and says so.
    pub(super) fn commit(&mut self, index: u64) {
        let before = self.log.committed_view().map(|at| at.index);
        if !self.log.commit(index) {
            return;
        }
        let view = self.log.committed_view().filter(|at| Some(at.index) != before).cloned();
        if let Some(view) = view {
            self.out.events.push(Event::View(view));
            self.ping_soon = true;
        }
        // All that this disk ever acknowledged is there again. What it acknowledged before it promised to hear nobody else
        // has either committed, and then a later primary's committed log holds it, or never will.
        let later = self.log.epoch_at(self.log.committed()) > Some(self.promised_at_start);
        let at_once = !self.holds(Rule::RepairedWhenWhole);
        if self.impaired_until.is_some_and(|until| self.log.committed() >= until || later || at_once) {
            self.repaired();
        }
    }

    /// Rule 15: all that this disk ever acknowledged is there again, from a peer.
    fn repaired(&mut self) {
        self.impaired_until = None;
        self.out.persist.push(Persist::Repaired);
        self.out.events.push(Event::Repaired);
        let hello = self.hello();
        for member in self.reachable() {
            self.send_after(member, Message::Hello(hello.clone()));
        }
    }
}
