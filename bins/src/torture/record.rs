//! What clients saw, written down for the judge.

use chat_check::{Answer, CallId, ClientId, History, Marks, Message, Micros, Name, Outcome, Reason, Request, StreamId};
use chat_client::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The history of one round. Shared by all its clients.
#[derive(Debug)]
pub(super) struct Record {
    begun: Instant,
    history: Mutex<History>,
}

impl Record {
    pub fn new() -> Record {
        Record { begun: Instant::now(), history: Mutex::default() }
    }

    fn now(&self) -> Micros {
        self.begun.elapsed().as_micros() as Micros
    }

    /// A look at it; nobody can write while the guard lives.
    pub fn open(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, client: u64, account: &Name, request: Request) -> CallId {
        let mut history = self.open();
        let now = self.now();
        history.begin(ClientId(client), account.clone(), now, request)
    }

    pub fn end(&self, call: CallId, outcome: Outcome) {
        let mut history = self.open();
        let now = self.now();
        history.end(call, now, outcome);
    }

    /// The end of a call of the client library.
    pub fn conclude<T>(&self, call: CallId, result: &Result<T, Error>, answer: impl FnOnce(&T) -> Answer) {
        self.end(
            call,
            match result {
                Ok(done) => Outcome::Done(answer(done)),
                Err(error) => outcome_of(error),
            },
        );
    }

    /// A page ended after so many messages, though there are more.
    pub fn limit(&self, call: CallId, messages: u32) {
        if let Some(Request::ReadConversation { limit, .. }) =
            self.open().calls.get_mut(call.0).map(|call| &mut call.request)
        {
            *limit = messages;
        }
    }

    pub fn listen(&self, client: u64, account: &Name, after: Option<u64>) -> StreamId {
        let mut history = self.open();
        let now = self.now();
        history.open(ClientId(client), account.clone(), now, after)
    }

    pub fn deliver(&self, stream: StreamId, message: Message) {
        let mut history = self.open();
        let now = self.now();
        history.deliver(stream, now, None, message);
    }
}

fn outcome_of(error: &Error) -> Outcome {
    use chat_client::Reason as Said;
    let Error::Refused(refusal) = error else {
        return match error {
            Error::Unknown { .. } => Outcome::Unknown,
            other => Outcome::Rejected(Reason::NotDone(other.to_string())),
        };
    };
    Outcome::Rejected(match refusal.reason {
        Said::NameTaken => Reason::NameTaken,
        Said::NoSuchRecipient | Said::NoSuchAccount => Reason::NoSuchRecipient,
        Said::AccountDeleted => Reason::AccountDeleted,
        Said::SessionInvalid => Reason::SessionInvalid,
        Said::KeyConflict => Reason::KeyConflict,
        _ => Reason::NotDone(refusal.message.clone()),
    })
}

pub(super) fn marks(marks: &chat_client::Marks) -> Marks {
    Marks { read: marks.read, delivered: marks.delivered, last: marks.last }
}

/// As a replica holds them.
pub(super) fn marks_of(marks: &chat_core::Marks) -> Marks {
    Marks { read: marks.read, delivered: marks.delivered, last: marks.last }
}

/// The text of a message: who sends it and its number name it, and the rest fills it up.
pub(super) fn text(writer: &str, number: u64, filling: usize) -> String {
    let (name, fill) = (format!("{writer} {number}"), "x".repeat(filling));
    format!("{name} {filling}\n{fill}")
}

/// What stands for a text in a history: what names it, if the rest is as it was sent.
pub(super) fn short(text: &str) -> Arc<str> {
    let whole = text.split_once('\n').and_then(|(head, fill)| {
        let (name, filling) = head.rsplit_once(' ')?;
        let as_sent = filling.parse() == Ok(fill.len()) && fill.bytes().all(|byte| byte == b'x');
        as_sent.then_some(name)
    });
    match whole {
        Some(name) => name.into(),
        None => format!("damaged: {}", text.chars().take(100).collect::<String>()).into(),
    }
}

/// A message as the client library gives it.
pub(super) fn message(given: &chat_client::Message) -> Message {
    Message {
        id: given.id,
        seq: given.seq,
        from: given.from.as_str().into(),
        to: given.to.as_str().into(),
        text: short(&given.text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_named_only_if_it_is_whole() {
        let sent = text("w3", 17, 5);
        assert_eq!(&*short(&sent), "w3 17");
        assert_eq!(&*short(&text("w3", 18, 0)), "w3 18");
        for damaged in [&sent[..sent.len() - 1], "w3 17 5\nxxyxx", "w3 17", ""] {
            assert!(short(damaged).starts_with("damaged"), "{damaged:?}");
        }
    }
}
