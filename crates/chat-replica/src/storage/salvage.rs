//! A database that is damaged is replaced by a new one with what can be proven of it (rules 2, 12, 15).
//!
//! It is read from a copy in which every page that is a single flipped bit away from its checksum is mended (`copy`). What is taken over, and what proves it:
//!
//! | what | proof |
//! | --- | --- |
//! | log entries, with texts from the messages (`brief`) | the chain of hashes, from the first on; that none is missing at the end: the mark, and the facts |
//! | promise, process run, disk | the page's checksum, or else the mark, whose facts are always synced; the later of both |
//! | committed index | either: it is a lower bound |
//! | cluster | the page's checksum, or else the file `identity`, or else the founding in the log |
//! | known process runs, deaths | the page's checksum; else they are left behind, and less is known |
//! | entries set aside for people | the page's checksum; else the damaged database stays for them |
//! | state, indexes, schema | nothing: they are made anew from the log |
//!
//! A log that does not reach as far as it did makes the disk impaired: it counts for nothing until it holds again what it held. Where neither the
//! database nor the mark says what was promised, this is another disk from now on, and learns everything. So it is where the mark is gone that
//! alone shows that what the database says was the last (`recovery::is_unproven`). What cannot be read at all is lost; the write-ahead log ends
//! there. That the mark knows of a later process run is for the start to find, which follows (`recovery::start`).
//!
//! The new database becomes the one that counts by a single renaming (of `replica.db-new`, to `replica.db-salvaged`): a start that finds that
//! name finishes what a crash has left. The old one is kept as `replica.db.damaged-1`, `-2`, … (`aside`), with its log, and with the rollback
//! journal that it has if it was being made: SQLite would play that into whatever has the name of the database.

use super::aside::{self, Outcome, remove_file};
use super::brief::Batches;
use super::copy::{MENDED, Old, open_old, remove, unchecked};
use super::damage::is_damage;
use super::directory::DataDirectory;
use super::disk::{self, DiskError};
use super::log_table::{self, Facts};
use super::mark::Mark;
use super::migrations;
use super::protect::APPLICATION_ID;
use super::recovery::{self, UNKNOWN_END};
use super::tail::{self, Replay};
use crate::protocol::*;
use chat_sqlite_checksum::DAMAGE_SUFFIX;
use rusqlite::{Connection, OpenFlags};
use std::io;

pub(super) const NEW: &str = "-new";
const SALVAGED: &str = "-salvaged";
/// Replaces a damaged database. `what` was found; a crash on the way is made good by [`finish`].
pub(crate) fn salvage(
    directory: &DataDirectory,
    id: ReplicaId,
    mark: Option<Mark>,
    what: &str,
) -> Result<(), DiskError> {
    tracing::error!(path = %directory.database().display(), what, "the database is damaged");
    let old = open_old(directory)?;
    if let Ok(checked) = &old.checked {
        migrations::refuse_newer(checked)?;
    }
    let facts = old.facts();
    if let Some(found) = facts.as_ref().filter(|facts| facts.id != id) {
        return Err(DiskError::OtherReplica { path: directory.database(), found: found.id, wanted: id });
    }
    if facts.as_ref().is_some_and(|facts| was_whole(facts, mark)) {
        aside::all_recovered(directory).map_err(DiskError::File)?;
    }
    aside::room(directory).inspect_err(|_| {
        // What was copied is in the way of whoever makes room.
        let _ = remove(directory, MENDED);
    })?;
    let new = fresh(directory)?;
    let transaction = new.unchecked_transaction()?;
    let outcome = match (&old.checked, &facts) {
        (Ok(checked), Some(facts)) if unless_damaged(is_unproven(checked, directory, facts, mark))? != Some(false) => {
            let (disk, incarnation) = (DiskId(recovery::random()), Incarnation { count: 0, nonce: 0 });
            let another = Facts { disk, incarnation, ..facts.clone() };
            tracing::error!("nothing says that what it had promised is all: it is another disk from now on");
            take_over(directory, &old, &new, another, None)?;
            Outcome::Kept
        }
        _ => match facts.or_else(|| mark.and_then(|mark| of_mark(id, &mark))) {
            Some(facts) => take_over(directory, &old, &new, facts, mark)?,
            None => {
                tracing::error!(
                    "nothing says what this disk had promised: it is another one from now on, and learns everything"
                );
                Outcome::Kept
            }
        },
    };
    transaction.commit()?;
    new.close().map_err(|(_, error)| error)?;
    drop(old);
    aside::announce(directory, outcome).map_err(DiskError::File)?;
    std::fs::rename(directory.beside(NEW), directory.beside(SALVAGED)).map_err(DiskError::File)?;
    directory.sync().map_err(DiskError::File)?;
    finish(directory).map_err(DiskError::File)
}

