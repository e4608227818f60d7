//! Who is logged in.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Timestamp, TokenHash};

/// How many sessions one account can have; one more ends the oldest.
pub const MAX_PER_ACCOUNT: usize = 64;

/// How many expired sessions, of any account, are cleared away each time that one is opened. More than one, so
/// that expired sessions shrink faster than they can grow; few, so that the work of one command is bounded.
pub const EXPIRED_PER_OPEN: usize = 4;

/// One login. Valid from when it is applied until it expires, is closed, or its account is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The hash of the secret that the client holds.
    pub token: TokenHash,
    /// Whose it is.
    pub account: AccountId,
    /// From 1, in the order of opening: clocks of two primaries can disagree about which is oldest.
    pub number: u64,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// The first moment at which it is no longer valid.
    pub expires_at: Timestamp,
}

impl Session {
    /// Whether it can still be used at `at`.
    pub fn valid_at(&self, at: Timestamp) -> bool {
        at < self.expires_at
    }
}
