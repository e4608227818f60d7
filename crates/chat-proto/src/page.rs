//! A page of messages as the service answers with it.

use crate::v1;
use bytes::{Bytes, BytesMut};
use prost::Message as _;

/// A [`v1::HistoryResponse`] whose messages are encoded already: on the wire it is the same, since protobuf writes a message within a message as it
/// writes bytes. So a replica encodes each message where it reads it, all into one piece of memory, and makes no values of them in between.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HistoryPage {
    /// By ascending id; each is a [`v1::Message`].
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub messages: Vec<Bytes>,
    /// There are older ones.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// The state that was seen held everything up to this log index.
    #[prost(uint64, tag = "3")]
    pub applied_index: u64,
}

impl From<v1::HistoryResponse> for HistoryPage {
    fn from(v1::HistoryResponse { messages, more, applied_index }: v1::HistoryResponse) -> HistoryPage {
        let mut to = BytesMut::new();
        let messages = messages.iter().map(|message| encode(message, &mut to)).collect();
        HistoryPage { messages, more, applied_index }
    }
}

/// The encoded message, behind what is in `to` already: many of them share its memory.
pub fn encode(message: &v1::Message, to: &mut BytesMut) -> Bytes {
    to.reserve(message.encoded_len());
    message.encode_raw(to);
    to.split().freeze()
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
        assert_eq!(v1::HistoryResponse::decode(page.encode_to_vec().as_slice()), Ok(response));
    }

    #[test]
    fn a_page_is_the_same_on_the_wire() {
        same(Vec::new(), false, 0);
        same(vec![v1::Message::default()], true, 7);
        same((0..100).map(|id| message(id, &"ä".repeat(id as usize * 10))).collect(), true, u64::MAX);
    }

    #[test]
    fn messages_share_memory() {
        let mut to = BytesMut::with_capacity(4096);
        let first = encode(&message(1, "one"), &mut to);
        let second = encode(&message(2, "two"), &mut to);
        assert_eq!(first.as_ptr().wrapping_add(first.len()), second.as_ptr());
    }
}
