//! The database takes in what waits for it, a batch in one transaction: where much waits, on a thread of its own.
//!
//! That transaction is not synced: the redo log has all that is in it. Now and then the database is synced, so that the redo log can be written from its
//! beginning again.

use super::directory::DataDirectory;
use super::joined::Joined;
use super::log_table;
use super::state::SqliteState;
use super::tail::Tail;
use super::wal;
use super::write_back::Waiting;
use crate::failpoint::{Point, reach};
use rusqlite::{Connection, Result};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What the database takes in at once: all that was made durable and carried out up to a turn.
#[derive(Debug)]
pub(super) struct Batch {
    /// The end of the log, and facts.
    pub tail: Tail,
    /// What commands changed.
    pub changes: Arc<Waiting>,
    pub committed: u64,
    /// The last entry that was carried out.
    pub applied: u64,
    pub views: Option<u64>,
    /// The last turn.
    pub number: u64,
    /// Whether the database is synced then.
    pub durably: bool,
}

impl Batch {
    /// Puts it into the open transaction, and commits that. Returns how long that took, without what only now and then comes after it.
    ///
    /// # Errors
    /// SQLite's own; the process must end.
    pub fn write(&self, connection: &Connection, directory: &DataDirectory) -> Result<Duration> {
        let begun = Instant::now();
        self.tail.write(connection)?;
        self.changes.write(&mut SqliteState::new(connection))?;
        log_table::set_progress(connection, self.committed, self.applied, self.views, self.number)?;
        reach(Point::TakingIn);
        run(connection, "COMMIT")?;
        reach(Point::TakenIn);
        let took = begun.elapsed();
        wal::start_anew(connection, directory)?;
        if self.durably {
            sync(connection)?;
        }
        Ok(took)
    }
}

/// Runs a statement again and again without compiling it again.
pub(super) fn run(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// Syncs the database, and with it all that was committed before.
fn sync(connection: &Connection) -> Result<()> {
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    log_table::count_sync(connection)?;
    connection.execute_batch("PRAGMA synchronous = NORMAL")
}

/// The thread. It has the writer's connection while it is at work. Dropping this waits until it is done.
#[derive(Debug)]
pub(super) struct Intake {
    /// Without it, the thread ends.
    orders: SyncSender<(Connection, Arc<Batch>)>,
    _thread: Joined,
    done: Receiver<(Connection, Result<Duration>)>,
    /// Told whenever a batch was taken in.
    pub taken: Arc<Notify>,
}

impl Intake {
    /// # Errors
    /// If there can be no more threads.
    pub fn start(directory: Arc<DataDirectory>) -> io::Result<Intake> {
        let (orders, inbox) = sync_channel(1);
        let (outbox, done) = sync_channel(1);
        let taken = Arc::new(Notify::new());
        let tell = taken.clone();
        let thread = Joined::start("intake", move || work(&inbox, &outbox, &tell, &directory))?;
        Ok(Intake { orders, _thread: thread, done, taken })
    }

    /// Has the batch written. One at a time: there is one connection.
    pub fn begin(&self, connection: Connection, batch: Arc<Batch>) -> io::Result<()> {
        self.orders.send((connection, batch)).map_err(|_| ended())
    }

    /// The connection, and what came of the batch, if it is done; with `wait`, once it is.
    pub fn done(&self, wait: bool) -> io::Result<Option<(Connection, Result<Duration>)>> {
        use std::sync::mpsc::TryRecvError::{Disconnected, Empty};
        if wait {
            return self.done.recv().map(Some).map_err(|_| ended());
        }
        match self.done.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(Empty) => Ok(None),
            Err(Disconnected) => Err(ended()),
        }
    }
}

/// Its thread is gone: it has panicked.
pub(super) fn ended() -> io::Error {
    io::Error::other("the thread that writes the state has ended")
}

fn work(
    inbox: &Receiver<(Connection, Arc<Batch>)>,
    outbox: &SyncSender<(Connection, Result<Duration>)>,
    taken: &Notify,
    directory: &DataDirectory,
) {
    // Freed here when the next one comes: whoever carries out commands has better things to do.
    let mut _last = None;
    for (connection, batch) in inbox {
        let written = run(&connection, "BEGIN IMMEDIATE").and_then(|()| batch.write(&connection, directory));
        if outbox.send((connection, written)).is_err() {
            return;
        }
        taken.notify_one();
        _last = Some(batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DiskId, ReplicaId};
    use crate::storage::migrations;
    use rusqlite::hooks::Wal;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// SQLite syncs nothing, however it is told to, where a transaction leaves every row as it was.
    #[test]
    fn the_database_is_synced_by_a_commit_that_writes_something() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut connection = Connection::open(dir.path().join("db")).expect("a new database");
        connection.pragma_update(None, "journal_mode", "WAL").expect("set");
        connection.pragma_update(None, "synchronous", "NORMAL").expect("set");
        migrations::migrate(&mut connection).expect("made");
        log_table::insert_replica(&connection, ReplicaId(1), DiskId([1; 16])).expect("inserted");
        let commits = Arc::new(AtomicU64::new(0));
        let count = commits.clone();
        let committed = move |_: &mut Wal, _| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        connection.wal_hook(Some(committed)).expect("set");
        for number in [7, 7, 8] {
            log_table::set_progress(&connection, 3, 3, None, number).expect("written");
            let before = commits.load(Ordering::SeqCst);
            sync(&connection).expect("synced");
            assert_eq!(commits.load(Ordering::SeqCst), before + 1, "turn {number}");
        }
    }
}
