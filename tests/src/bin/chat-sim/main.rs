//! Runs the deterministic simulation of a cluster and its clients, many seeds at a time, or one again.
#![forbid(unsafe_code)]

/// To standard output, whether or not anybody reads it.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod replay;
mod run;
mod summary;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Looks for broken promises of the chat service in a simulation.
///
/// A run is one cluster of simulated replicas (the production state machine, driver logic and chat logic on simulated disks, clocks and
/// networks) with clients that register, write, read and listen, while processes crash between any two effects, disks fail and
/// links are cut; then faults stop, and everything must be well within ten simulated seconds. One number, the seed, decides
/// everything: a seed that breaks a promise does so each time.
#[derive(Debug, Parser)]
#[command(
    name = "chat-sim",
    version,
    after_help = "Exit codes: 0 no promise was broken, 1 one was, 2 usage, 130 interrupted before the end."
)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run many seeds on all cores, up to the first broken promise or Ctrl-C.
    Run(run::Flags),
    /// Run one seed, and tell what happened.
    Replay(replay::Flags),
}

fn main() -> ExitCode {
    match Flags::parse().command {
        Command::Run(flags) => run::run(&flags),
        Command::Replay(flags) => replay::replay(&flags),
    }
}
