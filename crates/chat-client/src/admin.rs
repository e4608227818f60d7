//! What operators ask: of every replica, about itself.

use std::{collections::BTreeMap, fmt, time::Duration};

use chat_proto::v1::{self, admin_service_client::AdminServiceClient};
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::{
    client::Client,
    discovery::Address,
    error::{Error, Refusal, Verdict, explain, judge},
    model::Epoch,
    owner::PROBE_TIMEOUT,
};

/// A word of an operator takes a write to disk.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(3);

/// One process run of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Incarnation {
    /// Starts counted on this disk, from 1.
    pub count: u64,
    /// Random bits.
    pub nonce: u64,
}

/// What a replica does in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Leads.
    Primary,
    /// Is in the view, and holds all that was acknowledged.
    Backup,
    /// Catches up.
    Learner,
    /// Knows no leader, or is not founded.
    Waiting,
    /// Did not answer.
    Unreachable,
    /// Something that this version of the library has no name for.
    Other(String),
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
            Self::Learner => "learner",
            Self::Waiting => "waiting",
            Self::Unreachable => "unreachable",
            Self::Other(name) => name,
        })
    }
}

/// One replica, by its own account. Of an unreachable one only `id` (where another replica told it), `address`,
/// `role` and `why` say something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `None`: unreachable, and nobody knows whose address that is.
    pub id: Option<u32>,
    /// `host:port`.
    pub address: String,
    /// What it does.
    pub role: Role,
    /// The highest that it has promised.
    pub epoch: Epoch,
    /// Index of the last entry that it knows to be committed.
    pub committed: u64,
    /// Index of the last entry that is in its state.
    pub applied: u64,
    /// Index of the last entry in its log.
    pub last: u64,
    /// Ids of the members of the newest view that it knows to be committed.
    pub in_view: Vec<u32>,
    /// Ids of the members that are bound to it by a lease: those whose crash it could prove now, and so go on without.
    pub leases_from: Vec<u32>,
    /// The leader that it follows or is.
    pub leader: Option<u32>,
    /// Its process run.
    pub incarnation: Incarnation,
    /// Ids of the replicas that it waits for.
    pub waiting_for: Vec<u32>,
    /// The cluster's id, in hexadecimal; empty before the founding.
    pub cluster: String,
    /// Why its disk counts for nothing; empty when it does count.
    pub impaired: String,
    /// Why it is unreachable; empty otherwise.
    pub why: String,
}

/// What one replica said to [`Client::declare_crashed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// `host:port` of the replica that was asked.
    pub address: String,
    /// The incarnation that it now takes for crashed, or why it does not.
    pub outcome: Result<Incarnation, Refusal>,
}

