//! A thread that makes room in memory, so that nobody waits for that.

use crate::storage::joined::Joined;
use crate::storage::known::Room;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use tokio::sync::Notify;

/// What came of it.
#[derive(Debug)]
pub(super) enum Made {
    NotYet,
    Room(Room),
    /// There is none.
    Never,
}

/// The thread. Dropping it waits until it has ended.
#[derive(Debug)]
pub(super) struct Making {
    room: Receiver<io::Result<Room>>,
    _thread: Joined,
}

impl Making {
    /// Starts it. `made` is told when it is done. `None`: there is no thread to be had.
    pub fn start(made: Arc<Notify>) -> Option<Making> {
        let (done, room) = sync_channel(1);
        let make = move || {
            // Nobody may be there any more.
            let _ = done.send(Room::filled());
            made.notify_one();
        };
        let thread = Joined::start("room", make);
        let thread =
            thread.inspect_err(|error| tracing::warn!(%error, "what recipients need finds its room as it comes"));
        Some(Making { room, _thread: thread.ok()? })
    }

    /// The room, if it is made.
    pub fn room(&self) -> Made {
        match self.room.try_recv() {
            Ok(Ok(room)) => Made::Room(room),
            Ok(Err(error)) => {
                tracing::warn!(%error, "what recipients need finds its room as it comes");
                Made::Never
            }
            Err(TryRecvError::Empty) => Made::NotYet,
            Err(TryRecvError::Disconnected) => Made::Never,
        }
    }
}
