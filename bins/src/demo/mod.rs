//! `chat-demo`: a cluster of replicas as child processes, each the real `chatd`.
//!
//! ```text
//! watch        a conversation on three replicas, while somebody kills and revives them
//! persistence  ─┐ scripts: they do so in every order, and hold the service
//! two_faults   ─┴─▶ to its promises
//!     conversation   two accounts, and what they must see
//! processes::cluster   the replicas, and what they say of themselves
//! processes::replica   one process: `chat-demo replica …` is `chatd …`, tied to the life of its parent
//! ```
//!
//! The same scripts are run by the tests in `bins/tests`.

mod chatter;
mod conversation;
mod folder;
mod keyboard;
mod ledger;
mod operator;
mod orders;
mod persistence;
mod report;
mod screen;
mod two_faults;
mod watch;

pub(crate) use folder::Folder;
pub(crate) use orders::orders;

use crate::processes::replica::Fault;
use crate::processes::{Broken, Place, run_if_replica};
use crate::usage;
use clap::{Args, Parser, Subcommand};
use futures_util::future::{LocalBoxFuture, try_join_all};
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Three replicas to watch, kill and revive; and scripts that do so in every order.
#[derive(Debug, Parser)]
#[command(name = "chat-demo", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Watch for so many seconds, then end
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    #[command(subcommand)]
    script: Option<Script>,
}

const EXIT_CODES: &str = "Exit codes: 0 every promise was kept, 1 one was not, or the cluster could not be run, 2 usage.\n\
    Without a command: kill N, start N, stop N (SIGTERM), pause N, resume N, status, quit; or the keys 1 2 3 (kill and \
    start), s and q.";

#[derive(Clone, Debug, Args)]
struct Common {
    /// Where data and logs go. Default: ./chat-data to watch, a temporary directory for scripts
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Leave data and logs of a script that passed
    #[arg(long, global = true)]
    keep: bool,
    /// One JSON object per line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Script {
    /// 1, 2 and 3 replicas go down and come back, in every order
    Persistence {
        /// So many replicas only
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3))]
        replicas: Option<u32>,
        #[command(flatten)]
        choice: Choice,
    },
    /// Any two of three replicas go down, one after the other or at once, and come back
    TwoFaults {
        /// Replica at IP:PORT in the network namespace NAME; three times
        #[arg(long, value_name = "IP:PORT@NAME", hide = true, value_parser = place)]
        at: Vec<Place>,
        #[command(flatten)]
        choice: Choice,
    },
}

#[derive(Clone, Debug, Args)]
struct Choice {
    /// Only crashes, or only SIGTERM
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Decides in which order the orders are gone through
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Choice {
    fn faults(&self) -> Vec<Fault> {
        self.fault.map_or_else(|| vec![Fault::Kill, Fault::Term], |fault| vec![fault])
    }

    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| rand::random_range(0..1_000_000))
    }
}

fn place(text: &str) -> Result<Place, String> {
    let (address, namespace) = text.split_once('@').ok_or("not IP:PORT@NAME")?;
    let address = address.parse().map_err(|_| format!("{address:?} is not IP:PORT"))?;
    Ok(Place { address, namespace: Some(namespace.to_owned()) })
}

/// Runs `chat-demo` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = run_if_replica() {
        return code;
    }
    let arguments: Arguments = match usage::parse("chat-demo", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    // One thread, this one: the replicas end with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chat-demo: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match arguments.script {
        Some(script) => runtime.block_on(run(script, &arguments.common)),
        None => runtime.block_on(watch::run(&arguments.common, arguments.seconds.map(Duration::from_secs))),
    };
    // A line of standard input that nobody will type must not keep the process.
    runtime.shutdown_background();
    code
}

async fn run(script: Script, common: &Common) -> ExitCode {
    let (name, seed) = match &script {
        Script::Persistence { choice, .. } => ("persistence", choice.seed()),
        Script::TwoFaults { choice, .. } => ("two-faults", choice.seed()),
    };
    if !common.json {
        println!("{name}, --seed {seed}");
    }
    let report = Report::new(name, common.json);
    let folder = match Folder::new("chat-demo-", common.data.as_deref()) {
        Ok(folder) => folder,
        Err(broken) => return report.conclude(Err(broken), None),
    };
    let told = tokio::select! {
        told = tell(&script, seed, folder.path(), &report) => Some(told),
        () = interrupted() => None,
    };
    // Of a run that was given up nobody wants to know more.
    let keep = common.keep || matches!(told, Some(Err(_)));
    let result = told.unwrap_or_else(|| Err(Broken("interrupted".to_owned())));
    let kept = folder.conclude(keep);
    report.conclude(result, kept.as_ref().map(|folder| folder.display().to_string()).as_deref())
}

/// The parts of a script side by side, each on a cluster of its own.
async fn tell(script: &Script, seed: u64, folder: &Path, report: &Report) -> Result<String, Broken> {
    let mut parts: Vec<LocalBoxFuture<'_, Result<usize, Broken>>> = Vec::new();
    match script {
        Script::Persistence { replicas, choice } => {
            let sizes = replicas.map_or(1..=3, |replicas| replicas..=replicas);
            for (replicas, fault) in sizes.flat_map(|n| choice.faults().into_iter().map(move |fault| (n, fault))) {
                let folder = folder.join(format!("{replicas}-replicas-{fault:?}").to_lowercase());
                parts.push(Box::pin(async move { persistence::run(&folder, replicas, fault, seed, report).await }));
            }
        }
        Script::TwoFaults { at, choice } => {
            for fault in choice.faults() {
                let folder = folder.join(format!("{fault:?}").to_lowercase());
                parts.push(Box::pin(async move { two_faults::run(&folder, fault, seed, at, report).await }));
            }
        }
    }
    let told: usize = match script {
        // One place is for one replica at a time.
        Script::TwoFaults { at, .. } if !at.is_empty() => {
            let mut told = 0;
            for part in parts {
                told += part.await?;
            }
            told
        }
        _ => try_join_all(parts).await?.iter().sum(),
    };
    Ok(match script {
        Script::Persistence { .. } => {
            format!("in {told} ways of going down and coming back, every acknowledged message is there, once, in order")
        }
        Script::TwoFaults { .. } => format!("in {told} runs, three replicas survived any two faults"),
    })
}

/// Waits for Ctrl-C, or for another request to end.
pub(crate) async fn interrupted() {
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
