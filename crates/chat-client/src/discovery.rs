//! Who leads: the pure half. Decides whom to ask when, and when it is known; [`owner`](crate::owner) asks.
//!
//! Every address is asked again and again, each at its own pace, so that one that hangs holds up nobody. A client that
//! knows nothing begins in turn, with a short head start for each; one that has lost its leader asks all at once.
//! Only a replica that says of itself that it serves is taken for the leader; what others say about it makes that one
//! be asked at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chat_proto::v1;
use rand::Rng;

use crate::{backoff, model::Epoch};

/// `host:port`, as it was given or learned.
pub(crate) type Address = Arc<str>;

/// The head start of each address over the next one.
pub(crate) const HEAD_START: Duration = Duration::from_millis(20);

/// Ask `address`, `after` a pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub address: Address,
    pub after: Duration,
    /// Tells the answer to this probe from the answer to one that it replaced.
    pub ticket: u64,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Ask(Vec<Probe>),
    Found { address: Address, replica: u32, epoch: Epoch },
}

#[derive(Debug, Default)]
struct Asked {
    ticket: u64,
    attempts: u32,
    /// The highest epoch in which somebody named this address as the leader.
    named_in: Option<Epoch>,
}

/// One search, from nothing known to a leader found.
#[derive(Debug)]
pub(crate) struct Search {
    asked: HashMap<Address, Asked>,
    tickets: u64,
}

impl Search {
    /// Begins with `addresses`, each `head_start` after the one before it.
    pub(crate) fn begin(addresses: &[Address], head_start: Duration) -> (Self, Vec<Probe>) {
        let mut search = Self { asked: HashMap::new(), tickets: 0 };
        let places = 0_u32..;
        let probes = addresses.iter().zip(places).map(|(address, place)| search.probe(address, head_start * place));
        let probes = probes.collect();
        (search, probes)
    }

    fn probe(&mut self, address: &Address, after: Duration) -> Probe {
        self.tickets += 1;
        self.asked.entry(address.clone()).or_default().ticket = self.tickets;
        Probe { address: address.clone(), after, ticket: self.tickets }
    }

    /// Somebody said that `address` leads, in `epoch` or later: it is asked at once, unless that is no news.
    pub(crate) fn named(&mut self, address: &Address, epoch: Epoch) -> Option<Probe> {
        let asked = self.asked.entry(address.clone()).or_default();
        if asked.named_in.is_some_and(|named_in| epoch <= named_in) {
            return None;
        }
        asked.named_in = Some(epoch);
        Some(self.probe(address, Duration::ZERO))
    }

    /// `probe` was answered, or failed: then `answer` is `None`.
    pub(crate) fn heard(&mut self, probe: &Probe, answer: Option<&v1::FindLeaderResponse>, rng: &mut impl Rng) -> Step {
        let epoch = answer.and_then(|answer| answer.epoch).unwrap_or_default().into();
        if let Some(answer) = answer.filter(|answer| answer.serving) {
            return Step::Found { address: probe.address.clone(), replica: answer.replica, epoch };
        }
        let mut probes = Vec::new();
        let asked = self.asked.entry(probe.address.clone()).or_default();
        if asked.ticket == probe.ticket {
            let pause = backoff::delay(asked.attempts, rng);
            asked.attempts += 1;
            probes.push(self.probe(&probe.address, pause));
        }
        if let Some(answer) = answer {
            let leader = answer.leader.as_ref().filter(|leader| leader.id != answer.replica);
            probes.extend(leader.and_then(|leader| self.named(&leader.address.as_str().into(), epoch)));
            for peer in &answer.replicas {
                let address: Address = peer.address.as_str().into();
                if peer.id != answer.replica && !self.asked.contains_key(&address) {
                    probes.push(self.probe(&address, Duration::ZERO));
                }
            }
        }
        Step::Ask(probes)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::*;

    fn addresses() -> Vec<Address> {
        ["a:1", "b:1", "c:1"].map(Address::from).to_vec()
    }

    fn answer(replica: u32, round: u64, leader: Option<(u32, &str)>, serving: bool) -> v1::FindLeaderResponse {
        v1::FindLeaderResponse {
            replica,
            epoch: Some(v1::Epoch { round, replica: 1 }),
            leader: leader.map(|(id, address)| v1::Peer { id, address: address.into() }),
            serving,
            ..Default::default()
        }
    }

    fn asked(step: Step) -> Vec<(String, Duration)> {
        match step {
            Step::Ask(probes) => probes.into_iter().map(|probe| (probe.address.to_string(), probe.after)).collect(),
            Step::Found { .. } => panic!("found: {step:?}"),
        }
    }

    #[test]
    fn begins_in_turn_with_a_head_start() {
        let (_, probes) = Search::begin(&addresses(), HEAD_START);
        let after: Vec<_> = probes.iter().map(|probe| probe.after.as_millis()).collect();
        assert_eq!(after, [0, 20, 40]);
    }

    #[test]
    fn whoever_serves_is_found() {
        let (mut search, probes) = Search::begin(&addresses(), Duration::ZERO);
        let step = search.heard(&probes[1], Some(&answer(2, 4, None, true)), &mut SmallRng::seed_from_u64(1));
        let epoch = Epoch { round: 4, replica: 1 };
        assert_eq!(step, Step::Found { address: "b:1".into(), replica: 2, epoch });
    }

    #[test]
    fn a_named_leader_is_asked_at_once_and_once_per_epoch() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut search, probes) = Search::begin(&addresses(), HEAD_START);
        let first = asked(search.heard(&probes[0], Some(&answer(1, 4, Some((3, "c:1")), false)), &mut rng));
        assert_eq!(first[1], ("c:1".to_owned(), Duration::ZERO));
        let again = asked(search.heard(&probes[1], Some(&answer(2, 4, Some((3, "c:1")), false)), &mut rng));
        assert_eq!(again.len(), 1, "no news: only its own next turn");
        let newer = asked(search.heard(&probes[1], Some(&answer(2, 5, Some((3, "c:1")), false)), &mut rng));
        assert_eq!(
            newer,
            [("c:1".to_owned(), Duration::ZERO)],
            "the answered probe was replaced, so no turn of its own"
        );
    }

    #[test]
    fn strangers_named_are_asked_too() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut search, probes) = Search::begin(&addresses()[..1], HEAD_START);
        let mut known = answer(1, 1, None, false);
        known.replicas = vec![v1::Peer { id: 9, address: "z:1".into() }, v1::Peer { id: 1, address: "alias:1".into() }];
        let next = asked(search.heard(&probes[0], Some(&known), &mut rng));
        assert_eq!(next.iter().map(|(address, _)| address.as_str()).collect::<Vec<_>>(), ["a:1", "z:1"]);
    }

    #[test]
    fn the_unreachable_are_asked_ever_more_slowly() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut search, mut probes) = Search::begin(&addresses()[..1], HEAD_START);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let Step::Ask(next) = search.heard(&probes[0], None, &mut rng) else { panic!("found") };
            pauses.push(next[0].after);
            probes = next;
        }
        assert!(pauses[0] <= Duration::from_millis(10));
        assert!(pauses[19] >= Duration::from_millis(125));
    }
}
