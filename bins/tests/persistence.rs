//! Every replica goes down and comes back, in every order, crashed and stopped: every acknowledged message is there, once,
//! in order, and nobody serves before the last to go down is back. The story itself is `chat-demo persistence`.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/loopback.rs"]
mod loopback;
#[path = "support/script.rs"]
mod script;

use chat_bins::processes::replica::Fault;
use cluster::Trio;
use script::passes;
use serde_json::json;

#[test]
fn one_replica() {
    passes("persistence-1", &[], &["persistence", "--replicas", "1"]);
}

#[test]
fn two_replicas() {
    passes("persistence-2", &[], &["persistence", "--replicas", "2"]);
}

#[test]
fn three_replicas_killed() {
    passes("persistence-3-killed", &[], &["persistence", "--replicas", "3", "--fault", "kill"]);
}

#[test]
fn three_replicas_stopped() {
    passes("persistence-3-stopped", &[], &["persistence", "--replicas", "3", "--fault", "term"]);
}

/// Rule 10, as an operator sees it.
#[tokio::test]
async fn chatctl_says_whom_the_cluster_waits_for() {
    let mut trio = Trio::start("persistence-chatctl", &loopback::places(), Vec::new()).await;
    for (id, next, left) in [(1, 2, json!([2, 3])), (2, 3, json!([3]))] {
        trio.replica(id).down(Fault::Kill).await.expect("it is killed");
        // The next to go down must know of it: what it knows when it goes down decides for whom it waits.
        trio.until("the rest goes on", |line| line["id"] == next && line["in_view"] == left).await;
    }
    trio.replica(3).down(Fault::Kill).await.expect("it is killed");
    trio.replica(2).start().await.expect("it starts");
    let line = trio.until("2 waits", |line| line["id"] == 2 && line["waiting_for"] == json!([3])).await;
    assert_eq!(line["role"], "waiting");
    let table = trio.chatctl(&["status"]).await;
    let row =
        table.lines().find(|row| row.starts_with(" 2 ")).unwrap_or_else(|| panic!("no row of replica 2:\n{table}"));
    assert!(row.contains("waiting") && row.trim_end().ends_with('3'), "{table}");
    trio.replica(3).start().await.expect("it starts");
    trio.until("3 leads", |line| line["id"] == 3 && line["role"] == "primary").await;
    trio.passed();
}
