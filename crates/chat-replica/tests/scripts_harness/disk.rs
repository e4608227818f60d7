//! A script's disk: what is durable, and nothing else. One transaction is all or nothing.

use chat_replica::protocol::*;

#[derive(Clone, Debug)]
pub struct Disk {
    pub id: DiskId,
    pub starts: Incarnation,
    cluster: Option<ClusterId>,
    promised: Epoch,
    pub log: Vec<Entry>,
    /// Known committed, as a lower bound.
    bound: u64,
    deaths: Vec<Death>,
    known: Vec<Member>,
    impaired_until: Option<u64>,
}

impl LogRead for Disk {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let enough = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.size();
            first || bytes <= max_bytes
        };
        self.log.iter().skip(from.saturating_sub(1) as usize).take_while(enough).cloned().collect()
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
            deaths: Vec::new(),
            known: Vec::new(),
            impaired_until: None,
        }
    }

    /// One transaction. What the protocol must never ask of a disk is an error.
    pub fn commit(&mut self, persist: &[Persist], committed: u64) -> Result<(), String> {
        for what in persist {
            match what {
                Persist::Promise(epoch) if *epoch < self.promised => return Err("a promise is taken back".into()),
                Persist::Promise(epoch) => self.promised = *epoch,
                Persist::Cluster(cluster) => self.cluster = Some(*cluster),
                Persist::Known(member) => {
                    self.known.retain(|known| !known.same_disk(member));
                    self.known.push(*member);
                }
                Persist::CutBack(from) if *from <= self.bound => {
                    return Err(format!("the committed entry {from} is cut back on disk"));
                }
                Persist::CutBack(from) => self.log.truncate(*from as usize - 1),
                Persist::Append(entry) => {
                    let previous = self.log.last().map(|last| last.hash).unwrap_or_default();
                    if entry.index != self.log.len() as u64 + 1 || !entry.follows(previous) {
                        return Err(format!("entry {} does not follow on disk", entry.index));
                    }
                    self.log.push(entry.clone());
                }
                Persist::Repaired => self.impaired_until = None,
            }
        }
        self.raise_bound(committed);
        Ok(())
    }

    /// Written with every turn, and not synced for its own sake.
    pub fn raise_bound(&mut self, committed: u64) {
        self.bound = self.bound.max(committed.min(self.log.len() as u64));
    }

    /// A process starts: its incarnation and its predecessor's death are durable before it says anything.
    pub fn start(&mut self, nonce: u64) -> Recovered {
        let log = RecoveredLog::of(&self.log, self.bound);
        if self.starts.count > 0 && self.impaired_until.is_none() {
            self.deaths.push(Death { incarnation: self.starts, views: log.views.clone() });
        }
        self.starts = Incarnation { count: self.starts.count + 1, nonce };
        Recovered {
            cluster: self.cluster,
            promised: self.promised,
            log,
            deaths: self.deaths.clone(),
            known: self.known.clone(),
            impaired_until: self.impaired_until,
        }
    }

    /// The log from this entry on is lost, and the mark beside it tells (rule 15).
    pub fn lose_from(&mut self, from: u64) {
        let last = self.log.len() as u64;
        self.log.truncate(from.saturating_sub(1) as usize);
        self.bound = self.bound.min(self.log.len() as u64);
        self.impaired_until = Some(last.max(self.impaired_until.unwrap_or(0)));
    }

    /// A disk that was rolled back is another disk from now on (rule 12).
    pub fn become_another(&mut self, id: DiskId) {
        self.id = id;
        self.deaths.clear();
    }
}
