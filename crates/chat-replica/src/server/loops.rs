//! On which threads clients are served.
//!
//! A connection lives on one thread from its first byte to its last: nothing is stolen from there, and what comes in wakes no second thread to share the
//! work, which on few processors would take the one that the driver needs. Several loops share the connections instead.

use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// More would wait for the one driver, or for the few connections to the database that they share: each serves some 30,000 sends a second.
const MOST: usize = 4;

/// The runtimes on which connections of clients live, until it and all clones of it are dropped.
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
        let runtimes = (1..=count).map(|each| start(each, end.clone())).collect::<io::Result<_>>()?;
        Ok(EventLoops { runtimes, _end: Some(Arc::new(end.drop_guard())) })
    }

    /// All of them.
    pub(crate) fn runtimes(&self) -> &[Handle] {
        &self.runtimes
    }
}

/// Until `end`, and then drops whatever it serves; blocking work is not waited for.
fn start(each: usize, end: CancellationToken) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("clients-{each}")).spawn(move || {
        runtime.block_on(end.cancelled());
        runtime.shutdown_background();
    })?;
    Ok(handle)
}
