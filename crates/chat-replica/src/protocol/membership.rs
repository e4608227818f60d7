//! Rules 6 and 7: who belongs to the view.

use super::effects::Persist;
use super::primary::Primary;
use super::quorum::quorum;
use super::replica::{Replica, Role};
use super::types::*;

impl Replica {
    /// Rule 7: a member that is silent, or too slow, or has been replaced by a later process run, or wants to go.
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
    pub(super) fn change_view(&mut self) {
        let Role::Primary(primary) = &self.role else { return };
        let Some(newest) = self.log.newest_view() else { return };
        let drop = |m: &Member| self.is_proven(m) || self.means_to_drop(m);
        let mut members: Vec<Member> = newest.view.members.iter().filter(|m| !drop(m)).copied().collect();
        let dropping = members.len() < newest.view.members.len();
        let committed = newest.index <= self.log.committed();
        if committed && primary.transfer.is_none() && !dropping {
            members.extend(self.caught_up_learners(primary, &newest.view));
            members.sort_unstable();
        }
        let changes = members != newest.view.members;
        let epoch = primary.epoch;
        let propose = changes && self.may_propose(&members) && self.can_commit(&members);
        if let Role::Primary(primary) = &mut self.role {
            primary.restless = changes || !committed;
        }
        if !propose {
            return;
        }
        let view = View { epoch, primary: self.me.id, members };
        let entry = self.log.push_new(epoch, Body::View(view));
        self.out.persist.push(Persist::Append(entry));
        self.ping_soon = true;
    }

    /// Rule 6: a learner is taken in when it has caught up. Under load it never has all that has committed, so it needs what
    /// was there a moment ago: writes wait that long for it, once.
    fn caught_up_learners(&self, primary: &Primary, view: &View) -> Vec<Member> {
        let enough = self.log.committed().min(primary.mark.earlier);
        let fit = |member: &Member, matched: u64| {
            matched >= enough
                && self.is_in_touch(member)
                && !self.is_impaired(member)
                && !primary.leavers.contains(member)
                && !self.is_proven(member)
        };
        let outside = primary.progress.iter().filter(|(id, progress)| view.member(**id).is_none() && !progress.probing);
        outside.map(|(_, p)| (p.member, p.matched)).filter(|(m, matched)| fit(m, *matched)).map(|(m, _)| m).collect()
    }

    /// Whether messages reach it, and it is heard.
    pub(super) fn is_in_touch(&self, member: &Member) -> bool {
        self.reachable_id(member.id) == Some(*member) && self.silent_for(member.id) <= self.config.suspect_after
    }

    /// An impaired disk counts for nothing (rules 12, 15), and so does one that has not said that it is whole.
    pub(super) fn is_impaired(&self, member: &Member) -> bool {
        self.peers.get(&member.id).and_then(|peer| peer.hello.as_ref()).is_none_or(|hello| hello.impaired)
    }

    /// Whether a view of these members would satisfy every view in force, itself among them. One that cannot commit
    /// would only make later elections harder.
    fn can_commit(&self, members: &[Member]) -> bool {
        let mut votes = self.reachable();
        votes.retain(|m| !members.contains(m) && !self.is_impaired(m) && self.is_in_touch(m));
        votes.extend_from_slice(members);
        let views = self.log.views_in_force();
        views.iter().all(|at| quorum(&at.view, &self.me, &votes, |m| self.is_proven(m), self.config.rules))
    }
}
