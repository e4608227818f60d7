//! Accepting the primary's log (rules 1, 2, 5).

use super::effects::{Event, Persist};
use super::log::LogRead;
use super::message::*;
use super::replica::{Replica, Role};
use super::rules::Rule;
use super::types::*;

/// What an append finds at the place that it follows.
enum Join {
    /// The logs agree up to there.
    Agree(ChainHash),
    /// They differ: try after this index.
    Differ(u64),
}

impl Replica {
    /// Rules 1, 2 and 5: entries of a primary whose epoch is not below the promise; a conflicting tail is cut back.
    pub(super) fn on_append(&mut self, from: Member, cluster: Option<ClusterId>, append: Append, disk: &dyn LogRead) {
        let epoch = append.epoch;
        self.see(epoch);
        let old = epoch < self.promised && self.holds(Rule::RefuseOldEntries);
        if old || epoch.replica != from.id {
            self.reply_append(from, epoch, 0, true);
            return;
        }
        if self.cluster.is_none() && !self.accepts_founding(cluster, &append) {
            return;
        }
        if epoch > self.promised {
            self.step_down();
            self.promise(epoch);
        }
        self.role = Role::Follower;
        self.hear_leader(from);
        let chain = match self.join_at(&append, disk) {
            Join::Agree(chain) => chain,
            Join::Differ(hint) => {
                self.reply_append(from, epoch, hint, true);
                return;
            }
        };
        if chain != append.prev_hash {
            self.fatal(format!("entry {} is not the one that replica {} has", append.prev.index, from.id));
            return;
        }
        let matched = append.prev.index + append.entries.len() as u64;
        if !self.accept_entries(append.prev.index, chain, append.entries, disk) {
            return;
        }
        self.verified = self.verified.max(matched);
        self.commit_verified(append.committed, matched);
        self.reply_append(from, epoch, matched, false);
    }

    /// An empty disk joins a cluster with its first entry.
    fn accepts_founding(&mut self, cluster: Option<ClusterId>, append: &Append) -> bool {
        let Some(first) = append.entries.first().filter(|_| append.prev.index == 0) else {
            // Nothing to hold on to yet: the answer asks for the beginning.
            return true;
        };
        match first.body {
            Body::Founding { cluster: founded, .. } if cluster == Some(founded) => {
                self.join(founded);
                true
            }
            _ => false,
        }
    }

    fn join_at(&mut self, append: &Append, disk: &dyn LogRead) -> Join {
        let prev = append.prev;
        match self.log.epoch_at(prev.index) {
            None => Join::Differ(self.log.last().index),
            Some(epoch) if epoch != prev.epoch => {
                if prev.index <= self.log.committed() {
                    self.fatal(format!("entry {} is committed here in epoch {epoch}, not {}", prev.index, prev.epoch));
                }
                Join::Differ(self.log.committed().max(self.log.span_start(prev.index).saturating_sub(1)))
            }
            Some(_) => match self.log.hash_at(prev.index, disk) {
                Some(hash) => Join::Agree(hash),
                None => Join::Differ(self.log.committed()),
            },
        }
    }

    /// Skips what the log has, cuts back what conflicts, appends the rest. `false` if the entries cannot be right.
    fn accept_entries(&mut self, prev: u64, mut chain: ChainHash, entries: Vec<Entry>, disk: &dyn LogRead) -> bool {
        let mut expected = prev;
        for entry in entries {
            expected += 1;
            if entry.index != expected || !entry.follows(chain) {
                return false;
            }
            let previous = std::mem::replace(&mut chain, entry.hash);
            match self.log.epoch_at(entry.index) {
                Some(epoch) if epoch == entry.epoch => {
                    // One proposer per epoch: the same place is the same entry. Anything else is a broken disk.
                    if self.log.hash_at(entry.index, disk).is_some_and(|own| own != entry.hash) {
                        self.fatal(format!("entry {} differs under one epoch, {epoch}", entry.index));
                        return false;
                    }
                    continue;
                }
                Some(epoch) if entry.index <= self.log.committed() => {
                    self.fatal(format!(
                        "entry {} is committed here in epoch {epoch}, not {}",
                        entry.index, entry.epoch
                    ));
                    return false;
                }
                Some(_) if !self.holds(Rule::ConflictsCutBack) => continue,
                Some(_) => {
                    self.log.cut_back(entry.index, previous);
                    self.verified = self.verified.min(entry.index - 1);
                    self.out.persist.push(Persist::CutBack(entry.index));
                }
                None => {}
            }
            if entry.body.view().is_some() {
                // Ask for leases in the new view at once: they are what proof will rest on.
                self.ping_soon = true;
            }
            self.log.push(entry.clone());
            self.out.persist.push(Persist::Append(entry));
        }
        true
    }

    /// Sent once all that was persisted before is durable (rule 1).
    fn reply_append(&mut self, to: Member, epoch: Epoch, matched: u64, conflict: bool) {
        let reply = Message::AppendReply { epoch, promised: self.promised, matched, conflict };
        if self.holds(Rule::AcknowledgedDurable) {
            self.send_after(to, reply);
        } else {
            self.send(to, reply);
        }
    }

    /// Commits what the primary has committed, as far as the log is known to be equal to the primary's.
    pub(super) fn commit_verified(&mut self, committed: u64, verified: u64) {
        self.commit(if self.holds(Rule::CommitOnlyVerified) { committed.min(verified) } else { committed });
    }

    pub(super) fn fatal(&mut self, why: String) {
        self.out.events.push(Event::Fatal(why));
    }
}
