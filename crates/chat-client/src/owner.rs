//! The connection owner: one task per client, which alone decides who the leader is. Everybody else holds a
//! [`Finder`], asks it for a [`Route`], and says when the route failed.
//!
//! ```text
//!   nothing known ──search──▶ route ──"it failed"──▶ search ──▶ next route
//!                               └──"it is silent"──▶ search beside it ──▶ the same one answers: kept
//!                                                                    └──▶ a higher epoch serves: moved
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_proto::v1::{self, chat_service_client::ChatServiceClient};
use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use crate::{
    channel::Channel,
    discovery::{Address, HEAD_START, Probe, Search, Step},
    error::{Attempt, Error, Hint, explain},
    model::Epoch,
};

/// For a connection to be made, and for a replica to say who leads.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A question is repeated to the owner this often, and pursued for twice as long: it stops searching soon after the
/// last caller has gone, and not while one is there.
const INTEREST: Duration = Duration::from_secs(2);
/// Most addresses, so that a confused replica cannot make us ask the whole world.
const MOST_ADDRESSES: usize = 64;
/// A page of messages may be much larger than gRPC's usual 4 MiB.
pub(crate) const MOST_DECODED: usize = 128 * 1024 * 1024;

pub(crate) type Rpc = ChatServiceClient<Channel>;

/// The way to a leader.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// Counts searches: a route of a later generation was confirmed later.
    pub generation: u64,
    pub address: Address,
    pub replica: u32,
    pub epoch: Epoch,
    pub channel: Channel,
}

impl Route {
    pub(crate) fn rpc(&self) -> Rpc {
        rpc(self.channel.clone())
    }
}

fn rpc(channel: Channel) -> Rpc {
    ChatServiceClient::new(channel).max_decoding_message_size(MOST_DECODED)
}

/// What a caller knows about routes that failed. The default: nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stale {
    pub generation: u64,
    pub hint: Option<Hint>,
}

#[derive(Debug)]
struct Ask {
    stale: Stale,
    /// Not failed, only silent: the route stays until a better one is found.
    suspected: bool,
    until: Instant,
}

/// One channel per address, made when first used.
#[derive(Debug)]
pub(crate) struct Channels {
    addresses: Vec<Address>,
    channels: HashMap<Address, Channel>,
}

impl Channels {
    pub(crate) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, channels: HashMap::new() }
    }

    fn get(&mut self, address: &Address) -> Option<Channel> {
        if let Some(channel) = self.channels.get(address) {
            return Some(channel.clone());
        }
        if !self.addresses.contains(address) {
            if self.addresses.len() >= MOST_ADDRESSES {
                return None;
            }
            self.addresses.push(address.clone());
        }
        let channel = Channel::to(address)?;
        self.channels.insert(address.clone(), channel.clone());
        Some(channel)
    }
}

/// What was last heard from an address.
#[derive(Debug, Clone, Default)]
struct Finding {
    why: String,
    waiting_for: Vec<u32>,
}

#[derive(Debug, Default)]
struct Findings(BTreeMap<Address, Finding>);

#[derive(Debug)]
struct Shared {
    channels: Mutex<Channels>,
    findings: Mutex<Findings>,
}

/// Nothing in these sections can panic half way, so a poisoned lock holds sound data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of the owner task, which ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    asks: mpsc::Sender<Ask>,
    routes: watch::Receiver<Option<Arc<Route>>>,
    shared: Arc<Shared>,
}

impl Finder {
    /// Starts the owner. Must be called within a tokio runtime.
    pub(crate) fn spawn(addresses: Vec<Address>) -> Self {
        let (asks, asked) = mpsc::channel(64);
        let (publish, routes) = watch::channel(None);
        let shared = Shared { channels: Mutex::new(Channels::new(addresses)), findings: Mutex::default() };
        let shared = Arc::new(shared);
        tokio::spawn(Owner::new(asked, publish, shared.clone()).run());
        Self { asks, routes, shared }
    }

