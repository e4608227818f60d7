//! A replica of the chat service: the replication protocol, its disk, and its network.
//!
//! [`server::Server`] is a whole replica; the program `chatd` is little more. The way of a message through it, numbered as in
//! `docs/ARCHITECTURE.md`, which also says what never happens:
//!
//! | | module | |
//! | --- | --- | --- |
//! | ② | [`rpc`] | what clients and operators ask: wire types <-> core types |
//! | ③ | [`driver`], [`desk`], [`handle`], [`clock`] | the one loop where every event arrives; who waits for an answer; what may be asked of it; the only clock |
//! | ④ | [`node`], [`protocol`], [`storage`] | the pure state machine of `docs/protocol.md`, and one SQLite file: one batch, one transaction, one sync |
//! | ⑤ ⑥ | [`transport`] | sessions with the other replicas |
//! | ⑦ | [`node`], `backlog`, [`storage::state`] | committed entries are carried out on the state; how many in a turn |
//! | ⑧ | [`subscribers`] | committed messages to live streams |
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use chat_replica::options::{Config, Listen, Options};
//! use chat_replica::{server::Server, transport::Tcp};
//! use std::sync::Arc;
//!
//! let config = Config {
//!     id: 1,
//!     listen: Listen::At("127.0.0.1:7101".parse()?),
//!     data: "/var/lib/chat".into(),
//!     replicas: vec![(1, "127.0.0.1:7101".into())],
//!     options: Options::default(),
//! };
//! let server = Server::start(config, Arc::new(Tcp)).await?;
//! println!("{:?}", server.handle().status().borrow().standing);
//! server.leave().await;
//! # Ok(()) }
//! ```

mod answers;
mod backlog;
pub mod clock;
pub mod desk;
pub mod driver;
pub mod failpoint;
pub mod handle;
pub mod node;
pub mod options;
pub mod protocol;
pub mod rpc;
pub mod server;
pub mod storage;
pub mod subscribers;
pub mod transport;
