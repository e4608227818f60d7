//! What a replica says of itself.

use super::replica::{Replica, Role};
use super::types::*;

/// What a replica is, for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Standing {
    /// Leads.
    Primary,
    /// A live member of the newest committed view, following a primary.
    Backup,
    /// Follows a primary from outside the view.
    Learner,
    /// Follows nobody.
    Waiting,
}

/// A replica's state at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This process run.
    pub me: Member,
    /// What it is.
    pub standing: Standing,
    /// It leads and its view has committed: it takes writes.
    pub serving: bool,
    /// Its promise.
    pub epoch: Epoch,
    /// Whom it follows, or itself.
    pub leader: Option<ReplicaId>,
    /// Known committed up to here.
    pub committed: u64,
    /// The end of its log.
    pub last: u64,
    /// The newest committed view.
    pub view: Option<View>,
    /// Whom it waits for (rule 10).
    pub waiting_for: Vec<ReplicaId>,
    /// Its cluster, once founded.
    pub cluster: Option<ClusterId>,
    /// The disk counts for nothing until it is repaired up to this index (rule 15).
    pub impaired_until: Option<u64>,
    /// The members of its newest view that are bound to it by a lease: whose crash a refusal would prove to it (rule 8).
    pub leases_from: Vec<ReplicaId>,
}

impl Status {
    /// Whether it differs in more than how far the log goes, which changes all the time.
    pub fn is_news_after(&self, before: &Status) -> bool {
        let Status { committed, last, .. } = *before;
        Status { committed, last, ..self.clone() } != *before
    }
}

impl Replica {
    /// The state now.
    pub fn status(&self) -> Status {
        let view = self.log.committed_view().map(|at| at.view.clone());
        let leader = self.leader.as_ref().filter(|_| self.hears_primary()).map(|leader| leader.member.id);
        let waiting_for = self.waiting_for();
        // A primary that reaches no quorum leads in name only: clients do better to look elsewhere.
        let (standing, leader, serving) = match &self.role {
            Role::Primary(primary) => (
                Standing::Primary,
                Some(self.me.id),
                primary.serves(&self.log) && self.leaving.is_none() && waiting_for.is_empty(),
            ),
            _ if leader.is_some() && view.as_ref().is_some_and(|view| view.names(&self.me)) => {
                (Standing::Backup, leader, false)
            }
            _ if leader.is_some() => (Standing::Learner, leader, false),
            _ => (Standing::Waiting, None, false),
        };
        Status {
            me: self.me,
            standing,
            serving,
            epoch: self.promised,
            leader,
            committed: self.log.committed(),
            last: self.log.last().index,
            view,
            waiting_for,
            cluster: self.cluster,
            impaired_until: self.impaired_until,
            leases_from: self.leases_from(),
        }
    }

    fn leases_from(&self) -> Vec<ReplicaId> {
        let members = self.log.newest_view().map_or(&[][..], |at| &at.view.members);
        let held = |m: &&Member| self.holds_lease_of(m) && !self.relinquished;
        members.iter().filter(held).map(|member| member.id).collect()
    }

    /// This process run.
    pub fn me(&self) -> Member {
        self.me
    }

    /// The log index up to which everything is committed.
    pub fn committed(&self) -> u64 {
        self.log.committed()
    }

    /// The process run of this replica that the newest view names.
    pub fn named_in_view(&self, id: ReplicaId) -> Option<Member> {
        self.log.newest_view().and_then(|at| at.view.member(id)).copied()
    }

    /// Whether a session with this process run lasts: then it has not crashed, whoever says so.
    pub fn in_contact(&self, member: &Member) -> bool {
        self.peers.get(&member.id).is_some_and(|peer| peer.in_session(member))
    }

    /// Whether every view in force names this very process run: only then is the proof of others' crashes of use to it (rules 4, 9). A new disk has no view,
    /// and none names it.
    pub fn is_live(&self) -> bool {
        let views = self.log.views_in_force();
        !views.is_empty() && views.iter().all(|at| at.view.names(&self.me))
    }

    /// How many members the newest committed view has: on so many disks, at least, is what has committed.
    pub fn copies(&self) -> usize {
        self.log.committed_view().map_or(0, |at| at.view.members.len())
    }

    /// The epoch in which this replica serves, if it does.
    pub fn serving(&self) -> Option<Epoch> {
        match &self.role {
            Role::Primary(primary) if primary.serves(&self.log) => Some(primary.epoch),
            _ => None,
        }
    }

    /// The log, for reading what is to be applied.
    pub fn log(&self) -> &super::log::Log {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::*;

    fn member(id: u32) -> Member {
        Member { id: ReplicaId(id), disk: DiskId([id as u8; 16]), incarnation: Incarnation { count: 1, nonce: 1 } }
    }

    /// Replica 2, with a log that begins with a view of these, unless it is empty.
    fn replica(members: &[u32]) -> Replica {
        let (cluster, epoch) = (ClusterId([7; 16]), Epoch { round: 1, replica: ReplicaId(1) });
        let view = View { epoch, primary: epoch.replica, members: members.iter().copied().map(member).collect() };
        let founding = Entry::chained(ChainHash::default(), 1, epoch, Body::Founding { cluster, view });
        let log = if members.is_empty() { RecoveredLog::default() } else { RecoveredLog::of(&[founding], 1) };
        let found = Recovered { cluster: Some(cluster), promised: epoch, log, ..Recovered::default() };
        Replica::new(Config::new(member(2), vec![ReplicaId(1), ReplicaId(3)], cluster, 1), found, Time(0))
    }

    #[test]
    fn who_has_no_view_is_live_in_none() {
        assert!(replica(&[1, 2]).is_live());
        assert!(!replica(&[1, 3]).is_live());
        assert!(!replica(&[]).is_live(), "a new disk");
    }
}
