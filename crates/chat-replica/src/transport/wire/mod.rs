//! Envelopes <-> frames, and greetings <-> welcomes.
//!
//! Encoding never fails. Decoding judges shape only: what is there, and how long it is. Whether a message makes sense is
//! for the protocol to say. An entry's payload is moved, not copied; its index is not sent, as it follows from its place.

mod decode;
mod encode;

pub use decode::{decode, decode_welcome};
pub use encode::{encode, encode_welcome};

use crate::protocol::{ClusterId, Member};

/// How a replica answers a session that begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Its cluster; `None` before the founding.
    pub cluster: Option<ClusterId>,
    /// The replica.
    pub from: Member,
    /// Why it does not want the session.
    pub refusal: Option<String>,
}

/// A frame that cannot be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field} {problem}")]
pub struct WireError {
    /// Which field, by its path from the frame.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// It has to be there.
    #[error("is missing")]
    Missing,
    /// Ids have 16 bytes, hashes 32.
    #[error("has {got} bytes, not {wanted}")]
    Length {
        /// As it should be.
        wanted: usize,
        /// As it is.
        got: usize,
    },
    /// No log is that long, or no cluster had that many candidacies.
    #[error("is out of range")]
    Range,
}
