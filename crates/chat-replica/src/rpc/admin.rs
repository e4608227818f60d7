//! The service for operators, call by call. Each replica answers for itself.

use super::context::RpcContext;
use super::convert;
use crate::protocol::{Incarnation, ReplicaId, Standing};
use chat_proto::ClusterSecret;
use chat_proto::v1::{self, admin_service_client::AdminServiceClient, admin_service_server::AdminService};
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

/// How long handing over may take.
const HANDING_OVER: Duration = Duration::from_secs(2);
/// How long a replica that is said to have crashed has for an answer.
const ANSWERING: Duration = Duration::from_millis(500);

/// The service for operators.
#[derive(Clone, Debug)]
pub struct AdminRpc {
    context: Arc<RpcContext>,
    secret: Option<ClusterSecret>,
}

impl AdminRpc {
    /// On one replica. With a secret, only who knows it may give orders.
    pub fn new(context: Arc<RpcContext>, secret: Option<ClusterSecret>) -> AdminRpc {
        AdminRpc { context, secret }
    }

    fn admit<T>(&self, order: &Request<T>) -> Result<(), Status> {
        self.secret.as_ref().map_or(Ok(()), |secret| secret.admit(order.metadata()))
    }

    /// Whether the very process run that the view names answers. One whose disk hangs is in contact with nobody, and lives.
    async fn answers(&self, id: ReplicaId) -> bool {
        let named = self.context.status().view.and_then(|view| view.member(id).copied());
        let (Some(member), Some(peer)) = (named, self.context.peer(id)) else { return false };
        let status = ask_status(&peer.address, ANSWERING).await;
        status.is_some_and(|status| status.id == id.0 && status.incarnation == Some(incarnation(member.incarnation)))
    }

    /// To whom the operator wants to hand over; `None`: whoever is best.
    fn successor(&self, id: u32) -> Result<Option<ReplicaId>, Status> {
        let (id, me) = (ReplicaId(id), self.context.me());
        if id == ReplicaId(0) {
            return Ok(None);
        }
        if id == me {
            return Err(Status::invalid_argument(format!("replica {me} leads already")));
        }
        let view = self.context.status().view;
        // The view goes first: a member may be missing in the list that this replica was started with.
        if view.is_some_and(|view| view.member(id).is_some()) {
            return Ok(Some(id));
        }
        Err(match self.context.peer(id) {
            Some(_) => Status::failed_precondition(format!("replica {id} is not in the view, so it cannot take over")),
            None => Status::not_found(format!("there is no replica {id}")),
        })
    }
}

/// What the replica at an address says of itself; `None` if it says nothing in time.
pub(crate) async fn ask_status(address: &str, limit: Duration) -> Option<v1::StatusResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    let answer = async {
        let mut service = AdminServiceClient::new(endpoint.connect().await.ok()?);
        service.status(v1::StatusRequest {}).await.ok()
    };
    Some(tokio::time::timeout(limit, answer).await.ok()??.into_inner())
}

fn role(standing: Standing) -> &'static str {
    match standing {
        Standing::Primary => "primary",
        Standing::Backup => "backup",
        Standing::Learner => "learner",
        Standing::Waiting => "waiting",
    }
}

fn incarnation(incarnation: Incarnation) -> v1::Incarnation {
    v1::Incarnation { count: incarnation.count, nonce: incarnation.nonce }
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let context = &self.context;
        let status = context.status();
        let impaired = status.impaired_until.map(|index| format!("its log is being repaired, up to entry {index}"));
        let members = status.view.map(|view| view.members).unwrap_or_default();
        Ok(Response::new(v1::StatusResponse {
            id: context.me().0,
            address: context.peer(context.me()).map(|peer| peer.address).unwrap_or_default(),
            role: role(status.standing).to_owned(),
            epoch: Some(convert::epoch(status.epoch)),
            committed: status.committed,
            applied: context.handle.gate.borrow().visible,
            in_view: members.iter().map(|member| member.id.0).collect(),
            leader: status.leader.and_then(|leader| context.peer(leader)),
            incarnation: Some(incarnation(status.me.incarnation)),
            waiting_for: status.waiting_for.iter().map(|id| id.0).collect(),
            cluster: status.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            replicas: context.peers(),
            last: status.last,
            impaired: impaired.unwrap_or_default(),
            leases_from: status.leases_from.iter().map(|id| id.0).collect(),
        }))
    }

    async fn declare_crashed(
        &self,
        request: Request<v1::DeclareCrashedRequest>,
    ) -> Result<Response<v1::DeclareCrashedResponse>, Status> {
        self.admit(&request)?;
        let id = ReplicaId(request.get_ref().id);
        if id == self.context.me() {
            return Err(Status::invalid_argument(format!("replica {id} answers this call: it has not crashed")));
        }
        if self.answers(id).await {
            return Err(Status::failed_precondition(format!("replica {id} answers: it has not crashed")));
        }
        let declared = self.context.within(HANDING_OVER, self.context.handle.declare_crashed(id)).await;
        let declared = declared.ok_or_else(|| Status::unavailable("this replica is stopping, or its disk hangs"))?;
        let member = declared.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::DeclareCrashedResponse { incarnation: Some(incarnation(member.incarnation)) }))
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::TransferResponse>, Status> {
        self.admit(&request)?;
        let mut term = self.context.term().await?;
        let to = self.successor(request.get_ref().id)?;
        let handed_over = async {
            self.context.handle.transfer(to).await;
            term.over().await;
        };
        match self.context.within(HANDING_OVER, handed_over).await {
            Some(()) => Ok(Response::new(v1::TransferResponse {})),
            None => {
                let me = self.context.me();
                let who = to.map_or_else(|| "no other member".to_owned(), |to| format!("replica {to}"));
                Err(Status::deadline_exceeded(format!("replica {me} still leads: {who} was not ready to take over")))
            }
        }
    }
}
