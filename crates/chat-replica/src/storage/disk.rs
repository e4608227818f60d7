//! The writer: one batch, one sync.
//!
//! What a turn makes durable is synced in the redo log. The database takes that in later, together with the state (`intake`).

use super::ahead::{Ahead, Progress};
use super::database::Database;
use super::directory::{DataDirectory, Identity};
use super::intake::Batch;
use super::mark::{Mark, MarkFile, Run};
use super::migrations::{self, MigrationError};
use super::recovery::{self, Standing};
use super::redo::Redo;
use super::state::{STATEMENTS, SqliteState};
use super::tail::{Layers, Tail};
use super::wal::{self, Checkpointer};
use super::write_back::WriteBack;
use super::{brief, damage, protect, salvage, words};
use crate::failpoint::{Point, reach};
use crate::node::Disk;
use crate::protocol::*;
use chat_core::{Applied, Lookup as _, Provenance};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::Notify;

/// The disk failed, or holds what it should not. The process must end; nothing is retried (rule 15).
#[derive(Debug, Error)]
pub enum DiskError {
    /// SQLite's own error.
    #[error("the database failed: {}", words::explained(.0))]
    Database(#[from] rusqlite::Error),
    /// A file beside the database.
    #[error("a file in the data directory failed: {0}")]
    File(#[source] std::io::Error),
    /// The schema.
    #[error(transparent)]
    Migration(#[from] MigrationError),
    /// The database says that it is another replica's.
    #[error("{path} belongs to replica {found}, not to replica {wanted}")]
    OtherReplica {
        /// The database.
        path: PathBuf,
        /// Whose it is.
        found: ReplicaId,
        /// Who wanted it.
        wanted: ReplicaId,
    },
    /// It is damaged, and so many damaged ones are beside it that no more are set aside.
    #[error(
        "{path} is damaged, and {count} damaged ones are beside it already that may hold what nothing else does. Replace the \
         disk, or move them away (replica.db.damaged-*; what came of each is in its -outcome)"
    )]
    NoMoreSetAside {
        /// The database.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A committed batch of commands that this software cannot read.
    #[error("log entry {index} cannot be read: {source}")]
    Unreadable {
        /// The entry.
        index: u64,
        /// Why.
        source: chat_core::codec::DecodeError,
    },
}

impl DiskError {
    /// Whether it says that the database is not what was written.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            DiskError::Database(error) | DiskError::Migration(MigrationError::Sqlite(error)) => {
                damage::is_damage(error)
            }
            _ => false,
        }
    }
}

/// Page cache of the writer, in KiB.
const CACHE_KIB: i32 = 32 * 1024;

/// The SQLite file of one replica, as its only writer.
#[derive(Debug)]
pub struct SqliteDisk {
    /// First, as `database` next, so that their threads have ended before anything else goes.
    ahead: Ahead,
    database: Database,
    directory: Arc<DataDirectory>,
    mark_file: MarkFile,
    redo: Redo,
    /// What was made durable and is not in the database yet.
    tail: Tail,
    /// The log's end as it will be after the turn; what the mark says after its sync.
    end: Mark,
    identity: Identity,
    identity_changed: bool,
    /// What the state's commands changed and is not in the database yet.
    cache: WriteBack,
    /// What was carried out, also of what is not in the database yet.
    standing: Standing,
    committed: u64,
    /// A read that failed: the turn ends with it.
    failed: RefCell<Option<rusqlite::Error>>,
}

impl SqliteDisk {
    /// Opens the file, verifies it, and begins a new process run on it, durably. A damaged one is replaced by a new one with what is sound of
    /// it; one of an earlier version gets checksums. Both can take as long as copying the database.
    ///
    /// # Errors
    /// If it cannot be opened, is another replica's, or was written by newer software. A log that is corrupt is no
    /// error: it comes back as `impaired_until` (rule 15).
    pub fn open(directory: Arc<DataDirectory>, id: ReplicaId) -> Result<(SqliteDisk, Member, Recovered), DiskError> {
        salvage::finish(&directory).map_err(DiskError::File)?;
        if let Some(what) = damage::noted(&directory).filter(|_| directory.database().exists()) {
            let mark = MarkFile::read(&directory.mark()).map_err(DiskError::File)?;
            salvage::salvage(&directory, id, mark, &what)?;
        }
        match SqliteDisk::start(directory.clone(), id) {
            Err(error) if error.is_damage() => {
                let what = damage::note(&directory, &error);
                let mark = MarkFile::read(&directory.mark()).map_err(DiskError::File)?;
                salvage::salvage(&directory, id, mark, &what)?;
                SqliteDisk::start(directory, id)
            }
            started => started,
        }
    }

