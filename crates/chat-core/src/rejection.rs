//! Why the service refuses: one reason for each of the wire's, as a sentence for the person who asked.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Username;
use crate::account::{PASSWORD_MAX_BYTES, PASSWORD_MIN_BYTES};
use crate::mailbox::MessageText;
use crate::pattern::Pattern;
use crate::store::MAX_PAGE;

/// A refusal. Nothing was done. Names what was wrong and the limit that was passed, never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Rejection {
    /// Somebody has this name, or had it.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name that was asked for.
        name: Username,
    },
    /// Not a user name.
    #[error(transparent)]
    NameInvalid(NameFault),
    /// Not a display name.
    #[error(transparent)]
    DisplayNameInvalid(DisplayNameFault),
    /// Too short or too long.
    #[error("a password has {PASSWORD_MIN_BYTES} to {PASSWORD_MAX_BYTES} bytes, this one has {bytes}")]
    PasswordInvalid {
        /// Its length in bytes.
        bytes: u64,
    },
    /// No such account, or another password; which of the two is not told.
    #[error("no account has this name and password")]
    WrongCredentials,
    /// Unknown, expired or revoked.
    #[error("not logged in: the session is unknown, has expired or was ended")]
    SessionInvalid,
    /// The account that was in use has been deleted.
    #[error("this account has been deleted")]
    AccountDeleted,
    /// Nobody to send to: the name was never given out, or its account has been deleted.
    #[error("nobody is called {name}, so nothing can be sent there")]
    NoSuchRecipient {
        /// The name that was sent to.
        name: Username,
    },
    /// The name was never given out.
    #[error("there is no account called {name}")]
    NoSuchAccount {
        /// The name that was asked for.
        name: Username,
    },
    /// A text over the limit.
    #[error("a message has at most {} bytes of text, this one has {bytes}", MessageText::MAX_BYTES)]
    TextTooLarge {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A message without text.
    #[error("a message needs at least one character of text")]
    TextEmpty,
    /// Not a request key.
    #[error("a request key has 16 bytes, this one has {bytes}")]
    KeyInvalid {
        /// Its length in bytes.
        bytes: u64,
    },
    /// The key was used for something else.
    #[error("this request key was used before for another request: every new request needs a new key")]
    KeyConflict,
    /// Of another length than 32 bytes, or in use.
    #[error("a session token is 32 random bytes, new for every session")]
    TokenInvalid,
    /// A pattern over the limit.
    #[error("a pattern has at most {} bytes, this one has {bytes}", Pattern::MAX_BYTES)]
    PatternInvalid {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A page over the limit.
    #[error("at most {MAX_PAGE} can be asked for at once, not {asked}")]
    LimitInvalid {
        /// How many were asked for.
        asked: u64,
    },
    /// The account has messages that nobody received, and was not to be deleted then.
    #[error("nothing was deleted: {count} of the account's messages have not been delivered yet")]
    UndeliveredMessages {
        /// How many.
        count: u64,
    },
    /// A mark after the newest message.
    #[error("message {mark} cannot be marked: the newest in this mailbox is {last}")]
    MarkBeyondLast {
        /// The mark that was asked for.
        mark: u64,
        /// The newest message's `seq`; 0 when there is none.
        last: u64,
    },
}

impl Rejection {
    /// The limit that was passed, in the unit that the sentence names; `None` where no number was too large.
    pub fn limit(&self) -> Option<u64> {
        let (value, limit) = match *self {
            Rejection::NameInvalid(NameFault::Length { bytes }) => (bytes, Username::MAX_BYTES as u64),
            Rejection::DisplayNameInvalid(DisplayNameFault::Length { chars }) => (chars, DISPLAY_NAME_MAX),
            Rejection::PasswordInvalid { bytes } => (bytes, PASSWORD_MAX_BYTES as u64),
            Rejection::TextTooLarge { bytes } => (bytes, MessageText::MAX_BYTES as u64),
            Rejection::KeyInvalid { bytes } => (bytes, 16),
            Rejection::PatternInvalid { bytes } => (bytes, Pattern::MAX_BYTES as u64),
            Rejection::LimitInvalid { asked } => (asked, u64::from(MAX_PAGE)),
            Rejection::MarkBeyondLast { mark, last } => (mark, last),
            _ => return None,
        };
        (value > limit).then_some(limit)
    }
}

const DISPLAY_NAME_MAX: u64 = crate::DisplayName::MAX_CHARS as u64;

/// What is wrong with a user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum NameFault {
    /// Too short or too long.
    #[error("a user name has {} to {} bytes, this one has {bytes}", Username::MIN_BYTES, Username::MAX_BYTES)]
    Length {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A character that no user name has.
    #[error("a user name has only the letters a to z, digits, '.', '_' and '-', not {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// Punctuation at an end.
    #[error("a user name begins and ends with a letter or a digit, not {found:?}")]
    Edge {
        /// The character at that end.
        found: char,
    },
}

/// What is wrong with a display name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum DisplayNameFault {
    /// Nothing but white space.
    #[error("a display name needs at least one visible character")]
    Empty,
    /// Too long.
    #[error("a display name has at most {DISPLAY_NAME_MAX} characters, this one has {chars}")]
    Length {
        /// Its length in characters.
        chars: u64,
    },
    /// A control character, or one that reorders or breaks lines.
    #[error("a display name has no control characters, this one has {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
}
