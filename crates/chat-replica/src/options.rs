//! What a replica is started with.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

/// Where a replica listens.
#[derive(Debug)]
pub enum Listen {
    /// Bind there.
    At(SocketAddr),
    /// Already bound, so that nobody else can have the port.
    Bound(TcpListener),
}

/// One replica: who it is, where its data is, and where the others are.
#[derive(Debug)]
pub struct Config {
    /// Its number, from 1, unique in the cluster.
    pub id: u32,
    /// Where it listens, for clients and replicas.
    pub listen: Listen,
    /// Its data directory; made if it is not there.
    pub data: PathBuf,
    /// Every replica's number and `host:port`, its own among them. On empty disks the same list everywhere founds the
    /// cluster once all have met; later it is only where to look.
    pub replicas: Vec<(u32, String)>,
    /// How it behaves; the same on all replicas.
    pub options: Options,
}

/// What proves that a process crashed, besides its successor's word, an operator's, or a fence's (rule 8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CrashProof {
    /// Connections refused at its address. Wrong where a firewall, NAT or proxy between the replicas forges refusals.
    #[default]
    Refusal,
    /// Nothing.
    Never,
}

/// Bytes that only the cluster's replicas and operators know. Not shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl<T: Into<Vec<u8>>> From<T> for Secret {
    fn from(bytes: T) -> Secret {
        Secret(bytes.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How a replica behaves. The defaults suit most clusters.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each peer is asked for its lease. 250 ms.
    pub ping_interval: Duration,
    /// How long an answered ping binds its answerer, and so how long a silent primary is waited for. 1 s.
    pub lease: Duration,
    /// By how many thousandths two machines' monotonic clocks may differ in rate. 50.
    pub drift_permille: u32,
    /// After this much silence a peer counts as not heard. 750 ms, at least three ping intervals, and always below the lease.
    pub suspect_after: Duration,
    /// How many refused connections in a row prove a crash. 3.
    pub refusals: u32,
    /// Whether they do.
    pub crash_proof: CrashProof,
    /// A disk that does not answer for so long costs its replica its place. 2 s.
    pub stall_limit: Duration,
    /// How many members must hold a change before it is acknowledged. 1.
    pub min_copies: usize,
    /// A shell command that makes sure that a suspected replica has stopped for good, and then exits with 0. It gets
    /// `CHATD_FENCE_ID` and `CHATD_FENCE_ADDRESS` in its environment.
    pub fence_command: Option<String>,
    /// How long a login lasts. 30 days.
    pub session_lifetime: Duration,
    /// How long a replica that is asked to stop tries to leave the view. 2 s.
    pub leave_timeout: Duration,
    /// What replicas must say for a session, and operators for an order; the same on all replicas. None: whoever reaches
    /// the port is believed.
    pub cluster_secret: Option<Secret>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            ping_interval: Duration::from_millis(250),
            lease: Duration::from_secs(1),
            drift_permille: 50,
            suspect_after: Duration::from_millis(750),
            refusals: 3,
            crash_proof: CrashProof::Refusal,
            stall_limit: Duration::from_secs(2),
            min_copies: 1,
            fence_command: None,
            session_lifetime: Duration::from_secs(30 * 24 * 3600),
            leave_timeout: Duration::from_secs(2),
            cluster_secret: None,
        }
    }
}

impl Config {
    /// What is wrong with it, in words for whoever wrote it.
    pub(crate) fn wrong(&self) -> Option<String> {
        let mut ids: Vec<u32> = self.replicas.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        let options = &self.options;
        if self.id == 0 || ids.first() == Some(&0) {
            return Some("replica ids start at 1".into());
        }
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("replica {} is in the list of the cluster twice", twice[0]));
        }
        if !ids.contains(&self.id) {
            return Some(format!("replica {} is not in the list of the cluster", self.id));
        }
        if let Some((id, address)) = self.replicas.iter().find(|(_, address)| !is_address(address)) {
            return Some(format!("replica {id}'s address {address:?} is not HOST:PORT"));
        }
        if options.suspect_after >= options.lease || options.ping_interval * 3 > options.suspect_after {
            let (ping, suspect, lease) = (options.ping_interval, options.suspect_after, options.lease);
            return Some(format!(
                "--ping-interval, --suspect-after, --lease: three ping intervals ({ping:?} each) must fit into {suspect:?}, and that into the lease of {lease:?}"
            ));
        }
        if options.min_copies == 0 || options.min_copies > self.replicas.len() {
            let (n, min) = (self.replicas.len(), options.min_copies);
            return Some(format!("--min-copies is {min}, and must be from 1 to the number of replicas, {n}"));
        }
        (options.refusals == 0).then(|| "at least one refusal is needed for proof".into())
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}
