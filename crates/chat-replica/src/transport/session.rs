//! One dialled session, from the connection on.

use super::connect::Io;
use super::leash::Leash;
use super::wire::{self, Greeting, WireError};
use super::{Local, MESSAGE_BYTES, Tuning};
use crate::protocol::Envelope;
use chat_proto::v1::Welcome;
use chat_proto::v1::replica_service_client::ReplicaServiceClient;
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use std::future::ready;
use std::io;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status, Streaming};
use tower::service_fn;

/// A session whose peer has said who it is. Dropping it closes the connection.
pub(super) struct Session {
    /// What the peer said.
    pub greeting: Greeting,
    /// What is put here goes out.
    pub queue: mpsc::Sender<Envelope>,
    answers: Streaming<Welcome>,
    _connection: DropGuard,
}

/// Why there is no session on a connection that was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSession {
    #[error("no welcome in time")]
    Timeout,
    #[error(transparent)]
    Connection(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error("it ended without a welcome")]
    Ended,
    #[error("its welcome cannot be read: {0}")]
    Unreadable(#[from] WireError),
}

impl Session {
    /// Opens the session and waits for the welcome.
    pub async fn open(tuning: &Tuning, local: &Local, io: Io) -> Result<Session, NoSession> {
        timeout(tuning.welcome_timeout, Session::greet(tuning, local, io)).await.unwrap_or(Err(NoSession::Timeout))
    }

    async fn greet(tuning: &Tuning, local: &Local, io: Io) -> Result<Session, NoSession> {
        let held = CancellationToken::new();
        let leash = Leash::new(io, held.clone(), local.tasks.token());
        let connection = held.drop_guard();
        let channel = channel(tuning, leash).await?;
        let (queue, queued) = mpsc::channel(tuning.queue);
        let mut request = Request::new(ReceiverStream::new(queued).map(wire::encode));
        if let Some(secret) = &local.secret {
            secret.attach(request.metadata_mut());
        }
        let mut answers = ReplicaServiceClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES)
            .max_decoding_message_size(MESSAGE_BYTES)
            .session(request)
            .await?
            .into_inner();
        let welcome = answers.message().await?.ok_or(NoSession::Ended)?;
        Ok(Session { greeting: wire::decode_welcome(welcome)?, queue, answers, _connection: connection })
    }

    /// Waits for its end, and says what the peer gave as the reason, if it gave one.
    pub async fn ended(&mut self) -> Option<String> {
        loop {
            match self.answers.message().await {
                Ok(Some(welcome)) if !welcome.refusal.is_empty() => return Some(welcome.refusal),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) if status.code() == Code::InvalidArgument => return Some(status.message().into()),
                Err(_) => return None,
            }
        }
    }
}

/// A channel over this one connection. tonic would reconnect by itself, unseen; the second time it gets nothing.
async fn channel(tuning: &Tuning, leash: Leash) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(TokioIo::new(leash));
    let connector =
        service_fn(move |_: Uri| ready(once.take().ok_or_else(|| io::Error::other("one session, one connection"))));
    // The name is only for the request's header: the connection is there already.
    Endpoint::from_static("http://replica")
        .initial_stream_window_size(tuning.window)
        .initial_connection_window_size(tuning.window)
        .http2_keep_alive_interval(tuning.keepalive_interval)
        .keep_alive_timeout(tuning.keepalive_timeout)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
