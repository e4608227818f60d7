//! What the protocol keeps of its log in memory: where each epoch starts, the views in force, and the newest
//! entries. Older entries stay on the disk and are read through [`LogRead`].

use super::types::*;
use std::collections::VecDeque;

/// Reads entries that are durable.
pub trait LogRead {
    /// Entries from `from` on, in order and gapless, at least one if there is one, about `max_bytes` at most.
    /// Empty where the disk does not have them. A disk that fails ends the process (rule 15).
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry>;
}

/// How many bytes of entries are kept in memory for peers that lag a little.
const TAIL_BYTES: usize = 4 << 20;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Span {
    first: u64,
    epoch: Epoch,
}

/// What a disk holds when a process starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RecoveredLog {
    /// (first index, epoch) of each run of entries with one epoch, ascending.
    pub spans: Vec<(u64, Epoch)>,
    /// Index of the last entry; 0 for an empty log.
    pub last: u64,
    /// Its chain hash.
    pub last_hash: ChainHash,
    /// Known committed.
    pub committed: u64,
    /// Every view in the log, or at least the newest committed and all after it.
    pub views: Vec<ViewAt>,
}

impl RecoveredLog {
    /// What is to be known of these entries, which follow from each other from the first on.
    pub fn of(entries: &[Entry], committed: u64) -> RecoveredLog {
        let mut log = RecoveredLog::default();
        entries.iter().for_each(|entry| log.push(entry));
        log.end(committed);
        log
    }

    /// Takes in the next entry, which follows from the last.
    pub fn push(&mut self, entry: &Entry) {
        if self.spans.last().is_none_or(|(_, epoch)| *epoch != entry.epoch) {
            self.spans.push((entry.index, entry.epoch));
        }
        if let Some(view) = entry.body.view() {
            self.views.push(ViewAt { index: entry.index, view: view.clone() });
        }
        (self.last, self.last_hash) = (entry.index, entry.hash);
    }

    /// There are no more entries, and so much is known committed: earlier views are forgotten.
    pub fn end(&mut self, committed: u64) {
        self.committed = committed.min(self.last);
        let newest_committed = self.views.iter().rposition(|at| at.index <= self.committed).unwrap_or(0);
        self.views.drain(..newest_committed);
    }
}

/// The log as the protocol sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Log {
    spans: Vec<Span>,
    last: u64,
    last_hash: ChainHash,
    committed: u64,
    durable: u64,
    /// The newest committed view and every later one: the views in force.
    views: Vec<ViewAt>,
    tail: VecDeque<Entry>,
    tail_bytes: usize,
}

impl Log {
    /// The log of a disk as it was found.
    pub fn recovered(found: RecoveredLog) -> Log {
        let mut log = Log {
            spans: found.spans.into_iter().map(|(first, epoch)| Span { first, epoch }).collect(),
            last: found.last,
            last_hash: found.last_hash,
            committed: found.committed.min(found.last),
            durable: found.last,
            views: found.views,
            tail: VecDeque::new(),
            tail_bytes: 0,
        };
        log.prune_views();
        log
    }

    /// The end.
    pub fn last(&self) -> Place {
        Place { index: self.last, epoch: self.epoch_at(self.last).unwrap_or_default() }
    }

    /// The chain at the end.
    pub fn last_hash(&self) -> ChainHash {
        self.last_hash
    }

    /// Known committed up to here; never beyond the end.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Synced up to here.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The epoch of the entry at `index`; [`Epoch::ZERO`] for 0, `None` beyond the end.
    pub fn epoch_at(&self, index: u64) -> Option<Epoch> {
        if index == 0 {
            return Some(Epoch::ZERO);
        }
        if index > self.last {
            return None;
        }
        let after = self.spans.partition_point(|span| span.first <= index);
        after.checked_sub(1).map(|at| self.spans[at].epoch)
    }

    /// The first index of the run of entries with one epoch that `index` lies in.
    pub fn span_start(&self, index: u64) -> u64 {
        let after = self.spans.partition_point(|span| span.first <= index);
        after.checked_sub(1).map_or(0, |at| self.spans[at].first)
    }

    /// The views in force, oldest first: the newest known committed, and every later one. Empty before the founding.
    pub fn views_in_force(&self) -> &[ViewAt] {
        &self.views
    }

    /// The newest view in the log, committed or not.
    pub fn newest_view(&self) -> Option<&ViewAt> {
        self.views.last()
    }

    /// The newest view known committed.
    pub fn committed_view(&self) -> Option<&ViewAt> {
        self.views.first().filter(|at| at.index <= self.committed)
    }

    /// Place of the newest view.
    pub fn view_place(&self) -> Place {
        self.newest_view().map_or(Place::default(), |at| Place { index: at.index, epoch: at.view.epoch })
    }

    /// Chains a new entry of `epoch` to the end.
    pub fn push_new(&mut self, epoch: Epoch, body: Body) -> Entry {
        let entry = Entry::chained(self.last_hash, self.last + 1, epoch, body);
        self.push(entry.clone());
        entry
    }