    fn start(directory: Arc<DataDirectory>, id: ReplicaId) -> Result<(SqliteDisk, Member, Recovered), DiskError> {
        // What cannot even be read for that is SQLite's to find, and then to be salvaged.
        if protect::wants_protection(&directory).unwrap_or(false) {
            protect::protect(&directory)?;
        }
        let mut connection = connect(&directory.database(), OpenFlags::default())?;
        keep_log_on_close(&connection)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS + 16);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let checkpointer = Checkpointer::start(&mut connection, directory.clone())?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "foreign_keys", false)?;
        migrations::migrate(&mut connection)?;
        if connection.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))? == 0 {
            connection.pragma_update(None, "application_id", protect::APPLICATION_ID)?;
        }
        let mark = MarkFile::read(&directory.mark()).map_err(DiskError::File)?;
        let started = recovery::start(&mut connection, &directory, id, mark);
        let (member, recovered, standing) =
            started.map_err(|error| checkpointer.reason().map_or(error, DiskError::Database))?;
        wal::preallocate(&directory.beside("-wal"));
        let redo = Redo::begin(&directory, member, standing.redo_is_readable).map_err(DiskError::File)?;
        let Recovered { promised, impaired_until, .. } = recovered;
        let (disk, incarnation, committed) = (member.disk, member.incarnation, recovered.log.committed);
        let run = Some(Run { disk, incarnation, committed, impaired_until });
        let end = Mark { index: recovered.log.last, hash: recovered.log.last_hash, promised, run, is_last: true };
        // A process run never comes twice, even if the database loses that this one began.
        let mark_file = MarkFile::begin(&directory, end).map_err(DiskError::File)?;
        recovery::remember_mark(&connection)?;
        // From here on a turn is synced in the redo log.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let accounts = SqliteState::new(&connection).counters()?.accounts;
        let identity = Identity { replica: id, disk, cluster: recovered.cluster };
        let database = Database::new(connection, checkpointer, directory.clone(), standing.applied)?;
        let disk = SqliteDisk {
            ahead: Ahead::new(directory.clone(), database.taken(), accounts),
            database,
            directory,
            mark_file,
            redo,
            tail: Tail::after(end.index),
            end,
            identity,
            identity_changed: false,
            cache: WriteBack::new().map_err(DiskError::File)?,
            standing,
            committed,
            failed: RefCell::new(None),
        };
        Ok((disk, member, recovered))
    }

    /// What to say of an error that ends the process. Damage is noted durably first: the next start must know of it even if it does not happen
    /// to read the same page (rule 15).
    pub fn last_words(&self, error: &DiskError) -> String {
        if error.is_damage() { damage::note(&self.directory, error) } else { error.to_string() }
    }

    /// Makes this another disk, durably: it was rolled back or cloned, and must not vote as what it was (rule 12).
    ///
    /// # Errors
    /// If the disk fails.
    pub fn become_another(&mut self) -> Result<(), DiskError> {
        let disk = DiskId(recovery::random());
        // Another disk has no use for this one's redo log.
        self.take_in_all()?;
        let connection = self.database.writer()?;
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        let transaction = connection.transaction()?;
        transaction.execute("UPDATE replica SET disk = ?", [disk.0])?;
        transaction.execute("DELETE FROM deaths", [])?;
        transaction.commit()?;
        self.identity.disk = disk;
        self.end.run = self.end.run.map(|run| Run { disk, ..run });
        self.mark_file.write(self.end).map_err(DiskError::File)?;
        self.directory.identify(&self.identity).map_err(DiskError::File)
    }

    /// Has the database take in everything, and waits for that.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_in_all(&mut self) -> Result<(), DiskError> {
        self.settle_by(true)?;
        if self.is_behind() { self.take_in(false) } else { Ok(()) }
    }

    /// The state, for looking at it between turns.
    pub fn state(&self) -> SqliteState<'_> {
        SqliteState::new(self.database.connection())
    }

    /// Looks up ahead some of what commands will look up, if it is time for that and the replica has come so far. Between turns.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn look_ahead(&mut self, now: Instant, progress: Progress) -> Result<(), DiskError> {
        let state = SqliteState::new(self.database.connection());
        Ok(self.ahead.go_on(now, progress, &mut self.cache, state)?)
    }

    /// When it is time for that; `None`: when the next turn is over, or never again.
    pub fn look_ahead_at(&self, progress: Progress) -> Option<Instant> {
        self.ahead.at(progress)
    }

    /// Told whenever something became visible that did not at once, or was looked up ahead: for the next turn to take note of.
    pub fn shown(&self) -> Arc<Notify> {
        self.database.taken()
    }

    fn log(&self) -> Layers<'_> {
        Layers { connection: self.database.connection(), leaving: self.database.leaving(), tail: &self.tail }
    }

    /// Whether the database does not have everything that it is to have.
    fn is_behind(&self) -> bool {
        self.database.visible() < self.standing.applied || !self.tail.is_empty()
    }

    /// The mark says what the last commit made of the log's end, and what is known committed.
    fn write_mark(&mut self) -> Result<(), DiskError> {
        self.end.run = self.end.run.map(|run| Run { committed: self.committed, ..run });
        self.mark_file.write(self.end).map_err(DiskError::File)
    }

    /// All that was made durable and carried out and that the database does not have yet.
    fn batch(&mut self, durably: bool) -> Batch {
        Batch {
            tail: self.tail.take(),
            changes: self.cache.hand_over(),
            committed: self.committed,
            applied: self.standing.applied,
            views: self.standing.views.as_mut().map(|views| views.up_to(self.committed)),
            number: self.redo.number(),
            durably,
        }
    }

    /// The database takes in everything, here and now.
    fn take_in(&mut self, durably: bool) -> Result<(), DiskError> {
        self.settle_by(true)?;
        let batch = self.batch(durably);
        let took = self.database.take_in(&batch)?;
        self.cache.landed(took);
        Ok(())
    }

    /// Takes note of what the database has taken in since, or waits for it.
    fn settle_by(&mut self, waiting: bool) -> Result<(), DiskError> {
        if let Some(took) = self.database.settle(waiting)? {
            self.cache.landed(took);
        }
        Ok(())
    }

    /// Follows the log's end; before a cut back the mark is lowered, so that it never promises too much.
    fn note_end(&mut self, what: &Persist) -> Result<(), DiskError> {
        match what {
            Persist::Append(entry) => self.end = Mark { index: entry.index, hash: entry.hash, ..self.end },
            Persist::Promise(promised) => self.end.promised = *promised,
            Persist::CutBack(from) => {
                let index = from - 1;
                self.end = Mark { index, hash: self.log().hash_at(index)?, ..self.end };
                self.mark_file.lower(self.end).map_err(DiskError::File)?;
                reach(Point::CuttingBack);
            }
            Persist::Cluster(cluster) => {
                self.identity.cluster = Some(*cluster);
                self.identity_changed = true;
            }
            Persist::Repaired => self.end.run = self.end.run.map(|run| Run { impaired_until: None, ..run }),
            Persist::Known(_) => {}
        }
        Ok(())
    }
}

