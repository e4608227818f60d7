//! Handing over, and leaving (rules 5, 7, 8).

use super::effects::Event;
use super::message::*;
use super::replica::{Replica, Role};
use super::rules::Rule;
use super::types::*;
use core::time::Duration;

/// A transfer that has not succeeded by then is given up, and writing goes on.
const TRANSFER: Duration = Duration::from_millis(500);
/// How long a replica that leaves waits for a primary to be found.
const LEADERLESS: Duration = Duration::from_millis(300);
/// How often a replica that leaves says so.
const LEAVE_AGAIN: Duration = Duration::from_millis(50);
/// A replica that cannot leave in good order by then just goes: that is a crash like any other, and loses as little.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// A hand-over under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Transfer {
    to: Member,
    since: Time,
    asked: bool,
}

/// A replica that leaves.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leaving {
    since: Time,
    told_at: Option<Time>,
    done: bool,
}

impl Replica {
    pub(super) fn begin_transfer(&mut self, to: Option<ReplicaId>) {
        let now = self.now;
        let fit = |m: &&Member| **m != self.me && self.is_in_touch(m) && !self.means_to_drop(m);
        let Role::Primary(primary) = &self.role else { return };
        if primary.transfer.is_some() || !primary.serves(&self.log) {
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
    pub(super) fn hand_over(&mut self) {
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

    /// Rule 5, handing over: the primary asks to be followed by this replica, so nobody needs to be polled.
    pub(super) fn on_transfer(&mut self, from: Member, epoch: Epoch) {
        let follows = self.leader.as_ref().is_some_and(|leader| leader.member == from);
        let fit = self.counts() && self.leaving.is_none();
        if epoch == self.promised && follows && fit && matches!(self.role, Role::Follower) {
            self.stand();
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
        // It will not stand: somebody else is to be asked.
        if primary.transfer.as_ref().is_some_and(|transfer| transfer.to == from) {
            primary.transfer = None;
        }
        if let Some(peer) = self.peers.get_mut(&from.id) {
            peer.released_by(&from);
        }
    }

    pub(super) fn begin_leaving(&mut self) {
        let since = self.now;
        self.leaving.get_or_insert(Leaving { since, told_at: None, done: false });
    }

    /// Whether [`Event::Left`] was said.
    pub(super) fn has_left(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.done)
    }

    /// Leaves the view: a primary hands over first, a backup asks to be left out. Ends with [`Event::Left`].
    pub(super) fn leave(&mut self) {
        let Some(leaving) = self.leaving.as_ref().filter(|leaving| !leaving.done) else { return };
        let waited = self.now.since(leaving.since);
        let newest = self.log.newest_view();
        let named = newest.is_some_and(|at| at.view.names(&self.me))
            || self.log.committed_view().is_some_and(|at| at.view.names(&self.me));
        let alone = newest.is_some_and(|at| at.view.members == [self.me]) && !self.has_work();
        if !named || alone || waited > LEAVE_PATIENCE {
            self.leave_now();
            return;
        }
        match &self.role {
            Role::Primary(_) => self.begin_transfer(None),
            Role::Candidate(_) => {}
            Role::Follower if self.hears_primary() => self.ask_to_be_left_out(),
            // Nobody to ask.
            Role::Follower if waited > LEADERLESS => self.leave_now(),
            Role::Follower => {}
        }
    }

    /// Whether a primary that is alone in its view has something to commit, or a learner that may soon be in it.
    fn has_work(&self) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        if self.entries_under_way() > 0 {
            return true;
        }
        let learners = primary.progress.values().map(|progress| progress.member);
        learners.into_iter().any(|m| self.is_in_touch(&m) && !primary.leavers.contains(&m))
    }

    fn leave_now(&mut self) {
        if let Some(leaving) = &mut self.leaving {
            leaving.done = true;
            self.out.events.push(Event::Left);
        }
    }

    fn ask_to_be_left_out(&mut self) {
        let (now, epoch) = (self.now, self.promised);
        let Some(leader) = self.leader.as_ref().map(|leader| leader.member) else { return };
        self.relinquished = self.holds(Rule::GoodbyeForEver);
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.told_at.is_none_or(|at| now.since(at) >= LEAVE_AGAIN) {
            leaving.told_at = Some(now);
            self.send(leader, Message::Leave { epoch });
        }
    }
}
