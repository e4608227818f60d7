//! SQLite's write-ahead log: how long it gets, and how it goes into the database.
//!
//! A thread of its own moves it there, so that nobody who writes waits for the 16 MiB of it. While somebody writes, that thread alone never
//! comes to the end of the log; so what is left of it, a few pages, is moved by the writer, after a commit. Then the log starts anew.
//!
//! SQLite's own automatic way would forget a sync that failed, and try again: the kernel then says that all is well, and the log ends at
//! the frames that it dropped. Here a failure fails the next commit, and nothing is tried again (rule 15).

use super::directory::DataDirectory;
use super::disk::{connect, keep_log_on_close};
use super::joined::Joined;
use crate::failpoint::{Point, reach};
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How far the write-ahead log grows before it is moved into the database: 16 MiB in pages.
const CHECKPOINT_PAGES: i32 = 4096;
/// And how far if somebody reads all the time: the log starts anew only when nobody looks at what is in it. From here on the writer moves it.
const CROWDED_PAGES: i32 = 2 * CHECKPOINT_PAGES;
/// How long looks wait at most for the log to start anew.
pub(crate) const GIVE_WAY: Duration = Duration::from_millis(50);
/// How long the writer waits for somebody with a shell, who writes.
const BUSY: Duration = Duration::from_secs(5);
/// So many pages are left to the writer, about.
const LEFT_PAGES: i64 = 64;
/// How often the thread goes over what came meanwhile.
const PASSES: usize = 6;
/// The file's header, and for each page a frame with a header.
const WAL_BYTES: u64 = 32 + CHECKPOINT_PAGES as u64 * (24 + 4096);
/// A log that became longer, by one large transaction or because somebody looked at it for long, is cut to this when it starts anew.
const KEPT_BYTES: i64 = 4 * WAL_BYTES as i64;

/// Where the thread is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    Moving,
    /// All but the last few pages are in the database: the writer's turn.
    Moved,
}

/// Moves one database's write-ahead log. Dropping it waits until its thread is done.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    shared: Arc<Shared>,
    _thread: Joined,
}

#[derive(Debug)]
struct Shared {
    directory: Arc<DataDirectory>,
    stage: Mutex<Stage>,
    /// The thread has left [`Stage::Moving`].
    moved: Condvar,
    /// Tells the thread to move the log; `None` when it is to end.
    wake: Mutex<Option<SyncSender<()>>>,
    /// SQLite only says of a commit that it failed: this is why.
    failed: Mutex<Option<rusqlite::Error>>,
}

impl Checkpointer {
    /// Starts the thread, and has the writer's `connection` tell it after each commit.
    pub fn start(connection: &mut Connection, directory: Arc<DataDirectory>) -> rusqlite::Result<Checkpointer> {
        let (wake, wakes) = sync_channel(1);
        let (wake, failed) = (Mutex::new(Some(wake)), Mutex::new(None));
        let (stage, moved) = (Mutex::new(Stage::Idle), Condvar::new());
        let shared = Arc::new(Shared { directory, stage, moved, wake, failed });
        let (moving, own) = (shared.clone(), open(&shared.directory.database())?);
        let thread = Joined::start("checkpoint", move || moving.run(&own, &wakes));
        let thread = thread.map_err(|_| rusqlite::Error::InvalidQuery)?;
        let after = shared.clone();
        connection.pragma_update(None, "journal_size_limit", KEPT_BYTES)?;
        connection.wal_hook(Some(move |log: &mut Wal, pages| after.committed(log, pages)))?;
        Ok(Checkpointer { shared, _thread: thread })
    }

    /// Why the last commit failed, if that came after all was written.
    pub fn reason(&self) -> Option<rusqlite::Error> {
        lock(&self.shared.failed).take()
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        *lock(&self.shared.wake) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The writer has committed. An error fails that commit; why is kept.
    fn committed(&self, log: &mut Wal, pages: i32) -> rusqlite::Result<()> {
        let crowded = (pages >= CROWDED_PAGES).then(Instant::now);
        self.directory.crowded.send_if_modified(|was| std::mem::replace(was, crowded) != crowded);
        let mut stage = lock(&self.stage);
        if pages >= CROWDED_PAGES {
            // Whoever writes faster than the thread moves waits for it.
            let still = |stage: &mut Stage| *stage == Stage::Moving;
            stage = self.moved.wait_while(stage, still).unwrap_or_else(PoisonError::into_inner);
        }
        if lock(&self.failed).is_some() {
            return Err(rusqlite::Error::InvalidQuery);
        }
        match *stage {
            Stage::Idle if (CHECKPOINT_PAGES..CROWDED_PAGES).contains(&pages) => {
                *stage = Stage::Moving;
                if let Some(wake) = &*lock(&self.wake) {
                    // One is enough: the thread is idle.
                    let _ = wake.try_send(());
                }
                Ok(())
            }
            Stage::Idle if pages < CHECKPOINT_PAGES => Ok(()),
            Stage::Moving => Ok(()),
            Stage::Idle | Stage::Moved => {
                *stage = Stage::Idle;
                drop(stage);
                self.finish(log)
            }
        }
    }

    fn finish(&self, log: &mut Wal) -> rusqlite::Result<()> {
        match log.checkpoint() {
            // The thread, or somebody else with a shell perhaps, is at it.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            Err(error) => {
                lock(&self.failed).replace(error);
                Err(rusqlite::Error::InvalidQuery)
            }
            Ok(()) => Ok(()),
        }
    }

