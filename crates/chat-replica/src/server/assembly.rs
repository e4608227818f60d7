//! How the parts of a replica are wired together.

use super::fence::fence;
use super::spread::{line, spread};
use super::{EventLoops, Server, StartError};
use crate::answers::Answers;
use crate::clock::Clock;
use crate::driver::{Driver, Ended, Wiring};
use crate::handle::{Control, Gate, Handle};
use crate::node::Node;
use crate::options::{CrashProof, Options};
use crate::protocol::{self, ClusterId, Input, Member, Replica, ReplicaId};
use crate::rpc::{AdminRpc, ChatRpc, RpcContext};
use crate::storage::{self, DataDirectory, Readers, SqliteDisk};
use crate::subscribers::Subscribers;
use crate::transport::{Connector, Incoming, PeerSender, Peers, PeersConfig, SessionService, sorted};
use chat_proto::ClusterSecret;
use chat_proto::v1::admin_service_server::AdminServiceServer;
use chat_proto::v1::chat_service_server::ChatServiceServer;
use chat_proto::v1::replica_service_server::ReplicaServiceServer;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Events from the network that wait for the driver at most.
const NETWORK_LINE: usize = 4096;
/// Changes that wait for the driver at most; beyond, those who ask wait.
const PROPOSAL_LINE: usize = 4096;
/// The largest message from a client: a text of 64 KiB and its envelope fit many times.
const CLIENT_MESSAGE: usize = 4 << 20;

/// Calls at a time on a peer's connection: it makes one.
const PEER_STREAMS: u32 = 8;

/// What a replica is made of, before it runs.
pub(super) struct Parts {
    pub address: SocketAddr,
    pub listener: TcpListener,
    pub directory: Arc<DataDirectory>,
    pub disk: SqliteDisk,
    pub member: Member,
    pub recovered: protocol::Recovered,
    pub address_book: Vec<(u32, String)>,
    pub options: Options,
    pub connector: Arc<dyn Connector>,
    pub loops: EventLoops,
}

impl Parts {
    /// Wires it all together, and lets it run.
    pub fn run(self) -> Result<Server, StartError> {
        let Parts { address, listener, directory, disk, member, recovered, address_book, options, connector, loops } =
            self;
        let (clock, shutdown) = (Clock::start(), CancellationToken::new());
        let unless_it_runs = shutdown.clone().drop_guard();
        let replicas: Vec<(ReplicaId, String)> =
            address_book.iter().map(|(id, at)| (ReplicaId(*id), at.clone())).collect();
        let others: Vec<(ReplicaId, String)> = replicas.iter().filter(|(id, _)| *id != member.id).cloned().collect();
        let (cluster, watched) = watch::channel(recovered.cluster);
        let settings = protocol_config(member, &others, &options);
        let node = Node::new(Replica::new(settings, recovered, clock.now()), disk);
        let secret = options.cluster_secret.as_ref().map(|secret| ClusterSecret::new(secret.bytes()));
        let peers_config = PeersConfig { me: member, cluster: watched, addresses: others, secret: secret.clone() };
        let (events, network) = mpsc::channel(NETWORK_LINE);
        // On the driver's own thread: what it sends leaves without waking another.
        let runtime = Loose::new().map_err(StartError::Thread)?;
        let (peers, sessions) = {
            let _here = runtime.0.as_ref().map(Runtime::enter);
            Peers::start(peers_config, events, connector, shutdown.clone())
        };
        let answers = Answers::start(loops.runtimes());
        let (wiring, handle, suspects) = wires(&node, network, peers, cluster, clock, options.min_copies, answers);
        tokio::spawn(storage::scrub::scrub(Arc::downgrade(&directory)));
        tokio::spawn(end_if_damaged(directory.damaged.subscribe(), handle.control.clone(), shutdown.clone()));
        let context = Arc::new(RpcContext::new(
            handle.clone(),
            Readers::new(directory),
            wiring.subscribers.clone(),
            member.id,
            replicas.clone(),
            options.session_lifetime,
            shutdown.clone(),
        ));
        let listener = Arc::new(listener);
        let incoming = Incoming::new(listener.clone());
        let admin = AdminRpc::new(context.clone(), secret);
        if let Some(driver) = &runtime.0 {
            serve(incoming, driver, &loops, context, admin, sessions, &shutdown);
        }
        if let Some(command) = options.fence_command {
            tokio::spawn(fence(command, replicas, suspects, handle.control.clone(), shutdown.clone()));
        }
        let stop = wiring.stop.clone();
        let (thread, ended) =
            spawn_driver(Driver::new(node, wiring), runtime, member.id).map_err(StartError::Thread)?;
        unless_it_runs.disarm();
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
            _loops: loops,
        })
    }
}

