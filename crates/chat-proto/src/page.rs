//! A page of messages as the service answers with it.

use crate::v1;
use bytes::{Buf, BufMut, Bytes};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

/// The fields of a [`v1::HistoryResponse`].
const MESSAGES: u32 = 1;
const MORE: u32 = 2;
const APPLIED_INDEX: u32 = 3;

/// A [`v1::HistoryResponse`] whose messages are encoded already, one after the other in one piece of memory: on the wire it is the same. So a replica
/// encodes each message where it reads it ([`Messages`]), makes no values of them, and copies all of them at once into the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// By ascending id; as they are on the wire, each with its field's key and its length.
    pub messages: Bytes,
    /// There are older ones.
    pub more: bool,
    /// The state that was seen held everything up to this log index.
    pub applied_index: u64,
}

impl Message for HistoryPage {
    fn encode_raw(&self, to: &mut impl BufMut) {
        to.put_slice(&self.messages);
        if self.more {
            encoding::bool::encode(MORE, &self.more, to);
        }
        if self.applied_index != 0 {
            encoding::uint64::encode(APPLIED_INDEX, &self.applied_index, to);
        }
    }

    fn merge_field(
        &mut self,
        field: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match field {
            MESSAGES => {
                let mut message = Bytes::new();
                encoding::bytes::merge(wire_type, &mut message, from, context)?;
                let mut messages = Vec::from(std::mem::take(&mut self.messages));
                encoding::bytes::encode(MESSAGES, &message, &mut messages);
                self.messages = messages.into();
                Ok(())
            }
            MORE => encoding::bool::merge(wire_type, &mut self.more, from, context),
            APPLIED_INDEX => encoding::uint64::merge(wire_type, &mut self.applied_index, from, context),
            _ => encoding::skip_field(wire_type, field, from, context),
        }
    }

    fn encoded_len(&self) -> usize {
        let more = if self.more { encoding::bool::encoded_len(MORE, &self.more) } else { 0 };
        let applied = match self.applied_index {
            0 => 0,
            index => encoding::uint64::encoded_len(APPLIED_INDEX, &index),
        };
        self.messages.len() + more + applied
    }

    fn clear(&mut self) {
        *self = HistoryPage::default();
    }
}

impl From<v1::HistoryResponse> for HistoryPage {
    fn from(response: v1::HistoryResponse) -> HistoryPage {
        let v1::HistoryResponse { messages, more, applied_index } = response;
        let only = v1::HistoryResponse { messages, ..v1::HistoryResponse::default() };
        HistoryPage { messages: only.encode_to_vec().into(), more, applied_index }
    }
}

/// The fields of a [`v1::Message`].
const ID: u32 = 1;
const SEQ: u32 = 2;
const FROM: u32 = 3;
const TO: u32 = 4;
const TEXT: u32 = 5;
const SENT_AT_MS: u32 = 6;
const SENDER_DELETED: u32 = 7;

/// Who sends to whom, encoded once for all messages in this direction.
#[derive(Clone, Debug)]
pub struct Direction {
    names: Vec<u8>,
    sender_deleted: bool,
}

impl Direction {
    /// From somebody to somebody, by their names.
    pub fn new(from: &str, to: &str, sender_deleted: bool) -> Direction {
        let mut names = Vec::with_capacity(from.len() + to.len() + 8);
        for (field, name) in [(FROM, from), (TO, to)] {
            text(field, name, &mut names);
        }
        Direction { names, sender_deleted }
    }
}

/// A message whose ends are a [`Direction`].
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// As in [`v1::Message`].
    pub id: u64,
    /// As in [`v1::Message`].
    pub seq: u64,
    /// As in [`v1::Message`].
    pub text: &'a str,
    /// As in [`v1::Message`].
    pub sent_at_ms: i64,
}

/// The messages of a page, encoded as they are read: newest first, which is not the order in which they are answered.
#[derive(Debug)]
pub struct Messages {
    encoded: Vec<u8>,
    /// Where each begins.
    begins: Vec<usize>,
}

