//! From the wire.

use super::{Greeting, Problem, WireError};
use crate::protocol::*;
use bytes::Bytes;
use chat_proto::v1;
use chat_proto::v1::frame::Message as Wire;

type Decoded<T> = Result<T, WireError>;

/// No cluster gets that far; whoever took up a higher one could leave no room for the next.
const MAX_ROUND: u64 = u64::MAX / 2;

/// The envelope that a frame holds.
pub fn decode(frame: v1::Frame) -> Decoded<Envelope> {
    Ok(Envelope {
        cluster: cluster(&frame.cluster, "cluster")?,
        from: required(frame.from, "from", member)?,
        to: required(frame.to, "to", member)?,
        message: required(frame.message, "message", message)?,
    })
}

/// The greeting that a welcome holds.
pub fn decode_welcome(welcome: v1::Welcome) -> Decoded<Greeting> {
    Ok(Greeting {
        cluster: cluster(&welcome.cluster, "cluster")?,
        from: required(welcome.from, "from", member)?,
        refusal: Some(welcome.refusal).filter(|refusal| !refusal.is_empty()),
    })
}

fn message(message: Wire) -> Decoded<Message> {
    Ok(match message {
        Wire::Hello(m) => Message::Hello(hello(m)?),
        Wire::Unwelcome(m) => Message::Unwelcome { known: required(m.known, "known", incarnation)? },
        Wire::Ping(m) => Message::Ping(Ping {
            sent_at: Time(m.sent_at),
            promised: epoch(m.promised, "promised")?,
            view: place(m.view, "view")?,
            committed: m.committed,
            primary: m.primary,
        }),
        Wire::Pong(m) => Message::Pong(Pong {
            sent_at: Time(m.sent_at),
            granted: m.granted,
            promised: epoch(m.promised, "promised")?,
            contacts: all(m.contacts, "contacts", member)?,
        }),
        Wire::Poll(m) => Message::Poll { ballot: m.ballot, last: place(m.last, "last")? },
        Wire::PollReply(m) => {
            Message::PollReply { ballot: m.ballot, willing: m.willing, promised: epoch(m.promised, "promised")? }
        }
        Wire::RequestVote(m) => Message::RequestVote { epoch: epoch(m.epoch, "epoch")?, last: place(m.last, "last")? },
        Wire::Vote(m) => Message::Vote {
            epoch: epoch(m.epoch, "epoch")?,
            granted: m.granted,
            promised: epoch(m.promised, "promised")?,
            last: place(m.last, "last")?,
        },
        Wire::Append(m) => Message::Append(append(m)?),
        Wire::AppendReply(m) => Message::AppendReply {
            epoch: epoch(m.epoch, "epoch")?,
            promised: epoch(m.promised, "promised")?,
            matched: m.matched,
            conflict: m.conflict,
        },
        Wire::Transfer(m) => Message::Transfer { epoch: epoch(m.epoch, "epoch")? },
        Wire::Leave(m) => Message::Leave { epoch: epoch(m.epoch, "epoch")? },
    })
}

fn hello(hello: v1::Hello) -> Decoded<Hello> {
    let at = |at: v1::ViewAt| Ok(ViewAt { index: at.index, view: required(at.view, "view", view)? });
    let death = |death: v1::Death| {
        Ok(Death {
            incarnation: required(death.incarnation, "incarnation", incarnation)?,
            views: all(death.views, "views", at)?,
        })
    };
    Ok(Hello {
        promised: epoch(hello.promised, "promised")?,
        last: place(hello.last, "last")?,
        committed: hello.committed,
        deaths: all(hello.deaths, "deaths", death)?,
        impaired: hello.impaired,
        founders: hello.founders.into_iter().map(ReplicaId).collect(),
    })
}

fn append(append: v1::Append) -> Decoded<Append> {
    let prev = place(append.prev, "prev")?;
    let count = append.entries.len() as u64;
    prev.index.checked_add(count).ok_or_else(|| error("prev.index", Problem::Range))?;
    let mut index = prev.index;
    let entries = all(append.entries, "entries", |wire| {
        index += 1;
        entry(wire, index)
    })?;
    Ok(Append {
        epoch: epoch(append.epoch, "epoch")?,
        prev,
        prev_hash: ChainHash(array(&append.prev_hash, "prev_hash")?),
        entries,
        committed: append.committed,
    })
}

fn entry(entry: v1::Entry, index: u64) -> Decoded<Entry> {
    Ok(Entry {
        index,
        epoch: epoch(entry.epoch, "epoch")?,
        body: required(entry.body, "body", body)?,
        hash: ChainHash(array(&entry.hash, "hash")?),
    })
}

fn body(body: v1::entry::Body) -> Decoded<Body> {
    use v1::entry::Body as Wire;
    Ok(match body {
        Wire::Commands(commands) => Body::Commands(commands),
        Wire::View(v) => Body::View(view(v)?),
        Wire::Founding(founding) => Body::Founding {
            cluster: ClusterId(array(&founding.cluster, "cluster")?),
            view: required(founding.view, "view", view)?,
        },
    })
}

fn view(view: v1::View) -> Decoded<View> {
    Ok(View {
        epoch: epoch(view.epoch, "epoch")?,
        primary: ReplicaId(view.primary),
        members: all(view.members, "members", member)?,
    })
}

fn member(member: v1::MemberId) -> Decoded<Member> {
    Ok(Member {
        id: ReplicaId(member.id),
        disk: DiskId(array(&member.disk, "disk")?),
        incarnation: required(member.incarnation, "incarnation", incarnation)?,
    })
}

fn incarnation(incarnation: v1::Incarnation) -> Decoded<Incarnation> {
    Ok(Incarnation { count: incarnation.count, nonce: incarnation.nonce })
}

fn epoch(wire: Option<v1::Epoch>, field: &str) -> Decoded<Epoch> {
    required(wire, field, |epoch| match epoch.round {
        0..=MAX_ROUND => Ok(Epoch { round: epoch.round, replica: ReplicaId(epoch.replica) }),
        _ => Err(error("round", Problem::Range)),
    })
}

fn place(wire: Option<v1::Place>, field: &str) -> Decoded<Place> {
    required(wire, field, |place| Ok(Place { index: place.index, epoch: epoch(place.epoch, "epoch")? }))
}

fn cluster(bytes: &Bytes, field: &str) -> Decoded<Option<ClusterId>> {
    if bytes.is_empty() { Ok(None) } else { array(bytes, field).map(|id| Some(ClusterId(id))) }
}

fn array<const N: usize>(bytes: &[u8], field: &str) -> Decoded<[u8; N]> {
    bytes.try_into().map_err(|_| error(field, Problem::Length { wanted: N, got: bytes.len() }))
}

/// A field that has to be there, whose own fields' errors are named with it.
fn required<W, T>(wire: Option<W>, field: &str, decode: impl FnOnce(W) -> Decoded<T>) -> Decoded<T> {
    let wire = wire.ok_or_else(|| error(field, Problem::Missing))?;
    decode(wire).map_err(|inner| inside(field, inner))
}

fn all<W, T>(wire: Vec<W>, field: &str, mut decode: impl FnMut(W) -> Decoded<T>) -> Decoded<Vec<T>> {
    let decode = |(at, wire)| decode(wire).map_err(|inner| inside(&format!("{field}[{at}]"), inner));
    wire.into_iter().enumerate().map(decode).collect()
}

fn error(field: &str, problem: Problem) -> WireError {
    WireError { field: field.into(), problem }
}

fn inside(outer: &str, inner: WireError) -> WireError {
    WireError { field: format!("{outer}.{}", inner.field), problem: inner.problem }
}
