//! What the chat service does with a change, and nothing else: accounts, sessions, direct messages, marks.
//!
//! A [`Command`] comes out of the replicated log, [`apply()`] carries it out on a [`Store`], and returns an
//! [`Outcome`] or a [`Rejection`] for whoever asked, and [`Event`]s for whoever listens. This is step ⑦ of a
//! message's way.
//!
//! Every replica applies the same commands in the same order and must come to the same state, so there is no
//! clock, randomness or I/O here: times and hashes arrive inside the command, made once by the primary.
//! [`state_hash`] is how replicas, and tests, find out that they agree.
//!
//! Applying is total. What can be wrong with a value is refused where the value is made ([`Username`],
//! [`DisplayName`], [`MessageText`], and again when they are read from bytes); what can only be known from the
//! state is a [`Rejection`]. The one error that [`apply()`] returns is that of the store.
//!
//! # Doing a change once
//!
//! A command with a key leaves a [`RequestRecord`] under (key, [`Scope`]). The same key with the same body
//! gets the first outcome again, marked as a duplicate; with another body it is [`Rejection::KeyConflict`].
//! Rejections leave no record: nothing was done, so asking again is judged anew. Closing a session and moving
//! marks need no record, because doing them twice is the same as doing them once.
//!
//! # Left out
//!
//! Changing a password or a display name, and dropping old request records: they are kept as long as the
//! history that they guard.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod account;
pub mod apply;
pub mod codec;
pub mod command;
pub mod hash;
pub mod id;
pub mod mailbox;
pub mod memory;
pub mod outcome;
pub mod pattern;
pub mod rejection;
pub mod request;
pub mod session;
pub mod store;
mod text;

pub use account::{Account, DisplayName, PasswordHash, Username};
pub use apply::{Applied, apply, repeated};
pub use command::Command;
pub use hash::state_hash;
pub use id::{AccountId, MessageId, Provenance, RequestKey, Timestamp, TokenHash};
pub use mailbox::{Marks, Message, MessageText, Party};
pub use memory::MemoryStore;
pub use outcome::{Event, Outcome};
pub use pattern::Pattern;
pub use rejection::Rejection;
pub use request::{Answer, BodyHash, RequestRecord, Scope};
pub use session::Session;
pub use store::{Counters, Lookup, Read, Row, Store};