/// A connection that verifies every page that it reads.
pub(crate) fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags_and_vfs(path, flags, chat_sqlite_checksum::VFS)?;
    // Else SQLite takes a LIMIT's value for a reason to plan anew, and compiles the statement each time that it is run.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// The end of a process must not look different from its crash: what is in the log's file stays there.
pub(crate) fn keep_log_on_close(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

impl LogRead for SqliteDisk {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        self.log().read(from, max_bytes).unwrap_or_else(|error| {
            self.failed.replace(Some(error));
            Vec::new()
        })
    }
}

impl Disk for SqliteDisk {
    type Error = DiskError;

    fn applied(&self) -> u64 {
        self.standing.applied
    }

    fn visible(&self) -> u64 {
        self.database.visible()
    }

    fn is_full(&self) -> bool {
        self.cache.is_full() || self.redo.is_full(self.database.durable())
    }

    fn is_overfull(&self) -> bool {
        self.cache.is_overfull()
    }

    fn is_showing(&self) -> bool {
        self.database.is_busy()
    }

    fn settle(&mut self) -> Result<(), DiskError> {
        self.settle_by(false)
    }

    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, DiskError> {
        let mut results = Vec::new();
        if let Body::Commands(batch) = &entry.body {
            let unreadable = |source| DiskError::Unreadable { index: entry.index, source };
            let (commands, parts) = chat_core::codec::split(batch).map_err(unreadable)?;
            if !commands.iter().all(WriteBack::takes) {
                self.settle_by(true)?;
                self.database.begin()?;
            }
            let replica = entry.epoch.replica.0;
            let provenance = Provenance { index: entry.index, round: entry.epoch.round, replica };
            let mut state = self.cache.over(SqliteState::new(self.database.connection()));
            results.reserve(commands.len());
            state.recall(&commands);
            for command in &commands {
                results.push(chat_core::apply(&mut state, provenance, command)?);
            }
            state.finish()?;
            if let Some(brief) = brief::brief(batch, &commands, &parts, &results) {
                self.tail.note_brief(entry.index, brief);
            }
        }
        self.standing.applied = entry.index;
        Ok(results)
    }

