//! A thread that somebody owns.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Dropping it waits until the thread has ended. What makes it end goes before: fields of a struct go in their order.
#[derive(Debug)]
pub(super) struct Joined(Option<JoinHandle<()>>);

impl Joined {
    /// # Errors
    /// If there can be no more threads.
    pub fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Joined> {
        Builder::new().name(name.to_owned()).spawn(run).map(Some).map(Joined)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic there was told by the panic hook.
            let _ = thread.join();
        }
    }
}
