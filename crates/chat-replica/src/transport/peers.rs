//! One task per peer: dial, hold the session, dial again; and what a failure means (rule 8).

use super::connect::Connector;
use super::outbox::{Lane, PeerSender};
use super::pace::{Pace, Went};
use super::service::SessionService;
use super::session::{NoSession, Session};
use super::target::Target;
use super::wire::Greeting;
use super::{Local, Tuning};
use crate::protocol::{ClusterId, Input, Member, ReplicaId};
use chat_proto::ClusterSecret;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;

/// What the transport has to know.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This process run.
    pub me: Member,
    /// The cluster; changes once, when this replica is founded or joins.
    pub cluster: watch::Receiver<Option<ClusterId>>,
    /// Where the peers are: `host:port` each.
    pub addresses: Vec<(ReplicaId, String)>,
    /// Said at every dial, and wanted of everybody who dials; none: nothing is said or wanted.
    pub secret: Option<ClusterSecret>,
}

/// The transport of one process.
#[derive(Debug)]
pub struct Peers;

impl Peers {
    /// Starts a task for each peer, on the current tokio runtime. Returns where messages go out, and the service by which
    /// they come in, on the runtime of the server that it is added to.
    ///
    /// `events` is bounded: a driver that is behind holds up its peers on the network. Once `shutdown` is cancelled or
    /// `events` is closed, every connection closes and nothing more is said.
    pub fn start(
        config: PeersConfig,
        events: mpsc::Sender<Input>,
        connector: Arc<dyn Connector>,
        shutdown: CancellationToken,
    ) -> (PeerSender, SessionService) {
        Peers::start_tuned(config, Tuning::default(), events, connector, shutdown)
    }

    /// Like [`Peers::start`], with other times and sizes.
    pub fn start_tuned(
        config: PeersConfig,
        tuning: Tuning,
        events: mpsc::Sender<Input>,
        connector: Arc<dyn Connector>,
        shutdown: CancellationToken,
    ) -> (PeerSender, SessionService) {
        let PeersConfig { me, cluster, addresses, secret } = config;
        let (sessions, tasks) = (Arc::default(), TaskTracker::new());
        let local = Local { me, cluster, secret, events, shutdown, sessions, tasks };
        let mut lanes = BTreeMap::new();
        // Once per replica: a second address would only be a second session with it; and none with itself.
        let addresses: BTreeMap<ReplicaId, String> = addresses.into_iter().filter(|(id, _)| *id != me.id).collect();
        for (id, host) in addresses {
            let lane = Arc::new(Lane::default());
            lanes.insert(id, lane.clone());
            let task = PeerTask {
                id,
                tuning: tuning.clone(),
                local: local.clone(),
                connector: connector.clone(),
                lane,
                target: Target::new(host),
                pace: Pace::default(),
                complaints: BTreeSet::new(),
            };
            local.run(task.run());
        }
        (PeerSender::new(lanes, local.tasks.clone()), SessionService::new(local))
    }
}

/// Why there is no session; the strongest of several counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Failure {
    Silence,
    Broke,
    /// Where nobody was ever met: no proof of anything, but worth asking again soon.
    RefusedByNobody,
    /// Where this process run answered last (rule 8).
    Refused(Member),
}

struct PeerTask {
    id: ReplicaId,
    tuning: Tuning,
    local: Local,
    connector: Arc<dyn Connector>,
    lane: Arc<Lane>,
    target: Target,
    pace: Pace,
    complaints: BTreeSet<String>,
}

