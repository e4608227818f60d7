//! Connections that look at the state beside the writer, and never block it.

use super::directory::DataDirectory;
use super::state::{STATEMENTS, SqliteState};
use super::wal::GIVE_WAY;
use super::{damage, disk};
use rusqlite::{Connection, OpenFlags};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

/// How many may read at the same time; more wait their turn.
const CONNECTIONS: usize = 4;
/// Page cache of each, in KiB. Leaves of a large service are seldom asked for twice, and the kernel keeps them, too: 16 MiB, which do not fit into a core's own
/// cache, made a page of a conversation cost a tenth more.
const CACHE_KIB: i32 = 2 * 1024;
/// How many looks stand in line at most; who comes then waits for a place.
const LINE: usize = 256;

/// A few read-only connections. Cheap to clone.
///
/// Looks stand in one line, and each connection that is in use takes the next until the line is empty: so a look wakes a thread only where
/// few read.
#[derive(Clone, Debug)]
pub struct Readers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    places: Arc<Semaphore>,
    line: Mutex<Line>,
    directory: Arc<DataDirectory>,
    /// Whose threads read: one runtime's for all who ask, wherever they are, as each has threads of its own.
    runtime: Handle,
}

/// A look that is to be made, on the connection in that place, or on a new one that it puts there. Afterwards the place is empty if that is not to
/// be used again.
type Look = Box<dyn FnOnce(&Shared, &mut Option<Connection>) + Send>;

#[derive(Default)]
struct Line {
    looks: VecDeque<Look>,
    /// Connections in use.
    busy: usize,
    idle: Vec<Connection>,
}

impl Readers {
    /// Readers of the database in this directory, which exists, on threads of the current tokio runtime.
    ///
    /// # Panics
    /// Outside of one.
    pub fn new(directory: Arc<DataDirectory>) -> Readers {
        let (places, runtime) = (Arc::new(Semaphore::new(LINE)), Handle::current());
        Readers { shared: Arc::new(Shared { places, line: Mutex::default(), directory, runtime }) }
    }

