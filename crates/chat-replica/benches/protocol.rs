//! What the protocol costs without disk and network: one proposal, from the primary's step to its commit.
//!
//! `cargo bench -p chat-replica --bench protocol`

use bytes::Bytes;
use chat_replica::protocol::*;
use divan::Bencher;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Nothing here takes time, so it does not pass.
const NOW: Time = Time(1_000_000);
/// Bytes of a batch: one message of 128 bytes and what goes with it.
const BATCH: usize = 200;

fn main() {
    divan::main();
}

/// Nobody lags, so nothing is ever read from a disk.
struct NoDisk;

impl LogRead for NoDisk {
    fn read(&self, _: u64, _: usize) -> Vec<Entry> {
        Vec::new()
    }
}

fn member(id: u32) -> Member {
    Member { id: ReplicaId(id), disk: DiskId([id as u8; 16]), incarnation: Incarnation { count: 1, nonce: 1 } }
}

/// Three replicas whose disks sync at once; the first of them leads.
struct Trio {
    replicas: [Replica; 3],
}

impl Trio {
    fn founded() -> Trio {
        let replica = |id| {
            let peers = (1..=3).filter(|other| *other != id).map(ReplicaId).collect();
            Replica::new(Config::new(member(id), peers, CLUSTER, 0), Recovered::default(), NOW)
        };
        let mut trio = Trio { replicas: [1, 2, 3].map(replica) };
        for id in 1..=3 {
            let peers = (1..=3).filter(|other| *other != id).map(member);
            let session = |peer: Member, outbound| {
                let session = u64::from(peer.id.0) * 2 + u64::from(outbound);
                Input::SessionUp { session, peer, outbound }
            };
            let sessions = peers.flat_map(|peer| [session(peer, true), session(peer, false)]).collect();
            trio.deliver(vec![(ReplicaId(id), sessions)]);
        }
        assert_eq!(trio.replicas[0].accepts(), Ok(()), "the first leads");
        trio
    }

    /// Gives inputs to replicas, and what they then send to each other, until nobody has anything more to say.
    fn deliver(&mut self, mut inputs: Vec<(ReplicaId, Vec<Input>)>) {
        while let Some((id, given)) = inputs.pop() {
            let replica = &mut self.replicas[id.0 as usize - 1];
            let Effects { send, persist, send_after, .. } = replica.step(NOW, given, &NoDisk);
            if !persist.is_empty() {
                inputs.push((id, vec![Input::Persisted { took: Duration::ZERO }]));
            }
            let sent = send.into_iter().chain(send_after);
            inputs.splice(0..0, sent.map(|envelope| (envelope.to.id, vec![Input::Receive(envelope)])));
        }
    }
}

/// On the primary only: the proposal, and then its own sync and both acknowledgements in one turn.
#[divan::bench]
fn primary_commits(bencher: Bencher<'_, '_>) {
    let mut primary = Trio::founded().replicas.into_iter().next().expect("there are three");
    let epoch = primary.serving().expect("it leads");
    let batch = Bytes::from(vec![1; BATCH]);
    bencher.bench_local(|| {
        let proposed = primary.step(NOW, [Input::Propose(batch.clone())], &NoDisk).proposed;
        let matched = proposed.expect("it is taken");
        let reply = |from| {
            let message = Message::AppendReply { epoch, promised: epoch, matched, conflict: false };
            Input::Receive(Envelope { cluster: Some(CLUSTER), from: member(from), to: member(1), message })
        };
        let effects = primary.step(NOW, [Input::Persisted { took: Duration::ZERO }, reply(2), reply(3)], &NoDisk);
        assert_eq!(primary.committed(), matched);
        effects
    });
}

/// On all three, with everything that they say to each other for it.
#[divan::bench]
fn all_three_commit(bencher: Bencher<'_, '_>) {
    let mut trio = Trio::founded();
    let batch = Bytes::from(vec![1; BATCH]);
    bencher.bench_local(|| {
        let before = trio.replicas[0].committed();
        trio.deliver(vec![(ReplicaId(1), vec![Input::Propose(batch.clone())])]);
        assert_eq!(trio.replicas[0].committed(), before + 1);
    });
}
