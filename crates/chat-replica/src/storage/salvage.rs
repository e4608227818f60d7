//! A database that is damaged, or that has no checksums yet, is replaced by a new one with what can be proven of it (rules 2, 12, 15).
//!
//! It is read from a copy in which every page that is a single flipped bit away from its checksum is mended. What is taken over, and what proves it:
//!
//! | what | proof |
//! | --- | --- |
//! | log entries | the chain of hashes, from the first on; that none is missing at the end: the mark, and the facts |
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
use super::damage::{is_damage, is_unreadable};
use super::directory::DataDirectory;
use super::disk::{self, DiskError};
use super::log_table::{self, Facts};
use super::mark::Mark;
use super::migrations;
use super::recovery::{self, UNKNOWN_END};
use crate::protocol::*;
use chat_sqlite_checksum::DAMAGE_SUFFIX;
use chat_sqlite_checksum::PAGE;
use chat_sqlite_checksum::page::{Page, mend};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const NEW: &str = "-new";
const MENDED: &str = "-mended";
const SALVAGED: &str = "-salvaged";
/// In the header of a database that has checksums, beside the reserve itself: so no single damage makes it look like one without.
pub(crate) const APPLICATION_ID: i32 = 0x6368_6174;
/// In its place, once a mark is beside it: where that is gone later, this tells.
pub(crate) const MARKED: i32 = 0x6368_6d6b;

/// Whether the database is one of an earlier version, without checksums.
fn is_unprotected(path: &Path) -> io::Result<bool> {
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(header.starts_with(b"SQLite format 3\0") && header[20] == 0 && header[68..72] == [0; 4]),
    }
}

/// Whether the database comes from where no checksums are: from an earlier version, or, where no replica has run yet, from a backup that
/// another SQLite made, which copies stale ones along.
pub(crate) fn wants_protection(directory: &DataDirectory) -> io::Result<bool> {
    let path = directory.database();
    let is_elsewhere = !directory.mark().exists() && !directory.has_identity();
    let is_copy = is_elsewhere && std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    Ok(is_copy || is_unprotected(&path)?)
}

