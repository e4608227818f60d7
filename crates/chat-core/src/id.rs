//! Identifiers, times, and where a change stands in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Rejection;

/// An account, for ever: from 1, in the order of registration, never given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AccountId(pub u64);

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message, across all mailboxes: from 1, in the one order in which everything is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MessageId(pub u64);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client puts on a change so that it is carried out once: 16 bytes, unique to the change.
///
/// Clients make them like a UUID of version 7, whose first bytes grow with time, so that records are appended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey(pub [u8; 16]);

impl TryFrom<&[u8]> for RequestKey {
    type Error = Rejection;

    /// The key that a client sent; [`Rejection::KeyInvalid`] unless it has 16 bytes.
    fn try_from(bytes: &[u8]) -> Result<Self, Rejection> {
        bytes.try_into().map(RequestKey).map_err(|_| Rejection::KeyInvalid { bytes: bytes.len() as u64 })
    }
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({self})")
    }
}

/// The SHA-256 of a session token: all that is ever kept of it.
///
/// `Debug` shows the first four bytes: enough to tell sessions apart in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "TokenHash({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// Milliseconds since 1970 on the primary's clock. For display, and for when sessions expire; never for order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// The log entry that carried a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Provenance {
    /// Position in the log, from 1.
    pub index: u64,
    /// The round of the epoch in which it was proposed.
    pub round: u64,
    /// The replica that proposed it.
    pub replica: u32,
}

impl fmt::Display for Provenance {
    /// `round.replica:index`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}:{}", self.round, self.replica, self.index)
    }
}
