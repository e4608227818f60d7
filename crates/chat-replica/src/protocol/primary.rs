//! The primary's part: writing, committing, changing the view (rules 1, 5, 6, 7, 13).

use super::effects::{Event, Persist};
use super::log::LogRead;
use super::message::*;
use super::quorum::quorum;
use super::replica::{Replica, Role};
use super::types::*;
use core::time::Duration;
use std::collections::BTreeMap;

/// Entries under way to one peer at most.
const WINDOW: u64 = 256;
/// Bytes of entries in one message, about.
const MESSAGE_BYTES: usize = 1 << 20;
/// A transfer that has not succeeded by then is given up, and writing goes on.
const TRANSFER: Duration = Duration::from_millis(500);

/// How far one peer's log is known to be equal to the primary's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Progress {
    member: Member,
    /// Durable at the peer, and equal.
    matched: u64,
    /// The next entry to send.
    next: u64,
    /// Where the logs meet is not known yet: one message at a time.
    probing: bool,
    /// When the last message went out, or the last answer moved something.
    moved_at: Time,
    /// When `matched` last moved, or fell behind.
    caught_up_at: Time,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Transfer {
    to: Member,
    since: Time,
    asked: bool,
}

/// A primary's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Primary {
    pub epoch: Epoch,
    /// Its first view entry: it serves once that has committed (rule 5).
    pub first: u64,
    progress: BTreeMap<ReplicaId, Progress>,
    /// Members that asked to be left out.
    leavers: Vec<Member>,
    transfer: Option<Transfer>,
    restless: bool,
}

impl Primary {
    pub fn new(epoch: Epoch, first: u64, _now: Time) -> Primary {
        Primary { epoch, first, progress: BTreeMap::new(), leavers: Vec::new(), transfer: None, restless: true }
    }

    /// Starts sending to a peer whose log may be equal up to `guess`.
    pub fn follow(&mut self, id: ReplicaId, member: Member, guess: u64, now: Time) {
        let next = guess + 1;
        let progress = Progress { member, matched: 0, next, probing: true, moved_at: Time(0), caught_up_at: now };
        self.progress.insert(id, progress);
    }

    pub fn is_restless(&self) -> bool {
        self.restless || self.transfer.is_some()
    }
}

/// Why a batch is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAccepting {
    /// This replica does not lead, or does not serve yet.
    NotServing,
    /// It is handing over or leaving.
    HandingOver,
    /// Rule 13: the view has this many members, fewer than `min_copies`.
    TooFewCopies(usize),
}

