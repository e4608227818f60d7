//! Rules 7 and 8: pings that ask for leases, and proof of crashes.

use super::effects::Event;
use super::message::*;
use super::peer::Peer;
use super::replica::{Replica, Role};
use super::rules::Rule;
use super::types::*;
use core::time::Duration;

/// While proof waits for a peer's word on its contacts, or a read for a lease, peers are asked this often at most.
const PING_SOON: Duration = Duration::from_millis(3);

impl Replica {
    /// When the next pings are due.
    pub(super) fn ping_due(&self) -> Time {
        let soon = self.pinged_at.map_or(self.now, |at| at.after(PING_SOON));
        if self.ping_soon { soon.min(self.next_ping) } else { self.next_ping }
    }

    pub(super) fn ping(&mut self) {
        if self.now < self.ping_due() {
            return;
        }
        self.ping_soon = false;
        self.pinged_at = Some(self.now);
        self.next_ping = self.now.after(self.config.ping_interval);
        let ping = Ping {
            sent_at: self.now,
            promised: self.promised,
            view: self.log.view_place(),
            committed: self.log.committed(),
            primary: matches!(self.role, Role::Primary(_)),
        };
        for member in self.reachable() {
            if self.peers.get(&member.id).is_some_and(|peer| self.should_greet(peer)) {
                self.greet(member);
            }
            self.send(member, Message::Ping(ping.clone()));
        }
    }

    /// A greeting asks for one: of a peer that has not said who it is, and now and then of one whose disk is being repaired,
    /// as its word that it is may get lost.
    fn should_greet(&self, peer: &Peer) -> bool {
        let again_after = match &peer.hello {
            None => self.config.ping_interval,
            Some(hello) if hello.impaired => self.config.ping_interval * 10,
            Some(_) => return false,
        };
        peer.greeted_at.is_none_or(|at| self.now.since(at) >= again_after)
    }

    pub(super) fn on_ping(&mut self, from: Member, ping: Ping) {
        self.see(ping.promised);
        if ping.primary && ping.promised == self.promised && ping.promised.replica == from.id {
            self.hear_leader(from);
            self.commit_verified(ping.committed, self.verified);
        }
        let granted = self.grants(&from, &ping);
        if granted {
            let until = self.now.after(self.config.lease_with_drift());
            let now = self.now;
            if let Some(peer) = self.peers.get_mut(&from.id) {
                peer.grant(from, now, until);
            }
        }
        if granted && !self.holds_lease_of(&from) {
            // It had not seen our view yet when we asked, or was not in touch. It has now: proof must not have to wait.
            self.ping_soon = true;
        }
        let contacts = self.peers.values().flat_map(Peer::contacts).collect();
        let pong = Pong { sent_at: ping.sent_at, granted, promised: self.promised, contacts };
        self.send(from, Message::Pong(pong));
        self.heed_higher_promise(ping.promised);
    }

    /// Rule 7: only pings that carry our newest view, from a process run that it names, and from nobody whom we are
    /// about to leave out.
    fn grants(&self, from: &Member, ping: &Ping) -> bool {
        let newest = self.log.newest_view();
        newest.is_some_and(|at| at.view.names(from))
            && (ping.view == self.log.view_place() || !self.holds(Rule::GrantOnNewestView))
            && !self.withheld.contains(&from.id)
            && !self.means_to_drop(from)
    }

    pub(super) fn on_pong(&mut self, from: Member, pong: Pong) {
        self.see(pong.promised);
        let from_when = if self.holds(Rule::LeaseFromSending) { pong.sent_at } else { self.now };
        let until = from_when.after(self.config.lease);
        let Some(peer) = self.peers.get_mut(&from.id) else { return };
        peer.report = Some((pong.sent_at, pong.contacts));
        if pong.granted {
            // The holder counts from when it sent the ping.
            peer.hold(from, until);
        }
        self.heed_higher_promise(pong.promised);
    }

    /// A primary that learns of a higher promise can commit nothing with its giver any more: it stands anew, above it.
    pub(super) fn heed_higher_promise(&mut self, promised: Epoch) {
        if promised > self.promised && matches!(self.role, Role::Primary(_)) {
            self.step_down();
            self.next_poll = self.now;
        }
    }

    /// Whether that process run is bound to us now.
    pub(super) fn holds_lease_of(&self, member: &Member) -> bool {
        self.peers.get(&member.id).and_then(|peer| peer.held_until(member)).is_some_and(|until| self.now < until)
    }

