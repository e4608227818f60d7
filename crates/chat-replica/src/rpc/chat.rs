//! The service for clients, call by call.

use super::context::RpcContext;
use super::errors::Fault;
use super::{accounts, convert, inbox, listings, send_stream, sending};
use chat_proto::HistoryPage;
use chat_proto::v1::{self, chat_service_server::ChatService};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// The service for clients.
#[derive(Clone, Debug)]
pub struct ChatRpc {
    context: Arc<RpcContext>,
}

impl ChatRpc {
    /// On one replica.
    pub fn new(context: Arc<RpcContext>) -> ChatRpc {
        ChatRpc { context }
    }
}

/// What a handler came to, as tonic wants it.
fn answer<T>(result: Result<T, Fault>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ChatService for ChatRpc {
    async fn find_leader(&self, _: Request<v1::FindLeaderRequest>) -> Answer<v1::FindLeaderResponse> {
        let status = self.context.status();
        answer(Ok(v1::FindLeaderResponse {
            replica: self.context.me().0,
            epoch: Some(convert::epoch(status.epoch)),
            leader: status.leader.and_then(|leader| self.context.peer(leader)),
            serving: status.serving,
            waiting_for: status.waiting_for.iter().map(|id| id.0).collect(),
            replicas: self.context.peers(),
        }))
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterResponse> {
        answer(accounts::register(&self.context, request.into_inner()).await)
    }

    async fn log_in(&self, request: Request<v1::LogInRequest>) -> Answer<v1::LogInResponse> {
        answer(accounts::log_in(&self.context, request.into_inner()).await)
    }

    async fn log_out(&self, request: Request<v1::LogOutRequest>) -> Answer<v1::LogOutResponse> {
        answer(accounts::log_out(&self.context, request).await)
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Answer<v1::WhoAmIResponse> {
        answer(listings::who_am_i(&self.context, request).await)
    }

    async fn list_accounts(&self, request: Request<v1::ListAccountsRequest>) -> Answer<v1::ListAccountsResponse> {
        answer(listings::list_accounts(&self.context, request).await)
    }

    async fn send(&self, request: Request<v1::SendRequest>) -> Answer<v1::SendResponse> {
        answer(sending::send(&self.context, request).await)
    }

    type SendStreamStream = BoxStream<'static, Result<v1::SendStreamResponse, Status>>;

    async fn send_stream(&self, request: Request<Streaming<v1::SendStreamRequest>>) -> Answer<Self::SendStreamStream> {
        answer(send_stream::open(self.context.clone(), request).await.map(StreamExt::boxed))
    }

    type InboxStream = BoxStream<'static, Result<v1::InboxResponse, Status>>;

    async fn inbox(&self, request: Request<v1::InboxRequest>) -> Answer<Self::InboxStream> {
        answer(inbox::open(self.context.clone(), request).await.map(StreamExt::boxed))
    }

    async fn acknowledge(&self, request: Request<v1::AcknowledgeRequest>) -> Answer<v1::AcknowledgeResponse> {
        answer(sending::acknowledge(&self.context, request).await)
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Answer<HistoryPage> {
        answer(listings::history(&self.context, request).await)
    }

    async fn delete_account(&self, request: Request<v1::DeleteAccountRequest>) -> Answer<v1::DeleteAccountResponse> {
        answer(accounts::delete_account(&self.context, request).await)
    }
}
