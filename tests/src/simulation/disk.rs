//! A simulated disk: the log, the protocol's facts, and the chat state, as SQLite keeps them in production.
//!
//! A transaction is all or nothing. What a turn writes waits in `open`, and then in `closed`, until the world lets it land. The state, and what
//! is known committed, survive the process once they landed, but the loss of power only up to where the database was last synced, which is seldom. The
//! state is kept as readers see it, and once more as the writer does, who is ahead by the transactions under way, by what is `hidden`, carried
//! out and to be written later, and by what is `leaving`, being written by another thread.

use super::journal::{Effect, Journal, Landing};
use chat_core::{Applied, MemoryStore, Provenance};
use chat_replica::node;
use chat_replica::protocol::*;
use std::cell::Cell;
use std::collections::VecDeque;

/// How many deaths of earlier process runs a disk remembers.
const DEATHS: usize = 32;
/// How many entries a restart after the loss of power carries out again at most, about.
const REPLAY: u64 = 64;

/// After so many entries the database is synced.
const SYNCED_AFTER: u64 = 12;
/// Every so many entries one is written at once, with all that is hidden: as those with other commands than sends and acknowledgements are.
const AT_ONCE: u64 = 4;
/// So many entries are hidden at most.
const HIDDEN: usize = 6;

/// What goes wrong next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskFault {
    /// A write fails, after so many more: the disk is full.
    Write(u64),
    /// The next sync fails.
    Sync,
    /// The next read fails.
    Read,
}

/// The chat state, and the last log entry in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub store: MemoryStore,
    pub applied: u64,
}

impl State {
    /// Carries out one entry as production does.
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, &'static str> {
        let mut results = Vec::new();
        if let Body::Commands(batch) = &entry.body {
            let commands = chat_core::codec::decode(batch).map_err(|_| "a committed batch cannot be read")?;
            let replica = entry.epoch.replica.0;
            let provenance = Provenance { index: entry.index, round: entry.epoch.round, replica };
            for command in &commands {
                let Ok(applied) = chat_core::apply(&mut self.store, provenance, command);
                results.push(applied);
            }
        }
        self.applied = entry.index;
        Ok(results)
    }
}

#[derive(Clone, Debug, Default)]
struct Staged {
    persist: Vec<Persist>,
    applied: Vec<Entry>,
    committed: u64,
}

impl Staged {
    /// Whether it waits for a sync: the state can be made again from the log, everything else cannot.
    fn is_synced(&self) -> bool {
        !self.persist.is_empty()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub id: DiskId,
    pub starts: Incarnation,
    pub cluster: Option<ClusterId>,
    pub promised: Epoch,
    pub log: Vec<Entry>,
    /// Known committed, as a lower bound.
    pub bound: u64,
    synced_bound: u64,
    pub deaths: VecDeque<Death>,
    pub known: Vec<Member>,
    pub impaired_until: Option<u64>,
    /// As readers see it.
    visible: State,
    /// As the writer sees it.
    ahead: State,
    synced_applied: u64,
    /// Not later than what is synced: what the loss of power leaves is made again from here.
    base: State,
    /// Carried out and not in any transaction yet.
    hidden: Vec<Entry>,
    /// Being written by another thread.
    leaving: Vec<Entry>,
    /// The transaction of the turn, and those that are committed and have not landed yet.
    open: Option<Staged>,
    closed: VecDeque<Staged>,
    /// The last entry that is carried out for readers once all transactions have landed.
    shown: u64,
    committed: u64,
    pub fault: Cell<Option<DiskFault>>,
    read_failed: Cell<bool>,
    journal: Journal,
}

impl LogRead for Disk {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        if self.fault.get() == Some(DiskFault::Read) {
            self.fault.set(None);
            self.read_failed.set(true);
        }
        if self.read_failed.get() {
            return Vec::new();
        }
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

impl node::Disk for Disk {
    type Error = &'static str;

    fn applied(&self) -> u64 {
        self.ahead.applied
    }

    fn visible(&self) -> u64 {
        self.shown
    }

    fn is_full(&self) -> bool {
        self.hidden.len() >= HIDDEN
    }

