//! `chat-bench`: figures that anybody can repeat, through the client library, on real replica processes.
//!
//! Every replica syncs to its disk before it acknowledges: nothing is relaxed for a measurement.
//!
//! | module | |
//! | --- | --- |
//! | `echo`, `sync` | yardsticks: what the machine can do without any of ours |
//! | `send`, `deliver`, `failover`, `idle`, `streams`, `grow`, `read`, `start` | what is measured |
//! | `stage` | the cluster that is measured |
//! | `all`, `compare` | many of them, and against a saved run |
//! | `people`, `fill` | who asks; accounts and messages by the million |
//! | `load`, `pace` | closed loops; an open one |
//! | `report`, `figures` | what came out, and arithmetic |

mod all;
mod compare;
mod deliver;
mod echo;
mod failover;
mod figures;
mod fill;
mod grow;
mod idle;
mod load;
mod pace;
mod people;
mod read;
mod report;
mod send;
mod stage;
mod start;
mod streams;
mod sync;

pub(crate) use figures::{Times, ms};

use crate::processes::{Broken, run_if_replica_beside};
use crate::usage;
use clap::{Args, Parser, Subcommand};
use report::Report;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Map, Value};
use stage::Stage;
use std::process::ExitCode;

/// Measures a chat cluster: one that it starts itself (three replica processes on this machine), or any other.
#[derive(Debug, Parser)]
#[command(name = "chat-bench", version, after_help = FIGURES)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    what: What,
}

const FIGURES: &str = "\
    acks_per_s: answers (or deliveries, or pages) per second. p50_ms, p99_ms, max_ms: median, 99th percentile and maximum of single operations.\n\
    server_cpu_s_per_1000: processor seconds, user and system, of all servers together per 1000 of them.\n\
    disk_bytes_per_message: what was written to the block device that holds the data (/proc/diskstats; so by others, too), per acknowledged\n\
    message and replica. resident_mib: memory of a replica (VmRSS), on average.";

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
    /// Make each measurement so many times, and tell of each and of the median
    #[arg(long, global = true, default_value_t = 1, value_parser = load::positive, value_name = "N")]
    runs: usize,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The yardstick of everything: bare gRPC calls per second, without a disk
    Echo(echo::Flags),
    /// The disk's yardstick: 4 KiB written and synced
    Sync(sync::Flags),
    /// Acknowledged sends of 128 bytes per second, and how long they take
    Send(send::Flags),
    /// How long a message takes to the recipient's live stream
    Deliver(deliver::Flags),
    /// How long nobody is answered after the leader is gone
    Failover(failover::Flags),
    /// What three replicas cost while nobody asks for anything
    Idle(idle::Flags),
    /// What live streams take of the leader's memory, and how long until all are live again when it dies
    Streams(streams::Flags),
    /// Whether a send costs more where there are many accounts and messages already
    Grow(grow::Flags),
    /// Pages of a long conversation, and of a listing
    Read(read::Flags),
    /// How long a replica takes to start on much data, and to rejoin
    Start(start::Flags),
    /// All of the above
    All(all::Flags),
    /// Runs again what a saved run has measured, and exits with 1 if something got worse: acknowledgements per second, medians,
    /// processor time, disk or memory, in proportion to what became of `echo`, where that is in the saved run
    Compare(compare::Flags),
}

impl What {
    /// What is wrong with the command line, beyond what its words say.
    fn check(&self) -> Result<(), String> {
        match self {
            What::Send(flags) => flags.check(),
            What::Streams(flags) => flags.check(),
            What::Grow(flags) => flags.check(),
            What::Read(flags) => flags.check(),
            What::Compare(flags) => {
                flags.read().and_then(|base| base.lines().iter().try_for_each(|line| parse(line).map(drop)))
            }
            _ => Ok(()),
        }
    }

    /// Whether it can be measured on a cluster that somebody else has started, if that is wanted.
    fn check_servers(&self, servers: &[String]) -> Result<(), String> {
        match self {
            What::Echo(_) | What::Sync(_) | What::Send(_) | What::Deliver(_) | What::Compare(_) => Ok(()),
            _ if servers.is_empty() => Ok(()),
            _ => Err("this starts, fills or kills replicas, so it wants its own: leave --servers out".to_owned()),
        }
    }
}