    fn persist(&mut self, what: &Persist) -> Result<(), DiskError> {
        self.note_end(what)?;
        if let Some(views) = &mut self.standing.views {
            views.note(what);
        }
        self.redo.add(what);
        self.tail.note(what.clone());
        Ok(())
    }

    fn set_committed(&mut self, committed: u64) {
        self.committed = self.committed.max(committed);
    }

    fn commit(&mut self) -> Result<(), DiskError> {
        if let Some(error) = self.failed.take() {
            return Err(DiskError::Database(error));
        }
        let durable = self.database.durable();
        let is_durable = !self.redo.is_waiting() || self.redo.sync(durable).map_err(DiskError::File)?;
        if self.database.is_in_transaction() || !is_durable {
            self.take_in(!is_durable)?;
        }
        reach(Point::BeforeMark);
        self.write_mark()?;
        if std::mem::take(&mut self.identity_changed) {
            self.directory.identify(&self.identity).map_err(DiskError::File)?;
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), DiskError> {
        let durably = self.redo.is_full(self.database.durable());
        if self.database.is_busy() || !(self.is_behind() || durably) {
            return Ok(());
        }
        if self.cache.is_little() && !durably {
            self.take_in(false)?;
        } else {
            let batch = self.batch(durably);
            self.database.hand_over(batch)?;
        }
        self.write_mark()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_mark_of_a_database_that_is_gone_says_nothing_of_a_new_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let (mut disk, old, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        let epoch = Epoch { round: 1, replica: ReplicaId(1) };
        let entry = Entry::chained(ChainHash::default(), 1, epoch, Body::Commands(Default::default()));
        disk.persist(&Persist::Append(entry)).expect("persisted");
        disk.commit().expect("committed");
        drop(disk);
        for end in ["", "-wal", "-shm"] {
            let file = format!("{}{end}", directory.database().display());
            std::fs::remove_file(file).expect("removed");
        }
        let (_, new, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("a new disk");
        assert!(!new.same_disk(&old));
        assert_eq!(found.impaired_until, None);
    }

    /// The mark is lowered to an entry's hash: if that cannot be read, the process ends, and the mark says what it said.
    #[test]
    fn a_cut_behind_an_entry_that_cannot_be_read_fails() {
        use std::os::unix::fs::FileExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let (mut disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        let epoch = Epoch { round: 1, replica: ReplicaId(1) };
        let (mut hash, marker) = (ChainHash::default(), [0xa5; 3000]);
        for index in 1..=4 {
            let entry = Entry::chained(hash, index, epoch, Body::Commands(marker.to_vec().into()));
            hash = entry.hash;
            disk.persist(&Persist::Append(entry)).expect("persisted");
        }
        disk.commit().expect("committed");
        disk.take_in_all().expect("taken in");
        let before = MarkFile::read(&directory.mark()).expect("readable");
        // Whoever else writes makes the page cache forget.
        let other = connect(&directory.database(), OpenFlags::default()).expect("opened");
        other.execute_batch("CREATE TABLE other (x); DROP TABLE other").expect("written");
        other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
        let bytes = std::fs::read(directory.database()).expect("readable");
        let file = std::fs::OpenOptions::new().write(true).open(directory.database()).expect("there");
        for (page, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
            if page.windows(1000).any(|bytes| bytes == &marker[..1000]) {
                file.write_all_at(&[0; 8], at + 3000).expect("written");
            }
        }
        let error = disk.persist(&Persist::CutBack(3)).expect_err("entry 2 cannot be read");
        assert!(error.is_damage(), "{error}");
        assert_eq!(MarkFile::read(&directory.mark()).expect("readable"), before);
        drop(disk);

        let (mut disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("saved");
        disk.persist(&Persist::CutBack(9)).expect_err("there is no entry 8");
        disk.persist(&Persist::CutBack(1)).expect("the empty log has a hash");
        let lowered = MarkFile::read(&directory.mark()).expect("readable");
        assert_eq!(lowered.map(|mark| (mark.index, mark.hash)), Some((0, ChainHash::default())));
    }

    #[test]
    fn a_log_that_lost_its_end_is_damaged_and_keeps_its_promise() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let (mut disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        let (first, later) = (Epoch { round: 1, replica: ReplicaId(1) }, Epoch { round: 9, replica: ReplicaId(2) });
        let one = Entry::chained(ChainHash::default(), 1, first, Body::Commands(Default::default()));
        let two = Entry::chained(one.hash, 2, later, Body::Commands(Default::default()));
        let wal = std::path::PathBuf::from(format!("{}-wal", directory.database().display()));
        let write = |disk: &mut SqliteDisk, what: &[Persist]| {
            what.iter().for_each(|what| disk.persist(what).expect("persisted"));
            disk.commit().expect("committed");
            disk.take_in_all().expect("taken in");
        };
        write(&mut disk, &[Persist::Append(one)]);
        let before = std::fs::read(&wal).expect("there");
        write(&mut disk, &[Persist::Promise(later), Persist::Append(two)]);
        drop(disk);
        // As after a flipped bit in the first frame of the second transaction: SQLite takes no notice. And the redo log has gone on since.
        std::fs::write(&wal, before).expect("written");
        std::fs::remove_file(directory.redo()).expect("removed");
        let (_, _, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("readable");
        assert_eq!(
            (found.log.last, found.impaired_until),
            (1, Some(2)),
            "shorter than acknowledged: corrupt, not short"
        );
        assert_eq!(found.promised, later, "rule 2 holds for what was promised");
    }

    /// The deletion of an account has the database take in everything at once, but not durably: the area that the turn left is still full then.
    #[test]
    fn an_area_that_is_full_does_not_wait_for_the_next_turn() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let (mut disk, _, _) = SqliteDisk::open(directory, ReplicaId(1)).expect("a new disk");
        let (epoch, mut hash) = (Epoch { round: 1, replica: ReplicaId(1) }, ChainHash::default());
        for index in 1..=3 {
            let entry = Entry::chained(hash, index, epoch, Body::Commands(vec![7; 3 << 20].into()));
            hash = entry.hash;
            if index == 3 {
                disk.database.begin().expect("opened");
            }
            disk.persist(&Persist::Append(entry)).expect("persisted");
            disk.commit().expect("committed");
        }
        assert!(disk.is_full(), "the first area");
        disk.show().expect("handed over");
        disk.settle_by(true).expect("taken in");
        assert!(!disk.is_full(), "else whoever turns while it is has no rest");
    }

    /// What a run of the protocol has made durable.
    #[derive(Default)]
    struct Acknowledged {
        log: Vec<Entry>,
        promised: Epoch,
        known: u64,
    }

    #[derive(Clone, Debug)]
    enum Turn {
        Append {
            bytes: usize,
        },
        CutBack(u64),
        Promise,
        Known,
        /// It changes the database at once.
        Transaction,
        Show,
        HandOver,
    }

    fn turn() -> impl Strategy<Value = Turn> {
        prop_oneof![
            4 => (1..4usize).prop_map(|size| Turn::Append { bytes: size << 20 }),
            3 => (0..9000usize).prop_map(|bytes| Turn::Append { bytes }),
            1 => (1..4u64).prop_map(Turn::CutBack),
            1 => Just(Turn::Promise),
            1 => Just(Turn::Known),
            1 => Just(Turn::Transaction),
            1 => Just(Turn::Show),
            2 => Just(Turn::HandOver),
        ]
    }

    fn seen(count: u64) -> Member {
        Member { id: ReplicaId(2), disk: DiskId([2; 16]), incarnation: Incarnation { count, nonce: count } }
    }

    impl Acknowledged {
        fn carry_out(&mut self, disk: &mut SqliteDisk, turn: &Turn) {
            let last = self.log.last().map(|last| last.hash).unwrap_or_default();
            let epoch = Epoch { round: 1, replica: ReplicaId(1) };
            let entry = |log: &Vec<Entry>, hash, bytes| {
                Entry::chained(hash, log.len() as u64 + 1, epoch, Body::Commands(vec![log.len() as u8; bytes].into()))
            };
            let mut what = Vec::new();
            match turn {
                Turn::Append { bytes } => what.push(Persist::Append(entry(&self.log, last, *bytes))),
                Turn::CutBack(count) => {
                    let from = (self.log.len() as u64 + 1).saturating_sub(*count).max(1);
                    self.log.truncate(from as usize - 1);
                    let last = self.log.last().map(|last| last.hash).unwrap_or_default();
                    what.extend([
                        Persist::CutBack(from),
                        Persist::Append(entry(&self.log, last, 100 + *count as usize)),
                    ]);
                }
                Turn::Promise => {
                    self.promised = Epoch { round: self.promised.round + 1, replica: ReplicaId(3) };
                    what.push(Persist::Promise(self.promised));
                }
                Turn::Known => {
                    self.known += 1;
                    what.push(Persist::Known(seen(self.known)));
                }
                Turn::Transaction => {
                    disk.settle_by(true).expect("taken in");
                    disk.database.begin().expect("opened");
                    what.push(Persist::Append(entry(&self.log, last, 10)));
                }
                Turn::Show => disk.show().expect("shown"),
                Turn::HandOver => {
                    disk.settle_by(true).expect("taken in");
                    let batch = disk.batch(disk.redo.is_full(disk.database.durable()));
                    disk.database.hand_over(batch).expect("handed over");
                }
            }
            for what in &what {
                disk.persist(what).expect("persisted");
                if let Persist::Append(entry) = what {
                    self.log.push(entry.clone());
                }
            }
            disk.commit().expect("committed");
            if disk.is_full() && !disk.is_showing() {
                disk.show().expect("shown");
            }
        }
    }

    fn database(directory: &DataDirectory) -> [Vec<u8>; 2] {
        ["", "-wal"].map(|end| std::fs::read(directory.beside(end)).expect("readable"))
    }

    fn was_written_in_another_boot(directory: &DataDirectory) {
        let mut mark = std::fs::read(directory.mark()).expect("readable");
        for at in [0, 4096] {
            mark[at + 100..at + 116].fill(9);
            let check = blake3::hash(&mark[at..at + 116]);
            mark[at + 116..at + 132].copy_from_slice(&check.as_bytes()[..16]);
        }
        std::fs::write(directory.mark(), mark).expect("written");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

        /// The power takes what was not synced: the database is as it was when it was synced last, and the mark behind perhaps.
        #[test]
        fn a_power_cut_takes_nothing_that_was_acknowledged(
            runs in prop::collection::vec(prop::collection::vec(turn(), 1..24), 1..4),
            salvaged in any::<bool>(),
            another_boot in any::<bool>(),
        ) {
            let memory = Path::new("/dev/shm");
            let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            let dir = dir.expect("a temporary directory");
            let mut acknowledged = Acknowledged::default();
            for turns in runs {
                let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
                let (mut disk, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("opened");
                prop_assert_eq!(found.impaired_until, None);
                prop_assert_eq!(found.promised, acknowledged.promised);
                prop_assert!(disk.read(1, usize::MAX) == acknowledged.log);
                let known = (acknowledged.known > 0).then(|| seen(acknowledged.known));
                prop_assert_eq!(found.known, known.into_iter().collect::<Vec<_>>());
                let (mut synced, mut durable) = (database(&directory), 0);
                for turn in &turns {
                    acknowledged.carry_out(&mut disk, turn);
                    disk.settle().expect("taken in");
                    if disk.database.durable() > durable && !disk.database.is_busy() {
                        (synced, durable) = (database(&directory), disk.database.durable());
                    }
                }
                prop_assume!(disk.database.durable() == durable);
                drop(disk);
                for (end, bytes) in ["", "-wal"].into_iter().zip(&synced) {
                    std::fs::write(directory.beside(end), bytes).expect("written");
                }
                let _ = std::fs::remove_file(directory.beside("-shm"));
                if another_boot {
                    was_written_in_another_boot(&directory);
                }
                if salvaged {
                    std::fs::write(directory.beside("-damage"), "noted").expect("written");
                }
            }
        }
    }
}
