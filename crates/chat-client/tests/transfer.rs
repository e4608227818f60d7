//! The client as an operator: a leader that hands over, hesitates, hands to another, or does not answer.

mod fake;

use std::time::Duration;

use chat_client::{Client, Error};
use fake::{Cluster, Mood};

async fn client(cluster: &Cluster) -> Client {
    Client::builder().servers(cluster.addresses()).connect().await.unwrap()
}

fn refusal(error: Error) -> String {
    match error {
        Error::Refused(refusal) => refusal.message,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_named_one_leads_when_it_returns() {
    let cluster = Cluster::start(3).await;
    let client = client(&cluster).await;
    let done = client.transfer(2).await.unwrap();
    assert_eq!((done.leader.id, &done.leader.address, done.from), (2, &cluster.replica(2).address, Some(1)));
    let again = client.transfer(2).await.unwrap();
    assert_eq!((again.leader, again.from), (done.leader, None));
}

/// What was known of the leader is old: nobody was asked to hand over, so this is no change meanwhile.
#[tokio::test]
async fn the_one_that_leads_now_is_asked() {
    let cluster = Cluster::start(3).await;
    let client = client(&cluster).await;
    cluster.lead(Some(2));
    assert_eq!(client.transfer(3).await.unwrap().from, Some(2));
    cluster.lead(Some(2));
    assert_eq!(client.transfer(3).await.unwrap().from, Some(2), "3 led when it was last heard of");
}

#[tokio::test]
async fn who_is_not_ready_is_asked_again() {
    let cluster = Cluster::start(3).await;
    cluster.replica(1).mood.send_replace(Mood::HesitatesOnce);
    let done = client(&cluster).await.transfer(2).await.unwrap();
    assert_eq!((done.leader.id, done.from), (2, Some(1)));
}

#[tokio::test]
async fn a_lost_answer_is_made_up_for_by_who_leads() {
    let cluster = Cluster::start(3).await;
    cluster.replica(1).mood.send_replace(Mood::HandsOverInSilence);
    let done = client(&cluster).await.transfer(2).await.unwrap();
    assert_eq!((done.leader.id, done.from), (2, Some(1)));
}

#[tokio::test]
async fn that_another_leads_is_said() {
    let cluster = Cluster::start(3).await;
    cluster.replica(1).mood.send_replace(Mood::HandsToAnother);
    let message = refusal(client(&cluster).await.transfer(2).await.unwrap_err());
    let address = &cluster.replica(3).address;
    assert_eq!(
        message,
        format!("replica 1 was asked to hand over to replica 2, but now replica 3 leads, at {address}")
    );
}

#[tokio::test]
async fn a_refusal_is_passed_on() {
    let cluster = Cluster::start(3).await;
    assert_eq!(refusal(client(&cluster).await.transfer(9).await.unwrap_err()), "scripted: no replica 9");
}

#[tokio::test]
async fn without_a_leader_it_ends_with_the_deadline() {
    let cluster = Cluster::start(2).await;
    cluster.lead(None);
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(200));
    let error = builder.connect_lazy().unwrap().transfer(2).await.unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error:?}");
}

#[tokio::test]
async fn no_answer_is_no_refusal() {
    let cluster = Cluster::start(2).await;
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(200));
    let client = builder.connect().await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::Hangs);
    let error = client.transfer(2).await.unwrap_err();
    assert!(matches!(error, Error::NoLeader { .. }), "{error:?}");
    assert!(error.to_string().contains("did not answer in time: it may still do so"), "{error}");
}

/// The last order was given, and nobody took it back.
#[tokio::test]
async fn that_it_was_asked_again_without_an_answer_is_said() {
    let cluster = Cluster::start(2).await;
    let builder = Client::builder().servers(cluster.addresses()).timeout(Duration::from_millis(300));
    let client = builder.connect().await.unwrap();
    cluster.replica(1).mood.send_replace(Mood::HesitatesThenHangs);
    let message = refusal(client.transfer(2).await.unwrap_err());
    assert!(message.starts_with("scripted: still leads") && message.ends_with("it may still do so"), "{message}");
}

#[tokio::test]
async fn nobody_is_deposed_for_a_replica_that_cannot_be() {
    let cluster = Cluster::start(2).await;
    refusal(client(&cluster).await.transfer(0).await.unwrap_err());
    assert_eq!(cluster.state.leader.borrow().0, Some(1));
}
