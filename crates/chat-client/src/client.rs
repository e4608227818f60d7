//! The handle of a cluster, and how it is made.

use std::{sync::Arc, time::Duration};

use chat_proto::{ClusterSecret, v1};
use tokio::time::Instant;

use crate::{
    call::Safety,
    channel,
    discovery::Address,
    error::Error,
    model::{Account, Key, Leader},
    owner::{Finder, Stale},
    session::Session,
    token::Token,
};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Sends of one session that wait for its task.
const QUEUE: usize = 4096;

/// A cluster, seen from outside. A handle: clones share the connections and what is known of the leader. When the last
/// one is dropped, with its sessions and inboxes, the connections close.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) finder: Finder,
    pub(crate) timeout: Duration,
    pub(crate) queue: usize,
    pub(crate) secret: Option<ClusterSecret>,
}

/// Collects what a [`Client`] needs.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
/// use std::time::Duration;
/// let client = chat_client::Client::builder().servers(servers).timeout(Duration::from_secs(3)).connect().await?;
/// # drop(client); Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    servers: Vec<String>,
    timeout: Duration,
    queue: usize,
    secret: Option<ClusterSecret>,
}

impl Builder {
    /// Addresses of replicas, each `host:port`. One that lives is enough: the others are learned from it.
    #[must_use]
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// The deadline of every call: over finding the leader, connecting and all retries. 10 s unless told.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many sends of one session may wait for its connection before [`Session::send`] itself waits: 4096 unless
    /// told, at least 1.
    #[must_use]
    pub fn queue(mut self, sends: usize) -> Self {
        self.queue = sends.max(1);
        self
    }

    /// The cluster's secret, which an operator's orders need where one is set
    /// ([`declare_crashed`](Client::declare_crashed), [`transfer`](Client::transfer)); nothing else does.
    #[must_use]
    pub fn cluster_secret(mut self, secret: impl AsRef<[u8]>) -> Self {
        self.secret = Some(ClusterSecret::new(secret.as_ref()));
        self
    }

    /// A client that has found a leader.
    ///
    /// # Errors
    /// [`Error::Usage`] for addresses that are none; [`Error::NoLeader`] when the timeout passed. Never hangs.
    ///
    /// # Cancellation safety
    /// Safe: dropping the future leaves nothing behind.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// println!("{} leads", client.find_leader().await?.address);
    /// # Ok(()) }
    /// ```
    pub async fn connect(self) -> Result<Client, Error> {
        let client = self.connect_lazy()?;
        client.find_leader().await?;
        Ok(client)
    }

    /// A client that looks for the leader when it is first needed. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Usage`] for addresses that are none, for no address at all, and outside of a runtime.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = chat_client::Client::builder().servers(["127.0.0.1:7101"]).connect_lazy()?;
    /// assert!(chat_client::Client::builder().servers(["no port"]).connect_lazy().is_err());
    /// # drop(client); Ok(()) }
    /// ```
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let mut addresses: Vec<Address> = Vec::new();
        for server in &self.servers {
            if channel::origin(server).is_none() {
                return Err(Error::Usage(format!("not an address of the form host:port: {server:?}")));
            }
            let address = Address::from(server.as_str());
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(Error::Usage("no server was given".to_owned()));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::Usage("a client needs a tokio runtime around it".to_owned()));
        }
        let Builder { timeout, queue, secret, .. } = self;
        Ok(Client { finder: Finder::spawn(addresses), timeout, queue, secret })
    }
}

impl Client {
    /// Begins with no server and a timeout of 10 s.
    #[must_use]
    pub fn builder() -> Builder {
        Builder { servers: Vec::new(), timeout: TIMEOUT, queue: QUEUE, secret: None }
    }

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// The replica that serves now, as far as this client knows; looked for if it knows none.
    ///
    /// # Errors
    /// [`Error::NoLeader`].
    ///
    /// # Cancellation safety
    /// Safe.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// let leader = client.find_leader().await?;
    /// println!("replica {} leads in epoch {}", leader.id, leader.epoch);
    /// # Ok(()) }
    /// ```
    pub async fn find_leader(&self) -> Result<Leader, Error> {
        let route = self.finder.route(&Stale::default(), self.deadline()).await;
        let route = route.ok_or_else(|| self.finder.no_leader())?;
        Ok(Leader { id: route.replica, address: route.address.to_string(), epoch: route.epoch })
    }

