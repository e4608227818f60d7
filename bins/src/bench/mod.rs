//! `chat-bench`: figures that anybody can repeat, through the client library, on real replica processes.
//!
//! Every replica syncs to its disk before it acknowledges: nothing is relaxed for a measurement.

mod failover;
mod figures;
mod people;
mod send;

pub(crate) use figures::{Times, ms};

use crate::processes::{Broken, Cluster, run_if_replica};
use crate::usage;
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

/// Measures a chat cluster: one that it starts itself (three replica processes on this machine), or any other.
#[derive(Debug, Parser)]
#[command(name = "chat-bench", version)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Args)]
struct Common {
    /// Addresses of a running cluster, host:port, separated by commas. Without: three replicas of its own
    #[arg(long, global = true, value_delimiter = ',', value_name = "ADDRESSES")]
    servers: Vec<String>,
    /// Where its own replicas have their data. Default: a temporary directory
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<std::path::PathBuf>,
    /// One JSON object per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Acknowledged sends of 128 bytes per second, and how long they take
    Send {
        /// So many clients at the same time, a connection each, one send at a time each
        #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_name = "N,…")]
        clients: Vec<usize>,
        /// So many tasks share each client's session
        #[arg(long, default_value_t = 1, value_name = "N")]
        tasks: usize,
        /// For so many seconds each
        #[arg(long, default_value_t = 5, value_name = "S")]
        secs: u64,
    },
    /// How long nobody is answered after the leader dies
    Failover {
        /// So many times
        #[arg(long, default_value_t = 20, value_name = "N")]
        kills: usize,
        /// So many clients write meanwhile
        #[arg(long, default_value_t = 16, value_name = "N")]
        clients: usize,
        /// SIGSTOP instead of kill -9: the leader falls silent
        #[arg(long)]
        silent: bool,
    },
}

/// Runs `chat-bench` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = run_if_replica() {
        return code;
    }
    let arguments: Arguments = match usage::parse("chat-bench", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => Err(Broken(format!("no threads to run on: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(broken) => {
            eprintln!("chat-bench: {broken}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Broken> {
    let temporary = tempfile::Builder::new().prefix("chat-bench-").tempdir();
    let temporary = temporary.map_err(|error| Broken(format!("no temporary directory: {error}")))?;
    let folder = arguments.common.data.as_deref().unwrap_or(temporary.path());
    let mut own = None;
    if arguments.common.servers.is_empty() {
        let mut cluster = Cluster::new(folder, 3, &[], None)?;
        cluster.up().await?;
        own = Some(cluster);
    }
    let servers = own.as_ref().map_or_else(|| arguments.common.servers.clone(), Cluster::servers);
    match arguments.what {
        What::Send { clients, tasks, secs } => {
            if clients.contains(&0) || tasks == 0 || secs == 0 {
                return Err(Broken("--clients, --tasks and --secs must be at least 1".into()));
            }
            let time = Duration::from_secs(secs);
            send::run(&servers, own.as_mut(), &clients, tasks, time, arguments.common.json).await
        }
        What::Failover { kills, clients, silent } => {
            let Some(cluster) = own.as_mut() else {
                return Err(Broken("failover kills only replicas that it started itself: leave --servers out".into()));
            };
            failover::run(cluster, kills.max(1), clients.max(1), silent, arguments.common.json).await
        }
    }
}