/// Whether the disk counted before. The mark is the first to say that it does again: the database has that from the redo log.
fn was_whole(facts: &Facts, mark: Option<Mark>) -> bool {
    let newest = mark.and_then(|mark| mark.run).filter(|run| run.incarnation.count >= facts.incarnation.count);
    newest.map_or(facts.impaired_until, |run| run.impaired_until).is_none()
}

/// Brings what is sound of the old database into the new one, which has these facts as far as they are proven.
fn take_over(
    directory: &DataDirectory,
    old: &Old,
    new: &Connection,
    mut facts: Facts,
    mark: Option<Mark>,
) -> Result<Outcome, DiskError> {
    let mut log = copy_log(old, new)?;
    if let Ok(checked) = &old.checked {
        // What the redo log knows of the same disks is newer.
        copy_known(checked, new)?;
    }
    let replayed = replay(directory, old, new, &mut facts, mark)?;
    log.goes_on(new, &replayed, mark)?;
    complete(&mut facts, old, directory, &log, mark);
    // Another disk has acknowledged nothing, and has no word of this one's process runs.
    let is_another = old.facts().is_some_and(|old| old.disk != facts.disk);
    if is_another {
        facts.impaired_until = None;
    }
    log_table::restore(new, &facts)?;
    log_table::set_redo(new, replayed.number)?;
    let is_impaired = facts.impaired_until.is_some();
    let mut all = false;
    if let Ok(checked) = &old.checked {
        if !is_impaired && !is_another {
            copy_deaths(checked, new)?;
        }
        all = unless_damaged(log_table::copy_set_aside(checked, new))?.is_some();
    }
    tracing::error!(
        entries = log.last,
        impaired = is_impaired,
        "the sound entries of its log were saved; the state is made anew from them"
    );
    Ok(match (all, is_impaired) {
        (false, _) => Outcome::Kept,
        (true, true) => Outcome::Lacking,
        (true, false) => Outcome::Recovered,
    })
}

/// Brings what the redo log has into the new database, behind the log that was copied there.
fn replay(
    directory: &DataDirectory,
    old: &Old,
    new: &Connection,
    facts: &mut Facts,
    mark: Option<Mark>,
) -> Result<Replay, DiskError> {
    // Another disk takes it over from the one that it was.
    let whose = old.facts().unwrap_or_else(|| facts.clone());
    let number = old.checked.as_ref().ok().and_then(|checked| log_table::redo(checked).ok());
    tail::replay(directory, new, &recovery::runs(&whose, number, mark), facts)
}

/// Puts the new database in the place of the damaged one, if there is one that waits for that.
pub(crate) fn finish(directory: &DataDirectory) -> io::Result<()> {
    let salvaged = directory.beside(SALVAGED);
    if !salvaged.exists() {
        return Ok(());
    }
    aside::put(directory)?;
    remove(directory, MENDED)?;
    remove_file(&directory.beside("-shm"))?;
    remove_file(&directory.beside(DAMAGE_SUFFIX))?;
    directory.sync()?;
    std::fs::rename(&salvaged, directory.database())?;
    directory.sync()?;
    aside::prune(directory);
    Ok(())
}

/// A new database with every table, under a name that does not count yet.
pub(super) fn fresh(directory: &DataDirectory) -> Result<Connection, DiskError> {
    remove(directory, NEW).map_err(DiskError::File)?;
    let mut new = disk::connect(&directory.beside(NEW), OpenFlags::default())?;
    new.pragma_update(None, "synchronous", "FULL")?;
    // Without a write-ahead log, SQLite may leave a page unwritten that it makes and gives up in one transaction; such a page does not verify.
    new.pragma_update(None, "secure_delete", true)?;
    migrations::migrate(&mut new)?;
    new.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(new)
}

