//! The cluster as a test sees it.

use crate::address;
use crate::network::{Dialler, Network};
use crate::replica::Running;
use chat_client::Client;
use chat_replica::driver::Ended;
use chat_replica::options::{Config, Listen, Options};
use chat_replica::protocol::Status;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// How long [`Cluster::wait_until`] and [`Cluster::leader`] wait before they say that it does not happen.
pub const WAIT: Duration = Duration::from_secs(30);

/// How a cluster is to be.
#[derive(Debug)]
pub struct Builder {
    replicas: u32,
    options: Options,
}

impl Builder {
    /// How many replicas: 3, unless said otherwise. Their ids are 1 to n.
    pub fn replicas(mut self, replicas: u32) -> Builder {
        self.replicas = replicas;
        self
    }

    /// How they behave, where the defaults do not suit the test.
    pub fn options(mut self, options: Options) -> Builder {
        self.options = options;
        self
    }

    /// Starts the replicas on empty disks in a temporary directory, which goes with the cluster, and waits until one leads.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn start(self) -> Cluster {
        assert!(self.replicas > 0, "a cluster has at least one replica");
        let data = tempfile::tempdir().expect("a temporary directory");
        let listeners: Vec<TcpListener> = (0..self.replicas).map(|_| address::claim()).collect();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().expect("a bound listener has an address")).collect();
        let network = Network::new(addresses.iter().copied().zip(1..).collect());
        let mut cluster = Cluster { data, addresses, network, options: self.options, running: BTreeMap::new() };
        for (id, listener) in (1..).zip(listeners) {
            cluster.run(id, listener).await;
        }
        let n = self.replicas as usize;
        cluster
            .wait_until("the cluster is founded and one leads", |states| {
                states.values().any(|s| s.serving && s.view.as_ref().is_some_and(|view| view.members.len() == n))
            })
            .await;
        cluster
    }
}

/// A cluster in this process. Dropping it crashes what runs and removes the data.
pub struct Cluster {
    data: TempDir,
    addresses: Vec<SocketAddr>,
    network: Arc<Network>,
    options: Options,
    running: BTreeMap<u32, Running>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("addresses", &self.addresses).field("running", &self.running()).finish()
    }
}

impl Cluster {
    /// A cluster of three, to be changed before it starts.
    pub fn builder() -> Builder {
        Builder { replicas: 3, options: Options::default() }
    }

