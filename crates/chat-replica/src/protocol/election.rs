//! Rules 3, 4, 5, 9 and 10: polling, standing, voting, taking over.

use super::effects::Persist;
use super::message::*;
use super::primary::Primary;
use super::quorum::quorum;
use super::replica::{Leader, Replica, Role};
use super::replication::Progress;
use super::rules::Rule;
use super::types::*;
use core::time::Duration;

/// How often a replica without a primary asks whether it would be voted for, at first.
const POLL_INTERVAL: Duration = Duration::from_millis(15);
/// And how often when it has asked in vain for long.
const POLL_INTERVAL_LATER: Duration = Duration::from_millis(150);
/// For so long an answer to a poll counts. Longer than any round trip, or nobody would ever stand.
const WILLING: Duration = Duration::from_secs(1);
/// A candidacy that has not succeeded by then, from when its own vote was durable, is given up. Slow disks get longer.
const CANDIDACY: Duration = Duration::from_millis(300);

/// Polling: nothing changes hands.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Polling {
    since: Time,
    /// Who would vote for us, and when we asked.
    willing: Vec<(Member, Time)>,
}

/// A candidacy in the epoch promised.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Candidate {
    votes: Vec<(Member, Place)>,
    /// Set once our own vote is durable (rule 2).
    ends_at: Option<Time>,
}

impl Candidate {
    /// Other disks may be as slow as ours, so a candidacy lasts as long as a few of their syncs.
    pub fn own_vote_durable(&mut self, now: Time, took: Duration) {
        self.ends_at.get_or_insert(now.after(candidacy(took)));
    }
}

/// How long a candidacy may last where syncs take so long.
fn candidacy(sync: Duration) -> Duration {
    CANDIDACY + (4 * sync).min(5 * CANDIDACY)
}

/// A vote that was given: its candidate is left in peace for a while, or until a primary is heard.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Voted {
    to: Member,
    until: Time,
}

impl Replica {
    /// Whether a primary of the promised epoch is heard: by its messages, and by a session that lasts.
    pub(super) fn hears_primary(&self) -> bool {
        if matches!(self.role, Role::Primary(_)) {
            return true;
        }
        let Some(leader) = &self.leader else { return false };
        let quiet = self.now.since(leader.heard_at.max(self.resumed_at));
        let in_session = self.peers.get(&leader.member.id).is_some_and(|peer| peer.in_session(&leader.member));
        in_session && quiet <= self.config.suspect_after && !self.is_proven(&leader.member)
    }

    /// A primary of the promised epoch speaks. So whoever had our vote leads, or leads no more; and from now on it is this
    /// primary's silence that counts, not what time a candidate may take: that is long where our disk, or a pause within a sync, was.
    pub(super) fn hear_leader(&mut self, from: Member) {
        self.leader = Some(Leader { member: from, heard_at: self.now });
        self.voted = None;
    }

    /// Whether this disk may count at all: it belongs to a cluster, is whole, and is not leaving.
    fn may_stand(&self) -> bool {
        self.log.newest_view().is_some() && self.counts() && !self.relinquished && !self.has_left()
    }

    /// Rule 15: an impaired disk has no vote.
    pub(super) fn counts(&self) -> bool {
        self.impaired_until.is_none() || !self.holds(Rule::ImpairedHasNoVote)
    }

    /// Rule 3: whether a candidate's log is at least as long as ours.
    fn is_as_long(&self, last: Place) -> bool {
        last.at_least(&self.log.last()) || !self.holds(Rule::LogComparison)
    }

    pub(super) fn elect(&mut self) {
        match &self.role {
            Role::Primary(_) => {}
            Role::Candidate(candidate) => {
                if candidate.ends_at.is_some_and(|end| self.now > end) {
                    self.role = Role::Follower;
                    let pause = self.jitter(self.config.ping_interval);
                    self.next_poll = self.now.after(pause);
                } else {
                    self.take_over();
                }
            }
            Role::Follower => self.poll_and_stand(),
        }
    }

    fn poll_and_stand(&mut self) {
        if self.hears_primary() {
            self.polling = None;
            self.withheld.clear();
            self.suspected = None;
            return;
        }
        self.suspect_leader();
        if !self.may_stand() {
            return;
        }
        self.poll();
        let Some(polling) = &self.polling else { return };
        let willing = polling.willing.iter().map(|(v, _)| *v);
        let mut votes: Vec<Member> = willing.filter(|v| self.reachable_id(v.id) == Some(*v)).collect();
        votes.push(self.me);
        if self.in_peace() || !self.quorum_in_force(&votes) {
            return;
        }
        if self.may_propose(&votes) {
            self.stand();
        } else {
            // Rule 7: whoever would be left out gets no new lease; what it has runs out or it is proven crashed.
            self.withheld = self.peers.keys().copied().filter(|id| votes.iter().all(|v| v.id != *id)).collect();
        }
    }

