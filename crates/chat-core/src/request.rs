//! What is remembered of a request, so that it is carried out once.

use serde::{Deserialize, Serialize};

use crate::{AccountId, Command, MessageId, Outcome, Provenance, Timestamp};

/// Within what a key is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// The whole service: for requests that are not bound to an account that exists before and after.
    Service,
    /// One account.
    Account(AccountId),
}

impl Scope {
    /// As a number, for stores: 0 for the service, else the account's id, which is at least 1. Keeps the order.
    pub fn as_u64(self) -> u64 {
        match self {
            Scope::Service => 0,
            Scope::Account(account) => account.0,
        }
    }

    /// The scope with that number.
    pub fn from_u64(number: u64) -> Self {
        match number {
            0 => Scope::Service,
            account => Scope::Account(AccountId(account)),
        }
    }
}

/// Tells one body from another: the first 8 bytes of a BLAKE3 hash. Whoever uses a key again by mistake is told so, but for one time in 2^64. To
/// look for a collision is no use: only the owner of a key can, and then only to be given their own first outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyHash(pub [u8; 8]);

impl BodyHash {
    /// Of what the client asked for, without what the primary adds; `None` for commands without a key.
    pub fn of(command: &Command) -> Option<Self> {
        Some(match command {
            // Not the password: its salted hash is another one each time.
            Command::Register { name, display_name, .. } => {
                body(&[&[1], name.as_str().as_bytes(), display_name.as_str().as_bytes()])
            }
            Command::OpenSession { account, token, .. } => body(&[&[2], &account.0.to_le_bytes(), &token.0]),
            Command::Send { to, text, .. } => body(&[&[3], to.as_str().as_bytes(), text.as_str().as_bytes()]),
            Command::DeleteAccount { session, refuse_if_undelivered, .. } => {
                body(&[&[4], &session.0, &[u8::from(*refuse_if_undelivered)]])
            }
            Command::CloseSession { .. } | Command::Acknowledge { .. } => return None,
        })
    }
}

/// Bodies up to this length are put together first, and hashed in one go: that costs less than piece by piece.
const SHORT: usize = 512;

/// The hash of some fields, each with its length first, so that no two lists of fields look the same.
fn body(fields: &[&[u8]]) -> BodyHash {
    let mut short = [0; SHORT];
    let mut len = 0;
    for field in fields {
        let end = len + 8 + field.len();
        let Some(place) = short.get_mut(len..end) else { return long_body(fields) };
        let (length, contents) = place.split_at_mut(8);
        length.copy_from_slice(&(field.len() as u64).to_le_bytes());
        contents.copy_from_slice(field);
        len = end;
    }
    beginning(&blake3::hash(&short[..len]))
}

/// The same, for any length.
fn long_body(fields: &[&[u8]]) -> BodyHash {
    let mut hasher = blake3::Hasher::new();
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
    }
    beginning(&hasher.finalize())
}

fn beginning(hash: &blake3::Hash) -> BodyHash {
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    BodyHash(first)
}

/// A request that was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// What was asked for.
    pub body: BodyHash,
    /// What came of it.
    pub answer: Answer,
}

/// What is needed to give the first outcome again. Kept on disk by [`crate::codec`]; variants are only appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// An account was made.
    Registered {
        /// Which.
        account: AccountId,
    },
    /// A session was opened.
    SessionOpened {
        /// Whose.
        account: AccountId,
        /// Until when.
        expires_at: Timestamp,
    },
    /// A message was sent. Complete, because the message can be discarded later.
    Sent {
        /// Its id.
        id: MessageId,
        /// Its place in the recipient's mailbox.
        seq: u64,
        /// When.
        at: Timestamp,
        /// The log entry that carried it.
        provenance: Provenance,
    },
    /// An account was deleted.
    Deleted {
        /// How many messages were discarded with it.
        discarded: u64,
    },
}

impl Answer {
    /// What to remember of an outcome; `None` for those of commands without a key.
    pub fn of(outcome: &Outcome) -> Option<Self> {
        match *outcome {
            Outcome::Registered { ref account, .. } => Some(Answer::Registered { account: account.id }),
            Outcome::SessionOpened { ref account, expires_at, .. } => {
                Some(Answer::SessionOpened { account: account.id, expires_at })
            }
            Outcome::Sent { id, seq, at, provenance, .. } => Some(Answer::Sent { id, seq, at, provenance }),
            Outcome::Deleted { discarded, .. } => Some(Answer::Deleted { discarded }),
            Outcome::SessionClosed | Outcome::Marked(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_same_hash_whether_it_is_put_together_or_not() {
        for len in (0..4).chain(SHORT - 40..SHORT + 8) {
            let text = vec![7; len];
            let fields: [&[u8]; 3] = [&[3], b"ann", &text];
            let whole: Vec<u8> =
                fields.iter().flat_map(|field| [&field.len().to_le_bytes(), *field].concat()).collect();
            let hash = beginning(&blake3::hash(&whole));
            assert_eq!((body(&fields), long_body(&fields)), (hash, hash), "{len}");
        }
    }
}
