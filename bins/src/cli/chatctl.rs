//! `chatctl`: the state of a cluster, and an operator's orders.

mod transfer;

use std::{
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use chat_client::{Client, Epoch, ReplicaStatus, Role};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{secret, usage};

use super::{
    connection::Connection,
    failure::{Failure, complain, conclude},
    output::{json, one_line},
};

/// What operators ask of a chat cluster.
#[derive(Debug, Parser)]
#[command(
    name = "chatctl",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 refused, 2 usage, 3 no replica answered, or none led within --timeout."
)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,

    /// A file with the cluster's secret, which orders need where the replicas were started with one
    #[arg(long, global = true, env = "CHATCTL_CLUSTER_SECRET_FILE", value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every replica, the unreachable ones too
    Status {
        /// Print one JSON object per replica and line
        #[arg(long)]
        json: bool,
        /// Again every second, until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Have the leader hand over to a replica, and wait until that one leads: no process ends.
    ///
    /// For maintenance of the leader's machine. Sends wait for some milliseconds, or half a second if the replica is not ready. The replica must be in the view;
    /// if it leads already, that is said, and nothing is done.
    Transfer {
        /// The replica's id
        id: u32,
        /// Print one JSON object: id, address, role, epoch and leader as in status, and from, who led before
        #[arg(long)]
        json: bool,
    },
    /// Vouch that a replica has crashed and will not write again, so that the others may go on without it.
    ///
    /// If it still runs, messages that it acknowledges are lost. Replicas that are in contact with it refuse.
    DeclareCrashed {
        /// The replica's id
        id: u32,
    },
}

/// Runs `chatctl` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Arguments = match usage::parse("chatctl", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(Failure::Local(format!("cannot start: {error}"))),
    };
    conclude("chatctl", result)
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut builder = arguments.connection.builder()?;
    if let Some(path) = &arguments.cluster_secret_file {
        builder = builder.cluster_secret(secret::read(path).map_err(Failure::Usage)?);
    }
    let client = builder.connect_lazy()?;
    match arguments.command {
        Command::Status { json, watch: false } => {
            let replicas = client.status_of_all().await;
            show(&mut io::stdout().lock(), &replicas, json)?;
            let reached = replicas.iter().any(|replica| replica.role != Role::Unreachable);
            if reached { Ok(()) } else { Err(none_reached(&replicas)) }
        }
        Command::Status { json, watch: true } => watch(&client, json).await,
        Command::Transfer { id, json } => transfer::transfer(&client, id, json).await,
        Command::DeclareCrashed { id } => declare_crashed(&client, id).await,
    }
}

fn none_reached(replicas: &[ReplicaStatus]) -> Failure {
    let whys: Vec<_> = replicas.iter().map(|replica| format!("{}: {}", replica.address, replica.why)).collect();
    complain("chatctl", &format!("no replica answered ({})", whys.join("; ")));
    Failure::Told(3)
}

async fn watch(client: &Client, json: bool) -> Result<(), Failure> {
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let redraw = !json && io::stdout().is_terminal();
    loop {
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            _ = second.tick() => {}
        }
        let replicas = tokio::select! {
            _ = &mut interrupted => return Ok(()),
            replicas = client.status_of_all() => replicas,
        };
        let mut frame = Vec::new();
        if redraw {
            // Home, and clear from there: written in one piece with the table, so that nothing flickers.
            frame.extend_from_slice(b"\x1b[H\x1b[J");
        }
        show(&mut frame, &replicas, json)?;
        let mut out = io::stdout().lock();
        out.write_all(&frame)?;
        out.flush()?;
    }
}

async fn declare_crashed(client: &Client, id: u32) -> Result<(), Failure> {
    if let Some(alive) = alive(&client.status_of_all().await, id) {
        complain("chatctl", &format!("{alive}: this is replica {id}, and it answers: it has not crashed"));
        return Err(Failure::Told(1));
    }
    let declared = client.declare_crashed(id).await?;
    let mut out = io::stdout().lock();
    for answer in &declared {
        match &answer.outcome {
            Ok(incarnation) => {
                writeln!(out, "{}: takes start {} of replica {id} for crashed", answer.address, incarnation.count)?;
            }
            Err(refusal) => complain("chatctl", &format!("{}: {}", answer.address, refusal.message)),
        }
    }
    if declared.iter().any(|answer| answer.outcome.is_ok()) { Ok(()) } else { Err(Failure::Told(1)) }
}

