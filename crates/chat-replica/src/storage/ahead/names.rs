//! A thread that reads names, so that nobody waits for a disk meanwhile.

use super::NAMES;
use crate::storage::directory::DataDirectory;
use crate::storage::joined::Joined;
use crate::storage::marks::NEIGHBOURS;
use crate::storage::state::{SqliteState, checked, number, page};
use crate::storage::{damage, readers};
use chat_core::{AccountId, Username};
use rusqlite::{Connection, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use tokio::sync::Notify;

/// So many at a time.
pub(super) const TOGETHER: usize = 1024;

/// Names in their order, and whose they are.
pub(super) type Found = Vec<(Username, AccountId)>;

/// What came of asking.
#[derive(Debug)]
pub(super) enum Answer {
    NotYet,
    Found(Found),
    /// It does not answer any more.
    Ended,
}

/// The thread. Dropping it waits until it has ended.
#[derive(Debug)]
pub(super) struct Names {
    /// Without it, the thread ends.
    asks: SyncSender<Option<Username>>,
    _thread: Joined,
    answers: Receiver<Result<Found>>,
}

impl Names {
    /// Starts it, on the database in this directory. `answered` is told of each answer. `None`: there is no thread to be had.
    pub fn start(directory: Arc<DataDirectory>, answered: Arc<Notify>) -> Option<Names> {
        let ((asks, asked), (answer, answers)) = (sync_channel(1), sync_channel(1));
        let run = move || {
            let mut reading = Reading { directory, connection: None, fetched: 0 };
            for after in asked {
                if answer.send(reading.names(after)).is_err() {
                    return;
                }
                answered.notify_one();
            }
        };
        let thread = Joined::start("names", run);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "names are not looked up ahead")).ok()?;
        Some(Names { asks, _thread: thread, answers })
    }

    /// Asks for the names after this one, as they are then or later. Whoever asks has had the answer to what was asked before.
    pub fn ask(&self, after: Option<Username>) {
        // Whoever wants to hear it hears that it has ended.
        let _ = self.asks.send(after);
    }

    /// The answer, if there is one.
    ///
    /// # Errors
    /// That the database is damaged.
    pub fn answer(&self) -> Result<Answer> {
        match self.answers.try_recv() {
            Ok(Ok(found)) => Ok(Answer::Found(found)),
            Ok(Err(error)) if damage::is_damage(&error) => Err(error),
            Ok(Err(error)) => {
                tracing::warn!(%error, "names are not looked up ahead");
                Ok(Answer::Ended)
            }
            Err(TryRecvError::Empty) => Ok(Answer::NotYet),
            Err(TryRecvError::Disconnected) => Ok(Answer::Ended),
        }
    }
}

/// A little at a time: while somebody reads, the write-ahead log cannot start anew, and the thread does not end.
struct Reading {
    directory: Arc<DataDirectory>,
    connection: Option<Connection>,
    /// Of so many neighbours the marks were fetched.
    fetched: u64,
}

impl Reading {
    /// And the marks of as many accounts, which commands will look up besides, are in the memory of the machine then.
    fn names(&mut self, after: Option<Username>) -> Result<Found> {
        readers::give_way(&self.directory);
        let connection = match &self.connection {
            Some(connection) => connection,
            None => self.connection.insert(readers::open(&self.directory.database())?),
        };
        let state = SqliteState::new(connection);
        let to = self.fetched + TOGETHER as u64 / NEIGHBOURS;
        (self.fetched..to).try_for_each(|number| state.marks_of_neighbours(number).map(drop))?;
        self.fetched = to;
        let after = after.as_ref().map_or("", Username::as_str);
        let row = |row: &rusqlite::Row<'_>| Ok((checked(row, 0, Username::parse)?, AccountId(number(row, 1)?)));
        state.all(NAMES, (after, page(TOGETHER)), row)
    }
}