    fn run(&self, connection: &Connection, wakes: &Receiver<()>) {
        while let Ok(()) = wakes.recv() {
            reach(Point::Checkpoint);
            let moved = pass_all(connection);
            reach(Point::AfterCheckpoint);
            let failed = moved.map_err(|error| lock(&self.failed).replace(error)).is_err();
            *lock(&self.stage) = Stage::Moved;
            self.moved.notify_all();
            if failed {
                return;
            }
        }
    }
}

/// Where somebody looks at it all the time, the log starts anew only if they give way for a moment. Called after a commit: if it is [`CROWDED_PAGES`]
/// long, that moment is now.
///
/// # Errors
/// SQLite's own; the process must end.
pub(crate) fn start_anew(connection: &Connection, directory: &DataDirectory) -> rusqlite::Result<()> {
    if directory.crowded.borrow().is_none() {
        return Ok(());
    }
    connection.busy_timeout(GIVE_WAY)?;
    let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |row| row.get(0))?;
    connection.busy_timeout(BUSY)?;
    if !is_busy {
        directory.crowded.send_replace(None);
    }
    Ok(())
}

/// Goes over the log until little of it is left.
fn pass_all(connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..PASSES {
        let left = connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))?;
        if left <= LEFT_PAGES {
            break;
        }
    }
    Ok(())
}

/// With all the file handles that it will want: later there may be none.
fn open(database: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(database, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    keep_log_on_close(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Gives the file of the write-ahead log the length that it will have, so that a sync has no new length to write. SQLite overwrites it from the
/// start; what follows the last of its frames means nothing. Not worth an error: where there is no room, it stays as long as it was.
pub(crate) fn preallocate(wal: &Path) {
    let fill = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(wal)?;
        let length = file.metadata()?.len();
        let zeros = vec![0; 1 << 20];
        let filled = (length..WAL_BYTES).step_by(zeros.len()).try_for_each(|at| {
            let part = zeros.len().min((WAL_BYTES - at) as usize);
            file.write_all_at(&zeros[..part], at)
        });
        filled.or_else(|error| {
            file.set_len(length)?;
            Err(error)
        })
    };
    if let Err(error) = fill() {
        tracing::debug!(wal = %wal.display(), %error, "the write-ahead log grows as it is written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplicaId;

    fn filled(connection: &Connection, rows: usize) -> rusqlite::Result<()> {
        let sql = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO big SELECT zeroblob(4000) FROM n"
        );
        connection.execute_batch(&sql)
    }

    fn database(dir: &tempfile::TempDir) -> (Connection, Arc<DataDirectory>) {
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let connection = connect(&directory.database(), OpenFlags::default()).expect("a new database");
        keep_log_on_close(&connection).expect("set");
        connection.pragma_update(None, "journal_mode", "WAL").expect("set");
        connection.execute_batch("CREATE TABLE big (x)").expect("made");
        (connection, directory)
    }

    fn bytes(path: &Path) -> u64 {
        std::fs::metadata(path).expect("there").len()
    }

    #[test]
    fn the_log_goes_into_the_database_and_starts_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut connection, directory) = database(&dir);
        let checkpointer = Checkpointer::start(&mut connection, directory.clone()).expect("started");
        filled(&connection, 4500).expect("written");
        while *lock(&checkpointer.shared.stage) != Stage::Moved {
            std::thread::yield_now();
        }
        assert!(bytes(&directory.database()) > 4500 * 4000, "the thread has moved it");
        let wal = directory.beside("-wal");
        let before = bytes(&wal);
        (0..3).for_each(|_| filled(&connection, 1000).expect("written"));
        assert_eq!(bytes(&wal), before, "it is written from its start again");
    }

    #[test]
    fn a_log_that_one_transaction_made_long_does_not_stay_so() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut connection, directory) = database(&dir);
        let _checkpointer = Checkpointer::start(&mut connection, directory.clone()).expect("started");
        filled(&connection, 20_000).expect("written");
        let wal = directory.beside("-wal");
        assert!(bytes(&wal) > KEPT_BYTES as u64);
        start_anew(&connection, &directory).expect("nobody looks at it");
        filled(&connection, 1).expect("written");
        assert_eq!(bytes(&wal), KEPT_BYTES as u64);
    }

    #[test]
    fn a_failure_fails_the_next_commit_and_says_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut connection, directory) = database(&dir);
        let checkpointer = Checkpointer::start(&mut connection, directory).expect("started");
        let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        lock(&checkpointer.shared.failed).replace(full);
        filled(&connection, 1).expect_err("what the thread says is what the commit says");
        let said = checkpointer.reason().expect("a reason").to_string();
        assert!(said.contains("full"), "{said}");
    }

    #[test]
    fn a_log_that_was_given_its_length_reads_as_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (connection, directory) = database(&dir);
        filled(&connection, 10).expect("written");
        preallocate(&directory.beside("-wal"));
        filled(&connection, 10).expect("written");
        assert_eq!(bytes(&directory.beside("-wal")), WAL_BYTES);
        drop(connection);
        let again = connect(&directory.database(), OpenFlags::default()).expect("opened");
        let rows: i64 = again.query_row("SELECT count(*) FROM big", [], |row| row.get(0)).expect("readable");
        assert_eq!(rows, 20);
    }
}
