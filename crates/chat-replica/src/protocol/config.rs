//! What a replica is started with.

use super::log::RecoveredLog;
use super::rules::{Rule, Rules};
use super::types::*;
use core::time::Duration;

/// How one replica runs the protocol. The same on all replicas, apart from `me`, `peers` and `seed`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// This process run.
    pub me: Member,
    /// The other replicas of the list that this one was started with.
    pub peers: Vec<ReplicaId>,
    /// How often every peer is asked for its lease.
    pub ping_interval: Duration,
    /// T: how long an answered ping binds its answerer (rule 7). The same on all replicas.
    pub lease: Duration,
    /// By how many thousandths two monotonic clocks may differ in rate.
    pub drift_permille: u32,
    /// After this much silence a peer counts as not heard.
    pub suspect_after: Duration,
    /// How many refusals in a row rule 8 wants.
    pub refusals: u32,
    /// Whether refused connections prove a crash: `crash_proof = "refusal"` or `"never"` (rule 8).
    pub refusal_is_proof: bool,
    /// Acknowledgements stalled for longer cost a member its place, a sync that takes longer costs the primary its office (rule 7).
    pub stall_limit: Duration,
    /// How many members must hold an entry before it is acknowledged (rule 13).
    pub min_copies: usize,
    /// Random: the cluster's id, should this replica found it (rule 12).
    pub cluster_if_founding: ClusterId,
    /// For jitter; 0 for none at all, where every order of events is tried anyway.
    pub seed: u64,
    /// All of them, except in tests that show what breaks without one.
    pub rules: Rules,
}

impl Config {
    /// The defaults of docs/protocol.md.
    pub fn new(me: Member, peers: Vec<ReplicaId>, cluster_if_founding: ClusterId, seed: u64) -> Config {
        Config {
            me,
            peers,
            ping_interval: Duration::from_millis(100),
            lease: Duration::from_secs(1),
            drift_permille: 50,
            suspect_after: Duration::from_millis(400),
            refusals: 3,
            refusal_is_proof: true,
            stall_limit: Duration::from_secs(2),
            min_copies: 1,
            cluster_if_founding,
            seed,
            rules: Rules::ALL,
        }
    }

    /// T(1+drift): how long the grantor of a lease is bound, by its own clock.
    pub(super) fn lease_with_drift(&self) -> Duration {
        let drift = if self.rules.hold(Rule::LeaseWithDrift) { self.drift_permille } else { 0 };
        self.lease + self.lease * drift / 1000
    }
}

/// What a disk holds when a process starts on it.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The cluster that the disk belongs to; `None` for an empty disk.
    pub cluster: Option<ClusterId>,
    /// Its promise (rule 2).
    pub promised: Epoch,
    /// Its log.
    pub log: RecoveredLog,
    /// What it held when earlier process runs ended (rule 8).
    pub deaths: Vec<Death>,
    /// The highest process runs seen of other disks (rule 12).
    pub known: Vec<Member>,
    /// The disk counts for nothing until it holds a committed log up to this index again (rule 15).
    pub impaired_until: Option<u64>,
}