/// What is known of the disk where the row of facts cannot be read.
fn of_mark(id: ReplicaId, mark: &Mark) -> Option<Facts> {
    let run = mark.run?;
    Some(Facts {
        id,
        disk: run.disk,
        cluster: None,
        incarnation: run.incarnation,
        promised: mark.promised,
        committed: run.committed,
        applied: 0,
        impaired_until: run.impaired_until,
    })
}

/// The entries that were copied.
#[derive(Default)]
struct Copied {
    last: u64,
    hash: ChainHash,
    cluster: Option<ClusterId>,
    at_mark: Option<ChainHash>,
    /// Every entry that the table has was read, and follows from the one before it.
    complete: bool,
    /// The redo log goes on behind the table, which was cut back.
    cut_back: bool,
    /// More was durable than could be read of the redo log.
    is_cut: bool,
}

impl Copied {
    /// The redo log's entries are behind the table's.
    fn goes_on(&mut self, new: &Connection, replayed: &Replay, mark: Option<Mark>) -> Result<(), DiskError> {
        (self.cut_back, self.is_cut) = (replayed.cut_back, replayed.is_cut);
        self.last = log_table::last(new)?;
        if let Some(mark) = mark {
            self.at_mark = log_table::place_at(new, mark.index)?.map(|(_, hash)| hash);
        }
        Ok(())
    }
}

/// Copies the log as far as its chain verifies, also from pages that do not.
fn copy_log(old: &Old, new: &Connection) -> Result<Copied, DiskError> {
    let mut copied = Copied::default();
    for old in [old.checked.as_ref().ok(), unchecked(&old.source).ok().as_ref()].into_iter().flatten() {
        if !copied.complete {
            copy_entries(old, new, &mut copied)?;
        }
    }
    Ok(copied)
}

fn copy_entries(old: &Connection, new: &Connection, copied: &mut Copied) -> Result<(), DiskError> {
    let Ok(mut statement) = old.prepare(log_table::SELECT_FROM) else { return Ok(()) };
    let Ok(mut rows) = statement.query([copied.last as i64 + 1]) else { return Ok(()) };
    let mut batches = Batches::new(old);
    loop {
        let entry = match rows.next() {
            Ok(Some(row)) => log_table::entry(row, &mut batches),
            Ok(None) => {
                copied.complete = true;
                return Ok(());
            }
            Err(error) => Err(error),
        };
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                tracing::error!(%error, after = copied.last, "the log cannot be read any further");
                return Ok(());
            }
        };
        if entry.index != copied.last + 1 || !entry.follows(copied.hash) {
            return Ok(());
        }
        if let Body::Founding { cluster, .. } = &entry.body {
            copied.cluster = Some(*cluster);
        }
        (copied.last, copied.hash) = (entry.index, entry.hash);
        log_table::append(new, &entry, None)?;
    }
}

/// How far the log went, as far as anything says so that can be believed.
fn held(checked: &rusqlite::Result<Connection>, log: &Copied, facts: &Facts, mark: Option<Mark>) -> Option<u64> {
    let last = checked.as_ref().ok().and_then(|old| log_table::last(old).ok());
    let last = if log.cut_back { Some(log.last) } else { last };
    let witness = last.max(mark.map(|mark| mark.index))?;
    Some(witness.max(facts.committed).max(facts.applied))
}