    /// Adds the entry that follows the end. The caller has verified its index and its chain.
    pub fn push(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last + 1, "entries are gapless");
        if self.spans.last().is_none_or(|span| span.epoch != entry.epoch) {
            self.spans.push(Span { first: entry.index, epoch: entry.epoch });
        }
        if let Some(view) = entry.body.view() {
            self.views.push(ViewAt { index: entry.index, view: view.clone() });
        }
        self.last = entry.index;
        self.last_hash = entry.hash;
        self.tail_bytes += entry.size();
        self.tail.push_back(entry);
        self.shrink_tail();
    }

    /// Cuts the end back so that the entry before `from` is the last.
    ///
    /// # Panics
    /// If that would cut a committed entry: no rule allows it, and going on would lose an acknowledged message.
    pub fn cut_back(&mut self, from: u64, previous: ChainHash) {
        assert!(from > self.committed, "a committed entry ({from} of {}) was to be cut back", self.committed);
        self.last = from - 1;
        self.last_hash = previous;
        self.durable = self.durable.min(self.last);
        self.spans.retain(|span| span.first < from);
        self.views.retain(|at| at.index < from);
        while self.tail.back().is_some_and(|entry| entry.index >= from) {
            self.tail_bytes -= self.tail.pop_back().map_or(0, |entry| entry.size());
        }
    }

    /// Everything up to the end is synced.
    pub fn set_durable(&mut self, index: u64) {
        self.durable = self.durable.max(index.min(self.last));
    }

    /// Commits up to `index`, which never moves back. Returns whether that moved.
    pub fn commit(&mut self, index: u64) -> bool {
        let index = index.min(self.last);
        if index <= self.committed {
            return false;
        }
        self.committed = index;
        self.prune_views();
        self.shrink_tail();
        true
    }

    /// The chain at `index`: 0 is the beginning. `None` beyond the end, or if the disk lacks it.
    pub fn hash_at(&self, index: u64, disk: &dyn LogRead) -> Option<ChainHash> {
        if index == 0 {
            return Some(ChainHash::default());
        }
        if index == self.last {
            return Some(self.last_hash);
        }
        if index > self.last {
            return None;
        }
        match self.in_tail(index) {
            Some(at) => Some(self.tail[at].hash),
            None => disk.read(index, 0).first().map(|entry| entry.hash),
        }
    }

    /// Entries from `from` to the end, about `max_bytes` at most, at least one if there is one.
    pub fn read(&self, from: u64, max_bytes: usize, disk: &dyn LogRead) -> Vec<Entry> {
        if from > self.last {
            return Vec::new();
        }
        let Some(start) = self.in_tail(from) else {
            // What is in memory may not be on the disk yet, where something that was cut back may still be in its place.
            let end = self.tail.front().map_or(self.last, |entry| entry.index - 1);
            let mut entries = disk.read(from, max_bytes);
            entries.retain(|entry| entry.index <= end);
            return entries;
        };
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in self.tail.range(start..) {
            bytes += entry.size();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }

    fn in_tail(&self, index: u64) -> Option<usize> {
        let first = self.tail.front()?.index;
        index.checked_sub(first).map(|at| at as usize).filter(|at| *at < self.tail.len())
    }

    /// Only what is durable and committed may leave memory: the rest may not be on the disk yet.
    fn shrink_tail(&mut self) {
        let keep_from = self.committed.min(self.durable);
        while self.tail_bytes > TAIL_BYTES && self.tail.front().is_some_and(|entry| entry.index < keep_from) {
            self.tail_bytes -= self.tail.pop_front().map_or(0, |entry| entry.size());
        }
    }

    fn prune_views(&mut self) {
        let committed = self.views.iter().rposition(|at| at.index <= self.committed).unwrap_or(0);
        self.views.drain(..committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoDisk;
    impl LogRead for NoDisk {
        fn read(&self, _: u64, _: usize) -> Vec<Entry> {
            Vec::new()
        }
    }

    fn epoch(round: u64) -> Epoch {
        Epoch { round, replica: ReplicaId(1) }
    }

    fn view(round: u64) -> Body {
        Body::View(View { epoch: epoch(round), primary: ReplicaId(1), members: Vec::new() })
    }

    #[test]
    fn views_in_force_are_the_newest_committed_and_all_later() {
        let mut log = Log::recovered(RecoveredLog::default());
        for round in 1..=3 {
            log.push_new(epoch(round), view(round));
        }
        assert_eq!(log.views_in_force().len(), 3);
        log.commit(2);
        let rounds: Vec<u64> = log.views_in_force().iter().map(|at| at.view.epoch.round).collect();
        assert_eq!(rounds, [2, 3], "the first view was superseded by a committed one");
        log.cut_back(3, log.hash_at(2, &NoDisk).expect("in memory"));
        assert_eq!(log.last(), Place { index: 2, epoch: epoch(2) });
        assert_eq!(log.newest_view().map(|at| at.index), Some(2));
    }

    #[test]
    fn epochs_and_chain_are_found_by_index() {
        let mut log = Log::recovered(RecoveredLog::default());
        for (round, n) in [(1, 3), (4, 2)] {
            for i in 0..n {
                log.push_new(epoch(round), Body::Commands(vec![i].into()));
            }
        }
        assert_eq!(log.epoch_at(3), Some(epoch(1)));
        assert_eq!(log.epoch_at(4), Some(epoch(4)));
        assert_eq!(log.epoch_at(6), None);
        assert_eq!(log.span_start(5), 4);
        let entries = log.read(1, usize::MAX, &NoDisk);
        assert_eq!(entries.len(), 5);
        for pair in entries.windows(2) {
            assert!(pair[1].follows(pair[0].hash), "the chain holds at {}", pair[1].index);
        }
        assert_eq!(log.read(2, 1, &NoDisk).len(), 1, "at least one entry, however large");
    }

    #[test]
    #[should_panic(expected = "committed entry")]
    fn a_committed_entry_is_never_cut_back() {
        let mut log = Log::recovered(RecoveredLog::default());
        log.push_new(epoch(1), view(1));
        log.commit(1);
        log.cut_back(1, ChainHash::default());
    }
}