    /// Asks everybody, now and then.
    fn poll(&mut self) {
        let now = self.now;
        let polling = self.polling.get_or_insert(Polling { since: now, willing: Vec::new() });
        polling.willing.retain(|(_, asked)| now.since(*asked) <= WILLING);
        if now < self.next_poll {
            return;
        }
        let interval = (now.since(polling.since) / 32).clamp(POLL_INTERVAL, POLL_INTERVAL_LATER);
        let pause = self.jitter(interval);
        self.next_poll = now.after(interval + pause);
        let last = self.log.last();
        for member in self.reachable() {
            self.send(member, Message::Poll { ballot: now.0, last });
        }
    }

    /// Whether the candidate that got our vote may still win.
    fn in_peace(&self) -> bool {
        self.voted.as_ref().is_some_and(|voted| {
            let there = self.peers.get(&voted.to.id).is_some_and(|peer| peer.in_session(&voted.to));
            there && self.now < voted.until
        })
    }

    /// A fencing command switches off whom we suspect. So only one whose crash would be of use to us (rule 9: a restarted process
    /// stands on no proof), and who has been silent for a while: a connection that broke, or a primary that hands over, is no reason to switch off a machine.
    fn suspect_leader(&mut self) {
        let Some(at) = self.log.newest_view() else { return };
        let Some(suspect) = at.view.member(at.view.primary).copied().filter(|suspect| *suspect != self.me) else {
            return;
        };
        let silent = self.silent_for(suspect.id) > self.config.suspect_after;
        if silent && self.is_live() && self.suspected != Some(suspect) {
            self.suspected = Some(suspect);
            self.out.events.push(super::effects::Event::Suspected(suspect));
        }
    }

    /// When to look again at the latest, without a primary.
    pub(super) fn next_look(&self) -> Time {
        match self.may_stand() {
            // A lease that runs out may be all that is missing.
            true if !self.withheld.is_empty() => self.next_poll.min(self.now.after(POLL_INTERVAL)),
            true => self.next_poll,
            false => self.next_ping,
        }
    }

    /// Rule 4 for every view in force.
    pub(super) fn quorum_in_force(&self, votes: &[Member]) -> bool {
        let views = match self.log.views_in_force() {
            [_, .., newest] if !self.holds(Rule::EveryViewInForce) => std::slice::from_ref(newest),
            views => views,
        };
        let satisfied = |at: &ViewAt| quorum(&at.view, &self.me, votes, |m| self.is_proven(m), self.config.rules);
        !views.is_empty() && views.iter().all(satisfied)
    }

    /// Rule 3: takes an epoch above all that it has seen. Nobody is asked before the promise is durable.
    pub(super) fn stand(&mut self) {
        let epoch = self.seen.next(self.me.id);
        self.promise(epoch);
        self.polling = None;
        self.voted = None;
        self.leader = None;
        self.role = Role::Candidate(Candidate { votes: Vec::new(), ends_at: None });
        let last = self.log.last();
        for member in self.reachable() {
            self.send_after(member, Message::RequestVote { epoch, last });
        }
    }

    /// Rule 3: whoever still hears from a primary of its epoch is unwilling, unless that primary asks itself. So is
    /// whoever stands itself, or has just given its vote: two who stand at once would only depose each other.
    pub(super) fn on_poll(&mut self, from: Member, ballot: u64, last: Place) {
        let asker_led = self.leader.as_ref().is_some_and(|leader| leader.member == from);
        let asker_has_vote = self.voted.as_ref().is_some_and(|voted| voted.to == from);
        let willing = (!self.hears_primary() || asker_led)
            && (!self.in_peace() || asker_has_vote)
            && matches!(self.role, Role::Follower)
            && self.counts()
            && self.is_as_long(last);
        self.send(from, Message::PollReply { ballot, willing, promised: self.promised });
    }

    pub(super) fn on_poll_reply(&mut self, from: Member, ballot: u64, willing: bool, promised: Epoch) {
        self.see(promised);
        let asked = Time(ballot);
        let Some(polling) = self.polling.as_mut().filter(|polling| polling.since <= asked) else { return };
        if polling.willing.iter().any(|(v, newer)| *v == from && *newer > asked) {
            return;
        }
        polling.willing.retain(|(v, _)| v.id != from.id);
        if willing {
            polling.willing.push((from, asked));
        }
    }

