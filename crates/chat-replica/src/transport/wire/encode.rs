//! To the wire.

use super::Greeting;
use crate::protocol::*;
use bytes::Bytes;
use chat_proto::v1;
use chat_proto::v1::frame::Message as Wire;

/// An envelope as a frame.
pub fn encode(envelope: Envelope) -> v1::Frame {
    v1::Frame {
        cluster: cluster(envelope.cluster),
        from: Some(member(envelope.from)),
        to: Some(member(envelope.to)),
        message: Some(message(envelope.message)),
    }
}

/// A greeting as a welcome.
pub fn encode_welcome(greeting: Greeting) -> v1::Welcome {
    v1::Welcome {
        cluster: cluster(greeting.cluster),
        from: Some(member(greeting.from)),
        refusal: greeting.refusal.unwrap_or_default(),
    }
}

fn message(message: Message) -> Wire {
    match message {
        Message::Hello(m) => Wire::Hello(hello(m)),
        Message::Unwelcome { known } => Wire::Unwelcome(v1::Unwelcome { known: Some(incarnation(known)) }),
        Message::Ping(m) => Wire::Ping(v1::Ping {
            sent_at: m.sent_at.0,
            promised: Some(epoch(m.promised)),
            view: Some(place(m.view)),
            committed: m.committed,
            primary: m.primary,
        }),
        Message::Pong(m) => Wire::Pong(v1::Pong {
            sent_at: m.sent_at.0,
            granted: m.granted,
            promised: Some(epoch(m.promised)),
            contacts: m.contacts.into_iter().map(member).collect(),
        }),
        Message::Poll { ballot, last } => Wire::Poll(v1::Poll { ballot, last: Some(place(last)) }),
        Message::PollReply { ballot, willing, promised } => {
            Wire::PollReply(v1::PollReply { ballot, willing, promised: Some(epoch(promised)) })
        }
        Message::RequestVote { epoch: e, last } => {
            Wire::RequestVote(v1::RequestVote { epoch: Some(epoch(e)), last: Some(place(last)) })
        }
        Message::Vote { epoch: e, granted, promised, last } => Wire::Vote(v1::Vote {
            epoch: Some(epoch(e)),
            granted,
            promised: Some(epoch(promised)),
            last: Some(place(last)),
        }),
        Message::Append(m) => Wire::Append(append(m)),
        Message::AppendReply { epoch: e, promised, matched, conflict } => Wire::AppendReply(v1::AppendReply {
            epoch: Some(epoch(e)),
            promised: Some(epoch(promised)),
            matched,
            conflict,
        }),
        Message::Transfer { epoch: e } => Wire::Transfer(v1::Transfer { epoch: Some(epoch(e)) }),
        Message::Leave { epoch: e } => Wire::Leave(v1::LeaveRequest { epoch: Some(epoch(e)) }),
    }
}

fn hello(hello: Hello) -> v1::Hello {
    let death = |death: Death| v1::Death {
        incarnation: Some(incarnation(death.incarnation)),
        views: death.views.into_iter().map(|at| v1::ViewAt { index: at.index, view: Some(view(at.view)) }).collect(),
    };
    v1::Hello {
        promised: Some(epoch(hello.promised)),
        last: Some(place(hello.last)),
        committed: hello.committed,
        deaths: hello.deaths.into_iter().map(death).collect(),
        impaired: hello.impaired,
        founders: hello.founders.into_iter().map(|id| id.0).collect(),
    }
}

fn append(append: Append) -> v1::Append {
    v1::Append {
        epoch: Some(epoch(append.epoch)),
        prev: Some(place(append.prev)),
        prev_hash: bytes(&append.prev_hash.0),
        entries: append.entries.into_iter().map(entry).collect(),
        committed: append.committed,
    }
}

fn entry(entry: Entry) -> v1::Entry {
    use v1::entry::Body as Wire;
    let body = match entry.body {
        Body::Commands(commands) => Wire::Commands(commands),
        Body::View(v) => Wire::View(view(v)),
        Body::Founding { cluster, view: v } => {
            Wire::Founding(v1::Founding { cluster: bytes(&cluster.0), view: Some(view(v)) })
        }
    };
    v1::Entry { epoch: Some(epoch(entry.epoch)), hash: bytes(&entry.hash.0), body: Some(body) }
}

fn view(view: View) -> v1::View {
    v1::View {
        epoch: Some(epoch(view.epoch)),
        primary: view.primary.0,
        members: view.members.into_iter().map(member).collect(),
    }
}

fn member(member: Member) -> v1::MemberId {
    v1::MemberId { id: member.id.0, disk: bytes(&member.disk.0), incarnation: Some(incarnation(member.incarnation)) }
}

fn incarnation(incarnation: Incarnation) -> v1::Incarnation {
    v1::Incarnation { count: incarnation.count, nonce: incarnation.nonce }
}

fn epoch(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { round: epoch.round, replica: epoch.replica.0 }
}

fn place(place: Place) -> v1::Place {
    v1::Place { index: place.index, epoch: Some(epoch(place.epoch)) }
}

fn cluster(cluster: Option<ClusterId>) -> Bytes {
    cluster.map_or_else(Bytes::new, |cluster| bytes(&cluster.0))
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
