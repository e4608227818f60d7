//! What somebody who is logged in can do.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use chat_proto::v1;
use tokio::sync::mpsc;

use crate::{
    call::Safety,
    client::Client,
    error::{Error, Reason},
    inbox::Inbox,
    model::{Account, Deleted, Key, Marks, Undelivered, Whoami},
    outbox::Entry,
    owner::{Route, Rpc},
    pages::{Accounts, History},
    sends::Reply,
    token::Token,
};

/// A login. A handle: clones share the session and its connection, and may be used by many tasks at once. Dropping it
/// does not log out.
#[derive(Clone)]
pub struct Session(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) token: Token,
    account: Option<Arc<Account>>,
    /// The queue of the send task, which the first send starts.
    pub(crate) sends: OnceLock<mpsc::Sender<Entry<Reply>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("account", &self.0.account).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(client: Client, token: Token, account: Option<Arc<Account>>) -> Self {
        Self(Arc::new(Inner { client, token, account, sends: OnceLock::new() }))
    }

    /// The client that it belongs to.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The account, as it was at the login. `None` for a restored session: ask [`whoami`](Self::whoami).
    #[must_use]
    pub fn account(&self) -> Option<&Account> {
        self.0.account.as_deref()
    }

    /// The session token: 64 hexadecimal digits for [`Client::restore`]. Whoever has it has the account: keep it as a
    /// password is kept.
    #[must_use]
    pub fn export(&self) -> String {
        self.0.token.reveal()
    }

    /// The mailbox, from the first message on that was not acknowledged, and then live.
    ///
    /// Must be called within a tokio runtime. See [`Inbox::next`] for an example.
    #[must_use]
    pub fn inbox(&self) -> Inbox {
        Inbox::start(self.0.client.finder.clone(), self.0.token.clone(), None)
    }

    /// The mailbox, from the first message on whose `seq` is above this one, and then live. 0: all of it.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// session.send("ann", "one").await?;
    /// session.send("ann", "two").await?;
    /// assert_eq!(session.inbox_after(1).next().await?.text, "two");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn inbox_after(&self, seq: u64) -> Inbox {
        Inbox::start(self.0.client.finder.clone(), self.0.token.clone(), Some(seq))
    }

    /// Everything up to this `seq` has arrived and need not come again. Marks only grow: a lower one changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] with `MarkBeyondLast` or `SessionInvalid`; [`Error::NoLeader`].
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the mark moved.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let sent = session.send("ann", "hello").await?;
    /// let marks = session.acknowledge(sent.seq).await?;
    /// assert_eq!((marks.delivered, marks.read), (sent.seq, 0));
    /// # Ok(()) }
    /// ```
    pub async fn acknowledge(&self, seq: u64) -> Result<Marks, Error> {
        self.mark(v1::AcknowledgeRequest { delivered: Some(seq), read: None }).await
    }

    /// Everything up to this `seq` has been read; it counts as acknowledged too.
    ///
    /// # Errors
    /// As [`acknowledge`](Self::acknowledge).
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the mark moved.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let sent = session.send("ann", "hello").await?;
    /// assert_eq!(session.mark_read(sent.seq).await?.read, sent.seq);
    /// # Ok(()) }
    /// ```
    pub async fn mark_read(&self, seq: u64) -> Result<Marks, Error> {
        self.mark(v1::AcknowledgeRequest { delivered: None, read: Some(seq) }).await
    }

    async fn mark(&self, message: v1::AcknowledgeRequest) -> Result<Marks, Error> {
        let method = |mut rpc: Rpc, request| async move { rpc.acknowledge(request).await };
        let response = self.call(Safety::Idempotent, message, method).await?;
        Ok(response.marks.unwrap_or_default().into())
    }

    /// Whose session this is, and how far the mailbox is.
    ///
    /// # Errors
    /// [`Error::Refused`] with `SessionInvalid` or `AccountDeleted`; [`Error::NoLeader`].
    ///
    /// # Cancellation safety
    /// Safe.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let me = session.whoami().await?;
    /// println!("{} has {} new messages", me.account.name, me.marks.last - me.marks.delivered);
    /// # Ok(()) }
    /// ```
    pub async fn whoami(&self) -> Result<Whoami, Error> {
        let method = |mut rpc: Rpc, request| async move { rpc.who_am_i(request).await };
        let response = self.call(Safety::Idempotent, v1::WhoAmIRequest {}, method).await?;
        let (account, marks) = (response.account.unwrap_or_default(), response.marks.unwrap_or_default());
        Ok(Whoami { account: account.into(), marks: marks.into() })
    }

    /// The accounts whose names match: `*` stands for any run of characters, `?` for one, everything else for
    /// itself. Ascending by name; pages are fetched as they are needed.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// let mut accounts = session.accounts("a*");
    /// while let Some(account) = accounts.next().await? {
    ///     println!("{}: {}", account.name, account.display_name);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn accounts(&self, pattern: &str) -> Accounts {
        Accounts::new(self.clone(), pattern)
    }

    /// The messages between this account and the one named `with`, in both directions, in pages from the newest to
    /// the oldest.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// session.send("ann", "hello").await?;
    /// let mut history = session.history("ann");
    /// while let Some(page) = history.older().await? {
    ///     assert!(page.is_sorted_by_key(|message| message.id));
    /// }
    /// # Ok(()) }
    /// ```
    pub fn history(&self, with: &str) -> History {
        History::new(self.clone(), with)
    }

    /// Closes the session on the service: it is of no use any more, also not where it was exported to.
    ///
    /// # Errors
    /// [`Error::NoLeader`]. A session that is closed already is no error.
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the session closed.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// session.log_out().await?;
    /// assert!(session.whoami().await.is_err());
    /// # Ok(()) }
    /// ```
    pub async fn log_out(&self) -> Result<(), Error> {
        let method = |mut rpc: Rpc, request| async move { rpc.log_out(request).await };
        match self.call(Safety::Idempotent, v1::LogOutRequest {}, method).await {
            Err(error) if error.reason() == Some(Reason::SessionInvalid) => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Deletes the account: its sessions end, its name is not given out again, and what it sent stays with its
    /// recipients, marked. Wants the password once more.
    ///
    /// # Errors
    /// [`Error::Refused`] with `WrongCredentials`, or `UndeliveredMessages` where the caller chose
    /// [`Undelivered::Refuse`]; [`Error::NoLeader`]; [`Error::Unknown`], to be resolved by
    /// [`delete_account_with_key`](Self::delete_account_with_key).
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the account deleted.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// session.send("ann", "never read").await?;
    /// let deleted = session.delete_account("correct horse", chat_client::Undelivered::Discard).await?;
    /// assert_eq!(deleted.discarded, 1);
    /// # Ok(()) }
    /// ```
    pub async fn delete_account(&self, password: &str, undelivered: Undelivered) -> Result<Deleted, Error> {
        self.delete_account_with_key(Key::generate(), password, undelivered).await
    }

    /// [`delete_account`](Self::delete_account) under a key of the caller's.
    ///
    /// # Errors
    /// As [`delete_account`](Self::delete_account).
    ///
    /// # Cancellation safety
    /// As [`delete_account`](Self::delete_account).
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// use chat_client::{Key, Undelivered};
    /// session.delete_account_with_key(Key::generate(), "correct horse", Undelivered::Refuse).await?;
    /// # Ok(()) }
    /// ```
    pub async fn delete_account_with_key(
        &self,
        key: Key,
        password: &str,
        undelivered: Undelivered,
    ) -> Result<Deleted, Error> {
        let message = v1::DeleteAccountRequest {
            key: key.wire(),
            password: password.to_owned(),
            refuse_if_undelivered: undelivered == Undelivered::Refuse,
        };
        let method = |mut rpc: Rpc, request| async move { rpc.delete_account(request).await };
        let response = self.call(Safety::Keyed(key), message, method).await?;
        Ok(Deleted { discarded: response.discarded, duplicate: response.duplicate })
    }

    pub(crate) async fn call<M, T, F, Fut>(&self, safety: Safety, message: M, method: F) -> Result<T, Error>
    where
        M: Clone,
        F: Fn(Rpc, tonic::Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        self.call_on(safety, message, |route, request| method(route.rpc(), request)).await
    }

    pub(crate) async fn call_on<M, T, F, Fut>(&self, safety: Safety, message: M, method: F) -> Result<T, Error>
    where
        M: Clone,
        F: Fn(Arc<Route>, tonic::Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let client = &self.0.client;
        client.finder.call_on(safety, Some(&self.0.token), client.deadline(), message, method).await
    }
}
