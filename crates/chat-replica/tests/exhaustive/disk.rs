//! A simulated disk: what is durable, and nothing else. A transaction is all or nothing, like SQLite's.

use chat_replica::protocol::*;
use std::collections::VecDeque;

/// How many deaths of earlier process runs a disk remembers.
const DEATHS: usize = 32;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    pub id: DiskId,
    pub starts: Incarnation,
    pub cluster: Option<ClusterId>,
    pub promised: Epoch,
    pub log: Vec<Entry>,
    /// Known committed, as a lower bound: written with every turn, but not synced for its own sake.
    pub bound: u64,
    /// The same, as the last sync left it: what a power cut leaves.
    pub synced_bound: u64,
    pub deaths: VecDeque<Death>,
    pub known: Vec<Member>,
    pub impaired_until: Option<u64>,
}

impl LogRead for Disk {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.log.iter().skip(from as usize - 1) {
            bytes += entry.size();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }
}

impl Disk {
    pub fn empty(id: DiskId) -> Disk {
        Disk {
            id,
            starts: Incarnation { count: 0, nonce: 0 },
            cluster: None,
            promised: Epoch::ZERO,
            log: Vec::new(),
            bound: 0,
            synced_bound: 0,
            deaths: VecDeque::new(),
            known: Vec::new(),
            impaired_until: None,
        }
    }

    /// One transaction.
    pub fn commit(&mut self, persist: &[Persist], committed: u64) {
        for what in persist {
            match what {
                Persist::Promise(epoch) => {
                    assert!(*epoch >= self.promised, "a promise was taken back");
                    self.promised = *epoch;
                }
                Persist::Cluster(cluster) => self.cluster = Some(*cluster),
                Persist::Known(member) => {
                    self.known.retain(|known| !known.same_disk(member));
                    self.known.push(*member);
                }
                Persist::CutBack(from) => {
                    assert!(*from > self.bound, "a committed entry, {from}, was cut back on disk");
                    self.log.truncate(*from as usize - 1);
                }
                Persist::Append(entry) => {
                    assert_eq!(entry.index, self.log.len() as u64 + 1, "entries are gapless on disk");
                    let previous = self.log.last().map(|last| last.hash).unwrap_or_default();
                    assert!(entry.follows(previous), "the chain holds on disk at {}", entry.index);
                    self.log.push(entry.clone());
                }
                Persist::Repaired => self.impaired_until = None,
            }
        }
        self.bound = self.bound.max(committed).min(self.log.len() as u64);
        self.synced_bound = self.bound;
    }

    /// A process starts: its incarnation and its predecessor's death are durable before it says anything.
    pub fn start(&mut self, nonce: u64) -> Recovered {
        let log = RecoveredLog::of(&self.log, self.bound);
        if self.starts.count > 0 && self.impaired_until.is_none() {
            self.deaths.push_back(Death { incarnation: self.starts, views: log.views.clone() });
            if self.deaths.len() > DEATHS {
                self.deaths.pop_front();
            }
        }
        self.starts = Incarnation { count: self.starts.count + 1, nonce };
        Recovered {
            cluster: self.cluster,
            promised: self.promised,
            log,
            deaths: self.deaths.iter().cloned().collect(),
            known: self.known.clone(),
            impaired_until: self.impaired_until,
        }
    }

    /// The end of the log vanishes, and the mark beside it tells (rule 15). The death of the run that wrote it is unknown.
    pub fn lose_tail(&mut self, from: u64) {
        let last = self.log.len() as u64;
        self.log.truncate(from as usize - 1);
        self.bound = self.bound.min(from - 1);
        self.synced_bound = self.bound;
        self.impaired_until = Some(last.max(self.impaired_until.unwrap_or(0)));
    }
}