impl Client {
    /// The status of every replica that this client was given or learns of, ascending by id, the unreachable ones
    /// too. All are asked at once; whoever does not answer within 1 s is unreachable.
    ///
    /// # Cancellation safety
    /// Safe.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// for replica in client.status_of_all().await {
    ///     println!("{}: {}", replica.address, replica.role);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn status_of_all(&self) -> Vec<ReplicaStatus> {
        let mut asked: Vec<Address> = Vec::new();
        let mut peers: BTreeMap<u32, Address> = BTreeMap::new();
        let mut statuses: Vec<ReplicaStatus> = Vec::new();
        let mut next = self.finder.addresses();
        while !next.is_empty() {
            let answers = join_all(next.iter().map(|address| self.status_of(address))).await;
            for (address, answer) in next.drain(..).zip(answers) {
                asked.push(address.clone());
                let status = match answer {
                    Ok(answer) => {
                        peers.extend(answer.replicas.iter().map(|peer| (peer.id, peer.address.as_str().into())));
                        answered(answer)
                    }
                    Err(why) => unreachable(&address, why),
                };
                statuses.push(status);
            }
            // A replica that was reached under another name is not asked again under its own.
            let answered: Vec<_> = statuses.iter().filter_map(|status| status.id).collect();
            let learned = peers.iter().filter(|(id, address)| !asked.contains(address) && !answered.contains(id));
            next = learned.map(|(_, address)| address.clone()).collect();
        }
        for status in &mut statuses {
            let known = peers.iter().find(|(_, address)| ***address == *status.address).map(|(id, _)| *id);
            status.id = status.id.or(known);
        }
        statuses.sort_by_key(|status| (status.id.is_none(), status.id, status.role == Role::Unreachable));
        statuses.dedup_by(|later, earlier| later.id.is_some() && later.id == earlier.id);
        statuses
    }

    async fn status_of(&self, address: &Address) -> Result<v1::StatusResponse, String> {
        let channel = self.finder.channel(address).ok_or("not an address")?;
        match timeout(PROBE_TIMEOUT, AdminServiceClient::new(channel).status(v1::StatusRequest {})).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(explain(&status)),
            Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
        }
    }

    /// The operator's word, to every replica that can be reached, that replica `id` has crashed and will not write
    /// again. Giving it while the replica still runs can lose acknowledged messages; replicas that are in contact with
    /// it refuse, and so do those that were started with a secret, unless it is
    /// [this client's](crate::Builder::cluster_secret) too. At least one acceptance means that the cluster may go on.
    ///
    /// # Errors
    /// [`Error::NoLeader`], with the reasons by address, when no replica could be asked.
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the word given.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// for answer in client.declare_crashed(3).await? {
    ///     println!("{}: {}", answer.address, if answer.outcome.is_ok() { "accepted" } else { "refused" });
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn declare_crashed(&self, id: u32) -> Result<Vec<Declared>, Error> {
        let replicas = self.status_of_all().await;
        for replica in replicas.iter().filter(|replica| replica.role == Role::Unreachable) {
            self.finder.note(&replica.address.as_str().into(), replica.why.clone());
        }
        let reached = replicas.iter().filter(|replica| replica.role != Role::Unreachable && replica.id != Some(id));
        let asked = reached.map(|replica| self.declare_crashed_to(replica.address.as_str().into(), id));
        let declared: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        if declared.is_empty() { Err(self.finder.no_leader()) } else { Ok(declared) }
    }

    async fn declare_crashed_to(&self, address: Address, id: u32) -> Option<Declared> {
        let mut admin = AdminServiceClient::new(self.finder.channel(&address)?);
        let mut request = Request::new(v1::DeclareCrashedRequest { id });
        if let Some(secret) = &self.secret {
            secret.attach(request.metadata_mut());
        }
        let asked = timeout(DECLARE_TIMEOUT, admin.declare_crashed(request)).await;
        let outcome = match asked.unwrap_or_else(|_| Err(Status::cancelled("no answer in time"))) {
            Ok(response) => Ok(Response::into_inner(response).incarnation.unwrap_or_default().into()),
            Err(status) => match judge(&status) {
                Verdict::Refused(refusal) | Verdict::Later(refusal) => Err(refusal),
                Verdict::Elsewhere { .. } => {
                    self.finder.note(&address, explain(&status));
                    return None;
                }
            },
        };
        Some(Declared { address: address.to_string(), outcome })
    }
}

impl From<v1::Incarnation> for Incarnation {
    fn from(incarnation: v1::Incarnation) -> Self {
        Self { count: incarnation.count, nonce: incarnation.nonce }
    }
}

fn answered(status: v1::StatusResponse) -> ReplicaStatus {
    let role = match status.role.as_str() {
        "primary" => Role::Primary,
        "backup" => Role::Backup,
        "learner" => Role::Learner,
        "waiting" => Role::Waiting,
        _ => Role::Other(status.role),
    };
    ReplicaStatus {
        id: Some(status.id),
        address: status.address,
        role,
        epoch: status.epoch.unwrap_or_default().into(),
        committed: status.committed,
        applied: status.applied,
        last: status.last,
        in_view: status.in_view,
        leases_from: status.leases_from,
        leader: status.leader.map(|leader| leader.id),
        incarnation: status.incarnation.unwrap_or_default().into(),
        waiting_for: status.waiting_for,
        cluster: status.cluster,
        impaired: status.impaired,
        why: String::new(),
    }
}

fn unreachable(address: &Address, why: String) -> ReplicaStatus {
    ReplicaStatus {
        id: None,
        address: address.to_string(),
        role: Role::Unreachable,
        epoch: Epoch::default(),
        committed: 0,
        applied: 0,
        last: 0,
        in_view: Vec::new(),
        leases_from: Vec::new(),
        leader: None,
        incarnation: Incarnation::default(),
        waiting_for: Vec::new(),
        cluster: String::new(),
        impaired: String::new(),
        why,
    }
}
