//! On which threads clients are served.
//!
//! A connection lives on one thread from its first byte to its last: nothing is stolen from there, and what comes in wakes no second thread to share the
//! work, which on few processors would take the one that the driver needs. Several loops share the connections instead.

use std::io;
use std::sync::{Arc, mpsc};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// More would wait for the one driver, or for the few connections to the database that they share: each serves some 30,000 sends a second.
const MOST: usize = 4;

/// The runtimes on which connections of clients live. Threads that it has started end when it and all clones of it are dropped, those of running servers
/// among them.
#[derive(Clone, Debug)]
pub struct EventLoops {
    runtimes: Vec<Handle>,
    _end: Option<Arc<DropGuard>>,
}

impl EventLoops {
    /// The current tokio runtime, and no other.
    ///
    /// # Panics
    /// Outside of one.
    pub fn here() -> EventLoops {
        EventLoops { runtimes: vec![Handle::current()], _end: None }
    }

    /// A thread of its own for each processor, four at most, each with a runtime for it alone.
    ///
    /// # Errors
    /// The operating system gives no thread, or nothing to wait with.
    pub fn threads() -> io::Result<EventLoops> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let end = CancellationToken::new();
        // Before the first begins: if there are not enough, those that have begun end.
        let guard = end.clone().drop_guard();
        let runtimes = (1..=count).map(|each| start(each, end.clone())).collect::<io::Result<_>>()?;
        Ok(EventLoops { runtimes, _end: Some(Arc::new(guard)) })
    }

    /// All of them.
    pub(crate) fn runtimes(&self) -> &[Handle] {
        &self.runtimes
    }
}

/// Until `end`, and then drops whatever it serves.
fn start(each: usize, end: CancellationToken) -> io::Result<Handle> {
    let (tell, started) = mpsc::channel();
    // The runtime is made there: where no thread is given, none must be dropped here, as within another one that panics.
    std::thread::Builder::new().name(format!("clients-{each}")).spawn(move || {
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let _ = tell.send(Ok(runtime.handle().clone()));
                runtime.block_on(end.cancelled());
                // Blocking work is not waited for.
                runtime.shutdown_background();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    })?;
    started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of an event loop ended as it began")))
}
