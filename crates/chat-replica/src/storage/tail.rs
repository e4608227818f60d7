//! What the redo log has and the database has not yet: the end of the log, and facts.

use super::disk::DiskError;
use super::log_table::{self, Facts};
use super::redo;
use super::{chain, directory::DataDirectory};
use crate::protocol::*;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;

/// Kept in memory until the database takes it in.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The database has the log up to here; what it may have beyond was cut back.
    base: u64,
    entries: Vec<Entry>,
    /// Those of them that were carried out, in brief.
    briefs: BTreeMap<u64, Vec<u8>>,
    /// Whether it was cut back.
    cut: bool,
    /// Everything but entries.
    facts: Vec<Persist>,
}

impl Tail {
    /// After a log in the database that ends here.
    pub fn after(last: u64) -> Tail {
        Tail { base: last, ..Tail::default() }
    }

    /// Something was made durable.
    pub fn note(&mut self, what: Persist) {
        match what {
            Persist::Append(entry) => self.entries.push(entry),
            Persist::CutBack(from) => self.cut_back(from),
            fact => self.facts.push(fact),
        }
    }

    fn cut_back(&mut self, from: u64) {
        if from <= self.base {
            (self.base, self.cut) = (from.saturating_sub(1), true);
        }
        self.entries.truncate((from - 1).saturating_sub(self.base) as usize);
        self.briefs.split_off(&from);
    }

    /// An entry was carried out: the database takes it in in brief, if it has not taken it in already.
    pub fn note_brief(&mut self, index: u64, brief: Vec<u8>) {
        if index > self.base {
            self.briefs.insert(index, brief);
        }
    }

    /// Whether the database has everything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.facts.is_empty() && !self.cut
    }

    /// The index of the log's last entry.
    pub fn last(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// What follows from here on begins another one. This one is to be written.
    pub fn take(&mut self) -> Tail {
        let next = Tail::after(self.last());
        std::mem::replace(self, next)
    }

    /// Goes on with the entries from `from` to `to`, about `max_bytes` at most, at least one if there is one.
    fn read_on(&self, entries: &mut Vec<Entry>, from: u64, to: u64, max_bytes: usize) {
        let next = entries.last().map_or(from, |last| last.index + 1);
        let Some(skip) = next.checked_sub(self.base + 1) else { return };
        let mut bytes: usize = entries.iter().map(Entry::size).sum();
        for entry in self.entries.iter().skip(skip as usize).take_while(|entry| entry.index <= to) {
            bytes += entry.size();
            if !entries.is_empty() && bytes > max_bytes {
                return;
            }
            entries.push(entry.clone());
        }
    }

    /// The database takes it in, within the open transaction.
    ///
    /// # Errors
    /// SQLite's own; the process must end.
    pub fn write(&self, connection: &Connection) -> Result<()> {
        if self.cut {
            log_table::cut_back(connection, self.base + 1)?;
        }
        self.entries.iter().try_for_each(|entry| {
            let brief = self.briefs.get(&entry.index).map(Vec::as_slice);
            log_table::append(connection, entry, brief)
        })?;
        self.facts.iter().try_for_each(|fact| log_table::persist(connection, fact))
    }
}

/// The log: in the database, in what is being written into it, and in what comes after that.
#[derive(Clone, Copy)]
pub(super) struct Layers<'l> {
    pub connection: &'l Connection,
    pub leaving: Option<&'l Tail>,
    pub tail: &'l Tail,
}

impl Layers<'_> {
    /// The chain's hash at this entry, or at 0 of the empty log.
    ///
    /// # Errors
    /// SQLite's own; that there is no row, where there is no such entry.
    pub fn hash_at(&self, index: u64) -> Result<ChainHash> {
        for tail in [Some(self.tail), self.leaving].into_iter().flatten() {
            if let Some(at) = index.checked_sub(tail.base + 1) {
                let entry = tail.entries.get(at as usize);
                return entry.map(|entry| entry.hash).ok_or(rusqlite::Error::QueryReturnedNoRows);
            }
        }
        log_table::hash_at(self.connection, index)
    }

    /// Entries from `from` on, at least one if there is one, about `max_bytes` at most.
    ///
    /// # Errors
    /// SQLite's own, or one that says that the chain breaks.
    pub fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<Entry>> {
        let to = self.tail.base;
        let in_database = self.leaving.map_or(to, |leaving| leaving.base.min(to));
        let mut entries = Vec::new();
        if from <= in_database {
            entries = chain::read(self.connection, from, in_database, max_bytes)?;
        }
        if let Some(leaving) = self.leaving {
            leaving.read_on(&mut entries, from, to, max_bytes);
        }
        self.tail.read_on(&mut entries, from, u64::MAX, max_bytes);
        Ok(entries)
    }
}

/// What came of a replay.
#[derive(Debug)]
pub(super) struct Replay {
    /// The last turn of the first process run that was asked for.
    pub number: u64,
    /// The log in the database was cut back.
    pub cut_back: bool,
    /// More was durable than could be read.
    pub is_cut: bool,
    /// All of the file can be read, or there is none.
    pub is_readable: bool,
}

