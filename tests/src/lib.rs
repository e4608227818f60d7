//! A chat cluster in your own process, for integration tests: real replicas, real gRPC, real SQLite files, and faults.
//!
//! Every replica runs on a runtime and a thread of its own and listens on a loopback address of its own
//! (127.x.y.z), so tests never share or guess ports. [`Cluster::kill`] is a crash, [`Cluster::stop`] a SIGTERM,
//! [`Cluster::pause`] a SIGSTOP, [`Cluster::partition`] silence between replicas.
//!
//! A test of a program of yours, whole:
//!
//! ```
//! use chat_testkit::Cluster;
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let mut cluster = Cluster::builder().replicas(3).start().await;
//! let client = cluster.client().await;
//! client.register("ada", "correct horse").await.unwrap();
//! client.register("bob", "battery staple").await.unwrap();
//! let ada = client.log_in("ada", "correct horse").await.unwrap();
//!
//! let leader = cluster.leader().await;
//! cluster.kill(leader).await; // your program should not notice
//! ada.send("bob", "still here").await.unwrap();
//!
//! let bob = client.log_in("bob", "battery staple").await.unwrap();
//! let message = bob.inbox().next().await.unwrap();
//! assert_eq!((message.from.as_str(), message.text.as_str()), ("ada", "still here"));
//! # });
//! ```
//!
//! Everything here panics with words that say what broke, as a test wants it.

mod address;
mod cluster;
mod network;
mod replica;
pub mod simulation;

pub use chat_replica::options::{CrashProof, Options};
pub use chat_replica::protocol::{Standing, Status};
pub use cluster::{Builder, Cluster, WAIT};
