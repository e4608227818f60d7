//! The in-process cluster: what the mission promises, with real replicas, gRPC and SQLite files.

use chat_client::{Client, Error, Reason, Session};
use chat_proto::v1::admin_service_client::AdminServiceClient;
use chat_proto::v1::replica_service_client::ReplicaServiceClient;
use chat_proto::v1::{Frame, TransferRequest};
use chat_testkit::{Cluster, Options, Standing};
use std::time::Duration;
use tonic::Code;

const PASSWORD: &str = "correct horse battery";

/// Two people who talk.
async fn two(client: &Client) -> (Session, Session) {
    for name in ["ada", "bob"] {
        client.register(name, PASSWORD).await.expect("registered");
    }
    let ada = client.log_in("ada", PASSWORD).await.expect("logged in");
    let bob = client.log_in("bob", PASSWORD).await.expect("logged in");
    (ada, bob)
}

/// Takes `count` messages from the beginning of bob's mailbox and checks that they are these, once, in order.
async fn received(bob: &Session, texts: &[String]) {
    let mut inbox = bob.inbox_after(0);
    for (text, seq) in texts.iter().zip(1..) {
        let message = inbox.next().await.expect("the inbox goes on");
        assert_eq!((message.seq, &message.text), (seq, text), "message {seq} of the mailbox");
    }
    let whoami = bob.whoami().await.expect("known");
    assert_eq!(whoami.marks.last, texts.len() as u64, "nothing is there twice");
}

#[tokio::test]
async fn one_replica_serves_alone() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    let sent = ada.send("bob", "hello").await.expect("sent");
    assert_eq!((sent.seq, sent.copies, sent.duplicate), (1, 1, false));
    received(&bob, &["hello".into()]).await;
}

#[tokio::test]
async fn three_replicas_hold_three_copies() {
    let cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    let sent = ada.send("bob", "hello").await.expect("sent");
    assert_eq!(sent.copies, 3, "synced on every member of the view before it is acknowledged");
    received(&bob, &["hello".into()]).await;
}

#[tokio::test]
async fn any_two_may_crash_one_after_the_other_and_the_chat_goes_on() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    let mut texts = Vec::new();
    let mut send = async |ada: &Session, text: &str| {
        let sent = ada.send("bob", text).await.expect("sent");
        texts.push(text.to_string());
        sent.copies
    };
    assert_eq!(send(&ada, "three").await, 3);
    let first = cluster.leader().await;
    cluster.kill(first).await;
    assert!(send(&ada, "two").await >= 1);
    cluster.whole().await;
    let second = cluster.leader().await;
    assert_ne!(first, second);
    cluster.kill(second).await;
    assert_eq!(send(&ada, "one").await, 1, "the last replica goes on alone");
    cluster.restart(first).await;
    cluster.whole().await;
    assert_eq!(send(&ada, "two again").await, 2);
    cluster.restart(second).await;
    cluster.whole().await;
    assert_eq!(send(&ada, "three again").await, 3);
    received(&bob, &texts).await;
}

#[tokio::test]
async fn two_killed_at_the_same_instant_leave_one_that_goes_on() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let leader = cluster.leader().await;
    let other = cluster.running().into_iter().find(|id| *id != leader).expect("there are three");
    cluster.kill(leader).await;
    cluster.kill(other).await;
    let sent = ada.send("bob", "after").await.expect("sent");
    assert_eq!(sent.copies, 1);
    received(&bob, &["before".into(), "after".into()]).await;
}

#[tokio::test]
async fn a_stopped_leader_hands_over_first() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let leader = cluster.leader().await;
    assert!(cluster.stop(leader).await, "it left the view before it ended");
    let states = cluster.wait_until("the two others are the view", |states| {
        states.values().all(|s| s.view.as_ref().is_some_and(|view| view.members.len() == 2))
    });
    assert_eq!(states.await.len(), 2);
    assert_eq!(ada.send("bob", "after").await.expect("sent").copies, 2);
    received(&bob, &["before".into(), "after".into()]).await;
}

#[tokio::test]
async fn a_cut_off_leader_is_replaced_after_its_lease_and_catches_up() {
    let cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "before").await.expect("sent");
    let old = cluster.leader().await;
    let others: Vec<u32> = cluster.running().into_iter().filter(|id| *id != old).collect();
    cluster.partition(&[old], &others);
    let states = cluster
        .wait_until("one of the two others leads", |states| states.iter().any(|(id, s)| *id != old && s.serving))
        .await;
    assert!(!states[&old].serving, "the cut-off one does not serve: {states:#?}");
    ada.send("bob", "after").await.expect("sent");
    cluster.heal();
    cluster.whole().await;
    assert_eq!(cluster.status(old).expect("it runs").standing, Standing::Backup);
    received(&bob, &["before".into(), "after".into()]).await;
}

/// An operator may be wrong: whoever answers has not crashed, whatever lies between it and its peers, or keeps its driver busy.
#[tokio::test]
async fn who_answers_is_not_declared_crashed() {
    let cluster = Cluster::builder().replicas(2).start().await;
    cluster.whole().await;
    let client = cluster.client().await;
    let leader = cluster.leader().await;
    let other = 3 - leader;
    cluster.partition(&[leader], &[other]);
    cluster
        .wait_until("the backup is in contact with nobody", |states| {
            let backup = &states[&other];
            backup.waiting_for.iter().any(|id| id.0 == leader) && backup.leases_from.is_empty()
        })
        .await;
    let heard = client.declare_crashed(leader).await.expect("the backup answers");
    assert!(!heard.is_empty());
    for answer in heard {
        let refusal = answer.outcome.expect_err("it lives").message;
        assert!(refusal.contains("answers"), "{refusal}");
    }
    cluster.heal();
    cluster.whole().await;
}

