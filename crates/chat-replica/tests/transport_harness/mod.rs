//! Processes that speak over the transport, each with a runtime of its own, so that killing one closes all that it had.
#![allow(dead_code, reason = "each test file uses its part")]

use chat_proto::ClusterSecret;
use chat_proto::v1::replica_service_server::ReplicaServiceServer;
use chat_replica::protocol::*;
use chat_replica::transport::{
    Connector, Dialled, Incoming, MESSAGE_BYTES, PeerSender, Peers, PeersConfig, Tcp, Tuning,
};
use futures_util::future::BoxFuture;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// Far beyond anything that a test waits for.
pub const LONG: Duration = Duration::from_secs(30);
pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const OTHER_CLUSTER: ClusterId = ClusterId([8; 16]);

pub fn member(id: u32, count: u64) -> Member {
    let disk = DiskId([id as u8; 16]);
    Member { id: ReplicaId(id), disk, incarnation: Incarnation { count, nonce: 0x0123_4567_89ab_cdef ^ count } }
}

/// Short where a test has to sit them out.
pub fn short() -> Tuning {
    let patience = Duration::from_millis(100);
    Tuning { dial_timeout: patience, welcome_timeout: patience, ..Tuning::default() }
}

/// A loopback address that no other test uses: a port there is not given to a stranger once it is free again.
pub async fn listener() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let host = Ipv4Addr::new(127, 1 + (pid >> 8 & 0x7f) as u8, pid as u8, n as u8);
    TcpListener::bind((host, 0)).await.expect("a free port")
}

/// Binds again where a process was killed.
pub fn rebind(address: SocketAddr, backlog: u32) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_reuseaddr(true).expect("reuse");
    socket.bind(address).expect("the killed process has let go of it");
    socket.listen(backlog).expect("listen")
}

/// How a process is started.
pub struct Start {
    pub me: Member,
    pub cluster: Option<ClusterId>,
    pub addresses: Vec<(ReplicaId, String)>,
    pub secret: Option<ClusterSecret>,
    pub tuning: Tuning,
    pub connector: Arc<dyn Connector>,
    /// How many events may wait.
    pub room: usize,
}

impl Start {
    pub fn new(me: Member) -> Start {
        let (tuning, connector) = (Tuning::default(), Arc::new(Tcp));
        let (cluster, secret) = (Some(CLUSTER), None);
        Start { me, cluster, addresses: Vec::new(), secret, tuning, connector, room: 1 << 16 }
    }

    pub fn peer(mut self, id: u32, address: impl ToString) -> Start {
        self.addresses.push((ReplicaId(id), address.to_string()));
        self
    }

    pub fn on(self, listener: TcpListener) -> Process {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let address = listener.local_addr().expect("bound");
        let listener = listener.into_std().expect("a listener");
        let (events, received) = mpsc::channel(self.room);
        let (cluster, watched) = watch::channel(self.cluster);
        let shutdown = CancellationToken::new();
        let inside = runtime.enter();
        let config = PeersConfig { me: self.me, cluster: watched, addresses: self.addresses, secret: self.secret };
        let (sender, service) =
            Peers::start_tuned(config, self.tuning.clone(), events, self.connector, shutdown.clone());
        let listener = Arc::new(TcpListener::from_std(listener).expect("a listener"));
        let server = Server::builder()
            .http2_keepalive_interval(Some(self.tuning.keepalive_interval))
            .http2_keepalive_timeout(Some(self.tuning.keepalive_timeout))
            .add_service(ReplicaServiceServer::new(service).max_decoding_message_size(MESSAGE_BYTES));
        runtime.spawn(server.serve_with_incoming(Incoming::new(listener)));
        drop(inside);
        Process { me: self.me, address, cluster, events: received, sender, shutdown, runtime: Some(runtime) }
    }
}

/// A process that runs the transport, its server, and nothing else: the test is its driver.
pub struct Process {
    pub me: Member,
    pub address: SocketAddr,
    pub cluster: watch::Sender<Option<ClusterId>>,
    pub events: mpsc::Receiver<Input>,
    pub sender: PeerSender,
    pub shutdown: CancellationToken,
    runtime: Option<Runtime>,
}

impl Process {
    pub async fn next(&mut self) -> Input {
        timeout(LONG, self.events.recv()).await.expect("an event").expect("the transport runs")
    }

    /// Passes over events until one is wanted.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&Input) -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = wanted(&self.next().await) {
                    return found;
                }
            }
        };
        timeout(LONG, look).await.expect("the wanted event")
    }

    /// Waits for a session that this process dialled.
    pub async fn reaches(&mut self, wanted: Member) -> u64 {
        self.until(|input| match input {
            Input::SessionUp { session, peer, outbound: true } if *peer == wanted => Some(*session),
            _ => None,
        })
        .await
    }

    pub async fn refused(&mut self) -> Member {
        self.until(|input| if let Input::Refused { peer } = input { Some(*peer) } else { None }).await
    }

    /// From now on the peer is silent, and never refuses: apart from the refusal that was under way.
    pub async fn falls_silent(&mut self, id: u32) {
        while self.events.try_recv().is_ok() {}
        let (mut silent, mut refused) = (0, 0);
        while silent < 3 {
            match self.next().await {
                Input::Unreachable { peer } if peer == ReplicaId(id) => silent += 1,
                Input::Refused { .. } if silent == 0 && refused == 0 => refused += 1,
                other => panic!("a stranger's address led to {other:?} (after {silent} times silence)"),
            }
        }
    }

    /// A message of which tests only look at the number.
    pub fn ping(&self, to: Member, number: u64) -> Envelope {
        let ping =
            Ping { sent_at: Time(number), promised: Epoch::ZERO, view: Place::default(), committed: 0, primary: false };
        Envelope { cluster: *self.cluster.borrow(), from: self.me, to, message: Message::Ping(ping) }
    }

    /// Like kill -9: its listener and its connections close, nothing is said.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The number of a [`Process::ping`].
pub fn number(input: &Input) -> Option<u64> {
    match input {
        Input::Receive(Envelope { message: Message::Ping(ping), .. }) => Some(ping.sent_at.0),
        _ => None,
    }
}

/// What happens to a dial.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    Fails(io::ErrorKind),
    ReachesItself,
    ReachesAnother,
}

/// Plain TCP with faults.
pub struct Faulty(pub Mutex<Fault>);

impl Faulty {
    pub fn set(&self, fault: Fault) {
        *self.0.lock().unwrap() = fault;
    }
}

impl Connector for Faulty {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Dialled>> {
        let nowhere = |local, peer| Ok(Dialled { io: Box::new(tokio::io::empty()), local, peer });
        match *self.0.lock().unwrap() {
            Fault::None => Tcp.connect(to),
            Fault::Fails(kind) => Box::pin(async move { Err(kind.into()) }),
            Fault::ReachesItself => Box::pin(async move { nowhere(to, to) }),
            Fault::ReachesAnother => Box::pin(async move { nowhere(to, ([127, 0, 0, 1], 1).into()) }),
        }
    }
}
