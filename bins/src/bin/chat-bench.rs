//! `chat-bench`: measures a chat cluster.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::bench::main()
}
