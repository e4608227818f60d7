//! Replicas as child processes of this program, each the real `chatd`: what `chat-demo`, `chat-bench` and `chat-torture` run on, and the tests in
//! `bins/tests`.
//!
//! A program that has them begins with `run_if_replica`: started again with `replica` as its first argument, it *is* a
//! replica.

pub mod address;
mod broken;
pub(crate) mod cluster;
pub mod replica;
pub(crate) mod resources;

pub use broken::Broken;
pub(crate) use cluster::{Cluster, Place, list};

use crate::daemon::Beside;
use std::process::ExitCode;

/// Runs this process as a replica to its end, if it was started as one.
pub(crate) fn run_if_replica() -> Option<ExitCode> {
    run_if_replica_beside(Box::new(drop))
}

/// The same, with something that may use the replica from within its process.
pub(crate) fn run_if_replica_beside(beside: Beside) -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().is_some_and(|first| first == replica::REPLICA).then(|| replica::main(arguments, beside))
}
