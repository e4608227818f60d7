//! What callers see: types of our own, so that the wire may change without them.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use chat_proto::v1;

use crate::{error::Error, name::Name};

/// An account, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Never changes and is never given out again.
    pub id: u64,
    /// 2 to 32 bytes, lower case.
    pub name: String,
    /// Unicode, for people.
    pub display_name: String,
    /// Milliseconds since 1970, for display only.
    pub created_at_ms: i64,
}

/// A message, as its recipient and its sender see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Unique in the cluster; ascending in the one total order.
    pub id: u64,
    /// Position in the recipient's mailbox, gapless from 1.
    pub seq: u64,
    /// The sender's name.
    pub from: Name,
    /// The recipient's name.
    pub to: Name,
    /// 1 to 65536 bytes.
    pub text: String,
    /// Milliseconds since 1970, for display only: order is by `id` and `seq`.
    pub sent_at_ms: i64,
    /// The sender's account has been deleted since.
    pub sender_deleted: bool,
}

/// A message is accepted: it is on `copies` disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Unique in the cluster; ascending in the one total order.
    pub id: u64,
    /// Position in the recipient's mailbox, gapless from 1.
    pub seq: u64,
    /// Of the leader that accepted it.
    pub epoch: Epoch,
    /// Place in the replicated log.
    pub index: u64,
    /// On how many disks it was when it was answered.
    pub copies: u32,
    /// An earlier request with the same key had been carried out: this is its outcome. Also set after retries that
    /// this library made by itself because an answer was lost.
    pub duplicate: bool,
    /// Milliseconds since 1970, for display only.
    pub sent_at_ms: i64,
}

/// A mailbox's marks: 0 <= `read` <= `delivered` <= `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The highest `seq` that its owner has read.
    pub read: u64,
    /// The highest `seq` that its owner's client has acknowledged.
    pub delivered: u64,
    /// The highest `seq` in the mailbox; 0 while it is empty.
    pub last: u64,
}

/// Who a session belongs to, and how far its mailbox is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whoami {
    /// The session's account.
    pub account: Account,
    /// Its mailbox.
    pub marks: Marks,
}

/// An account is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Messages that nobody had received, now discarded.
    pub discarded: u64,
    /// As in [`Sent::duplicate`].
    pub duplicate: bool,
}

/// What to do when an account that is to be deleted has messages which nobody has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// Discard them; [`Deleted::discarded`] says how many.
    Discard,
    /// Refuse with [`Reason::UndeliveredMessages`](crate::Reason::UndeliveredMessages).
    Refuse,
}

/// One leadership: unique to one replica and ordered, by round first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    /// Counts up.
    pub round: u64,
    /// The replica that proposed it.
    pub replica: u32,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.replica)
    }
}

/// The replica that serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its id.
    pub id: u32,
    /// `host:port`, where it answered.
    pub address: String,
    /// Of its leadership.
    pub epoch: Epoch,
}

/// The key of one change: 16 bytes. The service carries out one change per account and key, and answers every
/// repetition with the first outcome.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// A new one (UUIDv7): unique without asking anybody.
    ///
    /// ```
    /// use chat_client::Key;
    /// let key = Key::generate();
    /// let read_again: Key = key.to_string().parse()?;
    /// assert_eq!(key, read_again);
    /// # Ok::<(), chat_client::Error>(())
    /// ```
    #[must_use]
    pub fn generate() -> Self {
        // Its random bits come from a cryptographic generator in this thread that the operating system seeds: no system call for each.
        Self(uuid::Uuid::now_v7().into_bytes())
    }

    /// From 16 bytes of one's own, which must be as unique as a generated key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn wire(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let uuid = uuid::Uuid::parse_str(text).map_err(|_| Error::Usage("a key is a UUID".to_owned()))?;
        Ok(Self(uuid.into_bytes()))
    }
}

impl From<v1::Epoch> for Epoch {
    fn from(epoch: v1::Epoch) -> Self {
        Self { round: epoch.round, replica: epoch.replica }
    }
}

impl From<v1::Account> for Account {
    fn from(account: v1::Account) -> Self {
        Self {
            id: account.id,
            name: account.name,
            display_name: account.display_name,
            created_at_ms: account.created_at_ms,
        }
    }
}

impl From<v1::Message> for Message {
    fn from(message: v1::Message) -> Self {
        Self {
            id: message.id,
            seq: message.seq,
            from: message.from.into(),
            to: message.to.into(),
            text: message.text,
            sent_at_ms: message.sent_at_ms,
            sender_deleted: message.sender_deleted,
        }
    }
}

impl From<v1::SendResponse> for Sent {
    fn from(sent: v1::SendResponse) -> Self {
        Self {
            id: sent.id,
            seq: sent.seq,
            epoch: sent.epoch.unwrap_or_default().into(),
            index: sent.index,
            copies: sent.copies,
            duplicate: sent.duplicate,
            sent_at_ms: sent.sent_at_ms,
        }
    }
}

impl From<v1::Marks> for Marks {
    fn from(marks: v1::Marks) -> Self {
        Self { read: marks.read, delivered: marks.delivered, last: marks.last }
    }
}
