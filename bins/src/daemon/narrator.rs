//! What `chatd` says on standard error while it runs: its role when that changes, and whom it waits for.

use super::say;
use chat_replica::protocol::{ReplicaId, Standing, Status};
use std::io::IsTerminal as _;
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Details of what happens, for `CHATD_LOG=info` and the like; warnings without.
pub(super) fn start_log() {
    let filter = EnvFilter::try_from_env("CHATD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // Colours are for people: in a file or a journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_target(false).with_ansi(colours).init();
}

/// Says each change, until the status ends.
pub(super) async fn narrate(id: u32, addresses: Vec<(u32, String)>, mut status: watch::Receiver<Status>) {
    let mut said = String::new();
    loop {
        let line = describe(id, &addresses, &status.borrow_and_update());
        if line != said {
            said.clone_from(&line);
            // Whoever does not read standard error must hold up nothing else on this thread.
            let _ = tokio::task::spawn_blocking(move || say(&line)).await;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn describe(id: u32, addresses: &[(u32, String)], status: &Status) -> String {
    let epoch = status.epoch;
    let members = status.view.iter().flat_map(|view| &view.members);
    let members: Vec<String> = members.map(|member| member.id.to_string()).collect();
    let view = if members.is_empty() { String::new() } else { format!("; in view: {}", members.join(" ")) };
    let leader = status.leader.map(|leader| place(addresses, leader)).unwrap_or_default();
    let impaired = if status.impaired_until.is_some() {
        "; the log is damaged and counts for nothing until it is repaired from a peer"
    } else {
        ""
    };
    let waiting = || -> Vec<String> { status.waiting_for.iter().map(|id| place(addresses, *id)).collect() };
    match status.standing {
        Standing::Primary if status.serving => format!("primary in epoch {epoch}{view}{impaired}"),
        Standing::Primary if status.waiting_for.is_empty() => {
            format!("primary in epoch {epoch}, taking no writes at the moment{impaired}")
        }
        Standing::Primary => format!("primary in epoch {epoch}, but cannot go on without {}", waiting().join(", ")),
        Standing::Backup => format!("backup of {leader}{view}{impaired}"),
        Standing::Learner => format!("learner of {leader}{view}{impaired}"),
        Standing::Waiting if status.cluster.is_none() && !status.waiting_for.is_empty() => {
            format!("waiting for {} to found the cluster with", waiting().join(", "))
        }
        Standing::Waiting if status.waiting_for.is_empty() => format!("replica {id} looks for a primary{impaired}"),
        Standing::Waiting => format!("waiting for {}{impaired}", waiting().join(", ")),
    }
}

fn place(addresses: &[(u32, String)], id: ReplicaId) -> String {
    match addresses.iter().find(|(other, _)| *other == id.0) {
        Some((_, address)) => format!("replica {id} at {address}"),
        None => format!("replica {id}"),
    }
}
