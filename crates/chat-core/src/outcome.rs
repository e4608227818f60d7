//! What a command did: the answer to who asked, and what others are told.

use std::sync::Arc;

use crate::{Account, AccountId, Marks, Message, MessageId, Provenance, Timestamp, TokenHash};

/// A command was carried out, now or, where `duplicate` is set, when it came for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The account exists.
    Registered {
        /// As it is now.
        account: Account,
        /// It had been made before.
        duplicate: bool,
    },
    /// The session was opened. As a duplicate: it can have ended since.
    SessionOpened {
        /// Whose it is.
        account: Account,
        /// From when on it is invalid.
        expires_at: Timestamp,
        /// It had been opened before.
        duplicate: bool,
    },
    /// The session is not open, whether or not it was.
    SessionClosed,
    /// The message is in the recipient's mailbox.
    Sent {
        /// Its id.
        id: MessageId,
        /// Its place in the recipient's mailbox.
        seq: u64,
        /// When the primary took it.
        at: Timestamp,
        /// The log entry that carried it: of the first time, where this is a duplicate.
        provenance: Provenance,
        /// It had been sent before.
        duplicate: bool,
    },
    /// The mailbox's marks, after moving them.
    Marked(Marks),
    /// The account is gone.
    Deleted {
        /// How many of its messages nobody had received.
        discarded: u64,
        /// It had been deleted before.
        duplicate: bool,
    },
}

/// Something that those who listen need to know. In the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message came into a mailbox.
    Delivered {
        /// Whose mailbox.
        recipient: AccountId,
        /// The message, shared by all streams of the recipient.
        message: Arc<Message>,
    },
    /// A session was closed, revoked, pushed out by newer ones, or cleared away after it expired.
    SessionEnded {
        /// Which.
        token: TokenHash,
    },
    /// An account was deleted. Its sessions ended before this.
    AccountDeleted {
        /// Which.
        account: AccountId,
    },
    /// A mailbox's marks have grown by an acknowledgement.
    MarksMoved {
        /// Whose mailbox.
        account: AccountId,
        /// As they are now.
        marks: Marks,
    },
}
