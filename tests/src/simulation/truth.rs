//! What must hold at every moment, whatever happens.

use chat_replica::protocol::*;
use std::collections::HashMap;

/// The one history, as the first replica to commit each entry saw it.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// By index from 1: what was committed there.
    pub committed: Vec<(Epoch, ChainHash)>,
    /// Clients were told of everything up to here.
    pub acknowledged: u64,
    /// How many batches clients were told of.
    pub acknowledgements: u64,
    committers: HashMap<Epoch, Member>,
    /// How often a read would have been answered, and compared.
    pub reads: u64,
}

impl Truth {
    /// `entry` is committed, says `by`.
    pub fn commit(&mut self, by: Member, entry: &Entry) {
        let at = entry.index as usize - 1;
        match self.committed.get(at) {
            Some(known) => {
                assert_eq!(*known, (entry.epoch, entry.hash), "HISTORY FORKS at {}, says {by}", entry.index);
            }
            None => {
                assert_eq!(at, self.committed.len(), "commits leave no gaps");
                self.committed.push((entry.epoch, entry.hash));
            }
        }
    }

    /// `by` leads in `epoch` and has committed in it.
    pub fn lead(&mut self, by: Member, epoch: Epoch) {
        let committer = *self.committers.entry(epoch).or_insert(by);
        assert_eq!(committer, by, "TWO PRIMARIES in {epoch}");
    }

    /// A client was told that everything up to `index` is safe.
    pub fn acknowledge(&mut self, index: u64) {
        self.acknowledgements += 1;
        self.acknowledged = self.acknowledged.max(index);
    }

    /// A read is answered from a state that holds `index`.
    pub fn read(&mut self, by: Member, index: u64) {
        self.reads += 1;
        assert!(index >= self.acknowledged, "STALE READ at {by}: {index}, acknowledged {}", self.acknowledged);
    }

    /// A log holds all that was ever committed.
    pub fn is_in(&self, log: &[Entry]) -> bool {
        log.len() >= self.committed.len()
            && self.committed.iter().zip(log).all(|(truth, entry)| *truth == (entry.epoch, entry.hash))
    }
}
