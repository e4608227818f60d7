//! Where a peer is to be found, and who answered there last.

use crate::protocol::Member;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// After so many dials of the pinned address, a name is looked up again: the peer may come back elsewhere.
const DIALS_PER_LOOKUP: u32 = 10;

/// A peer's address, as configured, and the numeric one that is pinned to a process run.
pub(super) struct Target {
    host: String,
    numeric: Option<SocketAddr>,
    pinned: Option<(SocketAddr, Member)>,
    dials: u32,
}

impl Target {
    /// `host` is `name:port` or `address:port`.
    pub fn new(host: String) -> Target {
        let numeric = host.parse().ok();
        Target { host, numeric, pinned: None, dials: 0 }
    }

    /// What to dial now, in order. A name that answered before is not looked up at first: a slow lookup would outlast the
    /// lease, and with it the proof (rule 8).
    pub async fn addresses(&mut self, patience: Duration) -> Vec<SocketAddr> {
        if let Some(numeric) = self.numeric {
            return vec![numeric];
        }
        let pinned = self.pinned.map(|(address, _)| address);
        if let Some(pinned) = pinned
            && self.dials < DIALS_PER_LOOKUP
        {
            self.dials += 1;
            return vec![pinned];
        }
        self.dials = 0;
        let Ok(Ok(found)) = timeout(patience, lookup_host(&self.host)).await else {
            tracing::debug!(host = %self.host, "the name does not resolve");
            return Vec::from_iter(pinned);
        };
        let mut found: Vec<SocketAddr> = found.collect();
        found.dedup();
        // A name that moved: what the old address says now is not about this peer.
        self.pinned = self.pinned.filter(|(address, _)| found.contains(address));
        found
    }

    /// `member` said at this address who it is.
    pub fn answered(&mut self, address: SocketAddr, member: Member) {
        self.pinned = Some((address, member));
        self.dials = 0;
    }

    /// Somebody else did: from now on a refusal there is not about the one that was met before.
    pub fn answered_by_other(&mut self, address: SocketAddr) {
        self.pinned = self.pinned.filter(|(pinned, _)| *pinned != address);
    }

    /// Whom a refusal at this address is about.
    pub fn met_at(&self, address: SocketAddr) -> Option<Member> {
        self.pinned.filter(|(pinned, _)| *pinned == address).map(|(_, member)| member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DiskId, Incarnation, ReplicaId};

    fn member(count: u64) -> Member {
        Member { id: ReplicaId(2), disk: DiskId([2; 16]), incarnation: Incarnation { count, nonce: 0 } }
    }

    #[test]
    fn a_refusal_is_about_the_last_that_answered_at_that_very_address() {
        let (here, there) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.2:1".parse().unwrap());
        let mut target = Target::new("127.0.0.1:1".into());
        assert_eq!(target.met_at(here), None);
        target.answered(here, member(1));
        target.answered(here, member(2));
        assert_eq!((target.met_at(here), target.met_at(there)), (Some(member(2)), None));
        target.answered_by_other(there);
        assert_eq!(target.met_at(here), Some(member(2)));
        target.answered_by_other(here);
        assert_eq!(target.met_at(here), None);
    }

    #[tokio::test]
    async fn an_address_that_a_name_has_left_is_forgotten() {
        let patience = Duration::from_secs(10);
        let old = "127.9.9.9:1".parse().unwrap();
        let mut target = Target::new("localhost:1".into());
        target.answered(old, member(1));
        for _ in 0..DIALS_PER_LOOKUP {
            assert_eq!(target.addresses(patience).await, [old]);
        }
        assert!(!target.addresses(patience).await.contains(&old));
        assert_eq!(target.met_at(old), None);
    }
}
