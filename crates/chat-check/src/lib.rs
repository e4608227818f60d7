//! Judges what clients of a chat service saw, and what its replicas hold at the end: one module for each property.
//!
//! Knows nothing of how the service works or how it was run: a [`History`] can come from real processes, from a
//! simulation, or from a file. Record one, let [`check_all`] look, and keep it as JSON lines if somebody complains:
//!
//! ```
//! use chat_check::{Answer, ClientId, History, Key, Mailbox, Message, Outcome, Replica, Request, check_all};
//!
//! let mut history = History::default();
//!
//! // A call is recorded before it leaves the client and again when its answer came, in microseconds of one clock.
//! let request = Request::Send { key: Some(Key(1)), to: "bob".into(), text: "hello".into() };
//! let call = history.begin(ClientId(1), "ann", 10, request);
//! history.end(call, 250, Outcome::Done(Answer::Sent { id: 1, seq: 1, index: 7 }));
//!
//! // This one timed out: it may have been done or not, and either is accepted.
//! let request = Request::Send { key: Some(Key(2)), to: "bob".into(), text: "anybody there?".into() };
//! let call = history.begin(ClientId(1), "ann", 300, request);
//! history.end(call, 9_300, Outcome::Unknown);
//!
//! // Bob's application listens from the beginning.
//! let hello = Message { id: 1, seq: 1, from: "ann".into(), to: "bob".into(), text: "hello".into() };
//! let stream = history.open(ClientId(2), "bob", 20, Some(0));
//! history.deliver(stream, 260, None, hello.clone());
//!
//! // When all has come to rest: what each replica holds.
//! let mailbox = Mailbox { account: "bob".into(), deleted: false, marks: None, messages: vec![hello] };
//! for id in 1..=3 {
//!     history.finals.push(Replica { id, applied: 7, hash: None, mailboxes: vec![mailbox.clone()] });
//! }
//! check_all(&history).assert_good();
//!
//! // A replica that forgot what was acknowledged is found out, and the send is named.
//! history.finals[2].mailboxes[0].messages.clear();
//! let report = check_all(&history);
//! assert!(report.to_string().contains("replica 3 has nothing in place 1 of bob's mailbox"), "{report}");
//!
//! let mut file = Vec::new();
//! history.write(&mut file)?;
//! assert_eq!(History::read(&file[..])?, history);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod complaint;
mod history;
mod jsonl;
mod levels;
mod places;
mod report;
mod requests;

pub mod acknowledged;
pub mod client_order;
pub mod deletion;
pub mod duplicates;
pub mod gapless;
pub mod linearizable;
pub mod replicas;
pub mod well_formed;

pub use complaint::{Complaint, Fault, MAX_COMPLAINTS, Property, Seen, Verdict};
pub use history::{
    Answer, Call, CallId, ClientId, Delivery, History, Key, Mailbox, Marks, Message, Micros, Name, Outcome, Reason,
    Replica, Request, Stream, StreamId,
};
pub use jsonl::{ReadError, VERSION};
pub use report::{Judged, Report, check_all};
