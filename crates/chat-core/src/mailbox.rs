//! Messages, and how far their recipients have come.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text;
use crate::{AccountId, MessageId, Rejection, Timestamp, Username};

/// The text of a message: 1 to 65536 bytes of UTF-8, kept as it came. `Debug` shows only its length.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageText(Arc<str>);

impl MessageText {
    /// The longest text, in bytes.
    pub const MAX_BYTES: usize = 65_536;

    /// Takes a text; [`Rejection::TextEmpty`] or [`Rejection::TextTooLarge`].
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, Rejection> {
        let text = text.into();
        Self::check(&text)?;
        Ok(MessageText(text))
    }

    /// The same, where only a text that is taken should be copied.
    fn checked(text: &str) -> Result<Self, Rejection> {
        Self::check(text)?;
        Ok(MessageText(text.into()))
    }

    /// Whether [`new`](Self::new) takes this text, without taking it.
    pub fn check(text: &str) -> Result<(), Rejection> {
        match text.len() {
            0 => Err(Rejection::TextEmpty),
            1..=Self::MAX_BYTES => Ok(()),
            bytes => Err(Rejection::TextTooLarge { bytes: bytes as u64 }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl<'de> Deserialize<'de> for MessageText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parsed(deserializer, MessageText::checked)
    }
}

impl Serialize for MessageText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for MessageText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageText({} bytes)", self.0.len())
    }
}

/// One end of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Which account.
    pub id: AccountId,
    /// Its name, which never changes.
    pub name: Username,
}

/// A message as its recipient sees it: complete, so that nothing needs to be looked up to send it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the one order of everything.
    pub id: MessageId,
    /// Its place in the recipient's mailbox: gapless from 1.
    pub seq: u64,
    /// Who sent it.
    pub from: Party,
    /// Who receives it; can be the sender.
    pub to: Party,
    /// What it says.
    pub text: MessageText,
    /// When the primary took it, for display only.
    pub sent_at: Timestamp,
    /// The sender's account has been deleted since. Not stored: known when the message is read.
    pub sender_deleted: bool,
}

/// How far a mailbox has come, as `seq`s: `read <= delivered <= last`. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Up to here the recipient's client said that a person has read.
    pub read: u64,
    /// Up to here the recipient's client said that it has received.
    pub delivered: u64,
    /// The newest message; 0 while there is none.
    pub last: u64,
}

impl Marks {
    /// How many messages nobody has received yet.
    pub fn undelivered(&self) -> u64 {
        self.last.saturating_sub(self.delivered)
    }

    /// The marks after an acknowledgement. What lies behind changes nothing; what was read was also delivered.
    /// [`Rejection::MarkBeyondLast`] if either is after the newest message.
    pub fn acknowledged(self, delivered: Option<u64>, read: Option<u64>) -> Result<Marks, Rejection> {
        let furthest = delivered.max(read).unwrap_or(0);
        if furthest > self.last {
            return Err(Rejection::MarkBeyondLast { mark: furthest, last: self.last });
        }
        Ok(Marks { read: self.read.max(read.unwrap_or(0)), delivered: self.delivered.max(furthest), last: self.last })
    }
}
