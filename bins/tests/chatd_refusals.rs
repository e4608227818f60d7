//! `chatd` that cannot start says why in one sentence, exits with an error, and changes no file.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/loopback.rs"]
mod loopback;

use chat_bins::processes::address;
use chat_bins::processes::replica::Fault;
use cluster::Trio;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::process::Command;

/// Everything below a folder: when it was changed, and what it holds.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).expect("a time");
        found.insert(folder.clone(), (changed(&folder), Vec::new()));
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), (changed(&path), std::fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

/// Runs `chatd`, which must refuse to start, name `because`, and leave everything in `folder` as it was.
async fn refuses(folder: &Path, arguments: &[&str], code: i32, because: &[&str]) {
    let before = listing(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatd"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CHATD_")) {
        command.env_remove(name);
    }
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(cluster::WAIT, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("chatd {arguments:?} goes on")).expect("chatd runs");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert_eq!((said.lines().count(), said.starts_with("chatd: ")), (1, true), "{arguments:?}: {said}");
    for words in because {
        assert!(said.contains(words), "{said:?} does not name {words:?}");
    }
    let after = listing(folder);
    let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(differs).collect();
    assert!(changed.is_empty(), "{arguments:?} changed {changed:?}");
}

fn alone(address: SocketAddr) -> String {
    format!("1={address}")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let data = folder.path().join("data");
    let at = address::free().expect("a free address");
    let (data, list) = (text(&data), alone(at));
    let complete = ["--id", "1", "--data", data, "--cluster", &list];
    let with = |more: &[&'static str]| [&complete[..], more].concat();
    refuses(folder.path(), &with(&["--frobnicate"]), 2, &["--frobnicate"]).await;
    refuses(folder.path(), &with(&["--crash-proof", "perhaps"]), 2, &["perhaps", "--crash-proof", "never"]).await;
    refuses(folder.path(), &with(&["--lease", "fast"]), 2, &["--lease", "fast"]).await;
    refuses(folder.path(), &with(&["--min-copies", "2"]), 2, &["--min-copies"]).await;
    refuses(folder.path(), &["--data", data, "--cluster", &list], 2, &["--id"]).await;
    let twice = format!("{list},2={at}");
    refuses(folder.path(), &["--id", "1", "--data", data, "--cluster", &twice], 2, &["the same address"]).await;
    refuses(folder.path(), &["--id", "2", "--data", data, "--cluster", &list], 2, &["replica 2"]).await;
    refuses(folder.path(), &["--id", "one", "--data", data, "--cluster", &list], 2, &["one"]).await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_one() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let list = alone(address::free().expect("a free address"));
    for data in [file.clone(), file.join("below")] {
        refuses(folder.path(), &["--id", "1", "--data", text(&data), "--cluster", &list], 1, &[text(&data)]).await;
    }
    let stranger = folder.path().join("stranger");
    std::fs::create_dir(&stranger).expect("a folder");
    std::fs::write(stranger.join("identity"), "nonsense").expect("written");
    refuses(folder.path(), &["--id", "1", "--data", text(&stranger), "--cluster", &list], 1, &["identity"]).await;
}

#[tokio::test]
async fn an_address_that_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind(address::free().expect("a free address")).expect("bound");
    let at = taken.local_addr().expect("bound");
    let data = folder.path().join("data");
    refuses(folder.path(), &["--id", "1", "--data", text(&data), "--cluster", &alone(at)], 1, &[&at.to_string()]).await;
}

#[tokio::test]
async fn data_of_another_replica_or_in_use() {
    let mut trio = Trio::start("refusals-own", &loopback::places(), Vec::new()).await;
    let at = address::free().expect("a free address").to_string();
    let book: Vec<_> = trio.servers().split(',').zip(1..).map(|(server, id)| format!("{id}={server}")).collect();
    let book = book.join(",");
    let data = trio.replicas[0].data();
    // It has its data for itself all the same, and what it does with them is not mistaken for what the others did.
    trio.replica(1).pause().expect("it is stopped");
    let run =
        |id: &'static str| ["--id", id, "--listen", &at, "--data", text(&data), "--cluster", &book].map(str::to_owned);
    for (id, because) in [("2", "belongs to replica 1, not to replica 2"), ("1", "in use by a running chatd")] {
        let arguments = run(id);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        refuses(&data, &arguments, 1, &[text(&data), because]).await;
    }
    trio.replica(1).resume().expect("it goes on");
    trio.passed();
}

#[tokio::test]
async fn data_of_another_cluster() {
    let mut ours = Trio::start("refusals-ours", &loopback::places(), Vec::new()).await;
    let mut theirs = Trio::start("refusals-theirs", &loopback::places(), Vec::new()).await;
    ours.replica(3).down(Fault::Kill).await.expect("it is killed");
    theirs.replica(3).down(Fault::Kill).await.expect("it is killed");
    let book: Vec<_> = theirs.servers().split(',').zip(1..).map(|(server, id)| format!("{id}={server}")).collect();
    let data = ours.replica(3).data();
    let arguments = ["--id", "3", "--data", text(&data), "--cluster", &book.join(",")];
    refuses(&data, &arguments, 1, &[text(&data), "belongs to cluster"]).await;
    ours.replica(3).start().await.expect("where it belongs, it starts");
    ours.until("it is in the view", |line| line["id"] == 3 && line["role"] == "backup").await;
    ours.passed();
    theirs.passed();
}
