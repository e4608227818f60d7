//! `chat-demo`: a cluster of three replicas to watch, kill and revive, and two scripts that do so by themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::demo::main()
}
