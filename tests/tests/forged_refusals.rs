//! Rule 8 under attack: refused connections that lie, a stranger on a dead replica's port, and one that is gone and back.
//! What the tests show is what docs/protocol.md and docs/operations.md promise for `crash_proof` "refusal" and "never".

use chat_client::{Client, Session};
use chat_testkit::{Cluster, CrashProof, Options, Standing};
use std::net::TcpListener;
use std::time::Duration;

const PASSWORD: &str = "correct horse battery";

async fn two(client: &Client) -> (Session, Session) {
    for name in ["ada", "bob"] {
        client.register(name, PASSWORD).await.expect("registered");
    }
    let ada = client.log_in("ada", PASSWORD).await.expect("logged in");
    let bob = client.log_in("bob", PASSWORD).await.expect("logged in");
    (ada, bob)
}

/// bob's mailbox holds exactly these, in this order.
async fn holds(bob: &Session, texts: &[&str]) {
    let mut inbox = bob.inbox_after(0);
    for (text, seq) in texts.iter().zip(1..) {
        let next = tokio::time::timeout(chat_testkit::WAIT, inbox.next()).await;
        let next = next.unwrap_or_else(|_| panic!("message {seq}, {text:?}, is not delivered"));
        let message = next.expect("the inbox goes on");
        assert_eq!((message.seq, &message.text[..]), (seq, *text), "message {seq} of the mailbox");
    }
    let whoami = bob.whoami().await.expect("known");
    assert_eq!(whoami.marks.last, texts.len() as u64, "nothing is there twice, and nothing else");
}

fn never() -> Options {
    Options { crash_proof: CrashProof::Never, ..Options::default() }
}

/// The leader, and the two others.
async fn roles(cluster: &Cluster) -> (u32, Vec<u32>) {
    let leader = cluster.leader().await;
    (leader, cluster.running().into_iter().filter(|id| *id != leader).collect())
}

/// A client that asks only this replica, and gives up soon.
async fn only(cluster: &Cluster, id: u32) -> Client {
    let address = cluster.addresses()[id as usize - 1].clone();
    let client = Client::builder().servers([address]).timeout(Duration::from_millis(500)).connect().await;
    client.expect("it is asked")
}

#[tokio::test]
async fn refusals_between_two_are_denied_by_the_third() {
    let cluster = Cluster::builder().replicas(3).start().await;
    cluster.whole().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let (leader, others) = roles(&cluster).await;
    cluster.forge_refusals(&[leader], &others[..1]);
    // Both are alive, and the third is in touch with both. One of the two is left out, by the lease and a majority.
    ada.send("bob", "meanwhile").await.expect("sent");
    let states = cluster
        .wait_until("the view is the third and one of the two", |states| {
            let serving: Vec<_> = states.values().filter(|status| status.serving).collect();
            let two = |view: &chat_replica::protocol::View| view.members.len() == 2;
            serving.len() == 1 && serving[0].view.as_ref().is_some_and(two)
        })
        .await;
    let third = others[1];
    let alone: Vec<u32> = states
        .iter()
        .filter(|(_, s)| s.view.as_ref().is_some_and(|view| view.members.len() == 1))
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(alone, [0_u32; 0], "nobody goes on alone: {states:#?}");
    let names_third = |status: &chat_testkit::Status| {
        status.view.as_ref().is_some_and(|view| view.member(chat_replica::protocol::ReplicaId(third)).is_some())
    };
    assert!(states.values().filter(|status| status.serving).all(names_third), "{states:#?}");
    cluster.heal();
    cluster.whole().await;
    holds(&bob, &["before", "meanwhile"]).await;
}

#[tokio::test]
async fn who_never_believes_refusals_does_not_fork() {
    let cluster = Cluster::builder().replicas(3).options(never()).start().await;
    cluster.whole().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let (old, others) = roles(&cluster).await;
    // With a client of its own: nobody else's calls tell it that another leads.
    let mut inbox = cluster.client().await.log_in("bob", PASSWORD).await.expect("logged in").inbox_after(0);
    assert_eq!(inbox.next().await.expect("the inbox goes on").text, "before");
    cluster.forge_refusals(&[old], &others);
    let states = cluster
        .wait_until("one of the two others leads", |states| states.iter().any(|(id, s)| *id != old && s.serving))
        .await;
    assert!(!states[&old].serving, "two lead: {states:#?}");
    ada.send("bob", "after").await.expect("sent");
    // bob listened at the old leader, which clients reach still, and which does not know that it is none any more.
    let heard = tokio::time::timeout(chat_testkit::WAIT, inbox.next()).await.expect("bob hears of it");
    assert_eq!(heard.expect("the inbox goes on").text, "after");
    cluster.heal();
    cluster.whole().await;
    holds(&bob, &["before", "after"]).await;
}

