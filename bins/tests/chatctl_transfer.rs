//! `chatctl transfer` on real replicas: who leads afterwards, what is said and with which exit code, and that sends go on.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/loopback.rs"]
mod loopback;

use chat_bins::processes::replica::Fault;
use chat_client::{Client, Session};
use cluster::Trio;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::Output;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PASSWORD: &str = "correct horse battery staple";
/// So many acknowledgements say that sends go on.
const SOME: usize = 20;

async fn leader(trio: &Trio) -> u32 {
    let line = trio.until("a replica leads", |line| line["role"] == "primary").await;
    u32::try_from(line["id"].as_u64().expect("an id")).expect("a small one")
}

/// The exit code, standard output and standard error.
fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn transfer(trio: &Trio, id: u32, more: &[&str]) -> (Option<i32>, String, String) {
    let id = id.to_string();
    told(&trio.operate(&[&["transfer", id.as_str()], more].concat()).await)
}

/// Somebody who writes one message after the other.
struct Writer {
    acknowledged: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Writer {
    fn begin(session: Session) -> Writer {
        let (count, acknowledged) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            while !*stopped.borrow() {
                let number = *count.borrow();
                session.send("bob", &number.to_string()).await.expect("it is sent");
                count.send_replace(number + 1);
            }
        });
        Writer { acknowledged, stop, task }
    }

    /// Waits until some more are acknowledged.
    async fn goes_on(&mut self) {
        let goal = *self.acknowledged.borrow() + SOME;
        let reached = timeout(cluster::WAIT, self.acknowledged.wait_for(|count| *count >= goal)).await;
        reached.expect("sends go on").expect("the writer writes");
    }

    /// Ends it; how many were acknowledged.
    async fn end(self) -> usize {
        self.stop.send_replace(true);
        timeout(cluster::WAIT, self.task).await.expect("the last one is acknowledged").expect("all were sent");
        *self.acknowledged.borrow()
    }
}

#[tokio::test]
async fn a_backup_takes_over_and_sends_go_on() {
    let mut trio = Trio::start("transfer-backup", &loopback::places(), Vec::new()).await;
    let client = Client::builder().servers(trio.servers().split(',')).connect().await.expect("a leader");
    for name in ["ada", "bob"] {
        client.register(name, PASSWORD).await.expect("it is free");
    }
    let mut writer = Writer::begin(client.log_in("ada", PASSWORD).await.expect("she is let in"));
    writer.goes_on().await;

    let first = leader(&trio).await;
    let next = 1 + first % 3;
    let (code, said, complaint) = transfer(&trio, next, &["--json"]).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    let line: Value = serde_json::from_str(&said).expect("one JSON object");
    let status = trio.until("it leads", |line| line["id"] == next).await;
    for key in ["id", "address", "role", "epoch", "leader"] {
        assert_eq!(line[key], status[key], "{key}: {said}");
    }
    assert_eq!((&line["role"], &line["from"]), (&json!("primary"), &json!(first)), "{said}");
    writer.goes_on().await;

    // And back, told to people.
    let (code, said, complaint) = transfer(&trio, first, &[]).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    let address = trio.replica(first as usize).address();
    let expected = format!("replica {next} has handed over: replica {first} at {address} leads, in epoch ");
    assert!(said.starts_with(&expected), "{said}");
    writer.goes_on().await;

    let count = writer.end().await;
    let mut inbox = client.log_in("bob", PASSWORD).await.expect("he is let in").inbox();
    for number in 0..count {
        let message = timeout(cluster::WAIT, inbox.next()).await.expect("it is delivered").expect("it is there");
        assert_eq!(message.text, number.to_string());
    }
    for replica in &mut trio.replicas {
        replica.check().expect("no process has ended");
    }
    trio.passed();
}

#[tokio::test]
async fn what_cannot_be_or_need_not_be_done_is_said() {
    let mut trio = Trio::start("transfer-said", &loopback::places(), Vec::new()).await;
    let unknown = transfer(&trio, 9, &["--json"]).await;
    let complaint = "chatctl: there is no replica 9: the cluster has 1,2,3\n";
    assert_eq!(unknown, (Some(1), String::new(), complaint.to_owned()));

    let first = leader(&trio).await;
    let (code, said, complaint) = transfer(&trio, first, &[]).await;
    let address = trio.replica(first as usize).address();
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert!(said.starts_with(&format!("replica {first} at {address} leads already, in epoch ")), "{said}");
    let (code, said, _) = transfer(&trio, first, &["--json"]).await;
    let line: Value = serde_json::from_str(&said).expect("one JSON object");
    assert_eq!((code, &line["leader"], &line["from"]), (Some(0), &json!(first), &Value::Null));

    let crashed = 1 + first % 3;
    trio.replica(crashed as usize).down(Fault::Kill).await.expect("it is killed");
    let address = trio.replica(crashed as usize).address();
    let complaint =
        format!("chatctl: replica {crashed} cannot take over: {address} does not answer (connection refused)\n");
    assert_eq!(transfer(&trio, crashed, &[]).await, (Some(1), String::new(), complaint));
    assert_eq!(leader(&trio).await, first, "nothing has changed");
    trio.passed();
}

#[tokio::test]
async fn without_a_leader_or_any_replica_it_is_3() {
    let mut trio = Trio::start("transfer-nobody", &loopback::places(), Vec::new()).await;
    for (id, next, left) in [(1, 2, json!([2, 3])), (2, 3, json!([3]))] {
        trio.replica(id).down(Fault::Kill).await.expect("it is killed");
        trio.until("the rest goes on", |line| line["id"] == next && line["in_view"] == left).await;
    }
    trio.replica(3).down(Fault::Kill).await.expect("it is killed");
    let (code, said, complaint) = transfer(&trio, 2, &[]).await;
    assert_eq!((code, said.as_str()), (Some(3), ""));
    assert!(complaint.starts_with("chatctl: no replica answered ("), "{complaint}");
    assert_eq!(complaint.matches("connection refused").count(), 3, "{complaint}");

    trio.replica(2).start().await.expect("it starts");
    trio.until("2 waits", |line| line["id"] == 2 && line["waiting_for"] == json!([3])).await;
    let (code, said, complaint) = transfer(&trio, 2, &["--timeout", "500ms"]).await;
    assert_eq!((code, said.as_str()), (Some(3), ""));
    assert!(complaint.contains("no leader within the deadline; the cluster waits for replica 3"), "{complaint}");
    trio.passed();
}

#[tokio::test]
async fn with_a_secret_only_who_knows_it_is_obeyed() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "known to three replicas and an operator").expect("written");
    let environment = [("CHATD_CLUSTER_SECRET_FILE".to_owned(), OsString::from(&secret))];
    let trio = Trio::surrounded("transfer-secret", &loopback::places(), Vec::new(), &environment).await;
    let first = leader(&trio).await;
    let next = 1 + first % 3;
    let (code, said, complaint) = transfer(&trio, next, &[]).await;
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(complaint.starts_with("chatctl: ") && complaint.contains("secret"), "{complaint}");
    assert_eq!(leader(&trio).await, first, "nothing has changed");
    let secret = secret.to_str().expect("UTF-8");
    let (code, _, complaint) = transfer(&trio, next, &["--cluster-secret-file", secret]).await;
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert_eq!(leader(&trio).await, next);
    trio.passed();
}