/// The database takes in what the redo log has, within the open transaction, and `facts` what it says of them: of each of these process runs what came
/// after the turn with this number. What does not follow the log is kept for people.
///
/// `None`: it is not known which turns the log has already. Then those are read that are there. What the log has of them is passed over, and so
/// are cuts: an entry that comes in the place of another says the same.
///
/// # Errors
/// The file's and SQLite's own, but for damage of the file.
pub(super) fn replay(
    directory: &DataDirectory,
    connection: &Connection,
    runs: &[(Member, Option<u64>)],
    facts: &mut Facts,
) -> std::result::Result<Replay, DiskError> {
    let mut all = Replay { number: 0, cut_back: false, is_cut: false, is_readable: true };
    for (place, (run, after)) in runs.iter().enumerate() {
        let found = redo::read(&directory.redo(), *run, *after).map_err(DiskError::File)?;
        all.is_cut |= found.is_cut;
        all.is_readable &= found.is_readable;
        if place == 0 {
            all.number = found.number;
        }
        let mut replayed = Replayed { tail: Tail::after(log_table::last(connection)?), unconnected: Vec::new() };
        for what in found.turns {
            replayed.carry_out(connection, what, after.is_some());
        }
        for what in found.beyond {
            match what {
                Persist::Append(entry) => replayed.unconnected.push(entry),
                // They hold whatever was lost before them.
                Persist::Promise(_) | Persist::Cluster(_) | Persist::Known(_) => replayed.tail.note(what),
                Persist::CutBack(_) | Persist::Repaired => {}
            }
        }
        all.cut_back |= replayed.tail.cut;
        replayed.note_facts(facts);
        replayed.tail.write(connection)?;
        for entry in &replayed.unconnected {
            log_table::set_aside(connection, facts.incarnation, entry)?;
        }
    }
    Ok(all)
}

/// What a process run left in the redo log, as it follows the log in the database.
#[derive(Debug)]
struct Replayed {
    tail: Tail,
    /// Entries that do not follow.
    unconnected: Vec<Entry>,
}

impl Replayed {
    fn carry_out(&mut self, connection: &Connection, what: Persist, in_step: bool) {
        match what {
            Persist::Append(entry) => self.append(connection, entry),
            Persist::CutBack(_) if !in_step || !self.unconnected.is_empty() => {}
            // What was repaired is not all here.
            Persist::Repaired if !self.unconnected.is_empty() => {}
            what => self.tail.note(what),
        }
    }

    fn append(&mut self, connection: &Connection, entry: Entry) {
        let hash_at = |index| Layers { connection, leaving: None, tail: &self.tail }.hash_at(index).ok();
        let last = self.tail.last();
        let connects = self.unconnected.is_empty() && (1..=last + 1).contains(&entry.index);
        if connects && entry.index <= last && hash_at(entry.index) == Some(entry.hash) {
            return;
        }
        if !connects || !hash_at(entry.index - 1).is_some_and(|before| entry.follows(before)) {
            self.unconnected.push(entry);
            return;
        }
        if entry.index <= last {
            self.tail.cut_back(entry.index);
        }
        self.tail.note(Persist::Append(entry));
    }

    /// What is known beside the log.
    fn note_facts(&self, facts: &mut Facts) {
        for fact in &self.tail.facts {
            match fact {
                Persist::Promise(epoch) => facts.promised = facts.promised.max(*epoch),
                Persist::Cluster(cluster) => facts.cluster = Some(*cluster),
                Persist::Repaired => facts.impaired_until = None,
                Persist::Known(_) | Persist::CutBack(_) | Persist::Append(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(u64),
        CutBack(u64),
        /// What there is is to be written.
        Leave,
        /// It is.
        Land,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..5u64).prop_map(Step::Append),
            (0..8u64).prop_map(Step::CutBack),
            Just(Step::Leave),
            Just(Step::Land),
        ]
    }

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().expect("opened");
        migrations::migrate(&mut connection).expect("made");
        connection
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_log_is_one_wherever_it_is(steps in prop::collection::vec(step(), 1..40)) {
            let connection = database();
            let (mut log, mut tail, mut leaving) = (Vec::<Entry>::new(), Tail::after(0), None::<Tail>);
            for (step, round) in steps.into_iter().zip(1..) {
                match step {
                    Step::Append(count) => for _ in 0..count {
                        let before = log.last().map(|last| last.hash).unwrap_or_default();
                        let epoch = Epoch { round, replica: ReplicaId(1) };
                        let entry = Entry::chained(before, log.len() as u64 + 1, epoch, Body::Commands(vec![7; 100].into()));
                        log.push(entry.clone());
                        tail.note(Persist::Append(entry));
                    },
                    Step::CutBack(count) => {
                        let from = (log.len() as u64 + 1).saturating_sub(count).max(1);
                        log.truncate(from as usize - 1);
                        tail.note(Persist::CutBack(from));
                    }
                    Step::Leave => leaving = leaving.or_else(|| Some(tail.take())),
                    Step::Land => if let Some(left) = leaving.take() {
                        left.write(&connection).expect("written");
                    },
                }
                let layers = Layers { connection: &connection, leaving: leaving.as_ref(), tail: &tail };
                prop_assert_eq!(tail.last(), log.len() as u64);
                for from in 1..=log.len() as u64 + 1 {
                    prop_assert!(layers.read(from, usize::MAX).expect("readable") == log[from as usize - 1..]);
                    let some = layers.read(from, 400).expect("readable");
                    prop_assert!(log[from as usize - 1..].starts_with(&some) && some.is_empty() == (from > log.len() as u64));
                    let hash = from.checked_sub(2).map(|at| log[at as usize].hash).unwrap_or_default();
                    prop_assert_eq!(layers.hash_at(from - 1).expect("there"), hash);
                }
                prop_assert!(layers.hash_at(log.len() as u64 + 1).is_err());
            }
        }
    }
}
