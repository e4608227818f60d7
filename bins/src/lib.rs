//! The programs of the chat service. The files in `src/bin` only call these:
//!
//! | module | programs |
//! | --- | --- |
//! | `cli` | `chat` (for people), `chatctl` (for operators) |
//! | `daemon` | `chatd`: one replica |
//! | `demo` | `chat-demo`: a cluster to watch, and scripts of crashes |
//! | `bench` | `chat-bench`: figures |
//! | `torture` | `chat-torture`: crashes and worse for as long as one likes, and a judge |
//! | `processes` | replicas as child processes, for the last three and for tests |
//! | `secret` | the file with the cluster's secret, for `chatd` and `chatctl` |

pub mod bench;
pub mod cli;
pub mod daemon;
pub mod demo;
pub mod processes;
mod secret;
pub mod torture;
mod usage;