    fn is_overfull(&self) -> bool {
        self.hidden.len() >= 2 * HIDDEN
    }

    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, &'static str> {
        self.write()?;
        let results = self.ahead.apply(entry)?;
        self.hidden.push(entry.clone());
        if entry.index.is_multiple_of(AT_ONCE) {
            self.write_state();
        }
        Ok(results)
    }

    fn persist(&mut self, what: &Persist) -> Result<(), &'static str> {
        self.write()?;
        self.transaction().persist.push(what.clone());
        Ok(())
    }

    fn set_committed(&mut self, committed: u64) {
        self.committed = self.committed.max(committed);
    }

    fn commit(&mut self) -> Result<(), &'static str> {
        if self.read_failed.take() {
            return self.fail("a read failed");
        }
        let Some(open) = &self.open else {
            self.journal.push(Effect::Commit(Landing::Nothing));
            return Ok(());
        };
        if open.is_synced() && self.fault.get() == Some(DiskFault::Sync) {
            self.fault.set(None);
            return self.fail("a sync failed");
        }
        self.close();
        Ok(())
    }

    fn is_showing(&self) -> bool {
        !self.leaving.is_empty()
    }

    fn show(&mut self) -> Result<(), &'static str> {
        if self.hidden.is_empty() || self.is_showing() {
            return Ok(());
        }
        if self.ahead.applied.is_multiple_of(2) {
            self.leaving = std::mem::take(&mut self.hidden);
            return Ok(());
        }
        self.write()?;
        self.write_state();
        self.close();
        Ok(())
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
            visible: State::default(),
            ahead: State::default(),
            synced_applied: 0,
            base: State::default(),
            hidden: Vec::new(),
            leaving: Vec::new(),
            open: None,
            closed: VecDeque::new(),
            shown: 0,
            committed: 0,
            fault: Cell::new(None),
            read_failed: Cell::new(false),
            journal: Journal::default(),
        }
    }

    fn transaction(&mut self) -> &mut Staged {
        self.open.get_or_insert_default()
    }

    /// All that was carried out goes with the transaction.
    fn write_state(&mut self) {
        let mut entries = std::mem::take(&mut self.leaving);
        entries.append(&mut self.hidden);
        self.transaction().applied.extend(entries);
        self.shown = self.ahead.applied;
    }

    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let landing = if open.is_synced() { Landing::Synced } else { Landing::Written };
        self.closed.push_back(Staged { committed: self.committed, ..open });
        self.journal.push(Effect::Commit(landing));
    }

    fn write(&mut self) -> Result<(), &'static str> {
        match self.fault.get() {
            Some(DiskFault::Write(0)) => {
                self.fault.set(None);
                // All or nothing: what was written before goes with it. Only what failed to sync may yet be there.
                self.open = None;
                self.fail("the disk is full")
            }
            Some(DiskFault::Write(left)) => {
                self.fault.set(Some(DiskFault::Write(left - 1)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fail(&self, why: &'static str) -> Result<(), &'static str> {
        self.journal.push(Effect::Failed(why));
        Err(why)
    }

    /// The state as readers see it.
    pub fn state(&self) -> &State {
        &self.visible
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The next transaction is on the disk, whole; perhaps one that failed. The error says what should never have been asked for.
    pub fn land(&mut self) -> Result<(), String> {
        let next = self.closed.pop_front().or_else(|| self.open.take());
        let Some(Staged { persist, applied, committed }) = next else { return Ok(()) };
        for what in persist {
            self.write_down(what)?;
        }
        if !applied.is_empty() {
            self.take_in(&applied, committed)?;
        }
        Ok(())
    }

    /// The other thread is done. `false`: a turn is under way, whose transactions come first.
    pub fn arrive(&mut self) -> Result<bool, String> {
        if self.open.is_some() || !self.closed.is_empty() {
            return Ok(false);
        }
        let leaving = std::mem::take(&mut self.leaving);
        if !leaving.is_empty() {
            self.take_in(&leaving, self.committed)?;
            self.shown = self.visible.applied;
        }
        Ok(true)
    }

    fn take_in(&mut self, applied: &[Entry], committed: u64) -> Result<(), String> {
        self.bound = self.bound.max(committed).min(self.log.len() as u64);
        applied.iter().try_for_each(|entry| self.visible.apply(entry).map(drop))?;
        if self.visible.applied >= self.synced_applied + SYNCED_AFTER {
            self.synced();
        }
        Ok(())
    }

    fn synced(&mut self) {
        self.synced_bound = self.bound;
        self.synced_applied = self.visible.applied;
        if self.synced_applied.saturating_sub(self.base.applied) >= REPLAY {
            self.base = self.visible.clone();
        }
    }

    fn write_down(&mut self, what: Persist) -> Result<(), String> {
        match what {
            Persist::Promise(epoch) if epoch < self.promised => {
                return Err(format!("the promise {} was taken back for {epoch}", self.promised));
            }
            Persist::Promise(epoch) => self.promised = epoch,
            Persist::Cluster(cluster) => self.cluster = Some(cluster),
            Persist::Known(member) => {
                self.known.retain(|known| !known.same_disk(&member));
                self.known.push(member);
            }
            Persist::CutBack(from) if from <= self.bound => {
                return Err(format!("a committed entry, {from}, was cut back on disk"));
            }
            Persist::CutBack(from) => self.log.truncate(from as usize - 1),
            Persist::Append(entry) => {
                let previous = self.log.last().map(|last| last.hash).unwrap_or_default();
                if entry.index != self.log.len() as u64 + 1 || !entry.follows(previous) {
                    return Err(format!("entry {} does not follow what is on disk", entry.index));
                }
                self.log.push(entry);
            }
            Persist::Repaired => self.impaired_until = None,
        }
        Ok(())
    }

    /// The process is gone, and its transaction under way with it.
    pub fn roll_back(&mut self) {
        self.open = None;
        self.closed.clear();
        self.read_failed.set(false);
        self.fault.set(None);
        self.rewind();
    }

    /// The writer has nothing but what readers see.
    fn rewind(&mut self) {
        self.hidden.clear();
        self.leaving.clear();
        self.shown = self.visible.applied;
        if self.ahead.applied != self.visible.applied {
            self.ahead = self.visible.clone();
        }
    }

    /// Nothing on it says any more what had committed.
    pub fn forget_commits(&mut self) {
        (self.bound, self.synced_bound) = (0, 0);
    }

    /// The power is gone: so is what landed without a sync.
    pub fn lose_unsynced(&mut self) {
        self.bound = self.synced_bound;
        if self.visible.applied != self.synced_applied {
            self.replay_to(self.synced_applied);
        }
    }

    fn replay_to(&mut self, applied: u64) {
        self.visible = self.base.clone();
        let again = self.log.iter().skip(self.base.applied as usize);
        for entry in again.take(applied.saturating_sub(self.base.applied) as usize) {
            self.visible.apply(entry).expect("it was carried out before");
        }
        self.rewind();
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
        self.journal = Journal::default();
        self.committed = self.bound;
        self.synced();
        Recovered {
            cluster: self.cluster,
            promised: self.promised,
            log,
            deaths: self.deaths.iter().cloned().collect(),
            known: self.known.clone(),
            impaired_until: self.impaired_until,
        }
    }

    /// A bit of entry `from` has flipped: the log ends before it, and what it held is known from its last entry or from the mark (rule 15).
    /// The state is elsewhere, and whole.
    pub fn break_log(&mut self, from: u64) {
        let last = self.log.len() as u64;
        self.log.truncate(from as usize - 1);
        self.bound = self.bound.min(from - 1);
        self.impaired_until = Some(last.max(self.visible.applied).max(self.impaired_until.unwrap_or(0)));
        self.base = self.visible.clone();
        (self.synced_bound, self.synced_applied) = (self.bound, self.visible.applied);
    }

    /// The last transactions of SQLite's write-ahead log are gone, the state's with them; the mark beside it tells, and keeps the promise.
    pub fn lose_tail(&mut self, from: u64) {
        let behind = self.visible.applied.min(from - 1);
        if behind >= self.base.applied && behind < self.visible.applied {
            self.replay_to(behind);
        }
        self.break_log(from);
    }
}
