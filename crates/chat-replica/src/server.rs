//! A running replica: how it starts and ends; `assembly` wires its parts together, `loops` and `spread` say on which threads clients are served.

mod assembly;
mod fence;
mod loops;
mod spread;

pub use loops::EventLoops;

use crate::driver::Ended;
use crate::handle::{Control, Handle};
use crate::options::{Config, Listen};
use crate::protocol::{ClusterId, Member, ReplicaId};
use crate::rpc::ask_status;
use crate::storage::{DataDirectory, DirectoryError, DiskError, SqliteDisk};
use crate::transport::Connector;
use assembly::Parts;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long peers are asked to which cluster they belong before a start. Those that start themselves listen, and answer only when they are ready:
/// where all start at once, each waits so long. Whoever does not answer in time is told apart by every message later (rule 12).
const CLUSTER_QUESTION: Duration = Duration::from_millis(150);

/// Why a replica did not start. Nothing was changed on the disk, unless [`StartError::Disk`] says that it failed.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The data directory belongs to another cluster than the others.
    #[error(
        "the data directory {data} belongs to cluster {ours}, but replica {peer} at {address} belongs to cluster {theirs}"
    )]
    OtherCluster {
        /// The directory.
        data: String,
        /// Its cluster.
        ours: String,
        /// Who was asked.
        peer: u32,
        /// Where.
        address: String,
        /// What it answered.
        theirs: String,
    },
    /// The address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The database.
    #[error("{path}: {source}")]
    Disk {
        /// The database.
        path: String,
        /// What it says.
        source: DiskError,
    },
    /// The operating system would not give a thread, or what it waits with.
    #[error("no thread for the driver, or no file handles: {0}")]
    Thread(std::io::Error),
}

/// A running replica. Dropping it stops it as a crash would.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Held for as long as this lives: a listener that closes under a living process is a refusal that proves nothing (rule 8).
    _listener: Arc<TcpListener>,
    member: Member,
    handle: Handle,
    leave_timeout: Duration,
    stop: Arc<AtomicBool>,
    shutdown: CancellationToken,
    ended: watch::Receiver<Option<Ended>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _loops: EventLoops,
}

impl Server {
    /// Starts a replica on the current tokio runtime, plus a thread for its driver; its clients are served there, too. See [`Server::start_on`].
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn start(config: Config, connector: Arc<dyn Connector>) -> Result<Server, StartError> {
        Server::start_on(EventLoops::here(), config, connector).await
    }

    /// Starts a replica on the current tokio runtime, plus a thread for its driver; its clients are served on `loops`. The current runtime must live as long
    /// as the server. Returns once it listens and its disk was read; that
    /// it leads or follows comes later, see [`Handle::status`].
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn start_on(
        loops: EventLoops,
        config: Config,
        connector: Arc<dyn Connector>,
    ) -> Result<Server, StartError> {
        if let Some(wrong) = config.wrong() {
            return Err(StartError::Config(wrong));
        }
        let id = ReplicaId(config.id);
        let identity = DataDirectory::inspect(&config.data, id)?;
        let listener = bind(config.listen)?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address: ([0, 0, 0, 0], 0).into(), source })?;
        if let Some(ours) = identity.and_then(|identity| identity.cluster) {
            ask_cluster(&config.data.display().to_string(), ours, config.id, &config.replicas).await?;
        }
        let directory = Arc::new(DataDirectory::take(&config.data, id)?);
        let failed = |source| StartError::Disk { path: directory.database().display().to_string(), source };
        let (disk, member, recovered) = SqliteDisk::open(directory.clone(), id).map_err(failed)?;
        let (address_book, options) = (config.replicas, config.options);
        Parts { address, listener, directory, disk, member, recovered, address_book, options, connector, loops }.run()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// This process run.
    pub fn member(&self) -> Member {
        self.member
    }

    /// For asking its driver.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits for its end, which comes by itself only if the disk fails or is found to be rolled back. Cancel safe.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or(Ended::Stopped)
    }

    /// Leaves the view, handing over first, and stops. Takes `leave_timeout` at most; what has not succeeded by then is a crash like any other.
    pub async fn leave(mut self) -> Ended {
        // It listens until it is out of the view: a refused connection would prove what is not so (rule 8).
        let _ = self.handle.control.send(Control::Leave).await;
        let left = tokio::time::timeout(self.leave_timeout, self.ended()).await;
        self.stop();
        left.unwrap_or(Ended::Stopped)
    }

    /// Holds everything that this replica's driver does until the guard is dropped, as a stopped process would.
    pub async fn pause(&self) -> Paused {
        let (resume, until) = std::sync::mpsc::channel();
        let _ = self.handle.control.send(Control::Pause(until)).await;
        Paused { _resume: resume }
    }

    /// Stops as a crash would: nothing is flushed, handed over or said. The connections close with the event loops that serve them, at the
    /// latest when their runtimes end.
    pub fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.handle.control.try_send(Control::Stop);
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Holds a replica's driver until it is dropped.
#[derive(Debug)]
pub struct Paused {
    _resume: std::sync::mpsc::Sender<()>,
}

fn bind(listen: Listen) -> Result<TcpListener, StartError> {
    let (address, bound) = match listen {
        Listen::At(address) => (address, std::net::TcpListener::bind(address)),
        Listen::Bound(listener) => (([0, 0, 0, 0], 0).into(), Ok(listener)),
    };
    let listener = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map_err(|source| StartError::Listen { address, source })
}

/// Asks the others to which cluster they belong, before this disk says or writes anything.
async fn ask_cluster(data: &str, ours: ClusterId, me: u32, replicas: &[(u32, String)]) -> Result<(), StartError> {
    let ours = ours.to_string();
    let mut questions = tokio::task::JoinSet::new();
    for (peer, address) in replicas.iter().filter(|(id, _)| *id != me).cloned() {
        questions.spawn(async move {
            let status = ask_status(&address, CLUSTER_QUESTION).await?;
            (!status.cluster.is_empty()).then_some((peer, address, status.cluster))
        });
    }
    while let Some(answer) = questions.join_next().await {
        if let Ok(Some((peer, address, theirs))) = answer
            && theirs != ours
        {
            return Err(StartError::OtherCluster { data: data.to_string(), ours, peer, address, theirs });
        }
    }
    Ok(())
}