/// Brings what is proven of the facts to what the new database is.
fn complete(facts: &mut Facts, old: &Old, directory: &DataDirectory, log: &Copied, mark: Option<Mark>) {
    let from_page = old.facts().is_some();
    if !from_page {
        let identity = directory.identity().filter(|identity| identity.disk == facts.disk);
        facts.cluster = facts.cluster.or(identity.and_then(|identity| identity.cluster)).or(log.cluster);
    }
    if let Some(mark) = mark {
        facts.promised = facts.promised.max(mark.promised);
        facts.committed = facts.committed.max(mark.run.map_or(0, |run| run.committed));
    }
    let held = held(&old.checked, log, facts, mark);
    let differs = mark.is_some_and(|mark| log.at_mark != Some(mark.hash));
    // After a power failure the mark can be behind. Then the database must say what the log held, and its process run.
    let is_last = mark.is_some_and(|mark| mark.is_last);
    let is_unsure = !is_last && (old.is_cut || log.is_cut || !from_page);
    let is_short = held.is_none_or(|held| log.last < held) || log.last < facts.committed;
    if !log.complete || differs || is_unsure || is_short {
        // Without a witness of its end, only what is committed in a later epoch says that it holds everything again.
        let held = held.filter(|_| !is_unsure && (is_last || !differs));
        let until = held.unwrap_or(UNKNOWN_END).max(facts.committed).max(log.last);
        facts.impaired_until = facts.impaired_until.max(Some(until));
    }
    facts.committed = facts.committed.min(log.last);
    // The state is made anew.
    facts.applied = 0;
}

/// What was known of other disks (rule 12).
fn copy_known(old: &Connection, new: &Connection) -> Result<(), DiskError> {
    for member in unless_damaged(log_table::known(old))?.unwrap_or_default() {
        log_table::persist(new, &Persist::Known(member))?;
    }
    Ok(())
}

/// The word on this disk's earlier process runs, which a damaged log does not give (rule 8).
fn copy_deaths(old: &Connection, new: &Connection) -> Result<(), DiskError> {
    for death in unless_damaged(log_table::deaths(old))?.unwrap_or_default() {
        log_table::record_death(new, &death)?;
    }
    Ok(())
}

fn is_unproven(
    checked: &Connection,
    directory: &DataDirectory,
    facts: &Facts,
    mark: Option<Mark>,
) -> rusqlite::Result<bool> {
    recovery::is_unproven(checked, directory, facts.disk, mark)
}

fn unless_damaged<T>(read: rusqlite::Result<T>) -> Result<Option<T>, DiskError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_damage(&error) => Ok(None),
        // There is no such table: it was made in the part of the log that is lost.
        Err(error) if error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_ERROR) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SqliteDisk;
    use std::sync::Arc;

    /// A crash can leave every prefix of what is done to the names, and the next start goes on from there.
    #[test]
    fn a_crash_while_the_files_change_places_loses_nothing() {
        let moved = [&[][..], &[("-wal", ".damaged-1-wal")], &[("-wal", ".damaged-1-wal"), ("", ".damaged-1")]];
        for moved in moved {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
            let (_, old, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
            let before = ["", "-wal"].map(|end| std::fs::read(directory.beside(end)).expect("there"));
            let new = fresh(&directory).expect("made");
            let run = Incarnation { count: 5, nonce: 5 };
            let mark =
                crate::storage::mark::Run { disk: old.disk, incarnation: run, committed: 0, impaired_until: None };
            let mark =
                Mark { index: 0, hash: ChainHash::default(), promised: Epoch::ZERO, run: Some(mark), is_last: true };
            log_table::restore(&new, &of_mark(ReplicaId(1), &mark).expect("it has facts")).expect("restored");
            drop(new);
            std::fs::rename(directory.beside(NEW), directory.beside(SALVAGED)).expect("renamed");
            std::fs::write(directory.beside(DAMAGE_SUFFIX), "noted").expect("written");
            for (from, to) in moved {
                std::fs::rename(directory.beside(from), directory.beside(to)).expect("renamed");
            }
            let (_, member, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("it starts");
            assert_eq!((member.disk, member.incarnation.count), (old.disk, 6), "from the new database");
            let kept =
                ["", "-wal"].map(|end| std::fs::read(directory.beside(&format!(".damaged-1{end}"))).expect("kept"));
            assert!(kept == before, "what was damaged is kept as it was, after {moved:?}");
            for gone in [SALVAGED, NEW, MENDED, DAMAGE_SUFFIX, ".damaged-2"] {
                assert!(!directory.beside(gone).exists(), "{gone}, after {moved:?}");
            }
        }
    }
}