impl PeerTask {
    async fn run(mut self) {
        loop {
            let went = match self.reach().await {
                Ok((member, session)) => self.hold(member, session).await,
                Err(failure) => self.failed(failure).await,
            };
            // Without randomness there is no jitter, which is bearable.
            let pause = self.pace.pause(went, getrandom::u32().unwrap_or(0));
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    async fn failed(&self, failure: Failure) -> Went {
        let (input, went) = match failure {
            Failure::Refused(peer) => (Input::Refused { peer }, Went::Refused),
            Failure::RefusedByNobody => (Input::Unreachable { peer: self.id }, Went::Refused),
            Failure::Broke => (Input::Unreachable { peer: self.id }, Went::Broke),
            Failure::Silence => (Input::Unreachable { peer: self.id }, Went::Silence),
        };
        self.local.tell(input).await;
        went
    }

    async fn reach(&mut self) -> Result<(Member, Session), Failure> {
        let mut failure = Failure::Silence;
        for address in self.target.addresses(self.tuning.dial_timeout).await {
            match self.reach_at(address).await {
                Ok(session) => return Ok(session),
                Err(this) => failure = failure.max(this),
            }
        }
        Err(failure)
    }

    async fn reach_at(&mut self, address: SocketAddr) -> Result<(Member, Session), Failure> {
        let dialled = match timeout(self.tuning.dial_timeout, self.connector.connect(address)).await {
            Ok(Ok(dialled)) => dialled.verified(address),
            // Exactly this error and at exactly this step (rule 8).
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(self.target.met_at(address).map_or(Failure::RefusedByNobody, Failure::Refused));
            }
            // It died with this connection in its backlog: silence for rule 8, but the refusal is a moment away.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Failure::Broke),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let io = dialled.map_err(|error| {
            tracing::debug!(peer = %self.id, %address, %error, "no connection");
            Failure::Silence
        })?;
        match Session::open(&self.tuning, &self.local, io).await {
            Ok(session) => self.accept(address, session),
            Err(NoSession::Unreadable(error)) => {
                self.complain(format!("at {address} its welcome cannot be read: {error}"));
                Err(Failure::Silence)
            }
            Err(NoSession::Status(status)) if status.code() == Code::Unauthenticated => {
                // A process run keeps its secret, so this is none that was met here in a session.
                self.target.answered_by_other(address);
                self.complain(format!("who answers at {address} refuses: {}", status.message()));
                Err(Failure::Silence)
            }
            Err(error) => {
                tracing::debug!(peer = %self.id, %address, %error, "no session");
                Err(if matches!(error, NoSession::Timeout) { Failure::Silence } else { Failure::Broke })
            }
        }
    }

    /// Rule 12: the welcome must be the peer's own, of this cluster.
    fn accept(&mut self, address: SocketAddr, session: Session) -> Result<(Member, Session), Failure> {
        let Greeting { cluster, from, refusal } = &session.greeting;
        let member = *from;
        let mine = self.local.cluster();
        let objection = match (mine, *cluster) {
            (Some(mine), Some(theirs)) if mine != theirs => Some(format!("belongs to cluster {theirs}, not {mine}")),
            _ if member.id != self.id => Some(format!("is replica {}", member.id)),
            _ => None,
        };
        if let Some(objection) = objection {
            self.target.answered_by_other(address);
            self.complain(format!("who answers at {address} {objection}"));
            return Err(Failure::Silence);
        }
        if let Some(refusal) = refusal {
            // Nobody met it in a session, so nobody is refused there later either, unless it is the one met before.
            if self.target.met_at(address) != Some(member) {
                self.target.answered_by_other(address);
            }
            self.complain(format!("it refuses: {refusal}"));
            return Err(Failure::Silence);
        }
        self.target.answered(address, member);
        Ok((member, session))
    }

    async fn hold(&mut self, peer: Member, mut session: Session) -> Went {
        let began = Instant::now();
        let number = self.local.next_session();
        // Open before it is announced: the protocol's answer to the announcement is the greeting that goes first.
        let lane = self.lane.open(peer, session.queue.clone());
        self.local.tell(Input::SessionUp { session: number, peer, outbound: true }).await;
        tracing::debug!(%peer, session = number, "session begins");
        let reason = session.ended().await;
        tracing::debug!(%peer, session = number, "session ends");
        drop((lane, session));
        self.local.tell(Input::SessionDown { session: number, peer: peer.id }).await;
        match reason {
            Some(reason) => {
                self.complain(format!("it ended the session: {reason}"));
                Went::Silence
            }
            None => Went::Session(began.elapsed()),
        }
    }

    /// Once per text: it is tried again many times a second. A peer that invents new ones is not listened to for ever.
    fn complain(&mut self, text: String) {
        const MANY: usize = 32;
        if self.complaints.len() < MANY && !self.complaints.contains(&text) {
            tracing::warn!(peer = %self.id, "no session with the peer: {text}");
            self.complaints.insert(text);
        }
    }
}