/// Gives a database of an earlier version, or a backup, checksums: all of it is copied, and the copy takes its place at once or not at all.
pub(crate) fn protect(directory: &DataDirectory) -> Result<(), DiskError> {
    let path = directory.database();
    let mut old = Connection::open(&path)?;
    migrations::migrate(&mut old)?;
    // Nothing may be left in the write-ahead log: it goes with the name.
    let moved: i64 = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if moved != 0 {
        return Err(DiskError::File(io::Error::other("the database is in use by another program")));
    }
    old.close().map_err(|(_, error)| error)?;
    // Its log and journal are gone for good before another file has its name: they would be played into that.
    directory.sync().map_err(DiskError::File)?;
    let new = fresh(directory)?;
    new.execute("ATTACH ? AS old", [format!("file:{}?vfs=unix", escaped(&path))])?;
    let transaction = new.unchecked_transaction()?;
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables: Vec<String> = new.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for table in tables {
        new.execute_batch(&format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM old.{table}"))?;
    }
    transaction.commit()?;
    new.execute_batch("DETACH old")?;
    new.close().map_err(|(_, error)| error)?;
    std::fs::rename(directory.beside(NEW), &path).map_err(DiskError::File)?;
    directory.sync().map_err(DiskError::File)?;
    tracing::warn!(path = %path.display(), "every page of the database has a checksum from now on");
    Ok(())
}

/// Replaces a damaged database. `what` was found; a crash on the way is made good by [`finish`].
pub(crate) fn salvage(
    directory: &DataDirectory,
    id: ReplicaId,
    mark: Option<Mark>,
    what: &str,
) -> Result<(), DiskError> {
    tracing::error!(path = %directory.database().display(), what, "the database is damaged");
    let new = fresh(directory)?;
    let transaction = new.unchecked_transaction()?;
    let old = open_old(directory)?;
    if let Ok(checked) = &old.checked {
        migrations::refuse_newer(checked)?;
    }
    let facts = old.facts();
    if let Some(found) = facts.as_ref().filter(|facts| facts.id != id) {
        return Err(DiskError::OtherReplica { path: directory.database(), found: found.id, wanted: id });
    }
    let is_whole = |facts: &Facts| facts.impaired_until.or(mark.and_then(|mark| mark.run?.impaired_until)).is_none();
    if facts.as_ref().is_some_and(is_whole) {
        aside::all_recovered(directory).map_err(DiskError::File)?;
    }
    aside::room(directory)?;
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

/// Brings what is sound of the old database into the new one, which has these facts as far as they are proven.
fn take_over(
    directory: &DataDirectory,
    old: &Old,
    new: &Connection,
    mut facts: Facts,
    mark: Option<Mark>,
) -> Result<Outcome, DiskError> {
    let log = copy_log(old, new, mark)?;
    complete(&mut facts, old, directory, &log, mark);
    // Another disk has acknowledged nothing, and has no word of this one's process runs.
    let is_another = old.facts().is_some_and(|old| old.disk != facts.disk);
    if is_another {
        facts.impaired_until = None;
    }
    log_table::restore(new, &facts)?;
    let is_impaired = facts.impaired_until.is_some();
    let mut all = false;
    if let Ok(checked) = &old.checked {
        copy_knowledge(checked, new, !is_impaired && !is_another)?;
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
    aside::prune(directory)
}

/// A new database with every table, under a name that does not count yet.
fn fresh(directory: &DataDirectory) -> Result<Connection, DiskError> {
    remove(directory, NEW).map_err(DiskError::File)?;
    let mut new = disk::connect(&directory.beside(NEW), OpenFlags::default())?;
    new.pragma_update(None, "synchronous", "FULL")?;
    // Without a write-ahead log, SQLite may leave a page unwritten that it makes and gives up in one transaction; such a page does not verify.
    new.pragma_update(None, "secure_delete", true)?;
    migrations::migrate(&mut new)?;
    new.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(new)
}

/// The damaged database, to be read from.
struct Old {
    /// A copy of it.
    source: PathBuf,
    /// A connection that gives nothing unproven, if one can be had.
    checked: rusqlite::Result<Connection>,
    /// A part of its log could not be read.
    is_cut: bool,
}

impl Old {
    /// The row of facts, as its page proves it.
    fn facts(&self) -> Option<Facts> {
        self.checked.as_ref().ok().and_then(|old| log_table::facts(old).ok().flatten())
    }
}

/// One without checksums proves nothing, and has nothing better.
fn open_old(directory: &DataDirectory) -> Result<Old, DiskError> {
    let has_checksums = !is_unprotected(&directory.database()).unwrap_or(false);
    let (source, is_cut) = copied(directory, has_checksums).map_err(DiskError::File)?;
    let checked = if has_checksums { checked(&source) } else { unchecked(&source) };
    Ok(Old { source, checked, is_cut })
}

/// A copy of the database, with its log and journal as far as they can be read, and whether one of these had to be cut. `mending`: single flipped
/// bits are turned back in it.
fn copied(directory: &DataDirectory, mending: bool) -> io::Result<(PathBuf, bool)> {
    remove(directory, MENDED)?;
    let path = directory.beside(MENDED);
    let old = match File::open(directory.database()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, false)),
        old => old?,
    };
    let length = old.metadata()?.len();
    let mut new = io::BufWriter::new(File::create(&path)?);
    for number in 1..=length.div_ceil(PAGE as u64) {
        let mut page = [0; PAGE];
        // What cannot be read, or is cut off, stays zero.
        if old.read_exact_at(&mut page, (number - 1) * PAGE as u64).is_err() {
            page.fill(0);
        }
        match if mending { mend(&mut page, number) } else { Page::Sound } {
            Page::Sound => {}
            Page::Mended => tracing::error!(page = number, "one bit had flipped; the copy has it right"),
            // SQLite never wrote it, and never reads it.
            Page::Damaged if page == [0; PAGE] => {}
            Page::Damaged => tracing::error!(page = number, "the page is lost"),
        }
        new.write_all(&page)?;
    }
    new.flush()?;
    let mut is_cut = false;
    for end in ["-wal", "-journal"] {
        is_cut |= !copy_readable(&directory.beside(end), &directory.beside(&format!("{MENDED}{end}")))?;
    }
    Ok((path, is_cut))
}

/// Copies a file up to where it cannot be read. Whether that is its end.
fn copy_readable(from: &Path, to: &Path) -> io::Result<bool> {
    let cut = |error: io::Error| {
        if !is_unreadable(&error) {
            return Err(error);
        }
        tracing::error!(path = %from.display(), %error, "ends where it cannot be read");
        Ok(false)
    };
    let mut old = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return cut(error),
        Ok(old) => old,
    };
    let mut new = File::create(to)?;
    let mut bytes = [0; 16 * PAGE];
    loop {
        match old.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(length) => new.write_all(&bytes[..length])?,
            Err(error) => return cut(error),
        }
    }
}

/// Removes a database of ours that does not count, and all that SQLite and the layer put beside it.
fn remove(directory: &DataDirectory, database: &str) -> io::Result<()> {
    for end in ["", "-journal", "-wal", "-shm", DAMAGE_SUFFIX] {
        remove_file(&directory.beside(&format!("{database}{end}")))?;
    }
    Ok(())
}

