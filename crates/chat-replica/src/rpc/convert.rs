//! Wire types from and to core types.

use crate::clock;
use crate::protocol::Epoch;
use crate::storage::Found;
use chat_core::{
    Account, AccountId, Command, Marks, Message, MessageText, Outcome, Rejection, RequestKey, TokenHash, Username,
};
use chat_proto::page::{Direction, Messages, Said};
use chat_proto::v1;

/// The key of a change.
pub(super) fn key(bytes: &[u8]) -> Result<RequestKey, Rejection> {
    RequestKey::try_from(bytes)
}

/// What a client wants to send.
pub(super) fn send(request: v1::SendRequest, session: TokenHash) -> Result<Command, Rejection> {
    Ok(Command::Send {
        key: key(&request.key)?,
        session,
        to: Username::parse(&request.to)?,
        text: MessageText::new(request.text)?,
        at: clock::wall(),
    })
}

/// The answer to a send; `None` for the outcome of anything else.
pub(super) fn sent(outcome: &Outcome, copies: usize) -> Option<v1::SendResponse> {
    let &Outcome::Sent { id, seq, at, provenance, duplicate } = outcome else { return None };
    Some(v1::SendResponse {
        id: id.0,
        seq,
        epoch: Some(v1::Epoch { round: provenance.round, replica: provenance.replica }),
        index: provenance.index,
        copies: copies as u32,
        duplicate,
        sent_at_ms: at.0,
    })
}

/// An epoch.
pub(super) fn epoch(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { round: epoch.round, replica: epoch.replica.0 }
}

/// An account as others see it.
pub(super) fn account(account: &Account) -> v1::Account {
    v1::Account {
        id: account.id.0,
        name: account.name.as_str().to_owned(),
        display_name: account.display_name.as_str().to_owned(),
        created_at_ms: account.created_at.0,
    }
}

/// A mailbox's marks.
pub(super) fn marks(marks: Marks) -> v1::Marks {
    v1::Marks { read: marks.read, delivered: marks.delivered, last: marks.last }
}

/// A message as its recipient sees it.
pub(super) fn message(message: &Message) -> v1::Message {
    v1::Message {
        id: message.id.0,
        seq: message.seq,
        from: message.from.name.as_str().to_owned(),
        to: message.to.name.as_str().to_owned(),
        text: message.text.as_str().to_owned(),
        sent_at_ms: message.sent_at.0,
        sender_deleted: message.sender_deleted,
    }
}

/// Room for a page of short messages.
const PAGE_BYTES: usize = 16 * 1024;

/// Encodes the messages of one conversation as they are read, newest first. The names of both ends are encoded once.
pub(super) struct Page {
    /// Who sends `there`.
    me: AccountId,
    there: Direction,
    back: Direction,
    /// What there is already.
    pub messages: Messages,
}

impl Page {
    /// None yet.
    pub fn new(me: &Account, other: &Account) -> Page {
        let (there, back) = (between(me, other), between(other, me));
        Page { me: me.id, there, back, messages: Messages::with_capacity(PAGE_BYTES) }
    }

    /// One more.
    pub fn push(&mut self, found: &Found<'_>) {
        let direction = if found.from.id == self.me { &self.there } else { &self.back };
        let said = Said { id: found.id, seq: found.seq, text: found.text, sent_at_ms: found.sent_at.0 };
        self.messages.push(direction, said);
    }
}