    /// A route of a later generation than `stale`, which thereby is reported as failed. `None`: the deadline passed.
    pub(crate) async fn route(&self, stale: &Stale, deadline: Instant) -> Option<Arc<Route>> {
        let mut routes = self.routes.clone();
        let newer = |route: &Option<Arc<Route>>| route.as_ref().is_some_and(|r| r.generation > stale.generation);
        if let Some(route) = routes.borrow_and_update().clone().filter(|route| route.generation > stale.generation) {
            return Some(route);
        }
        while Instant::now() < deadline {
            let until = deadline.min(Instant::now() + INTEREST);
            let ask = Ask { stale: stale.clone(), suspected: false, until: until + INTEREST };
            timeout_at(deadline, self.asks.send(ask)).await.ok()?.ok()?;
            match timeout_at(until, routes.wait_for(newer)).await {
                Ok(Ok(route)) => return route.clone(),
                Ok(Err(_)) => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// `route` is silent: whether another leads is looked into. What comes of it is told by [`moved`](Self::moved).
    pub(crate) fn suspect(&self, route: &Route) {
        let stale = Stale { generation: route.generation, hint: None };
        // A full queue is no loss: whoever goes on being silent is suspected again.
        let _ = self.asks.try_send(Ask { stale, suspected: true, until: Instant::now() + INTEREST });
    }

    /// Completes when a later leadership than that of `route` was found.
    pub(crate) async fn moved(&self, route: &Route) {
        let mut routes = self.routes.clone();
        let later = |other: &Option<Arc<Route>>| other.as_ref().is_some_and(|other| other.epoch > route.epoch);
        if routes.wait_for(later).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Notes why a call to the leader did not help, for [`no_leader`](Self::no_leader).
    pub(crate) fn note(&self, address: &Address, why: String) {
        lock(&self.shared.findings).0.entry(address.clone()).or_default().why = why;
    }

    /// The error of a deadline that passed before anything was done.
    pub(crate) fn no_leader(&self) -> Error {
        let findings = lock(&self.shared.findings);
        let mut waiting_for: Vec<_> = findings.0.values().flat_map(|finding| finding.waiting_for.clone()).collect();
        waiting_for.sort_unstable();
        waiting_for.dedup();
        let tried = findings.0.iter().map(|(address, finding)| (address, finding.why.clone()));
        let tried = tried.map(|(address, why)| Attempt { address: address.to_string(), why }).collect();
        Error::NoLeader { waiting_for, tried }
    }

    /// Every address that was given or learned.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        lock(&self.shared.channels).addresses.clone()
    }

    /// `None`: not an address, or one too many.
    pub(crate) fn channel(&self, address: &Address) -> Option<Channel> {
        lock(&self.shared.channels).get(address)
    }
}

type Heard = (Probe, Result<v1::FindLeaderResponse, String>);

struct Owner {
    asks: mpsc::Receiver<Ask>,
    publish: watch::Sender<Option<Arc<Route>>>,
    shared: Arc<Shared>,
    rng: SmallRng,
    /// Of the last route.
    generation: u64,
    search: Option<Search>,
    /// Nobody waits for the search after this.
    until: Instant,
    probes: FuturesUnordered<BoxFuture<'static, Heard>>,
}

impl Owner {
    fn new(asks: mpsc::Receiver<Ask>, publish: watch::Sender<Option<Arc<Route>>>, shared: Arc<Shared>) -> Self {
        let rng = SmallRng::from_rng(&mut rand::rng());
        let probes = FuturesUnordered::new();
        Self { asks, publish, shared, rng, generation: 0, search: None, until: Instant::now(), probes }
    }

    async fn run(mut self) {
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.asked(ask),
                    None => return,
                },
                Some((probe, heard)) = self.probes.next(), if !self.probes.is_empty() => self.heard(&probe, heard),
                () = sleep_until(self.until), if self.search.is_some() => self.stop(),
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        let current = self.publish.borrow().clone();
        if current.as_ref().is_some_and(|route| route.generation > ask.stale.generation) {
            return;
        }
        if ask.suspected && current.is_none() {
            return;
        }
        if !ask.suspected && current.is_some() {
            self.publish.send_replace(None);
        }
        self.until = self.until.max(ask.until);
        if self.search.is_none() {
            self.begin(current.map(|route| route.address.clone()));
        }
        let named = ask.stale.hint.map(|hint| Address::from(hint.address));
        if let (Some(search), Some(address)) = (&mut self.search, named) {
            // Named by the leader that it replaces, so in no epoch known here: news once per search.
            let probe = search.named(&address, Epoch::default());
            self.ask(probe.into_iter().collect());
        }
    }

    /// Starts a search: in turn when nothing was ever known, else all at once, the last leader too.
    fn begin(&mut self, last: Option<Address>) {
        let addresses = lock(&self.shared.channels).addresses.clone();
        let head_start = if last.is_none() && self.generation == 0 { HEAD_START } else { Duration::ZERO };
        let (search, probes) = Search::begin(&addresses, head_start);
        self.search = Some(search);
        self.ask(probes);
    }

    fn stop(&mut self) {
        self.search = None;
        self.probes.clear();
    }

    fn ask(&mut self, probes: Vec<Probe>) {
        for probe in probes {
            let Some(channel) = lock(&self.shared.channels).get(&probe.address) else { continue };
            self.probes.push(Box::pin(async move {
                sleep(probe.after).await;
                let heard = find_leader(channel).await;
                (probe, heard)
            }));
        }
    }

    fn heard(&mut self, probe: &Probe, heard: Result<v1::FindLeaderResponse, String>) {
        lock(&self.shared.findings).0.insert(probe.address.clone(), finding(&heard));
        let Some(search) = &mut self.search else { return };
        match search.heard(probe, heard.as_ref().ok(), &mut self.rng) {
            Step::Ask(probes) => self.ask(probes),
            Step::Found { address, replica, epoch } => self.found(address, replica, epoch),
        }
    }

    fn found(&mut self, address: Address, replica: u32, epoch: Epoch) {
        self.stop();
        // Only a suspected route is still there, and it stays unless a later leadership was found: that the same
        // one answers clears it.
        if self.publish.borrow().as_ref().is_some_and(|route| route.epoch >= epoch) {
            return;
        }
        let Some(channel) = lock(&self.shared.channels).get(&address) else { return };
        self.generation += 1;
        tracing::debug!(replica, %address, %epoch, "found the leader");
        let route = Route { generation: self.generation, address, replica, epoch, channel };
        self.publish.send_replace(Some(Arc::new(route)));
    }
}

pub(crate) async fn find_leader(channel: Channel) -> Result<v1::FindLeaderResponse, String> {
    match timeout(PROBE_TIMEOUT, rpc(channel).find_leader(v1::FindLeaderRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(explain(&status)),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    }
}

fn finding(heard: &Result<v1::FindLeaderResponse, String>) -> Finding {
    let answer = match heard {
        Ok(answer) => answer,
        Err(why) => return Finding { why: why.clone(), waiting_for: Vec::new() },
    };
    let why = match &answer.leader {
        _ if answer.serving => "leads, but did not answer in time".to_owned(),
        Some(leader) if leader.id != answer.replica => format!("follows replica {} at {}", leader.id, leader.address),
        Some(_) => "leads, but cannot serve yet".to_owned(),
        None => "knows no leader".to_owned(),
    };
    Finding { why, waiting_for: answer.waiting_for.clone() }
}
