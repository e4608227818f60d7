//! A thread that makes room in memory, so that nobody waits for that.

use crate::storage::joined::Joined;
use crate::storage::known::Recipients;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use tokio::sync::Notify;

/// What came of it.
#[derive(Debug)]
pub(super) enum Made {
    NotYet,
    Room(Recipients),
    /// There is none.
    Never,
}

/// The thread. Dropping it waits until it has ended.
#[derive(Debug)]
pub(super) struct Making {
    room: Receiver<io::Result<Recipients>>,
    _thread: Joined,
}

impl Making {
    /// Starts it. `made` is told when it is done. `None`: there is no thread to be had.
    pub fn start(made: Arc<Notify>) -> Option<Making> {
        let (done, room) = sync_channel(1);
        let make = move || {
            // Nobody may be there any more.
            let _ = done.send(Recipients::filled());
            made.notify_one();
        };
        let thread = Joined::start("room", make);
        Some(Making { room, _thread: thread.inspect_err(tell).ok()? })
    }

    /// The room, if it is made.
    pub fn room(&self) -> Made {
        match self.room.try_recv() {
            Ok(Ok(room)) => Made::Room(room),
            Ok(Err(error)) => {
                tell(&error);
                Made::Never
            }
            Err(TryRecvError::Empty) => Made::NotYet,
            Err(TryRecvError::Disconnected) => Made::Never,
        }
    }
}

fn tell(error: &io::Error) {
    tracing::warn!(%error, "what is known of recipients finds its room as it comes");
}
