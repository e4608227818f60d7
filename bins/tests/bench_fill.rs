//! `chat-bench` fills a cluster whose leadership moves meanwhile: planned, and because the leader falls silent. What is in it then is what
//! was asked for, with nothing doubled and nothing missing.

use chat_bins::processes::replica::{Plan, Replica};
use chat_client::{Client, ReplicaStatus, Role};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const ACCOUNTS: usize = 300;
const MESSAGES: u64 = 40_000;
/// Leadership moves when so many log entries are committed since it last did.
const ENTRIES: u64 = 8;
/// How long anything that must come about may take before it counts as not happening.
const WAIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse battery staple";

#[tokio::test]
async fn a_fill_goes_on_when_leadership_moves() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let filled = folder.path().join(format!("filled-{ACCOUNTS}-{MESSAGES}"));
    let bench = fill(folder.path());
    let bench_id = bench.id().expect("it runs");
    let servers = servers(&filled).await;
    let client = client(&servers);

    // Each time, what was done since the fill was last heard of is proposed again: nearly always something.
    for _ in 0..3 {
        let leader = further(&client).await;
        transfer(&client, leader).await;
        another_leads(&client, leader).await;
    }
    let leader = further(&client).await;
    let silent = replica_of(bench_id, leader);
    kill_process(silent, Signal::STOP).expect("it is stopped");
    another_leads(&client, leader).await;
    kill_process(silent, Signal::CONT).expect("it goes on");
    assert!(!filled.join("filled.json").exists(), "it was filled before leadership had moved");

    let output = bench.wait_with_output().await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
    assert!(said.contains("leaves off"), "{said}");
    let replicas = started(&filled, &servers).await;
    holds_just_that(&client).await;
    drop(replicas);
}

fn fill(data: &Path) -> Child {
    let line = format!("read --accounts {ACCOUNTS} --messages {MESSAGES} --clients 1 --secs 1 --json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat-bench"));
    command.args(line.split(' ')).arg("--data").arg(data).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started")
}

/// The replicas that are filled, by ascending id.
async fn servers(filled: &Path) -> Vec<String> {
    let book = filled.join("addresses");
    let three = async || {
        let text = std::fs::read_to_string(&book).unwrap_or_default();
        (text.ends_with('\n') && text.lines().count() == 3).then(|| text.lines().map(str::to_owned).collect())
    };
    until("there are replicas", three).await
}

fn client(servers: &[String]) -> Client {
    Client::builder().servers(servers).timeout(WAIT).connect_lazy().expect("addresses")
}

/// Waits until more is filled, and returns who leads.
async fn further(client: &Client) -> u32 {
    let leading = async || client.status_of_all().await.into_iter().find(leads);
    let before = until("somebody leads", leading).await.committed;
    let far = async || leading().await.filter(|leader| leader.committed >= before + ENTRIES);
    until("more is filled", far).await.id.expect("it was reached")
}

fn leads(status: &ReplicaStatus) -> bool {
    status.role == Role::Primary && status.in_view.len() == 3
}

async fn another_leads(client: &Client, than: u32) {
    let other = |status: &ReplicaStatus| status.role == Role::Primary && status.id != Some(than);
    let leading = async || client.status_of_all().await.into_iter().find(other);
    until("another one leads", leading).await;
}

/// Has the leader hand over. It may refuse for a moment: under load a member can be out of the view.
async fn transfer(client: &Client, from: u32) {
    let asked = async || client.transfer(from % 3 + 1).await.ok();
    until("the leader hands over", asked).await;
}

/// The process of a replica, among the children of `chat-bench`.
fn replica_of(bench: u32, id: u32) -> Pid {
    let words = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let threads = std::fs::read_dir(format!("/proc/{bench}/task")).expect("it runs");
    let children = threads.map(|thread| {
        std::fs::read_to_string(thread.expect("it is listed").path().join("children")).unwrap_or_default()
    });
    let all = children.collect::<Vec<_>>().join(" ");
    let mut found = all.split_whitespace().filter(|pid| words(pid).contains(&format!("\0--id\0{id}\0")));
    let pid = found.next().expect("it is a child").parse().expect("a number");
    Pid::from_raw(pid).expect("not zero")
}

/// The replicas again, which `chat-bench` has stopped.
async fn started(filled: &Path, servers: &[String]) -> Vec<Replica> {
    let book: Vec<_> = (1..).zip(servers).map(|(id, address): (u32, _)| format!("{id}={address}")).collect();
    let replica = |(id, address): (u32, &String)| {
        Replica::new(Plan {
            program: PathBuf::from(env!("CARGO_BIN_EXE_chat-demo")),
            through: Vec::new(),
            id,
            address: address.parse().expect("an address"),
            book: book.join(","),
            folder: filled.to_path_buf(),
            voice: None,
        })
    };
    let mut replicas: Vec<_> = (1..).zip(servers).map(replica).collect();
    replicas.iter_mut().for_each(|replica| replica.launch().expect("it starts"));
    for replica in &mut replicas {
        replica.ready().await.expect("it gets ready");
    }
    replicas
}

/// Every account is listed; ids of messages and places in mailboxes have no gaps, so the next id counts them all.
async fn holds_just_that(client: &Client) {
    client.register("judge", PASSWORD).await.expect("the name is free");
    let judge = client.log_in("judge", PASSWORD).await.expect("it is right");
    assert_eq!(judge.accounts("*").all().await.expect("they are listed").len(), ACCOUNTS + 1);
    let sent = judge.send("judge", "how many were before this?").await.expect("it is sent");
    assert_eq!(sent.id, MESSAGES + 1);
}

/// Looks until there is something to be seen.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(begun.elapsed() < WAIT, "after {WAIT:?} it is not so that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
