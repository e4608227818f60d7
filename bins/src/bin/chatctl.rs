//! `chatctl`: what operators ask of a cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::cli::chatctl::main()
}