fn between(from: &Account, to: &Account) -> Direction {
    Direction::new(from.name.as_str(), to.name.as_str(), from.deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::{DisplayName, MessageId, Party, Provenance, Timestamp};
    use prost::Message as _;

    fn request() -> v1::SendRequest {
        v1::SendRequest { key: vec![5; 16].into(), to: "Ann".into(), text: "hello".into() }
    }

    #[test]
    fn a_send_is_checked_on_its_way_in() {
        let session = TokenHash([3; 32]);
        let Ok(Command::Send { key, session: of, to, text, .. }) = send(request(), session) else { panic!("refused") };
        assert_eq!((key, of, to.as_str(), text.as_str()), (RequestKey([5; 16]), session, "ann", "hello"));

        let bad_key = v1::SendRequest { key: vec![5; 15].into(), ..request() };
        assert_eq!(send(bad_key, session), Err(Rejection::KeyInvalid { bytes: 15 }));
        let bad_name = v1::SendRequest { to: "a b".into(), ..request() };
        assert!(matches!(send(bad_name, session), Err(Rejection::NameInvalid(_))));
        let empty = v1::SendRequest { text: String::new(), ..request() };
        assert_eq!(send(empty, session), Err(Rejection::TextEmpty));
        let large = v1::SendRequest { text: "x".repeat(65_537), ..request() };
        assert_eq!(send(large, session), Err(Rejection::TextTooLarge { bytes: 65_537 }));
        assert_eq!(send(v1::SendRequest::default(), session), Err(Rejection::KeyInvalid { bytes: 0 }));
    }

    #[test]
    fn an_answer_says_where_and_how_often_it_is() {
        let provenance = Provenance { index: 9, round: 4, replica: 2 };
        let (id, at) = (MessageId(7), Timestamp(11));
        let outcome = Outcome::Sent { id, seq: 3, at, provenance, duplicate: true };
        let expected = v1::SendResponse {
            id: 7,
            seq: 3,
            epoch: Some(v1::Epoch { round: 4, replica: 2 }),
            index: 9,
            copies: 3,
            duplicate: true,
            sent_at_ms: 11,
        };
        assert_eq!(sent(&outcome, 3), Some(expected));
        assert_eq!(sent(&Outcome::SessionClosed, 3), None);
    }

    #[test]
    fn a_message_of_a_page_has_nothing_of_the_one_before() {
        let account = |id, name, deleted| Account {
            id: AccountId(id),
            name: Username::parse(name).unwrap(),
            display_name: DisplayName::parse(name).unwrap(),
            created_at: Timestamp(0),
            deleted,
        };
        let (ann, ben) = (account(1, "ann", false), account(2, "ben", true));
        let mut page = Page::new(&ann, &ben);
        let ends = [(&ann, &ben, "a long one"), (&ben, &ann, "hello"), (&ann, &ben, "b"), (&ben, &ann, "hi")];
        let mut messages = Vec::new();
        for (id, (from, to, text)) in (7..).zip(ends) {
            let found = Found { id, seq: 2 * id, from, to, text, sent_at: Timestamp(11) };
            page.push(&found);
            messages.insert(0, message(&found.message().unwrap()));
        }
        assert_eq!(decoded(&page), messages);
        let mut oneself = Page::new(&ann, &ann);
        let found = Found { id: 1, seq: 1, from: &ann, to: &ann, text: "x", sent_at: Timestamp(1) };
        oneself.push(&found);
        assert_eq!(decoded(&oneself), [message(&found.message().unwrap())]);
    }

    fn decoded(page: &Page) -> Vec<v1::Message> {
        v1::HistoryResponse::decode(page.messages.reversed()).unwrap().messages
    }

    #[test]
    fn a_message_is_complete() {
        let party = |id, name| Party { id: AccountId(id), name: Username::parse(name).unwrap() };
        let core = Message {
            id: MessageId(7),
            seq: 3,
            from: party(1, "ann"),
            to: party(2, "ben"),
            text: MessageText::new("hello").unwrap(),
            sent_at: Timestamp(11),
            sender_deleted: true,
        };
        let expected = v1::Message {
            id: 7,
            seq: 3,
            from: "ann".into(),
            to: "ben".into(),
            text: "hello".into(),
            sent_at_ms: 11,
            sender_deleted: true,
        };
        assert_eq!(message(&core), expected);
    }
}
