//! ⑧ A mailbox from a position on, and then live.
//!
//! The stream listens first and reads then, so nothing falls between. From there on its position says what is next: what comes
//! live if it continues it, else what the database holds after it. A client that reads slowly is not waited for: its stream falls behind,
//! and reads on from the database.

use super::context::{RpcContext, found, valid_session};
use super::errors::Fault;
use super::leadership::Term;
use super::{auth, convert, listings};
use crate::clock;
use crate::handle::Declined;
use crate::subscribers::{Batch, End, Subscription};
use chat_core::{AccountId, Lookup as _, Message, Rejection, Timestamp};
use chat_proto::v1;
use futures_util::{Stream, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Status};

/// After so long without a message comes an empty response. Clients are promised one every 2 s.
const HEARTBEAT: Duration = Duration::from_millis(1500);
/// A heartbeat says that this replica still leads. A primary that cannot make sure of it in so long ends its streams, so that who
/// listens finds the one that leads by now.
const CONFIRMING: Duration = Duration::from_millis(400);

pub(super) async fn open(
    context: Arc<RpcContext>,
    request: Request<v1::InboxRequest>,
) -> Result<impl Stream<Item = Result<v1::InboxResponse, Status>> + Send + 'static, Fault> {
    let token = auth::bearer(request.metadata())?;
    let term = context.term().await?;
    let account = context.authenticate(token).await?;
    let subscription = context.subscribers.subscribe(account, token);
    let subscription = subscription.map_err(|error| Fault::overloaded(error.to_string()))?;
    let look = context.read_as_leader(move |state| {
        let session = found!(valid_session(state, &token)?);
        Ok(Ok((session.expires_at, state.marks(session.account)?)))
    });
    let (expires_at, marks) = look.await?.value;
    let position = request.get_ref().after.unwrap_or(marks.delivered);
    if position > marks.last {
        // It would wait for ever, and miss what comes meanwhile.
        return Err(Rejection::MarkBeyondLast { mark: position, last: marks.last }.into());
    }
    subscription.learn(marks.last);
    let (beat, ended) = (Instant::now(), false);
    let inbox = Inbox { context, account, term, subscription, expires_at, position, beat, ended };
    Ok(stream::unfold(inbox, |mut inbox| async { inbox.step().await.map(|response| (response, inbox)) }))
}

/// One stream.
struct Inbox {
    context: Arc<RpcContext>,
    account: AccountId,
    term: Term,
    subscription: Subscription,
    expires_at: Timestamp,
    /// Everything up to this `seq` was sent.
    position: u64,
    /// When the next heartbeat is due; the first at once, so that the client knows that it listens.
    beat: Instant,
    ended: bool,
}

impl Inbox {
    /// The next response; after an error, nothing.
    async fn step(&mut self) -> Option<Result<v1::InboxResponse, Status>> {
        if self.ended {
            return None;
        }
        let response = self.next().await;
        self.ended = response.is_err();
        Some(response.map_err(Status::from))
    }

    async fn next(&mut self) -> Result<v1::InboxResponse, Fault> {
        loop {
            if self.term.is_over() {
                return Err(self.context.declined(Declined::NotServing));
            }
            if clock::wall() >= self.expires_at {
                return Err(Rejection::SessionInvalid.into());
            }
            match self.subscription.take(self.position) {
                Batch::Live(messages) => return Ok(self.respond(messages.iter().map(|message| &**message))),
                Batch::Behind => {
                    let messages = self.read_on().await?;
                    if !messages.is_empty() {
                        return Ok(self.respond(messages.iter()));
                    }
                }
                Batch::Idle => {}
                Batch::Ended(end) => return Err(self.why(end).await),
            }
            tokio::select! {
                biased;
                () = self.term.over() => {}
                () = self.context.shutdown() => return Err(self.context.declined(Declined::Stopped)),
                () = self.subscription.told() => {}
                () = tokio::time::sleep_until(self.beat) => {
                    self.still_leads().await?;
                    return Ok(self.respond([].into_iter()));
                }
            }
        }
    }

    /// By its leases, or by one round (rule 11).
    async fn still_leads(&self) -> Result<(), Fault> {
        let epoch = self.context.within(CONFIRMING, self.context.handle.confirm()).await;
        match epoch {
            Some(Ok(epoch)) if epoch == self.term.epoch() => Ok(()),
            _ => Err(self.context.declined(Declined::NotServing)),
        }
    }

    /// What the database holds after the position: on the leader, so everything that was told so far is in it.
    async fn read_on(&self) -> Result<Vec<Message>, Fault> {
        let (account, position) = (self.account, self.position);
        let look = self.context.read_as_leader(move |state| listings::mailbox(state, account, position));
        Ok(look.await?.value)
    }

    fn respond<'m>(&mut self, messages: impl Iterator<Item = &'m Message>) -> v1::InboxResponse {
        let messages: Vec<_> = messages.map(convert::message).collect();
        self.position = messages.last().map_or(self.position, |message| message.seq);
        self.beat = Instant::now() + HEARTBEAT;
        v1::InboxResponse { messages, last: self.subscription.last().max(self.position) }
    }

    /// The sessions of an account that is deleted end before it does, in the same log entry. The client is told the reason that matters.
    async fn why(&self, end: End) -> Fault {
        let account = self.account;
        let deleted = match end {
            End::AccountDeleted => true,
            End::SessionEnded => {
                let look = self.context.read_as_leader(move |state| Ok(Ok(state.account(account)?)));
                match look.await {
                    Ok(seen) => seen.value.is_none_or(|account| account.deleted),
                    Err(fault) => return fault,
                }
            }
        };
        if deleted { Rejection::AccountDeleted.into() } else { Rejection::SessionInvalid.into() }
    }
}
