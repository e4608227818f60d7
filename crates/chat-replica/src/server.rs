//! A running replica: its disk, driver, transport and handlers, wired together.

use crate::clock::Clock;
use crate::driver::{Driver, Ended, Wiring};
use crate::handle::{Control, Gate, Handle};
use crate::node::Node;
use crate::options::{Config, CrashProof, Listen, Options};
use crate::protocol::{self, ClusterId, Member, Replica, ReplicaId};
use crate::rpc::{AdminRpc, ChatRpc, RpcContext};
use crate::storage::{self, DataDirectory, DirectoryError, DiskError, Readers, SqliteDisk};
use crate::subscribers::Subscribers;
use crate::transport::{Connector, Incoming, Peers, PeersConfig, SessionService};
use chat_proto::ClusterSecret;
use chat_proto::v1::admin_service_client::AdminServiceClient;
use chat_proto::v1::admin_service_server::AdminServiceServer;
use chat_proto::v1::chat_service_server::ChatServiceServer;
use chat_proto::v1::{self, replica_service_server::ReplicaServiceServer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

/// Events from the network that wait for the driver at most.
const NETWORK_LINE: usize = 4096;
/// Changes that wait for the driver at most; beyond, those who ask wait.
const PROPOSAL_LINE: usize = 4096;
/// How long peers are asked to which cluster they belong before a start. Those that start themselves listen, and answer only when they are ready:
/// where all start at once, each waits so long. Whoever does not answer in time is told apart by every message later (rule 12).
const CLUSTER_QUESTION: Duration = Duration::from_millis(150);
/// The largest message from a client: a text of 64 KiB and its envelope fit many times.
const CLIENT_MESSAGE: usize = 4 << 20;

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
    /// The operating system would not give a thread.
    #[error("no thread for the driver: {0}")]
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
}

