//! ⑤ From one replica to another: sessions over gRPC, and what rule 8 wants to know of connections that fail.
//!
//! A replica dials every peer and keeps one session to each; its own messages go out there, the peer's come in on the
//! session that the peer dialled. Nothing here retries or acknowledges a message: what cannot be sent now is dropped,
//! and the protocol asks again.
//!
//! | file | what |
//! | --- | --- |
//! | `wire` | envelopes <-> frames |
//! | `connect` | how a TCP connection is made; tests put faults there |
//! | `target` | where a peer is to be found, and who answered there (rule 8) |
//! | `peers` | one task per peer: dial, hold the session, dial again |
//! | `pace` | how long to wait in between |
//! | `session` | one dialled session |
//! | `leash` | a connection that ends with what it belongs to |
//! | `outbox` | from the driver to the sessions, never blocking |
//! | `service` | the sessions that peers dial |
//! | `incoming` | accepting without ever owning the listener (rule 8) |
//! | `sorting` | peers' connections to the driver's thread, others to the server's event loops |
//! | `gathered` | a connection on which a large write waits for the next |
//! | `placed` | a connection and the place that it has there; its way to that thread |
//!
//! What never happens: a failure other than a refused connection is reported as one; a refusal is reported where nobody
//! was ever met; an address that a name had once is taken for the one that answered; the listener is closed; a task or a
//! connection outlives [`PeerSender::ended`].

mod connect;
mod gathered;
mod incoming;
mod leash;
mod outbox;
mod pace;
mod peers;
mod placed;
mod service;
mod session;
mod sorting;
mod target;
pub mod wire;

pub use connect::{Connector, Dialled, Duplex, Io, Tcp};
pub use gathered::Gathered;
pub use incoming::Incoming;
pub use outbox::PeerSender;
pub use peers::{Peers, PeersConfig};
pub use placed::{Entrance, Placed, line, lost};
pub use service::SessionService;
pub use sorting::sorted;

use crate::protocol::{ClusterId, Input, Member};
use chat_proto::ClusterSecret;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The largest frame, in bytes; a larger one ends its session. For both ends: the server's limit is set where the service is
/// added to it.
pub const MESSAGE_BYTES: usize = 16 << 20;

/// Times and sizes of dialled sessions. The defaults suit three machines in one network.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// A connection that is not there after this long is silence.
    pub dial_timeout: Duration,
    /// A peer that has not said who it is this long after the connection is silence.
    pub welcome_timeout: Duration,
    /// How often a connection is tried while nothing else is heard on it. A half-dead one counts as a contact (rule 8)
    /// until it is given up.
    pub keepalive_interval: Duration,
    /// A connection that did not answer such a trial after this long is given up.
    pub keepalive_timeout: Duration,
    /// How many bytes may come in unread, per session. With another than the default, a peer serves it more slowly (`sorting`).
    pub window: u32,
    /// How many messages may wait for a session's connection; more are dropped.
    pub queue: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            dial_timeout: Duration::from_secs(1),
            welcome_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(2),
            window: sorting::PEER_WINDOW,
            queue: 1024,
        }
    }
}

/// What both ends of the transport share: who this process is, where its events go, and how long it runs.
#[derive(Clone, Debug)]
struct Local {
    me: Member,
    cluster: watch::Receiver<Option<ClusterId>>,
    secret: Option<ClusterSecret>,
    events: mpsc::Sender<Input>,
    shutdown: CancellationToken,
    sessions: Arc<AtomicU64>,
    tasks: TaskTracker,
}

impl Local {
    fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.borrow()
    }

    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits while the driver is behind. That the driver is gone is noticed by [`Local::run`], not here.
    async fn tell(&self, input: Input) {
        let _ = self.events.send(input).await;
    }

    /// Runs `work` as a task of its own until it ends, the shutdown begins, or there is nobody to tell.
    fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, events) = (self.shutdown.clone(), self.events.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = events.closed() => {}
                () = work => {}
            }
        });
    }
}
