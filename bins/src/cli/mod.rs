//! The command lines of `chat` and `chatctl`.
//!
//! Scripts rely on the exit codes: 0 done, 1 refused (standard error says why), 2 usage, 3 no leader, or no answer,
//! within `--timeout`. Results go to standard output, as text for people or, with `--json`, one object per line.

pub mod chat;
pub mod chatctl;

mod connection;
mod failure;
mod output;
mod password;
mod sessions;
