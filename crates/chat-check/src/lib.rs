//! Judges what clients of a chat service saw, and what its replicas hold at the end: one module for each property.
//!
//! Knows nothing of how the service works or how it was run: a [`History`] can come from real processes, from a
//! simulation, or from a file.

#![forbid(unsafe_code)]

mod complaint;
mod history;
mod jsonl;
mod levels;
mod places;
mod report;
mod requests;

pub mod acknowledged;
pub mod client_order;
pub mod deletion;
pub mod duplicates;
pub mod gapless;
pub mod linearizable;
pub mod replicas;
pub mod well_formed;

pub use complaint::{Complaint, Fault, MAX_COMPLAINTS, Property, Seen, Verdict};
pub use history::{
    Answer, Call, CallId, ClientId, Delivery, History, Key, Mailbox, Marks, Message, Micros, Name, Outcome, Reason,
    Replica, Request, Stream, StreamId,
};
pub use jsonl::{ReadError, VERSION};
pub use report::{Judged, Report, check_all};
