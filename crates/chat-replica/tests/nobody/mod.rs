//! Who is there where nobody else is: an outbox to which nobody listens, and the names of others.

use chat_core::Applied;
use chat_replica::node::Outbox;
use chat_replica::protocol::*;

/// Nobody listens.
pub struct Nobody;

impl Outbox for Nobody {
    fn send(&mut self, _: Envelope) {}
    fn applied(&mut self, _: &Entry, _: Vec<Applied>, _: usize) {}
    fn event(&mut self, event: Event) {
        assert!(!matches!(event, Event::Fatal(_)), "{event:?}");
    }
}

/// The first process run of a replica.
pub fn member(id: u32) -> Member {
    Member { id: ReplicaId(id), disk: DiskId([id as u8; 16]), incarnation: Incarnation { count: 1, nonce: 1 } }
}
