//! The effects of one turn, in the order in which `node::Node` causes them.
//!
//! A turn is one call and takes no simulated time. Its disk and its outbox write down what they were asked for; the world then
//! carries that out one by one, lets the time of the sync pass where it is, and can stop, or end the process, between any two.

use chat_core::Applied;
use chat_replica::node::Outbox;
use chat_replica::protocol::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What becomes of the turn's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Landing {
    /// There was none.
    Nothing,
    /// Written, and not synced: kill -9 does not take it, the loss of power may.
    Written,
    /// Synced, which takes its time.
    Synced,
}

/// One thing that a turn does to the world.
#[derive(Debug)]
pub(crate) enum Effect {
    Send(Envelope),
    Event(Event),
    /// A committed entry was carried out, within the transaction: its answers leave.
    Applied {
        index: u64,
        epoch: Epoch,
        results: Vec<Applied>,
        copies: usize,
    },
    /// The transaction ends. Whatever is sent after this rests on it.
    Commit(Landing),
    /// The disk failed: the process ends here (rule 15).
    Failed(&'static str),
}

/// What disk and outbox write to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Rc<RefCell<VecDeque<Effect>>>);

impl Journal {
    pub fn push(&self, effect: Effect) {
        self.0.borrow_mut().push_back(effect);
    }

    pub fn take(&self) -> VecDeque<Effect> {
        std::mem::take(&mut self.0.borrow_mut())
    }

    /// Whether the sync is through: the clock has moved on since.
    pub fn is_synced(&self) -> bool {
        matches!(self.0.borrow().back(), Some(Effect::Commit(Landing::Synced)))
    }
}

impl Outbox for Journal {
    fn send(&mut self, envelope: Envelope) {
        self.push(Effect::Send(envelope));
    }

    fn applied(&mut self, entry: &Entry, results: Vec<Applied>, copies: usize) {
        self.push(Effect::Applied { index: entry.index, epoch: entry.epoch, results, copies });
    }

    fn event(&mut self, event: Event) {
        self.push(Effect::Event(event));
    }
}
