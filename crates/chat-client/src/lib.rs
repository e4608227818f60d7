//! The client library of the chat service.
//!
//! A [`Client`] knows a cluster by a few addresses, finds the replica that leads, and when that one dies finds the
//! next, without its caller noticing anything but time. A [`Session`] is somebody's login: it sends, and its [`Inbox`]
//! receives. All of them are cheap to clone or to make, and share the connections of one client.
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
//! use chat_client::Client;
//!
//! let client = Client::builder().servers(servers).connect().await?;
//! client.register("ann", "correct horse").await?;
//! client.register("bob", "battery staple").await?;
//!
//! let ann = client.log_in("ann", "correct horse").await?;
//! let sent = ann.send("bob", "Hello!").await?;
//!
//! let bob = client.log_in("bob", "battery staple").await?;
//! let mut inbox = bob.inbox();
//! let message = inbox.next().await?;
//! assert_eq!((message.id, message.text.as_str()), (sent.id, "Hello!"));
//! bob.acknowledge(message.seq).await?;
//! # Ok(()) }
//! ```
//!
//! # What holds
//!
//! - Every call has one deadline ([`Builder::timeout`]) over finding the leader, connecting and all retries.
//! - Every change carries a [`Key`] that it keeps through all retries, so it is carried out once. Nothing without a
//!   key is repeated, except reads and marks, which a repetition does not change.
//! - Sends of one session arrive in the order in which they were submitted, through any failover.
//! - An [`Inbox`] never ends by itself: it goes on where it was, with no gap and no repetition.
//! - What cannot be known is said to be unknown: [`Error::Unknown`].
//!
//! # How it works
//!
//! ```text
//! Client, Session ──▶ Finder ──asks──▶ owner task ──FindLeader──▶ every replica
//!        │               ◀──route── (watch channel)
//!        ├──▶ unary calls, on the route's channel (one HTTP/2 connection per address)
//!        ├──▶ queue ──▶ one SendStream, which takes what waits by itself; Outbox keeps what has no answer
//!        │              send task: answers, deadlines, the next stream
//!        └──▶ inbox task: one Inbox stream, resumed after its position
//! ```
//!
//! This is ① of the way of a message in docs/ARCHITECTURE.md.

mod admin;
mod backoff;
mod call;
mod channel;
mod client;
mod discovery;
mod error;
mod exchange;
mod history;
mod inbox;
mod line;
mod model;
mod name;
mod outbox;
mod owner;
mod pages;
mod sends;
mod session;
mod submit;
mod token;
mod transfer;

pub use admin::{Declared, Incarnation, ReplicaStatus, Role};
pub use client::{Builder, Client};
pub use error::{Attempt, Error, Reason, Refusal};
pub use inbox::Inbox;
pub use model::{Account, Deleted, Epoch, Key, Leader, Marks, Message, Sent, Undelivered, Whoami};
pub use name::Name;
pub use pages::{Accounts, History};
pub use session::Session;
pub use submit::{MOST_TEXT, Submitted};
pub use transfer::Transferred;