impl Messages {
    /// None yet, and room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Messages {
        Messages { encoded: Vec::with_capacity(bytes), begins: Vec::new() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.begins.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// Of all.
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// One more.
    pub fn push(&mut self, direction: &Direction, said: Said<'_>) {
        self.begins.push(self.encoded.len());
        let Said { id, seq, text: said_text, sent_at_ms } = said;
        let numbers = [(ID, id), (SEQ, seq), (SENT_AT_MS, sent_at_ms.cast_unsigned())];
        let numbers = numbers.into_iter().filter(|(_, number)| *number != 0);
        let length =
            numbers.clone().map(|(field, number)| encoding::uint64::encoded_len(field, &number)).sum::<usize>()
                + direction.names.len()
                + text_len(said_text)
                + 2 * usize::from(direction.sender_deleted);
        let to = &mut self.encoded;
        encoding::encode_key(MESSAGES, WireType::LengthDelimited, to);
        encoding::encode_varint(length as u64, to);
        for (field, number) in numbers.clone().filter(|(field, _)| *field < FROM) {
            encoding::uint64::encode(field, &number, to);
        }
        to.extend_from_slice(&direction.names);
        text(TEXT, said_text, to);
        for (field, number) in numbers.filter(|(field, _)| *field > TEXT) {
            encoding::uint64::encode(field, &number, to);
        }
        if direction.sender_deleted {
            encoding::bool::encode(SENDER_DELETED, &true, to);
        }
    }

    /// The one that was added last comes first.
    pub fn reversed(&self) -> Bytes {
        let mut reversed = Vec::with_capacity(self.encoded.len());
        let mut end = self.encoded.len();
        for begin in self.begins.iter().rev() {
            reversed.extend_from_slice(&self.encoded[*begin..end]);
            end = *begin;
        }
        reversed.into()
    }
}

fn text(field: u32, text: &str, to: &mut Vec<u8>) {
    if !text.is_empty() {
        encoding::encode_key(field, WireType::LengthDelimited, to);
        encoding::encode_varint(text.len() as u64, to);
        to.extend_from_slice(text.as_bytes());
    }
}

/// What [`text`] takes of a message's.
fn text_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + encoding::encoded_len_varint(text.len() as u64) + text.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64, text: &str) -> v1::Message {
        let (from, to) = ("ann".to_owned(), "ben".to_owned());
        v1::Message {
            id,
            seq: id + 1,
            from,
            to,
            text: text.to_owned(),
            sent_at_ms: -5,
            sender_deleted: id.is_multiple_of(2),
        }
    }

    fn same(messages: Vec<v1::Message>, more: bool, applied_index: u64) {
        let response = v1::HistoryResponse { messages, more, applied_index };
        let page = HistoryPage::from(response.clone());
        assert_eq!(page.encode_to_vec(), response.encode_to_vec());
        assert_eq!(page.encoded_len(), response.encoded_len());
        assert_eq!(v1::HistoryResponse::decode(page.encode_to_vec().as_slice()), Ok(response));
        assert_eq!(HistoryPage::decode(page.encode_to_vec().as_slice()), Ok(page));
    }

    #[test]
    fn a_page_is_the_same_on_the_wire() {
        same(Vec::new(), false, 0);
        same(vec![v1::Message::default()], true, 7);
        same((0..100).map(|id| message(id, &"ä".repeat(id as usize * 10))).collect(), true, u64::MAX);
    }

    #[test]
    fn messages_are_encoded_as_they_would_be_by_themselves() {
        let all = [
            v1::Message::default(),
            message(1, "one"),
            message(2, ""),
            v1::Message { from: "x".repeat(300), text: "ä".repeat(40_000), ..message(u64::MAX - 1, "") },
            v1::Message { sent_at_ms: i64::MAX, seq: 0, to: String::new(), ..message(300, "three hundred") },
        ];
        let mut messages = Messages::with_capacity(1);
        assert_eq!((messages.len(), messages.is_empty(), messages.reversed()), (0, true, Bytes::new()));
        for v1::Message { id, seq, from, to, text, sent_at_ms, sender_deleted } in &all {
            let said = Said { id: *id, seq: *seq, text, sent_at_ms: *sent_at_ms };
            messages.push(&Direction::new(from, to, *sender_deleted), said);
        }
        let response =
            v1::HistoryResponse { messages: all.iter().rev().cloned().collect(), more: false, applied_index: 0 };
        assert_eq!(messages.reversed(), response.encode_to_vec());
        assert_eq!((messages.len(), messages.is_empty(), messages.bytes()), (5, false, response.encoded_len()));
    }
}
