//! `chatd`: one replica.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::daemon::main(std::env::args_os())
}
