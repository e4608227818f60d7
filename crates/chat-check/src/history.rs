//! What clients saw, and what replicas hold at the end.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of an account. It names one account for ever: a deleted account's name is not given out again.
pub type Name = Arc<str>;

/// Microseconds since the history began, on one clock for all clients.
pub type Micros = u64;

/// One client application: from its start to its end, through all its reconnections. What is started again, or
/// sends without keeping an order, is another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u64);

/// A call's place in [`History::calls`], from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub usize);

/// A stream's place in [`History::streams`], from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub usize);

/// What makes one request of several calls: the 16 bytes that the client put on it. 32 hexadecimal digits in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(pub u128);

impl From<[u8; 16]> for Key {
    fn from(bytes: [u8; 16]) -> Self {
        Key(u128::from_be_bytes(bytes))
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        format!("{:032x}", key.0)
    }
}

impl TryFrom<String> for Key {
    type Error = std::num::ParseIntError;

    fn try_from(digits: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&digits, 16).map(Key)
    }
}

/// Everything that is known of one run.
///
/// Record it with [`begin`](Self::begin), [`end`](Self::end), [`open`](Self::open) and
/// [`deliver`](Self::deliver), behind a mutex where clients are threads or tasks; add [`finals`](Self::finals)
/// when the cluster has come to rest. Give every send a text of its own: messages whose outcome nobody was told
/// are recognised by sender, recipient and text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order in which they were begun.
    pub calls: Vec<Call>,
    /// The live streams, as applications saw them.
    pub streams: Vec<Stream>,
    /// What streams handed to applications, in the order in which they did.
    pub deliveries: Vec<Delivery>,
    /// What replicas hold at the end; empty if nobody looked.
    pub finals: Vec<Replica>,
}

/// One attempt to have something done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Who called.
    pub client: ClientId,
    /// In whose name; for [`Request::Register`] the name that is wanted.
    pub account: Name,
    /// Not after it left the caller.
    pub begun: Micros,
    /// Not before its outcome came back. `None`: none ever came.
    pub ended: Option<Micros>,
    /// What was asked for.
    pub request: Request,
    /// What came of it; [`Outcome::Unknown`] while it runs.
    pub outcome: Outcome,
}

/// What was asked for. Two calls with one key, by one account (for [`Request::Send`]) or at all, are one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Make the account.
    Register {
        /// `None`: not known; then the call is a request of its own.
        key: Option<Key>,
    },
    /// Delete the account.
    Delete {
        /// As for `Register`.
        key: Option<Key>,
        /// Not if messages would be discarded.
        refuse_if_undelivered: bool,
    },
    /// Send a message.
    Send {
        /// As for `Register`.
        key: Option<Key>,
        /// Who is to receive it.
        to: Name,
        /// Its text, or anything shorter that stands for it.
        text: Arc<str>,
    },
    /// The messages between the account and one other, in both directions: the newest ones.
    ReadConversation {
        /// The other.
        with: Name,
        /// Only messages with an id below this.
        before: Option<u64>,
        /// At most so many.
        limit: u32,
        /// A backup may answer, and then knows less than was acknowledged.
        stale: bool,
    },
    /// The account's own mailbox, from a position on: the oldest ones.
    ReadMailbox {
        /// Only messages with a `seq` above this.
        after: u64,
        /// At most so many.
        limit: u32,
    },
    /// Move the marks of the account's mailbox; both absent: look at them.
    Acknowledge {
        /// Received up to this `seq`.
        delivered: Option<u64>,
        /// Read up to this `seq`.
        read: Option<u64>,
    },
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was done, by this call or by an earlier one with its key.
    Done(Answer),
    /// It was not done, and will not be.
    Rejected(Reason),
    /// Timed out, cut off, or not answered yet: it may have been done, may be done later, or never.
    #[default]
    Unknown,
}

/// The result of a call that was done. Fits its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Register`].
    Registered,
    /// To [`Request::Delete`].
    Deleted {
        /// How many messages nobody had received.
        discarded: u64,
    },
    /// To [`Request::Send`].
    Sent {
        /// The message's place in the one order of everything, from 1.
        id: u64,
        /// Its place in the recipient's mailbox, from 1.
        seq: u64,
        /// The log entry that carried it, from 1; several messages can share one.
        index: u64,
    },
    /// To [`Request::ReadConversation`] (by ascending id) and [`Request::ReadMailbox`] (by ascending `seq`).
    Page(Vec<Message>),
    /// To [`Request::Acknowledge`].
    Marks(Marks),
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody has the name, or had it.
    NameTaken,
    /// The recipient was never registered, or is deleted.
    NoSuchRecipient,
    /// The account that asked is deleted.
    AccountDeleted,
    /// The session is unknown, expired or ended; by itself no proof that the account is deleted.
    SessionInvalid,
    /// The account has messages that nobody received, and was not to be deleted then.
    UndeliveredMessages {
        /// How many.
        count: u64,
    },
    /// A mark after the newest message.
    MarkBeyondLast {
        /// The newest message's `seq`.
        last: u64,
    },
    /// The key was used for another request.
    KeyConflict,
    /// Anything else that says that nothing was done: no leader, overloaded, too few copies. Says nothing of the state.
    NotDone(String),
}

