//! A deterministic simulation of a cluster: the production `protocol::Replica` on simulated disks, clocks, processes and a
//! simulated network. One seed decides everything. What must hold is checked at every step; see `truth`.
#![allow(missing_docs)]

pub mod checks;
pub mod disk;
pub mod faults;
pub mod network;
pub mod process;
pub mod random;
pub mod truth;
pub mod turn;
pub mod walk;
pub mod world;

pub const MS: u64 = 1000;
pub const SECOND: u64 = 1_000_000;