/// The driver's ends of what connects it with the rest, the others' end, and whom it suspects.
fn wires(
    node: &Node<SqliteDisk>,
    network: mpsc::Receiver<Input>,
    peers: PeerSender,
    cluster: watch::Sender<Option<ClusterId>>,
    clock: Clock,
    min_copies: usize,
    answers: Answers,
) -> (Wiring, Handle, mpsc::Receiver<Member>) {
    let (proposals, proposed) = mpsc::channel(PROPOSAL_LINE);
    let (control, ordered) = mpsc::channel(64);
    let (suspects, suspected) = mpsc::channel(8);
    let visible = crate::node::Disk::applied(node.disk());
    let (gate, gate_watched) = watch::channel(Gate::closed(visible));
    let (status, status_watched) = watch::channel(node.replica().status());
    let (news, news_watched) = watch::channel(node.replica().status());
    let answered = Arc::new(AtomicU64::new(visible));
    let line_bytes = Arc::new(AtomicUsize::new(0));
    let handle = Handle {
        proposals,
        line_bytes: line_bytes.clone(),
        control,
        gate: gate_watched,
        status: status_watched,
        news: news_watched,
        answered: answered.clone(),
        clock,
    };
    let wiring = Wiring {
        network,
        proposals: proposed,
        line_bytes,
        control: ordered,
        peers,
        answers,
        subscribers: Arc::new(Subscribers::new()),
        gate,
        status,
        news,
        cluster,
        answered,
        suspects,
        stop: Arc::new(AtomicBool::new(false)),
        clock,
        min_copies,
    };
    (wiring, handle, suspected)
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

/// The driver's runtime. Whoever drops it ends the connections to the peers, and waits for nothing: a name may be looked up for long.
struct Loose(Option<Runtime>);

impl Loose {
    fn new() -> std::io::Result<Loose> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(Some).map(Loose)
    }
}

impl Drop for Loose {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

fn spawn_driver(driver: Driver, runtime: Loose, id: ReplicaId) -> std::io::Result<DriverThread> {
    let (sender, ended) = watch::channel(None);
    let thread = std::thread::Builder::new().name(format!("driver-{id}")).spawn(move || {
        let end = runtime.0.as_ref().map(|runtime| driver.run(runtime));
        drop(runtime);
        sender.send_replace(end);
    })?;
    Ok((thread, ended))
}

/// Serves peers on the driver's runtime, and all others on the event loops. Sessions are taken by both: who dials is guessed.
fn serve(
    incoming: Incoming,
    driver: &Runtime,
    loops: &EventLoops,
    context: Arc<RpcContext>,
    admin: AdminRpc,
    sessions: SessionService,
    shutdown: &CancellationToken,
) {
    let server = || {
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(1)))
            .http2_keepalive_timeout(Some(Duration::from_secs(2)))
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
    };
    let sessions = ReplicaServiceServer::new(sessions).max_decoding_message_size(crate::transport::MESSAGE_BYTES);
    let (peers, others) = sorted(incoming);
    let of_peers = server().max_concurrent_streams(PEER_STREAMS).add_service(sessions.clone());
    driver.spawn(until(shutdown.clone(), of_peers.serve_with_incoming(peers)));
    let of_others = server()
        .max_concurrent_streams(4096)
        .add_service(ChatServiceServer::new(ChatRpc::new(context)).max_decoding_message_size(CLIENT_MESSAGE))
        .add_service(AdminServiceServer::new(admin))
        .add_service(sessions);
    let mut lines = Vec::new();
    for runtime in loops.runtimes() {
        let (line, connections) = line();
        lines.push(line);
        runtime.spawn(until(shutdown.clone(), of_others.clone().serve_with_incoming(connections)));
    }
    let shutdown = shutdown.clone();
    tokio::spawn(async move { shutdown.run_until_cancelled(spread(others, lines)).await });
}

async fn until(shutdown: CancellationToken, server: impl Future<Output = Result<(), tonic::transport::Error>>) {
    tokio::select! {
        served = server => {
            if let Err(error) = served {
                tracing::error!(%error, "the server ended");
            }
        }
        () = shutdown.cancelled() => {}
    }
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
