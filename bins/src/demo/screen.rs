//! What the watcher sees: events as lines, and below them one line that is drawn again and again. Where the output is no
//! terminal, that line comes once a second.

use super::ledger::Ledger;
use crate::processes::cluster::list;
use crate::processes::cluster::{describe, leader_of};
use chat_client::ReplicaStatus;
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Narrower than most terminals, for where the width cannot be had.
const WIDTH: usize = 79;

pub(super) struct Screen {
    json: bool,
    terminal: bool,
    /// A line is drawn that the next output must replace.
    drawn: bool,
    begun: Instant,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        let terminal = !json && std::io::stdout().is_terminal();
        Self { json, terminal, drawn: false, begun: Instant::now() }
    }

    /// How often the line is to be drawn.
    pub fn pace(&self) -> Duration {
        if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(1) }
    }

    /// Whether what is being typed is to be seen in the line.
    pub fn shows_keys(&self) -> bool {
        self.terminal
    }

    /// Something happened.
    pub fn event(&mut self, line: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.json {
            self.print(&json!({ "seconds": seconds, "event": line }).to_string());
        } else {
            self.print(&format!("{seconds:>8.3}  {line}"));
        }
    }

    /// How to talk to the cluster.
    pub fn introduce(&mut self, servers: &[String], leader: u32, folder: &Path) {
        if self.json {
            let line = json!({ "servers": servers, "leader": leader, "data": folder.display().to_string() });
            return self.print(&line.to_string());
        }
        let list = servers.join(",");
        self.print("");
        for (id, server) in (1_u32..).zip(servers) {
            self.print(&format!("replica {id} at {server}{}", if id == leader { ", which leads" } else { "" }));
        }
        let (folder, chat, chatctl) = (folder.display(), neighbour("chat"), neighbour("chatctl"));
        self.print(&format!(
            "Their data and logs are in {folder}. Talk to them from another terminal:\n\n  \
             export CHAT_SERVERS={list}\n  \
             {chat} --user ada register\n  \
             {chat} --user ada login\n  \
             {chat} --user ada send juliet 'Good morrow!'\n  \
             {chatctl} status\n\n\
             romeo writes to juliet, 20 messages a second. Keys: 1 2 3 kill and start a replica, s status, q quit.\n\
             Lines: kill N, start N, stop N (SIGTERM), pause N, resume N, status, quit.\n"
        ));
    }

    /// Every replica by its own account.
    pub fn status(&mut self, states: &[ReplicaStatus]) {
        for state in states {
            self.event(&describe(std::slice::from_ref(state)));
        }
    }

    /// The line that is drawn again and again.
    pub fn line(&mut self, ledger: &Ledger, states: &[ReplicaStatus], typed: &str) {
        let now = Instant::now();
        let leader = leader_of(states);
        let gap = ledger.longest_gap(now).as_millis();
        if self.json {
            let mut line = counts(ledger, now);
            line["leader"] = json!(leader);
            line["seconds"] = json!(self.begun.elapsed().as_secs_f64());
            return self.print(&line.to_string());
        }
        let leader = leader.map_or_else(|| "nobody leads".to_owned(), |id| format!("{id} leads"));
        let roles = |state: &ReplicaStatus| match state.id {
            Some(id) if state.waiting_for.is_empty() => format!("{id} {}", state.role),
            Some(id) => format!("{id} waits for {}", list(&state.waiting_for)),
            None => state.address.clone(),
        };
        let roles: Vec<_> = states.iter().map(roles).collect();
        let Ledger { sent, acknowledged, received, doubled, out_of_order, .. } = ledger;
        let line = format!(
            "sent {sent}, acknowledged {acknowledged}, received {received}, lost {}, doubled {doubled}, out of order \
             {out_of_order}, longest gap {gap} ms; {leader} ({})",
            ledger.lost(),
            roles.join(", ")
        );
        if !self.terminal {
            return self.print(&line);
        }
        let line = if line.chars().count() <= width() {
            line
        } else {
            // What changes most must be seen on a narrow terminal too.
            let lost = ledger.lost();
            format!(
                "{leader}; sent {sent} acked {acknowledged} got {received} lost {lost} doubled {doubled} disordered \
                 {out_of_order} gap {gap} ms"
            )
        };
        let prompt = if typed.is_empty() { String::new() } else { format!("> {typed}_  ") };
        let line: String = format!("{prompt}{line}").chars().take(width()).collect();
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
        self.drawn = true;
    }

    /// The end of it. Returns whether every promise was kept.
    pub fn totals(&mut self, ledger: &Ledger, now: Instant) -> bool {
        let missing = ledger.missing();
        let kept = missing == 0 && ledger.doubled == 0 && ledger.out_of_order == 0;
        if self.json {
            let mut line = counts(ledger, now);
            (line["missing"], line["kept"]) = (json!(missing), json!(kept));
            self.print(&line.to_string());
            return kept;
        }
        let Ledger { sent, acknowledged, received, doubled, out_of_order, .. } = ledger;
        let gap = ledger.longest_gap(now).as_millis();
        self.print(&format!(
            "\n{sent} messages sent, {acknowledged} acknowledged, {received} received.\n\
             Of the acknowledged ones {missing} were not received, {doubled} came twice, {out_of_order} out of order.\n\
             The longest time between two acknowledgements was {gap} ms."
        ));
        if *sent > *acknowledged {
            let open = sent - acknowledged;
            self.print(&format!("{open} had no answer when it ended: for these nothing was promised."));
        }
        kept
    }

    fn print(&mut self, line: &str) {
        let clear = if std::mem::take(&mut self.drawn) { "\r\x1b[K" } else { "" };
        // Nobody reading is no reason to stop.
        let _ = writeln!(std::io::stdout(), "{clear}{line}");
    }
}

/// How to call another of our programs: where it lies beside this one, else through cargo, which builds it.
fn neighbour(program: &str) -> String {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(program)).filter(|path| path.exists());
    match beside {
        Some(path) => path.display().to_string(),
        None => format!("cargo run --release --bin {program} --"),
    }
}

fn counts(ledger: &Ledger, now: Instant) -> serde_json::Value {
    json!({
        "sent": ledger.sent,
        "acknowledged": ledger.acknowledged,
        "received": ledger.received,
        "lost": ledger.lost(),
        "doubled": ledger.doubled,
        "out_of_order": ledger.out_of_order,
        "longest_gap_ms": ledger.longest_gap(now).as_millis() as u64,
    })
}

/// One column stays free: some terminals wrap in the last one.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().map(|size| usize::from(size.ws_col)).filter(|width| *width > 1).map_or(WIDTH, |width| width - 1)
}
