//! Connections that look at the state beside the writer, and never block it.

use super::directory::DataDirectory;
use super::state::{STATEMENTS, SqliteState};
use rusqlite::{Connection, OpenFlags};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// How many may read at the same time; more wait their turn.
const CONNECTIONS: usize = 4;

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
    /// SQLite's own.
    pub async fn read<T, F>(&self, look: F) -> rusqlite::Result<T>
    where
        F: FnOnce(&SqliteState<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let shared = self.shared.clone();
        let Ok(turn) = self.shared.turns.clone().acquire_owned().await else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let run = move || {
            // Until the look ends, even if nobody waits for it any more: else those who give up make ever more connections.
            let _turn = turn;
            let connection = shared.take()?;
            connection.execute_batch("BEGIN")?;
            let result = look(&SqliteState::new(&connection));
            connection.execute_batch("COMMIT")?;
            shared.give_back(connection);
            result
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(result) => result,
            // The process is ending.
            Err(_) => Err(rusqlite::Error::InvalidQuery),
        }
    }
}

impl Shared {
    fn take(&self) -> rusqlite::Result<Connection> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    fn give_back(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.directory.database(), flags)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    }
}
