//! What a replica knows of one peer: sessions, leases given and held (rule 7), and proof of crashes (rule 8).

use super::message::Hello;
use super::rules::{Rule, Rules};
use super::types::*;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Session {
    number: u64,
    member: Member,
    outbound: bool,
}

/// Refused connections in a row, at the address where `member` answered last.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Refusals {
    member: Member,
    count: u32,
    /// When the count that rule 8 wants was reached, with the lease still held. The fact is stable: what
    /// happens afterwards does not change it.
    enough_at: Option<Time>,
}

/// One other replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Peer {
    /// The newest process run that was in session with us.
    pub member: Option<Member>,
    /// What that one said of itself.
    pub hello: Option<Hello>,
    /// When we last said who we are.
    pub greeted_at: Option<Time>,
    /// When it was last heard.
    pub heard_at: Option<Time>,
    /// The process runs that it said it is in contact with, and when the ping was sent that it answered so.
    pub report: Option<(Time, Vec<Member>)>,
    /// The end of its log, as last told.
    pub last: Place,
    /// The newest process run seen on each of its disks (rule 12); durable.
    known: Vec<Member>,
    sessions: Vec<Session>,
    refusals: Option<Refusals>,
    /// Leases that we gave: until then we propose no view without that process run.
    granted: Vec<(Member, Time)>,
    /// The lease that it gave us.
    held: Option<(Member, Time)>,
    /// Process runs proven crashed by refusal, an operator or a fence.
    proven: Vec<Member>,
    /// What its disks held when earlier process runs ended.
    deaths: Vec<(DiskId, Death)>,
}

/// Of crashes, only so many are remembered for each peer. Views name the latest runs, so older ones are never asked for.
const REMEMBERED: usize = 64;

fn forget_oldest<T>(crashes: &mut Vec<T>) {
    if crashes.len() >= REMEMBERED {
        crashes.remove(0);
    }
}

/// Whether a process run is one to talk to (rule 12).
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// As before.
    Same,
    /// The first, a later run, or another disk: to be remembered durably.
    New,
    /// A run that this one's disk has already left behind: rolled back, cloned, or simply late.
    Stale(Incarnation),
}

impl Peer {
    pub fn with_known(known: Vec<Member>) -> Peer {
        Peer { known, ..Peer::default() }
    }

    pub fn admission(&self, from: &Member, rules: Rules) -> Admission {
        match self.known.iter().find(|known| known.same_disk(from)) {
            Some(known) if known == from => Admission::Same,
            Some(_) if !rules.hold(Rule::StaleRunsRefused) => Admission::Same,
            Some(known) if known.incarnation.count >= from.incarnation.count => Admission::Stale(known.incarnation),
            _ => Admission::New,
        }
    }

    pub fn remember(&mut self, member: Member) {
        self.known.retain(|known| !known.same_disk(&member));
        self.known.push(member);
    }

    /// A process run speaks. What was known of its predecessor's presence is forgotten; what was proven or promised is not.
    pub fn meet(&mut self, member: Member) {
        if self.member == Some(member) {
            return;
        }
        self.member = Some(member);
        self.hello = None;
        self.report = None;
        self.held = None;
        self.last = Place::default();
    }

    pub fn heard(&mut self, now: Time) {
        self.heard_at = Some(now);
        // It speaks, so what was refused was not it.
        if self.refusals.as_ref().is_some_and(|r| Some(r.member) == self.member) {
            self.refusals = None;
        }
    }

    pub fn session_up(&mut self, number: u64, member: Member, outbound: bool) {
        self.sessions.push(Session { number, member, outbound });
        if self.refusals.as_ref().is_some_and(|r| r.member == member) {
            self.refusals = None;
        }
    }

    pub fn session_down(&mut self, number: u64) {
        self.sessions.retain(|session| session.number != number);
    }

    /// Whether any session with this process run lasts.
    pub fn in_session(&self, member: &Member) -> bool {
        self.sessions.iter().any(|session| session.member == *member)
    }

    /// The process run that messages reach now.
    pub fn reachable(&self) -> Option<Member> {
        let member = self.member?;
        self.sessions.iter().any(|session| session.outbound && session.member == member).then_some(member)
    }