    /// Where the replicas listen, by id from 1, running or not.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.iter().map(SocketAddr::to_string).collect()
    }

    /// The data directory of a replica.
    pub fn data(&self, id: u32) -> PathBuf {
        self.data.path().join(id.to_string())
    }

    /// The ids of the replicas that run, ascending.
    pub fn running(&self) -> Vec<u32> {
        self.running.keys().copied().collect()
    }

    /// A client that knows all addresses.
    ///
    /// # Panics
    /// If it cannot find a leader.
    pub async fn client(&self) -> Client {
        let client = Client::builder().servers(self.addresses()).timeout(WAIT).connect().await;
        client.unwrap_or_else(|error| panic!("no client for {self:?}: {error}"))
    }

    /// What a replica says of itself; `None` if it does not run.
    pub fn status(&self, id: u32) -> Option<Status> {
        self.running.get(&id).map(|running| running.handle.status().borrow().clone())
    }

    /// Waits until one replica leads and serves, and returns its id.
    ///
    /// # Panics
    /// If none does within [`WAIT`].
    pub async fn leader(&self) -> u32 {
        let states = self.wait_until("a replica leads", |states| states.values().any(|s| s.serving)).await;
        let serving = states.iter().filter(|(_, s)| s.serving).max_by_key(|(_, s)| s.epoch);
        *serving.expect("one of them does").0
    }

    /// Waits for states of the running replicas, by id, that satisfy `condition`, and returns them. `what` is for the panic.
    ///
    /// # Panics
    /// If that takes longer than [`WAIT`].
    pub async fn wait_until(
        &self,
        what: &str,
        mut condition: impl FnMut(&BTreeMap<u32, Status>) -> bool,
    ) -> BTreeMap<u32, Status> {
        let mut watches: Vec<_> = self.running.iter().map(|(id, running)| (*id, running.handle.status())).collect();
        let wait = async {
            loop {
                let states = watches.iter_mut().map(|(id, status)| (*id, status.borrow_and_update().clone())).collect();
                if condition(&states) {
                    return states;
                }
                let changes = watches.iter_mut().map(|(_, status)| Box::pin(status.changed()));
                any(changes.collect()).await;
            }
        };
        match tokio::time::timeout(WAIT, wait).await {
            Ok(states) => states,
            Err(_) => {
                let states: BTreeMap<u32, Option<Status>> =
                    self.running.keys().map(|id| (*id, self.status(*id))).collect();
                panic!("after {WAIT:?} it is not so that {what}: {states:#?}")
            }
        }
    }

    /// Waits until all replicas that run are in the newest committed view of the leader, know it, and could each prove the
    /// crash of any other: from then on any of them may crash, all but one of them at once.
    ///
    /// # Panics
    /// If that takes longer than [`WAIT`].
    pub async fn whole(&self) {
        let running = self.running();
        let count = running.len();
        self.wait_until(&format!("replicas {running:?} are one view"), |states| {
            let leader = states.values().find(|s| s.serving);
            leader.is_some_and(|leader| {
                states
                    .values()
                    .all(|s| s.view == leader.view && s.epoch == leader.epoch && s.leases_from.len() + 1 == count)
                    && leader.view.as_ref().is_some_and(|view| view.members.len() == count)
            })
        })
        .await;
    }

    /// Crashes a replica: nothing is flushed or said, and its address refuses connections. No-op if it does not run.
    pub async fn kill(&mut self, id: u32) {
        if let Some(running) = self.running.remove(&id) {
            running.kill().await;
        }
    }

    /// Stops a replica as SIGTERM does: it hands over and leaves the view first. Returns whether it got that far.
    ///
    /// # Panics
    /// If it does not run.
    pub async fn stop(&mut self, id: u32) -> bool {
        let running = self.running.remove(&id).unwrap_or_else(|| panic!("replica {id} does not run"));
        running.stop().await == Ended::Left
    }

    /// Waits until any replica ends by itself, and returns which, and how.
    ///
    /// # Panics
    /// If none does within [`WAIT`].
    pub async fn one_ends(&mut self) -> (u32, Ended) {
        let end = |(id, running): (&u32, &Running)| {
            let (id, mut status) = (*id, running.handle.status());
            Box::pin(async move {
                // Its driver goes, and with it whoever says how it is.
                while status.changed().await.is_ok() {}
                id
            })
        };
        let ends: Vec<_> = self.running.iter().map(end).collect();
        let first = tokio::time::timeout(WAIT, futures_util::future::select_all(ends)).await;
        let (id, ..) = first.unwrap_or_else(|_| panic!("after {WAIT:?} no replica has ended: {self:?}"));
        let running = self.running.remove(&id).expect("it ran");
        (id, running.ended().await)
    }

    /// Starts a replica again on the data that it had.
    ///
    /// # Panics
    /// If it runs already, or does not start.
    pub async fn restart(&mut self, id: u32) {
        assert!(!self.running.contains_key(&id), "replica {id} runs already");
        let listener = address::reclaim(self.address(id));
        self.run(id, listener).await;
    }

    /// Holds a replica as SIGSTOP does, until [`Cluster::resume`].
    ///
    /// # Panics
    /// If it does not run.
    pub async fn pause(&mut self, id: u32) {
        self.running.get_mut(&id).unwrap_or_else(|| panic!("replica {id} does not run")).pause().await;
    }

    /// Lets a paused replica go on.
    pub fn resume(&mut self, id: u32) {
        if let Some(running) = self.running.get_mut(&id) {
            running.resume();
        }
    }

    /// Silence between replicas of the one group and of the other, both ways, until [`Cluster::heal`]. Clients reach all of them still.
    pub fn partition(&self, one: &[u32], other: &[u32]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.network.cut(a, b);
            self.network.cut(b, a);
        }
    }

    /// Nothing from the one replica reaches the other any more, until [`Cluster::heal`]; the other way it does.
    pub fn cut(&self, from: u32, to: u32) {
        self.network.cut(from, to);
    }

    /// Refusals that lie, between replicas of the one group and of the other, both ways, until [`Cluster::heal`]: dials are
    /// refused as if the other process were gone, and sessions break, as behind a firewall's REJECT rule. Clients reach all of
    /// them still.
    pub fn forge_refusals(&self, one: &[u32], other: &[u32]) {
        for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
            self.network.forge_refusals(a, b);
            self.network.forge_refusals(b, a);
        }
    }

    /// All replicas reach each other again.
    pub fn heal(&self) {
        self.network.heal();
    }

    fn address(&self, id: u32) -> SocketAddr {
        let at = (id as usize).checked_sub(1).and_then(|at| self.addresses.get(at));
        *at.unwrap_or_else(|| panic!("there is no replica {id}"))
    }

    async fn run(&mut self, id: u32, listener: TcpListener) {
        let config = Config {
            id,
            listen: Listen::Bound(listener),
            data: self.data(id),
            replicas: (1..).zip(self.addresses()).collect(),
            options: self.options.clone(),
        };
        let dialler = Dialler { network: self.network.clone(), me: id };
        let running = Running::start(config, dialler).await;
        let running = running.unwrap_or_else(|error| panic!("replica {id} does not start: {error}"));
        self.running.insert(id, running);
    }
}

/// Waits for the first of these.
async fn any<F: Future + Unpin>(mut futures: Vec<F>) {
    std::future::poll_fn(|context| {
        let ready = |future: &mut F| std::pin::Pin::new(future).poll(context).is_ready();
        if futures.iter_mut().any(ready) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
