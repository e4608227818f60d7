//! A thread that reads names, so that nobody waits for a disk meanwhile.

use super::NAMES;
use crate::storage::directory::DataDirectory;
use crate::storage::joined::Joined;
use crate::storage::state::{SqliteState, checked, number, page};
use crate::storage::{damage, readers};
use chat_core::{AccountId, Username};
use rusqlite::{Connection, Result};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use tokio::sync::Notify;

/// So many at a time.
pub(super) const TOGETHER: usize = 1024;

/// What commands will look up besides is fetched into the memory of the machine, first.
const FETCHED: [&str; 2] = ["SELECT sum(length(marks)) FROM marks", "SELECT sum(length(marks)) FROM recent_marks"];

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
            let mut connection = None;
            for after in asked {
                readers::give_way(&directory);
                if answer.send(read(&mut connection, &directory, after)).is_err() {
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

fn read(connection: &mut Option<Connection>, directory: &DataDirectory, after: Option<Username>) -> Result<Found> {
    let connection = match connection {
        Some(connection) => connection,
        None => {
            let opened = connection.insert(readers::open(&directory.database())?);
            FETCHED.iter().try_for_each(|sql| opened.query_row(sql, [], |_| Ok(())))?;
            opened
        }
    };
    let after = after.as_ref().map_or("", Username::as_str);
    let row = |row: &rusqlite::Row<'_>| Ok((checked(row, 0, Username::parse)?, AccountId(number(row, 1)?)));
    SqliteState::new(connection).all(NAMES, (after, page(TOGETHER)), row)
}