/// A message, as a client was given it or a replica holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Its place in the one order of everything, from 1.
    pub id: u64,
    /// Its place in the recipient's mailbox, from 1.
    pub seq: u64,
    /// Who sent it.
    pub from: Name,
    /// In whose mailbox it is.
    pub to: Name,
    /// As in [`Request::Send`].
    pub text: Arc<str>,
}

/// How far a mailbox has come, as `seq`s: `read <= delivered <= last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Read up to here.
    pub read: u64,
    /// Received up to here.
    pub delivered: u64,
    /// The newest message; 0 while there is none.
    pub last: u64,
}

/// One live stream of a mailbox, as the application sees it: what a client library resumes by itself is one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Whose application.
    pub client: ClientId,
    /// Whose mailbox.
    pub account: Name,
    /// When it was asked for, before anything left the client.
    pub opened: Micros,
    /// From where on: messages with a `seq` above this. `None`: above the mailbox's `delivered` mark.
    pub after: Option<u64>,
}

/// A stream handed a message to the application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Which stream.
    pub stream: StreamId,
    /// When the application had it.
    pub at: Micros,
    /// When it left the replica; `None` where nobody knows, as with real networks.
    pub left: Option<Micros>,
    /// What it was.
    pub message: Message,
}

/// What one replica holds at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Which.
    pub id: u32,
    /// The last log entry that it applied.
    pub applied: u64,
    /// Of its whole state; `None` if nobody looked.
    pub hash: Option<String>,
    /// All of them, in any order. An account without messages may be left out.
    pub mailboxes: Vec<Mailbox>,
}

/// A mailbox, as a replica holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mailbox {
    /// Whose.
    pub account: Name,
    /// Its account is deleted, and what was not delivered by then is gone.
    pub deleted: bool,
    /// How far it has come; `None` if nobody looked.
    pub marks: Option<Marks>,
    /// In the order in which the replica gave them.
    pub messages: Vec<Message>,
}

impl History {
    /// Records that a call begins.
    pub fn begin(&mut self, client: ClientId, account: impl Into<Name>, at: Micros, request: Request) -> CallId {
        let (account, outcome) = (account.into(), Outcome::Unknown);
        self.calls.push(Call { client, account, begun: at, ended: None, request, outcome });
        CallId(self.calls.len() - 1)
    }

    /// Records how a call ended; nothing happens if there is no such call. A call that timed out ends with
    /// [`Outcome::Unknown`].
    pub fn end(&mut self, call: CallId, at: Micros, outcome: Outcome) {
        if let Some(call) = self.calls.get_mut(call.0) {
            call.ended = Some(at);
            call.outcome = outcome;
        }
    }

    /// Records that an application asks for a live stream; `after` as in [`Stream::after`].
    pub fn open(&mut self, client: ClientId, account: impl Into<Name>, at: Micros, after: Option<u64>) -> StreamId {
        self.streams.push(Stream { client, account: account.into(), opened: at, after });
        StreamId(self.streams.len() - 1)
    }

    /// Records that a stream handed a message to its application; `left` as in [`Delivery::left`].
    pub fn deliver(&mut self, stream: StreamId, at: Micros, left: Option<Micros>, message: Message) {
        self.deliveries.push(Delivery { stream, at, left, message });
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}", self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { id, seq, from, to, text } = self;
        write!(f, "message {id} ({to}'s {seq}, from {from}: {:?})", Short(text))
    }
}

/// The beginning of a text.
struct Short<'a>(&'a str);

impl fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(40) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}: ", self.client, self.account)?;
        match &self.request {
            Request::Register { .. } => write!(f, "register")?,
            Request::Delete { refuse_if_undelivered: false, .. } => write!(f, "delete")?,
            Request::Delete { refuse_if_undelivered: true, .. } => {
                write!(f, "delete, unless something is undelivered")?
            }
            Request::Send { to, text, .. } => write!(f, "send {:?} to {to}", Short(text))?,
            Request::ReadConversation { with, before, limit, stale } => {
                write!(f, "read {limit} with {with}")?;
                before.map_or(Ok(()), |before| write!(f, " before {before}"))?;
                write!(f, "{}", if *stale { " from any replica" } else { "" })?;
            }
            Request::ReadMailbox { after, limit } => write!(f, "read {limit} of the mailbox after {after}")?,
            Request::Acknowledge { delivered, read } => write!(f, "acknowledge {delivered:?}, {read:?}")?,
        }
        match &self.outcome {
            Outcome::Done(Answer::Page(page)) => {
                write!(f, " = {} messages", page.len())?;
                if let (Some(first), Some(last)) = (page.first(), page.last()) {
                    write!(f, " ({} to {})", first.id, last.id)?;
                }
            }
            Outcome::Done(answer) => write!(f, " = {answer:?}")?,
            Outcome::Rejected(reason) => write!(f, " refused: {reason:?}")?,
            Outcome::Unknown => write!(f, " = unknown")?,
        }
        match self.ended {
            Some(ended) => write!(f, " [{}..{ended} µs]", self.begun),
            None => write!(f, " [{}.. µs]", self.begun),
        }
    }
}