impl Replica {
    /// Whether [`super::Input::Propose`] would be taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self) -> Result<(), NotAccepting> {
        let Role::Primary(primary) = &self.role else { return Err(NotAccepting::NotServing) };
        if primary.first > self.log.committed() {
            return Err(NotAccepting::NotServing);
        }
        if primary.transfer.is_some() || self.leaving.is_some() {
            return Err(NotAccepting::HandingOver);
        }
        let copies = self.log.newest_view().map_or(0, |at| at.view.members.len());
        if copies < self.config.min_copies { Err(NotAccepting::TooFewCopies(copies)) } else { Ok(()) }
    }

    /// Rule 1: the primary appends, and sends at the same time as its own disk syncs.
    pub(super) fn propose(&mut self, batch: bytes::Bytes) {
        let Role::Primary(primary) = &self.role else { return };
        let entry = self.log.push_new(primary.epoch, Body::Commands(batch));
        self.out.proposed = Some(entry.index);
        self.out.persist.push(Persist::Append(entry));
    }

    pub(super) fn step_down(&mut self) {
        if let Role::Primary(primary) = &self.role {
            self.out.events.push(Event::SteppedDown(primary.epoch));
        }
        self.role = Role::Follower;
        self.leader = None;
    }

    /// A session or a greeting: where the logs meet must be found anew.
    pub(super) fn restart_progress(&mut self, member: Member) {
        let (now, last) = (self.now, self.log.last().index);
        let told = self.peers.get(&member.id).map_or(0, |peer| peer.last.index);
        let Role::Primary(primary) = &mut self.role else { return };
        match primary.progress.get_mut(&member.id) {
            Some(progress) if progress.member == member => {
                progress.probing = true;
                progress.next = progress.matched.max(told.min(last)) + 1;
                progress.moved_at = Time(0);
            }
            _ => primary.follow(member.id, member, told.min(last), now),
        }
    }

    pub(super) fn on_append_reply(
        &mut self,
        from: Member,
        epoch: Epoch,
        promised: Epoch,
        matched: u64,
        conflict: bool,
    ) {
        self.see(promised);
        let (now, last) = (self.now, self.log.last().index);
        let Role::Primary(primary) = &mut self.role else { return };
        if epoch != primary.epoch {
            return;
        }
        if promised > epoch {
            self.heed_higher_promise(promised);
            return;
        }
        let Some(progress) = primary.progress.get_mut(&from.id).filter(|progress| progress.member == from) else {
            return;
        };
        progress.moved_at = now;
        if conflict {
            if progress.probing {
                progress.next = (matched + 1).min(progress.next).max(progress.matched + 1);
                progress.moved_at = Time(0);
            } else {
                // Something got lost on the way: go back to what is certain.
                progress.probing = true;
                progress.next = progress.matched + 1;
            }
            return;
        }
        if matched > progress.matched {
            progress.caught_up_at = now;
        }
        progress.matched = progress.matched.max(matched.min(last));
        progress.next = progress.next.max(progress.matched + 1);
        progress.probing = false;
    }

    /// What a primary does whenever something may have moved.
    pub(super) fn lead(&mut self) {
        if !matches!(self.role, Role::Primary(_)) {
            return;
        }
        self.commit_what_is_held();
        self.change_view();
        self.hand_over();
    }

    /// Rule 1.
    fn commit_what_is_held(&mut self) {
        let Role::Primary(primary) = &self.role else { return };
        let Some(newest) = self.log.newest_view() else { return };
        let mut places: Vec<u64> = primary.progress.values().map(|progress| progress.matched).collect();
        places.push(self.log.durable());
        places.sort_unstable_by(|a, b| b.cmp(a));
        let serving_before = primary.first <= self.log.committed();
        let held = places.into_iter().find(|place| {
            let holders = self.holders(primary, *place);
            *place >= newest.index
                && *place > self.log.committed()
                && self.log.epoch_at(*place) == Some(primary.epoch)
                && newest.view.members.iter().all(|m| holders.iter().any(|h| h.same_disk(m)))
                && self.quorum_in_force(&holders)
        });
        let (first, epoch) = (primary.first, primary.epoch);
        let Some(held) = held else { return };
        self.commit(held);
        if !serving_before && first <= held {
            self.out.events.push(Event::Serving(epoch));
        }
    }

    /// Who holds the log durably up to `place`. An impaired disk counts for nothing (rules 12, 15).
    fn holders(&self, primary: &Primary, place: u64) -> Vec<Member> {
        let held = primary.progress.values().filter(|progress| progress.matched >= place).map(|p| p.member);
        let mut holders: Vec<Member> = held.filter(|m| !self.is_impaired(m)).collect();
        if self.log.durable() >= place {
            holders.push(self.me);
        }
        holders
    }

    fn is_impaired(&self, member: &Member) -> bool {
        self.peers.get(&member.id).and_then(|peer| peer.hello.as_ref()).is_none_or(|hello| hello.impaired)
    }

    /// Rule 7: a member that is silent, or too slow, or has been replaced by a later process run.
    pub(super) fn means_to_drop(&self, member: &Member) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        if *member == self.me {
            return false;
        }
        let replaced = self.peers.get(&member.id).and_then(|peer| peer.member).is_some_and(|now| now != *member);
        let silent = self.silent_for(member.id) > self.config.suspect_after;
        let stalled = primary.progress.get(&member.id).is_some_and(|progress| {
            let since = progress.caught_up_at.max(self.resumed_at);
            progress.member == *member
                && progress.matched < self.log.last().index
                && self.now.since(since) > self.config.stall_limit
        });
        replaced || silent || stalled || primary.leavers.contains(member)
    }

    /// Rules 6 and 7: proposes the view that should be, if it differs from the newest, breaks no lease, and can commit.
    fn change_view(&mut self) {
        let Role::Primary(primary) = &self.role else { return };
        let Some(newest) = self.log.newest_view().cloned() else { return };
        let drop = |m: &Member| self.is_proven(m) || self.means_to_drop(m);
        let mut members: Vec<Member> = newest.view.members.iter().filter(|m| !drop(m)).copied().collect();
        let dropping = members.len() < newest.view.members.len();
        let settled = newest.index <= self.log.committed() && primary.transfer.is_none();
        if settled && !dropping {
            members.extend(self.caught_up_learners(primary, &newest.view));
            members.sort_unstable();
        }
        let restless = members != newest.view.members || newest.index > self.log.committed();
        let epoch = primary.epoch;
        let propose = members != newest.view.members && self.may_propose(&members) && self.can_commit(&members);
        if let Role::Primary(primary) = &mut self.role {
            primary.restless = restless;
        }
        if !propose {
            return;
        }
        let view = View { epoch, primary: self.me.id, members };
        let entry = self.log.push_new(epoch, Body::View(view));
        self.out.persist.push(Persist::Append(entry));
        self.ping_soon = true;
    }

    /// Rule 6: a learner is taken in when it has caught up.
    fn caught_up_learners(&self, primary: &Primary, view: &View) -> Vec<Member> {
        let fit = |progress: &&Progress| {
            let member = progress.member;
            view.member(member.id).is_none()
                && !progress.probing
                && progress.matched >= self.log.committed()
                && self.reachable_id(member.id) == Some(member)
                && self.silent_for(member.id) <= self.config.suspect_after
                && !self.is_impaired(&member)
                && !primary.leavers.contains(&member)
        };
        primary.progress.values().filter(fit).map(|progress| progress.member).collect()
    }

    /// Whether a view of these members would satisfy every view in force, itself among them. One that cannot commit
    /// would only make later elections harder.
    fn can_commit(&self, members: &[Member]) -> bool {
        let mut votes = self.reachable();
        votes.retain(|m| {
            members.contains(m) || (!self.is_impaired(m) && self.silent_for(m.id) <= self.config.suspect_after)
        });
        votes.extend(members.iter().filter(|m| !votes.contains(m)).copied().collect::<Vec<_>>());
        let views = self.log.views_in_force();
        views.iter().all(|at| quorum(&at.view, &self.me, &votes, |m| self.is_proven(m)))
    }

    /// Rule 1: to every member and every learner, as their window allows.
    pub(super) fn replicate(&mut self, disk: &dyn LogRead) {
        let Role::Primary(primary) = &self.role else { return };
        let ids: Vec<ReplicaId> = primary.progress.keys().copied().collect();
        for id in ids {
            self.replicate_to(id, disk);
        }
    }

    fn replicate_to(&mut self, id: ReplicaId, disk: &dyn LogRead) {
        let retry = self.config.ping_interval * 2;
        let (now, last, reached) = (self.now, self.log.last().index, self.reachable_id(id));
        let Role::Primary(primary) = &mut self.role else { return };
        let epoch = primary.epoch;
        let Some(progress) = primary.progress.get_mut(&id) else { return };
        if reached != Some(progress.member) {
            return;
        }
        if progress.matched == last {
            progress.caught_up_at = now;
        }
        let overdue = now.since(progress.moved_at) > retry;
        if !progress.probing && progress.matched + 1 < progress.next && overdue {
            progress.probing = true;
            progress.next = progress.matched + 1;
        }
        let mut progress = progress.clone();
        loop {
            let room = progress.next <= progress.matched + WINDOW;
            let due = if progress.probing { now.since(progress.moved_at) > retry } else { progress.next <= last && room };
            if !due {
                break;
            }
            let Some(append) = self.append_from(progress.next, epoch, disk) else { break };
            progress.moved_at = now;
            if !progress.probing {
                progress.next += append.entries.len() as u64;
            }
            self.send(progress.member, Message::Append(append));
        }
        if let Role::Primary(primary) = &mut self.role {
            primary.progress.insert(id, progress);
        }
    }

    fn append_from(&self, next: u64, epoch: Epoch, disk: &dyn LogRead) -> Option<Append> {
        let index = next - 1;
        let prev = Place { index, epoch: self.log.epoch_at(index)? };
        let prev_hash = self.log.hash_at(index, disk)?;
        let entries = self.log.read(next, MESSAGE_BYTES, disk);
        Some(Append { epoch, prev, prev_hash, entries, committed: self.log.committed() })
    }

    pub(super) fn begin_transfer(&mut self, to: Option<ReplicaId>) {
        let now = self.now;
        let fit = |m: &&Member| **m != self.me && self.reachable_id(m.id) == Some(**m) && !self.means_to_drop(m);
        let Role::Primary(primary) = &self.role else { return };
        if primary.transfer.is_some() || primary.first > self.log.committed() {
            return;
        }
        let newest = self.log.newest_view().map(|at| &at.view.members[..]).unwrap_or_default();
        let candidates = newest.iter().filter(fit).filter(|m| to.is_none_or(|id| id == m.id));
        let matched = |m: &&Member| primary.progress.get(&m.id).map_or(0, |progress| progress.matched);
        let best = candidates.max_by_key(matched).copied();
        if let (Some(to), Role::Primary(primary)) = (best, &mut self.role) {
            primary.transfer = Some(Transfer { to, since: now, asked: false });
        }
    }

    /// Nothing new is taken meanwhile; once the successor has everything, it is asked to stand.
    fn hand_over(&mut self) {
        let (now, last) = (self.now, self.log.last().index);
        let settled = self.log.committed() == last;
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(transfer) = &mut primary.transfer else { return };
        if now.since(transfer.since) > TRANSFER {
            primary.transfer = None;
            return;
        }
        let ready = primary.progress.get(&transfer.to.id).is_some_and(|progress| progress.matched == last);
        if settled && ready && !transfer.asked {
            transfer.asked = true;
            let (to, epoch) = (transfer.to, primary.epoch);
            self.send(to, Message::Transfer { epoch });
        }
    }

    /// Rule 8, goodbye: it relies on no lease any more, so none has to run out.
    pub(super) fn on_leave(&mut self, from: Member, epoch: Epoch) {
        let Role::Primary(primary) = &mut self.role else { return };
        if epoch != primary.epoch {
            return;
        }
        if !primary.leavers.contains(&from) {
            primary.leavers.push(from);
        }
        if let Some(peer) = self.peers.get_mut(&from.id) {
            peer.released_by(&from);
        }
    }

    /// Up to where a new entry may be proposed before earlier ones commit.
    pub fn entries_under_way(&self) -> u64 {
        self.log.last().index - self.log.committed()
    }
}
