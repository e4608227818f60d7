//! The changes that go through the log.

use serde::{Deserialize, Serialize};

use crate::{AccountId, DisplayName, MessageText, PasswordHash, RequestKey, Timestamp, TokenHash, Username};

/// One change, complete: applied on any replica, at any time, it does the same.
///
/// Written to disk and sent between replicas by [`crate::codec`]. Variants and fields are only ever appended
/// (fields under a new format version): old logs must stay readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Make an account.
    Register {
        /// Scope: the service.
        key: RequestKey,
        /// The name that is wanted.
        name: Username,
        /// What to show for it.
        display_name: DisplayName,
        /// Hashed on the primary; the salt makes it differ from one attempt to the next.
        password: PasswordHash,
        /// When the primary took it.
        at: Timestamp,
    },
    /// Log in. The password was verified on the primary.
    OpenSession {
        /// Scope: the service.
        key: RequestKey,
        /// Whose session.
        account: AccountId,
        /// The hash of the client's secret.
        token: TokenHash,
        /// When the primary took it.
        at: Timestamp,
        /// From when on it is invalid.
        expires_at: Timestamp,
    },
    /// Log out. Closing a session that is not there is no error.
    CloseSession {
        /// Which session.
        token: TokenHash,
        /// When the primary took it.
        at: Timestamp,
    },
    /// Send a message.
    Send {
        /// Scope: the sender's account, so that a send can be repeated in another session.
        key: RequestKey,
        /// The sender's session.
        session: TokenHash,
        /// Who is to receive it.
        to: Username,
        /// What it says.
        text: MessageText,
        /// When the primary took it.
        at: Timestamp,
    },
    /// Move the marks of one's own mailbox. Both absent: only look.
    Acknowledge {
        /// Whose mailbox.
        session: TokenHash,
        /// Received up to here.
        delivered: Option<u64>,
        /// Read up to here.
        read: Option<u64>,
        /// When the primary took it.
        at: Timestamp,
    },
    /// Delete one's own account. The password was verified on the primary.
    DeleteAccount {
        /// Scope: the service, so that it can be repeated when the account is gone.
        key: RequestKey,
        /// Whose account.
        session: TokenHash,
        /// Do nothing if messages would be discarded.
        refuse_if_undelivered: bool,
        /// When the primary took it.
        at: Timestamp,
    },
}

impl Command {
    /// The key under which it is carried out once; `None` where doing it twice is the same anyway.
    pub fn key(&self) -> Option<RequestKey> {
        match *self {
            Command::Register { key, .. }
            | Command::OpenSession { key, .. }
            | Command::Send { key, .. }
            | Command::DeleteAccount { key, .. } => Some(key),
            Command::CloseSession { .. } | Command::Acknowledge { .. } => None,
        }
    }
}