    /// The process runs with sessions.
    pub fn contacts(&self) -> impl Iterator<Item = Member> + '_ {
        self.sessions.iter().map(|session| session.member)
    }

    /// Binds us to `member` until then (rule 7).
    pub fn grant(&mut self, member: Member, now: Time, until: Time) {
        self.granted.retain(|(to, old)| *to != member && *old > now);
        self.granted.push((member, until));
    }

    /// It asked to be left out: it relies on no lease any more.
    pub fn released_by(&mut self, member: &Member) {
        self.granted.retain(|(to, _)| to != member);
    }

    /// The process runs to whom we are still bound.
    pub fn bound_to(&self, now: Time) -> impl Iterator<Item = Member> + '_ {
        self.granted.iter().filter(move |(_, until)| *until > now).map(|(to, _)| *to)
    }

    /// It is bound to us until then, by our clock.
    pub fn hold(&mut self, member: Member, until: Time) {
        match &mut self.held {
            Some((by, old)) if *by == member => *old = until.max(*old),
            held => *held = Some((member, until)),
        }
    }

    /// Until when this process run is bound to us.
    pub fn held_until(&self, member: &Member) -> Option<Time> {
        self.held.filter(|(by, _)| by == member).map(|(_, until)| until)
    }

    /// Rule 8: exactly ECONNREFUSED. `held` is until when the refused process run is bound to us: the refusal counts only
    /// while that has not run out, by a clock read after it.
    pub fn refused(&mut self, member: Member, now: Time, wanted: u32, rules: Rules) {
        if self.speaks_still(&member, rules) {
            return;
        }
        let held = self.held_until(&member).is_some_and(|until| now < until) || !rules.hold(Rule::LeaseBeforeRefusal);
        if self.refusals.as_ref().is_none_or(|r| r.member != member) {
            self.refusals = Some(Refusals { member, count: 0, enough_at: None });
        }
        let Some(refusals) = &mut self.refusals else { return };
        refusals.count = refusals.count.saturating_add(1);
        if refusals.count >= wanted && held && refusals.enough_at.is_none() {
            refusals.enough_at = Some(now);
        }
    }

    /// Any other failure to reach it is silence: refusals are no longer in a row.
    pub fn unreachable(&mut self) {
        if self.refusals.as_ref().is_some_and(|r| r.enough_at.is_none()) {
            self.refusals = None;
        }
    }

    /// A process run that was refused often enough, its sessions ended, and when: what is missing is that no peer is in
    /// contact with it.
    pub fn refused_enough(&self, rules: Rules) -> Option<(Member, Time)> {
        let refusals = self.refusals.as_ref()?;
        let at = refusals.enough_at?;
        let speaks = self.speaks_still(&refusals.member, rules);
        (!speaks && !self.proven.contains(&refusals.member)).then_some((refusals.member, at))
    }

    /// Rule 8: whether a session contradicts refusals.
    fn speaks_still(&self, member: &Member, rules: Rules) -> bool {
        self.in_session(member) && rules.hold(Rule::SessionsEnded)
    }

    /// Sticky: a crashed process run stays crashed. Sessions with it that have not ended yet are over.
    pub fn set_proven(&mut self, member: Member) {
        self.sessions.retain(|session| session.member != member);
        if !self.proven.contains(&member) {
            forget_oldest(&mut self.proven);
            self.proven.push(member);
        }
    }

    pub fn learn_deaths(&mut self, disk: DiskId, deaths: &[Death]) {
        for death in deaths {
            let known = |(d, old): &(DiskId, Death)| *d == disk && old.incarnation == death.incarnation;
            if !self.deaths.iter().any(known) {
                forget_oldest(&mut self.deaths);
                self.deaths.push((disk, death.clone()));
            }
        }
    }

    /// Rule 8, as far as it concerns this peer: an operator's or a fence's word and refusal are kept; a successor's word
    /// is valid if every view of the dead that `lacks` includes `me`.
    pub fn is_proven(&self, member: &Member, me: &Member, lacks: impl Fn(&ViewAt) -> bool, rules: Rules) -> bool {
        if self.proven.contains(member) {
            return true;
        }
        let allowed = |at: &ViewAt| !lacks(at) || at.view.names(me) || !rules.hold(Rule::SuccessorsViewsNameMe);
        self.deaths
            .iter()
            .filter(|(disk, death)| *disk == member.disk && death.incarnation == member.incarnation)
            .any(|(_, death)| death.views.iter().all(allowed))
    }

    /// Whether that process run was proven crashed, by anything but its successor's word.
    pub fn was_proven(&self, member: &Member) -> bool {
        self.proven.contains(member)
    }
}
