//! From the driver to the sessions.

use crate::protocol::{Envelope, Member, ReplicaId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

/// Takes messages for all peers. Clones are the same one.
#[derive(Clone, Debug)]
pub struct PeerSender {
    lanes: Arc<BTreeMap<ReplicaId, Arc<Lane>>>,
    tasks: TaskTracker,
}

impl PeerSender {
    pub(super) fn new(lanes: BTreeMap<ReplicaId, Arc<Lane>>, tasks: TaskTracker) -> PeerSender {
        PeerSender { lanes: Arc::new(lanes), tasks }
    }

    /// Hands a message to the session with exactly the process run that it is for. Never blocks: without such a session,
    /// or with a full queue, the message is dropped, and the protocol asks again.
    pub fn send(&self, envelope: Envelope) {
        match self.lanes.get(&envelope.to.id) {
            Some(lane) => lane.send(envelope),
            None => tracing::trace!(to = %envelope.to, "dropped: not a peer"),
        }
    }

    /// Waits until all tasks of the transport and all connections that it dialled are gone. To be called after the
    /// shutdown was asked for: they do not end before.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

type Open = (Member, mpsc::Sender<Envelope>);

/// To one peer. A session's queue is its own, so that nothing meant for an earlier session comes late on a later one and
/// the first message is always the greeting.
#[derive(Default, Debug)]
pub(super) struct Lane {
    session: Mutex<Option<Open>>,
}

impl Lane {
    fn send(&self, envelope: Envelope) {
        let session = self.lock();
        let Some((member, queue)) = session.as_ref().filter(|(member, _)| *member == envelope.to) else {
            tracing::trace!(to = %envelope.to, "dropped: no session");
            return;
        };
        if queue.try_send(envelope).is_err() {
            tracing::debug!(to = %member, "dropped: the queue is full");
        }
    }

    /// Until the answer is dropped, messages for `member` go to `queue`.
    pub fn open(self: &Arc<Self>, member: Member, queue: mpsc::Sender<Envelope>) -> OpenLane {
        *self.lock() = Some((member, queue));
        OpenLane(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane in use.
pub(super) struct OpenLane(Arc<Lane>);

impl Drop for OpenLane {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}