/// Where replica `id` itself answers. One that only learns or waits may be a new disk in place of the one that is meant: what
/// the others know of it decides then, if there are others.
fn alive(replicas: &[ReplicaStatus], id: u32) -> Option<&str> {
    let itself = replicas.iter().find(|replica| replica.id == Some(id) && replica.role != Role::Unreachable)?;
    let member = matches!(itself.role, Role::Primary | Role::Backup);
    let others = replicas.iter().any(|replica| replica.id != Some(id) && replica.role != Role::Unreachable);
    (member || !others).then_some(itself.address.as_str())
}

/// One replica, for programs. What an unreachable one did not say is null.
#[derive(Debug, Serialize)]
struct StatusLine<'a> {
    id: Option<u32>,
    address: &'a str,
    role: String,
    epoch: Option<EpochValue>,
    committed: Option<u64>,
    applied: Option<u64>,
    in_view: Option<&'a [u32]>,
    leases_from: Option<&'a [u32]>,
    leader: Option<u32>,
    incarnation: Option<u64>,
    waiting_for: Option<&'a [u32]>,
}

#[derive(Debug, Serialize)]
struct EpochValue {
    round: u64,
    replica: u32,
}

impl From<Epoch> for EpochValue {
    fn from(epoch: Epoch) -> Self {
        Self { round: epoch.round, replica: epoch.replica }
    }
}

impl<'a> From<&'a ReplicaStatus> for StatusLine<'a> {
    fn from(replica: &'a ReplicaStatus) -> Self {
        let reached = replica.role != Role::Unreachable;
        Self {
            id: replica.id,
            address: &replica.address,
            role: replica.role.to_string(),
            epoch: reached.then(|| replica.epoch.into()),
            committed: reached.then_some(replica.committed),
            applied: reached.then_some(replica.applied),
            in_view: reached.then_some(&replica.in_view),
            leases_from: reached.then_some(&replica.leases_from),
            leader: replica.leader,
            incarnation: reached.then_some(replica.incarnation.count),
            waiting_for: reached.then_some(&replica.waiting_for),
        }
    }
}

fn show(out: &mut impl Write, replicas: &[ReplicaStatus], as_json: bool) -> io::Result<()> {
    if as_json {
        for replica in replicas {
            json(out, &StatusLine::from(replica))?;
        }
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "ADDRESS", "ROLE", "EPOCH", "COMMITTED", "APPLIED", "IN VIEW", "LEADER", "WAITING FOR"]);
    for replica in replicas {
        table.add_row(row(replica));
    }
    writeln!(out, "{}", table.trim_fmt())?;
    for replica in replicas.iter().filter(|replica| !replica.impaired.is_empty()) {
        writeln!(out, "the disk at {} counts for nothing: {}", replica.address, one_line(&replica.impaired))?;
    }
    Ok(())
}

/// `1,2,3`.
fn ids(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn row(replica: &ReplicaStatus) -> [String; 9] {
    let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let (name, address) = (id(replica.id), one_line(&replica.address).into_owned());
    let role = one_line(&replica.role.to_string()).into_owned();
    if replica.role == Role::Unreachable {
        let unsaid = || "-".to_owned();
        return [name, address, role, unsaid(), unsaid(), unsaid(), unsaid(), unsaid(), unsaid()];
    }
    let waiting_for = if replica.waiting_for.is_empty() { "-".to_owned() } else { ids(&replica.waiting_for) };
    [
        name,
        address,
        role,
        replica.epoch.to_string(),
        replica.committed.to_string(),
        replica.applied.to_string(),
        ids(&replica.in_view),
        id(replica.leader),
        waiting_for,
    ]
}
