//! A page of a conversation, decoded into what callers see: values of the wire's types in between would be most of what a page costs a client.

use bytes::Buf as _;
use chat_proto::v1;
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    codegen::http::uri::PathAndQuery,
};
use tonic_prost::ProstEncoder;

use crate::{
    model::Message,
    name::Name,
    owner::{MOST_DECODED, Route},
};

const PATH: &str = "/chat.v1.ChatService/History";
/// No page has more messages.
pub(crate) const MOST_MESSAGES: u32 = 1000;

/// A [`v1::HistoryResponse`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub messages: Vec<Message>,
    pub more: bool,
}

/// `ChatService.History`, on this route.
pub(crate) async fn history(route: &Route, request: Request<v1::HistoryRequest>) -> Result<Response<Page>, Status> {
    let mut grpc = Grpc::new(route.channel.clone()).max_decoding_message_size(MOST_DECODED);
    grpc.ready().await.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
    grpc.unary(request, PathAndQuery::from_static(PATH), PageCodec).await
}

#[derive(Debug)]
struct PageCodec;

impl Codec for PageCodec {
    type Encode = v1::HistoryRequest;
    type Decode = Page;
    type Encoder = ProstEncoder<v1::HistoryRequest>;
    type Decoder = PageCodec;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> PageCodec {
        PageCodec
    }
}

impl Decoder for PageCodec {
    type Item = Page;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Page>, Status> {
        // One piece, not copied.
        let bytes = from.copy_to_bytes(from.remaining());
        decode(&bytes).map(Some).map_err(|error| Status::internal(error.0))
    }
}

/// Why something is no page.
#[derive(Debug)]
struct Broken(String);

impl From<DecodeError> for Broken {
    fn from(error: DecodeError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::str::Utf8Error> for Broken {
    fn from(error: std::str::Utf8Error) -> Self {
        Self(error.to_string())
    }
}

fn decode(mut from: &[u8]) -> Result<Page, Broken> {
    let (mut page, mut names) = (Page::default(), Names::default());
    while !from.is_empty() {
        let (field, wire_type) = encoding::decode_key(&mut from)?;
        match field {
            1 => {
                let all = from.len();
                let bytes = delimited(wire_type, &mut from)?;
                if page.messages.is_empty() {
                    // The others may be about as long.
                    page.messages.reserve((all / (bytes.len() + 1)).clamp(1, MOST_MESSAGES as usize));
                }
                page.messages.push(message(bytes, &mut names)?);
            }
            2 => encoding::bool::merge(wire_type, &mut page.more, &mut from, DecodeContext::default())?,
            // Of use to who asks a backup; what is of another type there is no page all the same.
            3 => encoding::uint64::merge(wire_type, &mut 0, &mut from, DecodeContext::default())?,
            _ => encoding::skip_field(wire_type, field, &mut from, DecodeContext::default())?,
        }
    }
    Ok(page)
}

fn message(mut from: &[u8], names: &mut Names) -> Result<Message, Broken> {
    let mut message = Message::default();
    let context = DecodeContext::default;
    while !from.is_empty() {
        let (field, wire_type) = encoding::decode_key(&mut from)?;
        match field {
            1 => encoding::uint64::merge(wire_type, &mut message.id, &mut from, context())?,
            2 => encoding::uint64::merge(wire_type, &mut message.seq, &mut from, context())?,
            3 => message.from = names.name(delimited(wire_type, &mut from)?)?,
            4 => message.to = names.name(delimited(wire_type, &mut from)?)?,
            5 => message.text = str::from_utf8(delimited(wire_type, &mut from)?)?.to_owned(),
            6 => encoding::int64::merge(wire_type, &mut message.sent_at_ms, &mut from, context())?,
            7 => encoding::bool::merge(wire_type, &mut message.sender_deleted, &mut from, context())?,
            _ => encoding::skip_field(wire_type, field, &mut from, context())?,
        }
    }
    Ok(message)
}

/// Takes what has a length before it.
fn delimited<'a>(wire_type: WireType, from: &mut &'a [u8]) -> Result<&'a [u8], Broken> {
    encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = usize::try_from(encoding::decode_varint(from)?).unwrap_or(usize::MAX);
    let cut = from.split_at_checked(length).ok_or_else(|| Broken("a field is longer than the page".to_owned()))?;
    *from = cut.1;
    Ok(cut.0)
}