    /// Opens an account whose display name is its name.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NameTaken`, `NameInvalid` or `PasswordInvalid`; [`Error::NoLeader`];
    /// [`Error::Unknown`], to be resolved by [`register_with`](Self::register_with).
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the account registered.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// let account = client.register("bob", "battery staple").await?;
    /// assert_eq!(account.name, "bob");
    /// # Ok(()) }
    /// ```
    pub async fn register(&self, name: &str, password: &str) -> Result<Account, Error> {
        self.register_with(Key::generate(), name, "", password).await
    }

    /// Opens an account under a key of the caller's: again with the same arguments, it returns the first outcome. An
    /// empty `display_name` stands for the name.
    ///
    /// # Errors
    /// As [`register`](Self::register), also `DisplayNameInvalid` and `KeyConflict`.
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the account registered.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// let key = chat_client::Key::generate();
    /// let first = client.register_with(key, "zoe", "Zoë ☃", "battery staple").await?;
    /// let again = client.register_with(key, "zoe", "Zoë ☃", "battery staple").await?;
    /// assert_eq!(first, again);
    /// # Ok(()) }
    /// ```
    pub async fn register_with(
        &self,
        key: Key,
        name: &str,
        display_name: &str,
        password: &str,
    ) -> Result<Account, Error> {
        let message = v1::RegisterRequest {
            key: key.wire(),
            name: name.to_owned(),
            display_name: display_name.to_owned(),
            password: password.to_owned(),
        };
        let method = |mut rpc: crate::owner::Rpc, request| async move { rpc.register(request).await };
        let response = self.finder.call(Safety::Keyed(key), None, self.deadline(), message, method).await?;
        Ok(response.account.unwrap_or_default().into())
    }

    /// Opens a session. It survives failovers, restarts of replicas and of this program
    /// (see [`Session::export`]), until it expires or is closed.
    ///
    /// # Errors
    /// [`Error::Refused`] with `WrongCredentials`; [`Error::NoLeader`]; [`Error::Unknown`]: log in again, a session
    /// that was opened without being noticed expires.
    ///
    /// # Cancellation safety
    /// Dropping the future may leave a session open, which expires.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// let session = client.log_in("ann", "correct horse").await?;
    /// assert_eq!(session.whoami().await?.account.name, "ann");
    /// # Ok(()) }
    /// ```
    pub async fn log_in(&self, name: &str, password: &str) -> Result<Session, Error> {
        let (key, token) = (Key::generate(), Token::generate()?);
        let message = v1::LogInRequest {
            key: key.wire(),
            name: name.to_owned(),
            password: password.to_owned(),
            token: token.wire(),
        };
        let method = |mut rpc: crate::owner::Rpc, request| async move { rpc.log_in(request).await };
        let response = self.finder.call(Safety::Keyed(key), None, self.deadline(), message, method).await?;
        Ok(Session::new(self.clone(), token, response.account.map(Account::from).map(Arc::new)))
    }

    /// A session that [`Session::export`] wrote down. Nothing is asked of the service: whether the session still holds
    /// shows with its first use.
    ///
    /// # Errors
    /// [`Error::Usage`] when `token` is not 64 hexadecimal digits.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// let token = client.log_in("ann", "correct horse").await?.export();
    /// let session = client.restore(&token)?;
    /// assert_eq!(session.whoami().await?.account.name, "ann");
    /// # Ok(()) }
    /// ```
    pub fn restore(&self, token: &str) -> Result<Session, Error> {
        Ok(Session::new(self.clone(), Token::parse(token)?, None))
    }
}
