//! Connections that look at the state beside the writer, and never block it.

use super::directory::DataDirectory;
use super::state::{STATEMENTS, SqliteState};
use super::{damage, disk};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

/// How many may read at the same time; more wait their turn.
const CONNECTIONS: usize = 4;
/// Page cache of each, in KiB.
const CACHE_KIB: i32 = 16 * 1024;
/// How long after a commit looks wait at most, if the write-ahead log wants a moment without any.
const GIVE_WAY: Duration = Duration::from_millis(50);

/// A few read-only connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    directory: Arc<DataDirectory>,
}

impl Readers {
    /// Readers of the database in this directory, which exists.
    pub fn new(directory: Arc<DataDirectory>) -> Readers {
        let shared = Shared { turns: Arc::new(Semaphore::new(CONNECTIONS)), idle: Mutex::new(Vec::new()), directory };
        Readers { shared: Arc::new(shared) }
    }

    /// Runs `look` on a connection, in one snapshot of what was committed when it began.
    ///
    /// Cancel safe: dropping the future lets a look that has begun run to its end, unheard.
    ///
    /// # Errors
    /// SQLite's own. One that says that the database is damaged is noted, and ends the process that watches the directory (rule 15).
    pub async fn read<T, F>(&self, look: F) -> rusqlite::Result<T>
    where
        F: FnOnce(&SqliteState<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let shared = self.shared.clone();
        let Ok(turn) = self.shared.turns.clone().acquire_owned().await else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let crowded = *self.shared.directory.crowded.borrow();
        if let Some(since) = crowded {
            let mut crowded = self.shared.directory.crowded.subscribe();
            // No longer: perhaps nobody writes any more, and then there is nothing to make room for.
            let _ = timeout_at(since + GIVE_WAY, crowded.wait_for(Option::is_none)).await;
        }
        let run = move || {
            // Until the look ends, even if nobody waits for it any more: else those who give up make ever more connections.
            let _turn = turn;
            shared.look(look).inspect_err(|error| shared.note(error))
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            // The process is ending.
            Err(_) => Err(rusqlite::Error::InvalidQuery),
        }
    }
}

/// Looks at the state in a database file, in one snapshot, whether its replica runs or not. Changes nothing.
///
/// # Errors
/// SQLite's own.
pub fn look<T>(database: &Path, look: impl FnOnce(&SqliteState<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let connection = open(database)?;
    connection.execute_batch("BEGIN")?;
    look(&SqliteState::new(&connection))
}

fn open(database: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = disk::connect(database, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

impl Shared {
    fn look<T>(&self, look: impl FnOnce(&SqliteState<'_>) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let connection = self.take()?;
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = look(&SqliteState::new(&connection))?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        self.give_back(connection);
        Ok(result)
    }

    /// Rule 15: what is damaged ends the process, whoever finds it.
    fn note(&self, error: &rusqlite::Error) {
        if damage::is_damage(error) {
            let what = damage::note(&self.directory, error);
            self.directory.damaged.send_replace(Some(what));
        }
    }

    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| open(&self.directory.database()), Ok)
    }

    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Disk as _;
    use crate::protocol::*;
    use crate::storage::SqliteDisk;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Looks for as long as the writer writes, so that there is no moment without one, but for those that readers give.
    async fn look_all_the_time(readers: Readers, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let stop = stop.clone();
            let look = readers.read(move |state| {
                for _ in 0..2000 {
                    state.applied()?;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Ok(())
            });
            look.await.expect("readable");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_do_not_make_the_log_grow_for_ever() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("1");
        let directory = Arc::new(DataDirectory::take(&path, ReplicaId(1)).expect("free"));
        let (mut disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        let (readers, stop) = (Readers::new(directory), Arc::new(AtomicBool::new(false)));
        let looking: Vec<_> = (0..8).map(|_| tokio::spawn(look_all_the_time(readers.clone(), stop.clone()))).collect();
        let write = move || {
            let (epoch, mut hash) = (Epoch { round: 1, replica: ReplicaId(1) }, ChainHash::default());
            for index in 1..=1500 {
                let entry = Entry::chained(hash, index, epoch, Body::Commands(vec![7; 100_000].into()));
                hash = entry.hash;
                disk.begin(true).expect("begun");
                disk.persist(&Persist::Append(entry)).expect("persisted");
                disk.commit().expect("committed");
            }
        };
        tokio::task::spawn_blocking(write).await.expect("written");
        stop.store(true, Ordering::Relaxed);
        for looked in looking {
            looked.await.expect("read");
        }
        let size = std::fs::metadata(path.join("replica.db-wal")).expect("there").len() >> 20;
        assert!(size < 48, "{size} MiB, after 150 were written");
    }
}
