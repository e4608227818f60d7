//! `chat`: the chat service on the command line, for people and scripts.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::cli::chat::main()
}