#[tokio::test]
async fn a_paused_leader_is_replaced_and_follows_when_it_wakes() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    let old = cluster.leader().await;
    cluster.pause(old).await;
    ada.send("bob", "while it sleeps").await.expect("sent");
    cluster.resume(old);
    cluster.whole().await;
    assert_ne!(cluster.leader().await, old);
    received(&bob, &["while it sleeps".into()]).await;
}

#[tokio::test]
async fn all_crash_and_the_last_to_die_must_be_back() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "three").await.expect("sent");
    let mut dead = Vec::new();
    for _ in 0..3 {
        let leader = cluster.leader().await;
        ada.send("bob", &format!("led by {leader}")).await.expect("sent");
        cluster.kill(leader).await;
        dead.push(leader);
    }
    let last = dead[2];
    cluster.restart(dead[0]).await;
    cluster.restart(dead[1]).await;
    cluster
        .wait_until("the two first to die wait for the last", |states| {
            states.values().all(|s| !s.serving && s.waiting_for.iter().any(|id| id.0 == last))
        })
        .await;
    cluster.restart(last).await;
    cluster.whole().await;
    ada.send("bob", "all back").await.expect("sent");
    let texts: Vec<String> = ["three".into()]
        .into_iter()
        .chain(dead.iter().map(|leader| format!("led by {leader}")))
        .chain(["all back".into()])
        .collect();
    received(&bob, &texts).await;
}

#[tokio::test]
async fn with_min_copies_a_lonely_replica_reads_but_does_not_acknowledge() {
    let options = Options { min_copies: 2, ..Options::default() };
    let mut cluster = Cluster::builder().replicas(2).options(options).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    ada.send("bob", "two copies").await.expect("sent");
    let leader = cluster.leader().await;
    let other = if leader == 1 { 2 } else { 1 };
    cluster.kill(other).await;
    cluster.whole().await;
    let hasty = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(500));
    let hasty = hasty.connect().await.expect("a leader");
    let session = hasty.log_in("ada", PASSWORD).await;
    assert!(session.is_err(), "a login is a write");
    let session = hasty.restore(&ada.export()).expect("a token");
    let mut refused = session.send("bob", "one copy").await.expect_err("one copy is too few");
    for _ in 0..9 {
        // The deadline can pass in the middle of an attempt.
        if matches!(refused, Error::Unknown { .. }) {
            refused = session.send("bob", "one copy").await.expect_err("one copy is too few");
        }
    }
    assert_eq!(refused.reason(), Some(Reason::TooFewCopies), "nothing was done, and it says so: {refused:?}");
    assert_eq!(ada.whoami().await.expect("reads go on").account.name, "ada");
    cluster.restart(other).await;
    cluster.whole().await;
    ada.send("bob", "two copies again").await.expect("sent");
    received(&bob, &["two copies".into(), "two copies again".into()]).await;
}

#[tokio::test]
async fn with_a_secret_strangers_are_no_replicas_and_give_no_orders() {
    let secret = "known to three replicas and an operator";
    let options = Options { cluster_secret: Some(secret.into()), ..Options::default() };
    assert!(!format!("{options:?}").contains(secret), "it is not for logs");
    let mut cluster = Cluster::builder().options(options).start().await;
    let stranger = cluster.client().await;
    let (ada, bob) = two(&stranger).await;
    let before = cluster.status(1).expect("it runs");
    for address in cluster.addresses() {
        let url = format!("http://{address}");
        let mut replica = ReplicaServiceClient::connect(url.clone()).await.expect("a connection");
        let session = replica.session(tokio_stream::once(Frame::default())).await;
        assert_eq!(session.expect_err("not a replica").code(), Code::Unauthenticated);
        let mut admin = AdminServiceClient::connect(url).await.expect("a connection");
        let transfer = admin.transfer(TransferRequest { id: 0 }).await;
        assert_eq!(transfer.expect_err("not an operator").code(), Code::Unauthenticated);
    }
    ada.send("bob", "in peace").await.expect("sent");
    received(&bob, &["in peace".into()]).await;
    let after = cluster.status(1).expect("it runs");
    assert_eq!((after.epoch, after.view), (before.epoch, before.view), "nothing has changed");

    let leader = cluster.leader().await;
    let crashed = 1 + leader % 3;
    cluster.kill(crashed).await;
    cluster.whole().await;
    let refused = stranger.declare_crashed(crashed).await.expect("two answer");
    assert_eq!(refused.len(), 2, "{refused:?}");
    for answer in refused {
        let message = answer.outcome.expect_err("not an operator").message;
        assert!(message.contains("secret"), "{message}");
    }
    let operator =
        Client::builder().servers(cluster.addresses()).cluster_secret(secret).connect().await.expect("a leader");
    let heard = operator.declare_crashed(crashed).await.expect("two answer");
    for answer in heard {
        // Heard, and not needed: they have left it out already.
        let refusal = answer.outcome.expect_err("not in the view").message;
        assert!(refusal.contains("not in the view"), "{refusal}");
    }
}