    /// Rules 2 and 3: granted if the epoch is above the promise and the candidate's log is at least as long.
    pub(super) fn on_request_vote(&mut self, from: Member, epoch: Epoch, last: Place) {
        self.see(epoch);
        let own = self.log.last();
        let granted = epoch > self.promised && self.is_as_long(last) && self.counts();
        if granted {
            self.step_down();
            self.promise(epoch);
            self.leader = None;
            self.polling = None;
            self.voted = Some(Voted { to: from, until: self.now.after(candidacy(self.sync_took)) });
        }
        self.send_after(from, Message::Vote { epoch, granted, promised: self.promised, last: own });
    }

    pub(super) fn on_vote(&mut self, from: Member, epoch: Epoch, granted: bool, promised: Epoch, last: Place) {
        self.see(promised);
        if epoch != self.promised && self.holds(Rule::VoteForThisEpoch) {
            return;
        }
        let Role::Candidate(candidate) = &mut self.role else { return };
        if granted {
            candidate.votes.retain(|(v, _)| v.id != from.id);
            candidate.votes.push((from, last));
        } else if promised > epoch {
            self.role = Role::Follower;
            let pause = self.jitter(POLL_INTERVAL);
            self.next_poll = self.now.after(pause);
        }
    }

    /// Rules 4, 5, 7 and 9: with every view in force satisfied, and nobody left out to whom a lease still runs.
    fn take_over(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        // Or its first entry would leave before its promise is durable, and after a crash it might lead in this epoch again.
        let waits = self.holds(Rule::OwnVoteDurable) && self.holds(Rule::PromiseDurable);
        if candidate.ends_at.is_none() && waits {
            return;
        }
        let own = self.log.last();
        let newest = self.log.newest_view().map(|at| at.view.clone());
        let mut votes: Vec<Member> = candidate.votes.iter().map(|(v, _)| *v).collect();
        votes.push(self.me);
        // It keeps those in sync: the rest learns first, and is taken in by rule 6.
        let in_sync = |v: &Member, last: &Place| *last == own || newest.as_ref().is_some_and(|view| view.names(v));
        let mut members: Vec<Member> =
            candidate.votes.iter().filter(|(v, last)| in_sync(v, last)).map(|(v, _)| *v).collect();
        members.push(self.me);
        members.sort_unstable();
        if !self.quorum_in_force(&votes) || !self.may_propose(&members) {
            return;
        }
        let epoch = self.promised;
        let ends: Vec<(Member, Place)> = candidate.votes.clone();
        let entry = self.log.push_new(epoch, Body::View(View { epoch, primary: self.me.id, members }));
        for (voter, last) in ends {
            if let Some(peer) = self.peers.get_mut(&voter.id) {
                peer.last = last;
            }
        }
        self.become_primary(entry);
    }

    pub(super) fn become_primary(&mut self, first: Entry) {
        let mut primary = Primary::new(self.promised, first.index, self.now);
        for (id, peer) in &self.peers {
            if let Some(member) = peer.reachable() {
                let guess = peer.last.index.min(first.index - 1);
                primary.progress.insert(*id, Progress::new(member, guess, self.now));
            }
        }
        self.out.persist.push(Persist::Append(first));
        self.withheld.clear();
        self.leader = None;
        self.ping_soon = true;
        self.role = Role::Primary(primary);
    }

    /// Rule 10: whom this replica waits for. Empty while a primary serves, or an election can succeed.
    pub fn waiting_for(&self) -> Vec<ReplicaId> {
        if !matches!(self.role, Role::Primary(_)) && self.hears_primary() {
            return Vec::new();
        }
        let heard = self.heard_votes();
        if self.quorum_in_force(&heard) {
            return Vec::new();
        }
        let views = self.log.views_in_force();
        let wanted = views.iter().flat_map(|at| &at.view.members);
        let live = views.iter().all(|at| at.view.names(&self.me));
        let dispensable = |m: &Member| heard.iter().any(|v| v.same_disk(m)) || live && self.is_proven(m);
        let mut missing: Vec<ReplicaId> = wanted.filter(|m| !dispensable(m)).map(|m| m.id).collect();
        if views.is_empty() {
            missing.extend(self.peers.iter().filter(|(_, peer)| peer.reachable().is_none()).map(|(id, _)| *id));
        }
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Whose disks would speak now: an impaired one has no word.
    fn heard_votes(&self) -> Vec<Member> {
        let mut heard = self.reachable();
        heard.retain(|m| self.is_in_touch(m) && !self.is_impaired(m));
        if self.counts() {
            heard.push(self.me);
        }
        heard
    }
}
