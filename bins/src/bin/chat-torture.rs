//! `chat-torture`: three replicas that are killed, stopped and starved while clients write, and a judge of what clients saw.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat_bins::torture::main()
}
