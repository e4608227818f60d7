//! The sessions that peers dial.

use super::Local;
use super::wire::{self, Greeting};
use crate::protocol::{Envelope, Input};
use chat_proto::v1::replica_service_server::ReplicaService;
use chat_proto::v1::{Frame, Welcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Takes the sessions that peers dial, and hands what they say to the driver. Sessions of both directions are numbered
/// together.
///
/// Its server wants [`super::MESSAGE_BYTES`] as its decoding limit, windows to match, HTTP/2 keepalive (a half-dead
/// connection counts as a contact, rule 8, until it is given up) and [`super::Incoming`] to accept from.
#[derive(Clone, Debug)]
pub struct SessionService {
    local: Local,
}

impl SessionService {
    pub(super) fn new(local: Local) -> SessionService {
        SessionService { local }
    }
}

type Answer = Result<Welcome, Status>;

#[tonic::async_trait]
impl ReplicaService for SessionService {
    type SessionStream = ReceiverStream<Answer>;

    async fn session(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(secret) = &self.local.secret {
            secret.admit(request.metadata())?;
        }
        if self.local.shutdown.is_cancelled() || self.local.events.is_closed() {
            return Err(Status::unavailable("this replica is about to end"));
        }
        // At most two answers, so neither ever waits: the welcome, and why the session ends.
        let (answers, stream) = mpsc::channel(2);
        let session = Inbound { local: self.local.clone(), frames: request.into_inner(), answers };
        session.welcome(None);
        self.local.run(session.receive());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A session while it lasts. Dropping it ends the stream of answers, which tells the caller.
struct Inbound {
    local: Local,
    frames: Streaming<Frame>,
    answers: mpsc::Sender<Answer>,
}

impl Inbound {
    async fn receive(mut self) {
        let Some(first) = self.next().await else { return };
        if let Some(refusal) = self.objection(&first) {
            tracing::debug!(from = %first.from, refusal, "session refused");
            self.welcome(Some(refusal));
            return;
        }
        let peer = first.from;
        let number = self.local.next_session();
        self.local.tell(Input::SessionUp { session: number, peer, outbound: false }).await;
        let mut next = Some(first);
        while let Some(envelope) = next {
            // Waiting here is what holds up the sender: the window fills.
            self.local.tell(Input::Receive(envelope)).await;
            next = self.next().await.filter(|envelope| {
                let same = envelope.from == peer;
                if !same {
                    self.end(Status::invalid_argument(format!("the session is {peer}'s, not {}'s", envelope.from)));
                }
                same
            });
        }
        let local = self.local.clone();
        // First closed here, then told: whoever hears of the end can rely on it.
        drop(self);
        local.tell(Input::SessionDown { session: number, peer: peer.id }).await;
    }

    /// The next message; `None` where the session ends, for whatever reason.
    async fn next(&mut self) -> Option<Envelope> {
        let frame = self.frames.message().await.ok()??;
        wire::decode(frame).map_err(|error| self.end(Status::invalid_argument(error.to_string()))).ok()
    }

    /// Rule 12, as far as it concerns whole sessions.
    fn objection(&self, first: &Envelope) -> Option<String> {
        let mine = self.local.cluster();
        match (first.cluster, mine) {
            (Some(theirs), Some(mine)) if theirs != mine => {
                Some(format!("you belong to cluster {theirs}, this replica to cluster {mine}"))
            }
            _ if first.from.id == self.local.me.id => Some(format!("this is replica {}, as you are", first.from.id)),
            _ => None,
        }
    }

    fn welcome(&self, refusal: Option<String>) {
        let greeting = Greeting { cluster: self.local.cluster(), from: self.local.me, refusal };
        let _ = self.answers.try_send(Ok(wire::encode_welcome(greeting)));
    }

    fn end(&self, status: Status) {
        let _ = self.answers.try_send(Err(status));
    }
}