/// The price of `crash_proof = "refusal"`, as operations.md states it: where something forges refusals between one and all
/// others, both sides go on. It is noticed as soon as they meet: the side whose epoch is lower ends, says why, and keeps its disks. Nothing is
/// merged, and nothing is overwritten.
#[tokio::test]
async fn refusals_forged_all_around_are_noticed_when_the_sides_meet() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    cluster.whole().await;
    let (ada, _) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let (old, others) = roles(&cluster).await;
    let lonely = only(&cluster, old).await.log_in("ada", PASSWORD).await.expect("it still leads");
    cluster.forge_refusals(&[old], &others);
    cluster
        .wait_until("both sides lead", |states| {
            states[&old].serving
                && states[&old].view.as_ref().is_some_and(|view| view.members.len() == 1)
                && others.iter().any(|id| states[id].serving)
        })
        .await;
    // Each client asks whom it finds: what counts is the epoch that acknowledged.
    let client = cluster.client().await;
    let anew = client.log_in("ada", PASSWORD).await.expect("logged in");
    let mut sides = [vec!["before"], vec!["before"]];
    for (ada, text) in [(&lonely, "one"), (&anew, "two"), (&ada, "three"), (&lonely, "four")] {
        let sent = ada.send("bob", text).await.expect("both sides go on");
        let alone = sent.epoch.replica == old;
        assert_eq!(sent.copies, if alone { 1 } else { 2 }, "it says how many copies there are");
        sides[usize::from(alone)].push(text);
    }
    assert!(sides[1].len() > 1, "its proof was forged, so the lonely one goes on: {sides:?}");
    cluster.heal();
    // Whichever side has the lower epoch ends: the lonely one, or both others.
    let mut ends = vec![cluster.one_ends().await];
    if ends[0].0 != old {
        ends.push(cluster.one_ends().await);
    }
    for (id, ended) in &ends {
        assert!(format!("{ended:?}").contains("committed here in epoch"), "replica {id} ends and says why: {ended:?}");
    }
    cluster.whole().await;
    let (left, texts) = if ends[0].0 == old { (&others[..], &sides[0]) } else { (&[old][..], &sides[1]) };
    assert_eq!(cluster.running(), left, "one side ends, and all of it: {ends:?}");
    let bob = cluster.client().await.log_in("bob", PASSWORD).await.expect("logged in");
    holds(&bob, texts).await;
}

/// Of a pair, the survivor needs proof. A stranger that took the port of the dead says nothing for rule 8, and once it is gone
/// the lease has run out: only the successor's word counts then.
#[tokio::test]
async fn a_stranger_on_the_port_is_silence() {
    let mut cluster = Cluster::builder().replicas(2).start().await;
    cluster.whole().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let (leader, others) = roles(&cluster).await;
    let survivor = others[0];
    let address = cluster.addresses()[leader as usize - 1].clone();
    // The sessions end, and no dial in between is refused: the stranger is there before.
    cluster.partition(&[leader], &[survivor]);
    cluster.kill(leader).await;
    let stranger = TcpListener::bind(&address).expect("the dead one's port is free");
    cluster.heal();
    let waits = |states: &std::collections::BTreeMap<u32, chat_testkit::Status>| {
        states[&survivor].waiting_for.iter().any(|id| id.0 == leader)
            && states[&survivor].standing == Standing::Waiting
            && states[&survivor].leases_from.is_empty()
    };
    let states = cluster.wait_until("the survivor waits for the dead one, its lease run out", waits).await;
    assert!(!states[&survivor].serving);
    drop(stranger);
    cluster.restart(leader).await;
    cluster.whole().await;
    ada.send("bob", "after").await.expect("sent");
    holds(&bob, &["before", "after"]).await;
}

/// A container that is gone and at once back at the same address: what its disk's next run says replaces refusals.
#[tokio::test]
async fn gone_and_back_at_the_same_address() {
    for options in [Options::default(), never()] {
        let mut cluster = Cluster::builder().replicas(3).options(options).start().await;
        cluster.whole().await;
        let (ada, bob) = two(&cluster.client().await).await;
        let mut texts = Vec::new();
        for round in ["one", "two", "three", "four"] {
            ada.send("bob", round).await.expect("sent");
            texts.push(round);
            let leader = cluster.leader().await;
            cluster.kill(leader).await;
            cluster.restart(leader).await;
        }
        ada.send("bob", "at the end").await.expect("sent");
        texts.push("at the end");
        cluster.whole().await;
        holds(&bob, &texts).await;
    }
}
