//! Sending: a place in the order of a session, and the result.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use chat_proto::v1;
use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    task::coop::consume_budget,
    time::timeout_at,
};

use crate::{
    error::{Error, Reason},
    model::{Key, Sent},
    outbox::Entry,
    sends::SendTask,
    session::Session,
};

/// The largest text, in bytes. The service has the same limit; checked here too, because a text that does not fit
/// into a frame would end the stream for every other send.
pub const MOST_TEXT: usize = 65536;

/// The longest name that is asked for, in bytes. Real ones are much shorter; as many as this, times the sends of a frame, still fit
/// beside the texts.
const MOST_NAME: usize = 1024;

/// A send that has its place in the order: a future of its result. Dropping it does not take the send back.
#[derive(Debug)]
#[must_use = "the result says whether the message was accepted"]
pub struct Submitted {
    key: Key,
    result: oneshot::Receiver<Result<Sent, Error>>,
}

impl Submitted {
    /// The key that it was submitted with.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }
}

impl Future for Submitted {
    type Output = Result<Sent, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The task ends without an answer only when its runtime does.
        let key = self.key;
        Pin::new(&mut self.result).poll(cx).map(|result| result.unwrap_or(Err(Error::Unknown { key })))
    }
}

impl Session {
    /// Sends a text of 1 to 65536 bytes to the account named `to`, and waits until it is on disk.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NoSuchRecipient`, `TextTooLarge`, `TextEmpty`, `SessionInvalid` and others;
    /// [`Error::NoLeader`]; [`Error::Unknown`], to be resolved by [`send_with_key`](Self::send_with_key).
    ///
    /// # Cancellation safety
    /// Dropping the future may still send the message. Two sends of which the second begins after the first has
    /// returned, or whose [`submit`](Self::submit) has, arrive in that order.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let sent = session.send("ann", "hello").await?;
    /// println!("message {} is on {} disks", sent.id, sent.copies);
    /// # Ok(()) }
    /// ```
    pub async fn send(&self, to: &str, text: &str) -> Result<Sent, Error> {
        self.send_with_key(Key::generate(), to, text).await
    }

    /// Sends under a key of the caller's: again with the same arguments, it returns the first outcome with
    /// `duplicate` set.
    ///
    /// # Errors
    /// As [`send`](Self::send), also `KeyConflict` when the key was used for another message.
    ///
    /// # Cancellation safety
    /// As [`send`](Self::send).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let key = chat_client::Key::generate();
    /// let first = session.send_with_key(key, "ann", "once").await?;
    /// let again = session.send_with_key(key, "ann", "once").await?;
    /// assert!(again.duplicate && again.id == first.id);
    /// # Ok(()) }
    /// ```
    pub async fn send_with_key(&self, key: Key, to: &str, text: &str) -> Result<Sent, Error> {
        self.submit_with_key(key, to, text).await?.await
    }

    /// Takes a place in the order of this session's sends and returns without waiting for the result, so that many
    /// sends can be on their way. Waits only while the queue is full.
    ///
    /// # Errors
    /// Those of arguments that the service would refuse (`TextTooLarge`, `TextEmpty`), and [`Error::NoLeader`] when
    /// there was no place until the deadline. Every other error comes from the returned future.
    ///
    /// # Cancellation safety
    /// Dropped before it returns, it sends nothing.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let one = session.submit("ann", "one").await?;
    /// let two = session.submit("ann", "two").await?;
    /// assert!(one.await?.seq < two.await?.seq);
    /// # Ok(()) }
    /// ```
    pub async fn submit(&self, to: &str, text: &str) -> Result<Submitted, Error> {
        self.submit_with_key(Key::generate(), to, text).await
    }

    /// [`submit`](Self::submit) under a key of the caller's.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Cancellation safety
    /// As [`submit`](Self::submit).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let submitted = session.submit_with_key(chat_client::Key::generate(), "ann", "hello").await?;
    /// submitted.await?;
    /// # Ok(()) }
    /// ```
    pub async fn submit_with_key(&self, key: Key, to: &str, text: &str) -> Result<Submitted, Error> {
        let inner = &self.0;
        let deadline = inner.client.deadline();
        if text.is_empty() {
            return Err(Error::refused(Reason::TextEmpty, "a message needs a text", None));
        }
        if text.len() > MOST_TEXT {
            let message = format!("a text may have {MOST_TEXT} bytes; this one has {}", text.len());
            return Err(Error::refused(Reason::TextTooLarge, message, Some(MOST_TEXT as u64)));
        }
        if to.len() > MOST_NAME {
            return Err(Error::refused(Reason::NoSuchRecipient, "nobody has a name as long as that", None));
        }
        let (reply, result) = oneshot::channel();
        let request = v1::SendRequest { key: key.wire(), to: to.to_owned(), text: text.to_owned() };
        let sends = inner
            .sends
            .get_or_init(|| SendTask::spawn(inner.client.finder.clone(), inner.token.clone(), inner.client.queue));
        let gone = || Error::Usage("the runtime of this client has been shut down".to_owned());
        // As every wait does: whoever submits in a loop lets others run, too.
        consume_budget().await;
        // A clock is only needed where there is no place.
        match sends.try_send(Entry::new(request, deadline, reply)) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(gone()),
            Err(TrySendError::Full(entry)) => match timeout_at(deadline, sends.send(entry)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(gone()),
                Err(_) => return Err(inner.client.finder.no_leader()),
            },
        }
        Ok(Submitted { key, result })
    }
}