/// Runs `chat-bench` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    raise_limits();
    if let Some(code) = echo::run_if_server().or_else(|| run_if_replica_beside(Box::new(fill::attend))) {
        return code;
    }
    let arguments: Arguments = match usage::parse("chat-bench", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if let Err(wrong) = arguments.what.check().and_then(|()| arguments.what.check_servers(&arguments.common.servers)) {
        eprintln!("chat-bench: {wrong} (see chat-bench --help)");
        return ExitCode::from(usage::USAGE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments.what, arguments.common, words())),
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

/// Hundreds of connections are more file handles than a process is given unasked.
fn raise_limits() {
    let limit = getrlimit(Resource::Nofile);
    // What is not granted shows where a connection cannot be made.
    let _ = setrlimit(Resource::Nofile, rustix::process::Rlimit { current: limit.maximum, ..limit });
}

/// What this process was asked for.
async fn run(what: What, common: Common, args: String) -> Result<(), Broken> {
    match what {
        What::All(flags) => each(flags.lines(), &common).await.map(drop),
        What::Compare(flags) => {
            let base = flags.read().map_err(Broken)?;
            let now = each(base.lines(), &common).await?;
            let compared = base.compare(&now, flags.part()).map_err(Broken)?;
            for comparison in &compared {
                println!("{}", if common.json { comparison.json().to_string() } else { comparison.row() });
            }
            match compared.iter().filter(|comparison| comparison.is_worse()).count() {
                0 => Ok(()),
                worse => Err(Broken(format!("{worse} of {} measurements got worse", compared.len()))),
            }
        }
        what => {
            let stage = Stage::new(common.servers.clone(), common.data.clone());
            measure(what, stage, Report::new(common.json, common.runs, args)).await.map(drop)
        }
    }
}

type Lines = Vec<Map<String, Value>>;

/// These command lines, each on a cluster that starts empty unless it is filled; returns what counts of each. What one of them fills, later ones
/// use again.
async fn each(lines: impl IntoIterator<Item = String>, common: &Common) -> Result<Vec<Lines>, Broken> {
    let unusable = |error: std::io::Error| Broken(format!("no temporary directory: {error}"));
    let temporary = tempfile::Builder::new().prefix("chat-bench-").tempdir().map_err(unusable)?;
    let data = common.data.clone().unwrap_or_else(|| temporary.path().to_path_buf());
    let mut all = Vec::new();
    for line in lines {
        let what = parse(&line).map_err(Broken)?;
        if !common.json {
            println!("\n{line}");
        }
        let stage = Stage::fresh(common.servers.clone(), data.clone());
        let report = Report::new(common.json, common.runs, line.clone());
        all.push(measure(what, stage, report).await.map_err(|broken| broken.at(&line))?);
    }
    Ok(all)
}

/// One command line without those that run others; returns what counts of what was measured.
async fn measure(what: What, stage: Result<Stage, Broken>, mut report: Report) -> Result<Lines, Broken> {
    let mut stage = stage?;
    match what {
        What::Echo(flags) => echo::run(&mut report, &flags).await?,
        What::Sync(flags) => sync::run(&mut report, stage.folder(), &flags).await?,
        What::Send(flags) => send::run(&mut stage, &mut report, &flags).await?,
        What::Deliver(flags) => deliver::run(&mut stage, &mut report, &flags).await?,
        What::Failover(flags) => failover::run(&mut stage, &mut report, &flags).await?,
        What::Idle(flags) => idle::run(&mut stage, &mut report, &flags).await?,
        What::Streams(flags) => streams::run(&mut stage, &mut report, &flags).await?,
        What::Grow(flags) => grow::run(&stage, &mut report, &flags).await?,
        What::Read(flags) => read::run(&mut stage, &mut report, &flags).await?,
        What::Start(flags) => start::run(&mut stage, &mut report, &flags).await?,
        What::All(_) | What::Compare(_) => return Err(Broken("this is no measurement, but runs them".into())),
    }
    stage.down().await?;
    Ok(report.into_lines())
}

/// A saved command line, which measures something.
fn parse(line: &str) -> Result<What, String> {
    let words = ["chat-bench"].into_iter().chain(line.split_whitespace());
    let arguments = Arguments::try_parse_from(words).map_err(|_| format!("{line:?} is no command line"))?;
    match arguments.what {
        What::All(_) | What::Compare(_) => Err(format!("{line:?} measures nothing itself")),
        what => what.check().map(|()| what),
    }
}

/// The words of this process's command line.
fn words() -> String {
    let all: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    own_words(&all)
}

/// Without those that concern every measurement: what remains can be run again elsewhere.
fn own_words(all: &[String]) -> String {
    let mut own: Vec<&str> = Vec::new();
    let mut words = all.iter();
    while let Some(word) = words.next() {
        match word.split('=').next().unwrap_or_default() {
            "--json" => {}
            "--servers" | "--data" | "--runs" => {
                if !word.contains('=') {
                    words.next();
                }
            }
            _ => own.push(word),
        }
    }
    own.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_all_measurements_is_no_part_of_one() {
        let all =
            ["--json", "send", "--data", "/x", "--clients", "1,16", "--runs=3", "--servers", "a:1", "--secs", "2"];
        assert_eq!(own_words(&all.map(str::to_owned)), "send --clients 1,16 --secs 2");
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