impl Server {
    /// Starts a replica on the current tokio runtime, plus a thread for its driver. Returns once it listens and its disk was read; that
    /// it leads or follows comes later, see [`Handle::status`].
    ///
    /// # Errors
    /// Why it cannot start.
    pub async fn start(config: Config, connector: Arc<dyn Connector>) -> Result<Server, StartError> {
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
        Parts { address, listener, directory, disk, member, recovered, address_book, options, connector }.run()
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

    /// Stops as a crash would: nothing is flushed, handed over or said. The listener and the connections close when the runtime that
    /// it was started on ends.
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
            let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
            let answer = async {
                let mut client = AdminServiceClient::new(endpoint.connect().await.ok()?);
                client.status(v1::StatusRequest {}).await.ok()
            };
            let status = tokio::time::timeout(CLUSTER_QUESTION, answer).await.ok()??.into_inner();
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

/// What a replica is made of, before it runs.
struct Parts {
    address: SocketAddr,
    listener: TcpListener,
    directory: Arc<DataDirectory>,
    disk: SqliteDisk,
    member: Member,
    recovered: protocol::Recovered,
    address_book: Vec<(u32, String)>,
    options: Options,
    connector: Arc<dyn Connector>,
}

impl Parts {
    fn run(self) -> Result<Server, StartError> {
        let Parts { address, listener, directory, disk, member, recovered, address_book, options, connector } = self;
        let clock = Clock::start();
        let (id, shutdown) = (member.id, CancellationToken::new());
        let replicas: Vec<(ReplicaId, String)> =
            address_book.iter().map(|(id, at)| (ReplicaId(*id), at.clone())).collect();
        let others: Vec<(ReplicaId, String)> = replicas.iter().filter(|(other, _)| *other != id).cloned().collect();
        let (cluster_sender, cluster) = watch::channel(recovered.cluster);
        let settings = protocol_config(member, &others, &options);
        let node = Node::new(Replica::new(settings, recovered, clock.now()), disk);
        let (network_sender, network) = mpsc::channel(NETWORK_LINE);
        let (proposals, proposed) = mpsc::channel(PROPOSAL_LINE);
        let (control, ordered) = mpsc::channel(64);
        let (suspects_sender, suspects) = mpsc::channel(8);
        let visible = crate::node::Disk::applied(node.disk());
        let (gate_sender, gate) = watch::channel(Gate::closed(visible));
        let (status_sender, status) = watch::channel(node.replica().status());
        let (news_sender, news) = watch::channel(node.replica().status());
        let answered = Arc::new(AtomicU64::new(visible));
        let line_bytes = Arc::new(AtomicUsize::new(0));
        let handle = Handle {
            proposals,
            line_bytes: line_bytes.clone(),
            control,
            gate,
            status,
            news,
            answered: answered.clone(),
            clock,
        };
        let secret = options.cluster_secret.as_ref().map(|secret| ClusterSecret::new(secret.bytes()));
        let peers_config = PeersConfig { me: member, cluster, addresses: others, secret: secret.clone() };
        // On the driver's own thread: what it sends leaves without waking another.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (peers, sessions) = {
            let _here = runtime.enter();
            Peers::start(peers_config, network_sender, connector, shutdown.clone())
        };
        let subscribers = Arc::new(Subscribers::new());
        let damaged = directory.damaged.subscribe();
        tokio::spawn(storage::scrub::scrub(Arc::downgrade(&directory)));
        let context = Arc::new(RpcContext::new(
            handle.clone(),
            Readers::new(directory),
            subscribers.clone(),
            id,
            replicas.clone(),
            options.session_lifetime,
            shutdown.clone(),
        ));
        tokio::spawn(end_if_damaged(damaged, handle.control.clone(), shutdown.clone()));
        let listener = Arc::new(listener);
        serve(listener.clone(), context.clone(), AdminRpc::new(context, secret), sessions, shutdown.clone());
        if let Some(command) = options.fence_command.clone() {
            tokio::spawn(fence(command, replicas, suspects, handle.control.clone(), shutdown.clone()));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let wiring = Wiring {
            network,
            proposals: proposed,
            line_bytes,
            control: ordered,
            peers,
            subscribers,
            gate: gate_sender,
            status: status_sender,
            news: news_sender,
            cluster: cluster_sender,
            answered,
            suspects: suspects_sender,
            stop: stop.clone(),
            clock,
            min_copies: options.min_copies,
        };
        let (thread, ended) = spawn_driver(Driver::new(node, wiring), runtime, id).map_err(StartError::Thread)?;
        Ok(Server {
            address,
            _listener: listener,
            member,
            handle,
            leave_timeout: options.leave_timeout,
            stop,
            shutdown,
            ended,
            thread: Some(thread),
        })
    }
}

fn protocol_config(me: Member, others: &[(ReplicaId, String)], options: &Options) -> protocol::Config {
    let cluster = ClusterId(storage::random());
    let seed = u64::from_le_bytes(storage::random());
    let peers = others.iter().map(|(id, _)| *id).collect();
    protocol::Config {
        ping_interval: options.ping_interval,
        lease: options.lease,
        drift_permille: options.drift_permille,
        suspect_after: options.suspect_after,
        refusals: options.refusals,
        refusal_is_proof: options.crash_proof == CrashProof::Refusal,
        stall_limit: options.stall_limit,
        min_copies: options.min_copies,
        ..protocol::Config::new(me, peers, cluster, seed)
    }
}

type DriverThread = (std::thread::JoinHandle<()>, watch::Receiver<Option<Ended>>);

fn spawn_driver(driver: Driver, runtime: Runtime, id: ReplicaId) -> std::io::Result<DriverThread> {
    let (sender, ended) = watch::channel(None);
    let thread = std::thread::Builder::new().name(format!("driver-{id}")).spawn(move || {
        let end = driver.run(&runtime);
        // Ends the connections to the peers, and waits for nothing: a name may be looked up for long.
        runtime.shutdown_background();
        sender.send_replace(Some(end));
    })?;
    Ok((thread, ended))
}

fn serve(
    listener: Arc<TcpListener>,
    context: Arc<RpcContext>,
    admin: AdminRpc,
    sessions: SessionService,
    shutdown: CancellationToken,
) {
    let incoming = Incoming::new(listener);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .max_concurrent_streams(4096)
        .add_service(ChatServiceServer::new(ChatRpc::new(context)).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(AdminServiceServer::new(admin))
        .add_service(ReplicaServiceServer::new(sessions).max_decoding_message_size(crate::transport::MESSAGE_BYTES));
    tokio::spawn(async move {
        tokio::select! {
            served = server.serve_with_incoming(incoming) => {
                if let Err(error) = served {
                    tracing::error!(%error, "the server ended");
                }
            }
            () = shutdown.cancelled() => {}
        }
    });
}

/// Rule 15: what a reader finds damaged ends the driver, and with it the process.
async fn end_if_damaged(
    mut damaged: watch::Receiver<Option<String>>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) {
    let found = async {
        let found = damaged.wait_for(Option::is_some).await.ok()?;
        found.clone()
    };
    tokio::select! {
        Some(what) = found => {
            let _ = control.send(Control::Damaged(what)).await;
        }
        () = shutdown.cancelled() => {}
    }
}

/// Rule 8: asks the operator's command about each suspected primary, one after the other.
async fn fence(
    command: String,
    replicas: Vec<(ReplicaId, String)>,
    mut suspects: mpsc::Receiver<Member>,
    control: mpsc::Sender<Control>,
    shutdown: CancellationToken,
) {
    let ask = async {
        while let Some(member) = suspects.recv().await {
            let address = replicas.iter().find(|(id, _)| *id == member.id).map(|(_, at)| at.as_str());
            let status = tokio::process::Command::new("sh")
                .args(["-c", &command])
                .env("CHATD_FENCE_ID", member.id.to_string())
                .env("CHATD_FENCE_ADDRESS", address.unwrap_or_default())
                .stdin(std::process::Stdio::null())
                .kill_on_drop(true)
                .status()
                .await;
            match status {
                Ok(status) if status.success() => drop(control.send(Control::Fenced(member)).await),
                Ok(status) => tracing::warn!(%member, %status, "the fencing command does not vouch for the crash"),
                Err(error) => tracing::warn!(%member, %error, "the fencing command could not be run"),
            }
        }
    };
    tokio::select! {
        () = ask => {}
        () = shutdown.cancelled() => {}
    }
}