fn checked(source: &Path) -> rusqlite::Result<Connection> {
    let old = disk::connect(source, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    disk::keep_log_on_close(&old)?;
    Ok(old)
}

/// Without comparing checksums: for what carries a proof of its own.
fn unchecked(source: &Path) -> rusqlite::Result<Connection> {
    let old = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    disk::keep_log_on_close(&old)?;
    Ok(old)
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
}

/// Copies the log as far as its chain verifies, also from pages that do not.
fn copy_log(old: &Old, new: &Connection, mark: Option<Mark>) -> Result<Copied, DiskError> {
    let mut copied = Copied::default();
    if mark.is_some_and(|mark| mark.index == 0) {
        copied.at_mark = Some(ChainHash::default());
    }
    for old in [old.checked.as_ref().ok(), unchecked(&old.source).ok().as_ref()].into_iter().flatten() {
        if !copied.complete {
            copy_entries(old, new, mark, &mut copied)?;
        }
    }
    Ok(copied)
}

fn copy_entries(old: &Connection, new: &Connection, mark: Option<Mark>, copied: &mut Copied) -> Result<(), DiskError> {
    let Ok(mut statement) = old.prepare(log_table::SELECT_FROM) else { return Ok(()) };
    let Ok(mut rows) = statement.query([copied.last as i64 + 1]) else { return Ok(()) };
    loop {
        let entry = match rows.next() {
            Ok(Some(row)) => log_table::entry(row),
            Ok(None) => {
                copied.complete = true;
                return Ok(());
            }
            Err(error) => Err(error),
        };
        let Ok(entry) = entry else { return Ok(()) };
        if entry.index != copied.last + 1 || !entry.follows(copied.hash) {
            return Ok(());
        }
        if let Body::Founding { cluster, .. } = &entry.body {
            copied.cluster = Some(*cluster);
        }
        if mark.is_some_and(|mark| mark.index == entry.index) {
            copied.at_mark = Some(entry.hash);
        }
        (copied.last, copied.hash) = (entry.index, entry.hash);
        log_table::persist(new, &Persist::Append(entry))?;
    }
}

/// How far the log went, as far as anything says so that can be believed.
fn held(checked: &rusqlite::Result<Connection>, facts: &Facts, mark: Option<Mark>) -> Option<u64> {
    let last = |old: &Connection| old.query_row("SELECT max(idx) FROM log", [], |row| row.get::<_, Option<i64>>(0));
    let last = checked.as_ref().ok().and_then(|old| last(old).ok()).map(|last| last.unwrap_or(0) as u64);
    let witness = last.max(mark.map(|mark| mark.index))?;
    Some(witness.max(facts.committed).max(facts.applied))
}

/// Brings what is proven of the facts to what the new database is.
fn complete(facts: &mut Facts, old: &Old, directory: &DataDirectory, log: &Copied, mark: Option<Mark>) {
    let from_page = old.facts().is_some();
    if !from_page {
        let identity = directory.identity().filter(|identity| identity.disk == facts.disk);
        facts.cluster = identity.and_then(|identity| identity.cluster).or(log.cluster);
    }
    if let Some(mark) = mark {
        facts.promised = facts.promised.max(mark.promised);
        facts.committed = facts.committed.max(mark.run.map_or(0, |run| run.committed));
    }
    let held = held(&old.checked, facts, mark);
    let differs = mark.is_some_and(|mark| log.at_mark != Some(mark.hash));
    // After a power failure the mark can be behind. Then the database must say what the log held, and its process run.
    let is_last = mark.is_some_and(|mark| mark.is_last);
    let is_unsure = !is_last && (old.is_cut || !from_page);
    let reaches = held.is_some_and(|held| log.last >= held) && log.last >= facts.committed;
    if !(log.complete && !differs && !is_unsure && reaches) {
        // Without a witness of its end, only what is committed in a later epoch says that it holds everything again.
        let held = held.filter(|_| !is_unsure && (is_last || !differs));
        let until = held.unwrap_or(UNKNOWN_END).max(facts.committed).max(log.last);
        facts.impaired_until = facts.impaired_until.max(Some(until));
    }
    facts.committed = facts.committed.min(log.last);
    // The state is made anew.
    facts.applied = 0;
}

/// What was known of other disks, and of this one's earlier process runs: a damaged log gives no word of those (rule 8).
fn copy_knowledge(old: &Connection, new: &Connection, whole: bool) -> Result<(), DiskError> {
    for member in unless_damaged(log_table::known(old))?.unwrap_or_default() {
        log_table::persist(new, &Persist::Known(member))?;
    }
    let deaths = unless_damaged(log_table::deaths(old))?.unwrap_or_default();
    for death in deaths.into_iter().filter(|_| whole) {
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

/// For a URI.
fn escaped(path: &Path) -> String {
    let bytes = PathBuf::from(path).into_os_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let escape = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    bytes.as_encoded_bytes().iter().map(escape).collect()
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