/// The names that were seen last: a conversation has two.
#[derive(Debug, Default)]
struct Names([Name; 2]);

impl Names {
    fn name(&mut self, bytes: &[u8]) -> Result<Name, Broken> {
        if let Some(known) = self.0.iter().find(|known| known.as_bytes() == bytes) {
            return Ok(known.clone());
        }
        self.0.swap(0, 1);
        self.0[0] = str::from_utf8(bytes)?.into();
        Ok(self.0[0].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;

    fn wire() -> impl Strategy<Value = v1::HistoryResponse> {
        let name = prop_oneof![Just("ann".to_owned()), Just("ben".to_owned()), ".{0,3}"];
        let number = prop_oneof![0..3u64, any::<u64>()];
        let message = (number.clone(), number, name.clone(), name, ".{0,20}", any::<i64>(), any::<bool>());
        let message = message.prop_map(|(id, seq, from, to, text, sent_at_ms, sender_deleted)| v1::Message {
            id,
            seq,
            from,
            to,
            text,
            sent_at_ms,
            sender_deleted,
        });
        let messages = prop::collection::vec(message, 0..20);
        let page = (messages, any::<bool>(), any::<u64>());
        page.prop_map(|(messages, more, applied_index)| v1::HistoryResponse { messages, more, applied_index })
    }

    /// By way of the wire's types.
    fn slowly(response: v1::HistoryResponse) -> Page {
        Page { messages: response.messages.into_iter().map(Message::from).collect(), more: response.more }
    }

    proptest! {
        #[test]
        fn a_page_is_what_the_wire_says(response in wire()) {
            let bytes = response.encode_to_vec();
            prop_assert_eq!(decode(&bytes).expect("a page"), slowly(response));
        }

        #[test]
        fn what_is_no_page_is_refused(response in wire(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = response.encode_to_vec();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let slow = v1::HistoryResponse::decode(bytes.as_slice());
            match (decode(&bytes), slow) {
                (Ok(page), Ok(response)) => prop_assert_eq!(page, slowly(response)),
                (Err(_), Err(_)) => {}
                (found, wanted) => prop_assert!(false, "{:?} where prost says {:?}", found, wanted),
            }
        }
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        let response = v1::HistoryResponse { messages: vec![v1::Message::default()], more: true, applied_index: 0 };
        for field in 1..=3 {
            // Four bytes, which is the type of none.
            let mut bytes = response.encode_to_vec();
            bytes.push(field << 3 | 5);
            bytes.extend([0; 4]);
            assert!(v1::HistoryResponse::decode(bytes.as_slice()).is_err(), "prost takes field {field}");
            assert!(decode(&bytes).is_err(), "field {field} is taken");
        }
        for field in 1..=7 {
            let mut bytes = vec![10, 5, field << 3 | 5];
            bytes.extend([0; 4]);
            assert!(v1::HistoryResponse::decode(bytes.as_slice()).is_err(), "prost takes field {field} of a message");
            assert!(decode(&bytes).is_err(), "field {field} of a message is taken");
        }
    }

    #[test]
    fn names_are_shared() {
        let message = |from: &str, to: &str| v1::Message { from: from.into(), to: to.into(), ..Default::default() };
        let messages = vec![message("ann", "ben"), message("ben", "ann"), message("ann", "cid"), message("ann", "ben")];
        let page = decode(&v1::HistoryResponse { messages, ..Default::default() }.encode_to_vec()).unwrap();
        let [first, second, third, _] = page.messages.as_slice() else { panic!("{page:?}") };
        assert_eq!(first.from.as_ptr(), second.to.as_ptr());
        assert_eq!(first.to.as_ptr(), second.from.as_ptr());
        assert_eq!((third.from.as_str(), third.to.as_str()), ("ann", "cid"));
        assert_eq!((page.messages[3].from.as_str(), page.messages[3].to.as_str()), ("ann", "ben"));
    }
}