    /// Runs `look` on a connection, in one snapshot of what was committed when it began.
    ///
    /// Cancel safe: dropping the future lets a look that has begun run to its end, unheard; one that has not is not made.
    ///
    /// # Errors
    /// SQLite's own. One that says that the database is damaged is noted, and ends the process that watches the directory (rule 15).
    pub async fn read<T, F>(&self, look: F) -> rusqlite::Result<T>
    where
        F: FnOnce(&SqliteState<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let Ok(place) = self.shared.places.clone().acquire_owned().await else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let (answer, answered) = oneshot::channel();
        let look = move |shared: &Shared, connection: &mut Option<Connection>| {
            if !answer.is_closed() {
                let result = shared.look(connection, look).inspect_err(|error| shared.note(error));
                // Kept until now, even if nobody waits any more: else those who give up make the line ever longer.
                drop(place);
                let _ = answer.send(result);
            }
        };
        if self.shared.put_in_line(Box::new(look)) {
            let shared = self.shared.clone();
            self.shared.runtime.spawn_blocking(move || shared.work());
        }
        // Else the process is ending.
        answered.await.unwrap_or(Err(rusqlite::Error::InvalidQuery))
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

/// A connection that only reads.
pub(super) fn open(database: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = disk::connect(database, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

/// If the write-ahead log wants a moment without looks, this thread gives it one.
pub(super) fn give_way(directory: &DataDirectory) {
    let Some(since) = *directory.crowded.borrow() else { return };
    // No longer: perhaps nobody writes any more, and then there is nothing to make room for.
    while directory.crowded.borrow().is_some() && since.elapsed() < GIVE_WAY {
        std::thread::sleep(GIVE_WAY / 50);
    }
}

impl Shared {
    /// Whether one more connection is to [`work`](Self::work).
    fn put_in_line(&self, look: Look) -> bool {
        let line = &mut *self.line();
        line.looks.push_back(look);
        let wanted = line.busy < CONNECTIONS;
        line.busy += usize::from(wanted);
        wanted
    }

    /// Makes the looks in line, one after the other, until none is left. Blocks.
    fn work(&self) {
        let mut connection = self.line().idle.pop();
        while let Some(look) = self.next(&mut connection) {
            give_way(&self.directory);
            // Whoever asked hears of it as of the process's end; the others in line must not wait for ever.
            if catch_unwind(AssertUnwindSafe(|| look(self, &mut connection))).is_err() {
                connection = None;
            }
        }
    }

    /// The first in line. `None`: there is none, and the connection is no longer in use.
    fn next(&self, connection: &mut Option<Connection>) -> Option<Look> {
        let line = &mut *self.line();
        let next = line.looks.pop_front();
        if next.is_none() {
            line.busy -= 1;
            line.idle.extend(connection.take());
        }
        next
    }

    /// After an error, the connection is not used again.
    fn look<T>(
        &self,
        kept: &mut Option<Connection>,
        look: impl FnOnce(&SqliteState<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let connection = kept.take().map_or_else(|| open(&self.directory.database()), Ok)?;
        connection.prepare_cached("BEGIN")?.execute([])?;
        let result = look(&SqliteState::new(&connection))?;
        connection.prepare_cached("COMMIT")?.execute([])?;
        *kept = Some(connection);
        Ok(result)
    }

    /// Rule 15: what is damaged ends the process, whoever finds it.
    fn note(&self, error: &rusqlite::Error) {
        if damage::is_damage(error) {
            let what = damage::note(&self.directory, error);
            self.directory.damaged.send_replace(Some(what));
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} looks, {} connections busy)", self.looks.len(), self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Disk as _;
    use crate::protocol::*;
    use crate::storage::SqliteDisk;
    use futures_util::FutureExt as _;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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

    fn readers(dir: &Path) -> Readers {
        let directory = Arc::new(DataDirectory::take(&dir.join("1"), ReplicaId(1)).expect("free"));
        SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        Readers::new(directory)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_looks_share_a_few_connections() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let readers = readers(dir.path());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let looking = (0..2 * LINE).map(|number| {
            let (readers, now, most) = (readers.clone(), now.clone(), most.clone());
            tokio::spawn(async move {
                let look = readers.read(move |state| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let applied = state.applied();
                    now.fetch_sub(1, Ordering::SeqCst);
                    // Some fail: their connections are not used again, and nobody else notices.
                    if number % 10 == 0 { Err(rusqlite::Error::QueryReturnedNoRows) } else { applied }
                });
                assert_eq!(look.await.is_err(), number % 10 == 0);
            })
        });
        for looked in looking.collect::<Vec<_>>() {
            looked.await.expect("as it should be");
        }
        assert!((1..=CONNECTIONS).contains(&most.load(Ordering::SeqCst)), "{most:?}");
        all_are_free(&readers).await;
    }

    /// A look may give its place back only after it was answered.
    async fn all_are_free(readers: &Readers) {
        let all = readers.shared.places.acquire_many(LINE as u32);
        let all = tokio::time::timeout(std::time::Duration::from_secs(20), all).await.expect("all are free");
        drop(all.expect("open"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn looks_that_panic_leave_the_line_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let readers = readers(dir.path());
        for _ in 0..2 * CONNECTIONS {
            let look = |_: &SqliteState<'_>| -> rusqlite::Result<u64> { panic!("as it is told to") };
            assert!(readers.read(look).await.is_err());
        }
        readers.read(|state| state.applied()).await.expect("readable");
        all_are_free(&readers).await;
    }

    #[tokio::test]
    async fn a_look_that_nobody_waits_for_any_more_is_not_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let readers = readers(dir.path());
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let (release, until) = std::sync::mpsc::channel::<()>();
            let (readers, begun) = (readers.clone(), begun.clone());
            let look = move |_: &SqliteState<'_>| {
                let _ = (begun.send(()), until.recv());
                Ok(())
            };
            held.push((release, tokio::spawn(async move { readers.read(look).await })));
            begins.recv().await.expect("it looks");
        }
        let made = Arc::new(AtomicBool::new(false));
        let seen = made.clone();
        let given_up = readers.read(move |_| {
            seen.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(given_up.now_or_never().is_none());
        for (release, look) in held {
            drop(release);
            look.await.expect("no panic").expect("readable");
        }
        readers.read(|state| state.applied()).await.expect("readable");
        assert!(!made.load(Ordering::SeqCst));
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
            for index in 1..=3000 {
                let entry = Entry::chained(hash, index, epoch, Body::Commands(vec![7; 100_000].into()));
                hash = entry.hash;
                disk.persist(&Persist::Append(entry)).expect("persisted");
                disk.commit().expect("committed");
                disk.settle().expect("taken in");
                if disk.is_full() {
                    disk.show().expect("handed over");
                }
            }
        };
        tokio::task::spawn_blocking(write).await.expect("written");
        stop.store(true, Ordering::Relaxed);
        for looked in looking {
            looked.await.expect("read");
        }
        let size = std::fs::metadata(path.join("replica.db-wal")).expect("there").len() >> 20;
        // Some 40 on a machine that has time. On one that has not, some moments without looks are missed.
        assert!(size < 160, "{size} MiB, after 300 were written, 8 at a time");
    }
}
