//! A deterministic simulation of a cluster and its clients: the production `node::Node`, desk, gate and subscribers on simulated disks,
//! clocks, processes and networks. One seed decides everything.
//!
//! What is production's: the protocol, the order of a turn's effects, the applying of entries and the chat logic, who is answered what,
//! and when a read may be answered. What is simulated: the disk with its transactions, syncs and faults, both kinds of clocks, processes
//! that crash between any two effects and stand still, the network between replicas, and clients that do as `chat-client` does.
//!
//! What must hold is checked at every step ([`truth`](world::World::truth)); what clients saw, and what replicas hold at the end, is judged by
//! [`chat_check`] when the run is over. [`walk`](mod@walk) makes random runs of it; tests script their own with [`world::World`].

mod calls;
mod checks;
mod client;
mod disk;
mod faults;
mod filters;
mod journal;
mod network;
mod process;
mod random;
mod service;
mod streams;
mod trace;
mod truth;
mod turn;
mod violation;
pub mod walk;
pub mod weather;
pub mod world;

pub use process::Process;
pub use truth::Truth;
pub use violation::{Broken, Violation};

/// A millisecond of simulated time, in microseconds.
pub const MS: u64 = 1000;
/// A second of simulated time, in microseconds.
pub const SECOND: u64 = 1_000_000;
