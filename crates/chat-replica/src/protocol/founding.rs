//! Rule 12: a cluster is founded once, when all of the list have met on empty disks.

use super::effects::{Event, Persist};
use super::replica::{Replica, Role};
use super::rules::Rule;
use super::types::*;

impl Replica {
    /// The lowest id of the list founds, once every other says that it is empty too and was started with the same list.
    pub(super) fn found_if_all_met(&mut self) {
        if self.cluster.is_some() || !matches!(self.role, Role::Follower) || self.leaving.is_some() {
            return;
        }
        let mine = self.hello().founders;
        let lowest = mine.first() == Some(&self.me.id);
        let mut members = vec![self.me];
        for peer in self.peers.values() {
            let (Some(member), Some(hello)) = (peer.reachable(), &peer.hello) else { return };
            let empty = hello.last.index == 0 || !self.holds(Rule::FoundOnEmptyDisks);
            if hello.founders != mine || !empty {
                return;
            }
            members.push(member);
        }
        if !lowest || self.log.last().index > 0 {
            return;
        }
        members.sort_unstable();
        let cluster = self.config.cluster_if_founding;
        let epoch = self.seen.next(self.me.id);
        self.promise(epoch);
        self.join(cluster);
        let view = View { epoch, primary: self.me.id, members };
        let entry = self.log.push_new(epoch, Body::Founding { cluster, view });
        self.become_primary(entry);
    }

    /// From now on this disk belongs to that cluster.
    pub(super) fn join(&mut self, cluster: ClusterId) {
        self.cluster = Some(cluster);
        self.out.persist.push(Persist::Cluster(cluster));
        self.out.events.push(Event::Joined(cluster));
    }
}