    pub(super) fn refused(&mut self, member: Member) {
        let (now, rules) = (self.now, self.config.rules);
        let wanted = if rules.hold(Rule::SeveralRefusals) { self.config.refusals } else { 1 };
        let usable = self.config.refusal_is_proof;
        let Some(peer) = self.peers.get_mut(&member.id) else { return };
        if usable {
            peer.refused(member, now, wanted, rules);
        }
    }

    /// Rule 8, refusal: no peer that we reach is still in contact with the refused process run, by an answer to a
    /// ping sent after the refusal.
    pub(super) fn prove_by_refusal(&mut self) {
        let rules = self.config.rules;
        let waiting: Vec<(Member, Time)> = self.peers.values().filter_map(|peer| peer.refused_enough(rules)).collect();
        for (member, at) in waiting {
            let reached = |id: &ReplicaId, peer: &Peer| {
                peer.reachable().is_some() && self.silent_for(*id) <= self.config.suspect_after
            };
            let others = self.peers.iter().filter(|(id, peer)| **id != member.id && reached(id, peer));
            let clears = |(sent, contacts): &(Time, Vec<Member>)| *sent >= at && !contacts.contains(&member);
            let cleared = others.map(|(_, peer)| &peer.report).all(|report| report.as_ref().is_some_and(clears));
            if cleared || !self.holds(Rule::NobodyInContact) {
                self.proven(member, "its address refuses connections and nobody is in contact with it");
            } else if self.now.since(at) < self.config.ping_interval {
                // Others notice a crash a moment later than we do. Whoever is in contact for longer is asked with the regular pings.
                self.ping_soon = true;
            }
        }
    }

    /// Sessions with it may last, in silence, until somebody loses patience: they say nothing. Its messages do.
    pub(super) fn declared_crashed(&mut self, member: Member, how: &'static str) {
        let silent = self.silent_for(member.id) > self.config.suspect_after;
        let in_session = self.peers.get(&member.id).is_some_and(|peer| peer.in_session(&member));
        if silent || !in_session {
            self.proven(member, how);
        }
    }

    /// As with refusals: proof only while the lease held, by a clock read after it.
    pub(super) fn fenced(&mut self, member: Member) {
        if self.holds_lease_of(&member) || !self.holds(Rule::FenceWithinLease) {
            self.declared_crashed(member, "fenced");
        }
    }

    fn proven(&mut self, member: Member, how: &'static str) {
        let Some(peer) = self.peers.get_mut(&member.id) else { return };
        if !peer.was_proven(&member) {
            peer.set_proven(member);
            self.next_poll = self.now;
            self.out.events.push(Event::Proven(member, how));
        }
    }

    /// Whether we hold proof that this process run crashed (rule 8).
    pub(super) fn is_proven(&self, member: &Member) -> bool {
        let lacks = |at: &ViewAt| self.log.epoch_at(at.index) != Some(at.view.epoch);
        self.peers.get(&member.id).is_some_and(|peer| peer.is_proven(member, &self.me, lacks, self.config.rules))
    }

    /// Rule 7: whether a view of these members breaks no promise of ours. `false` also while a lease runs.
    pub(super) fn may_propose(&self, members: &[Member]) -> bool {
        let bound = self.peers.values().flat_map(|peer| peer.bound_to(self.now));
        !self.holds(Rule::WaitForLeases) || bound.into_iter().all(|to| members.contains(&to) || self.is_proven(&to))
    }

    /// Until when reads may be answered from the applied state without asking anybody (rule 11); `None`: not now.
    pub fn lease_until(&self) -> Option<Time> {
        let Role::Primary(primary) = &self.role else { return None };
        let newest = self.log.newest_view()?;
        let committed = newest.index <= self.log.committed() || !self.holds(Rule::ReadInCommittedView);
        if !committed || !primary.serves(&self.log) {
            return None;
        }
        if !self.holds(Rule::ReadUnderLeases) {
            return Some(Time(u64::MAX));
        }
        let others = newest.view.members.iter().filter(|m| **m != self.me);
        others
            .map(|m| {
                let held = self.peers.get(&m.id).and_then(|peer| peer.held_until(m));
                if self.is_proven(m) { Some(Time(u64::MAX)) } else { held.filter(|until| *until > self.now) }
            })
            .try_fold(Time(u64::MAX), |least, until| until.map(|until| least.min(until)))
    }
}
