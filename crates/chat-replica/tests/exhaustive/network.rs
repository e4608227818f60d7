//! Messages under way.
//!
//! Between two processes messages go in order, as in a session. An earlier one may be lost, doubled or overtaken, each at
//! the cost of its budget. Pings and pongs stand apart: of each there is one under way from one process to another, the newest, it may arrive
//! at any moment or never, and a later one takes its place. Without that, every turn's pings would come before and
//! after everything else, and most of those orders differ in nothing but when a lease begins within one instant.
//! So do polls, each asked and answered in one step or never: by them nothing changes hands (rule 3). A late answer only makes
//! somebody stand later than it might, and that is the same as a late request for a vote.

use super::host::{N, host_of};
use chat_replica::protocol::*;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Network {
    /// `[from][to]`, oldest first.
    pub messages: [[Vec<Envelope>; N]; N],
    pub pings: [[Option<Envelope>; N]; N],
    pub pongs: [[Option<Envelope>; N]; N],
    pub polls: [[Option<Envelope>; N]; N],
    /// What `from` sends does not reach `to`.
    pub cut: [[bool; N]; N],
}

impl Network {
    /// Whether it is one that counts as an effect of its own.
    pub fn send(&mut self, envelope: Envelope) -> bool {
        let (from, to) = (host_of(envelope.from.id), host_of(envelope.to.id));
        if self.cut[from][to] {
            return false;
        }
        match envelope.message {
            Message::Ping(_) => self.pings[from][to] = Some(envelope),
            Message::Poll { .. } => self.polls[from][to] = Some(envelope),
            Message::Pong(_) => self.pongs[from][to] = Some(envelope),
            _ => {
                self.messages[from][to].push(envelope);
                return true;
            }
        }
        false
    }

    /// Nothing that `from` sent to `to` arrives any more.
    pub fn drop_from_to(&mut self, from: usize, to: usize) {
        self.messages[from][to].clear();
        self.pings[from][to] = None;
        self.pongs[from][to] = None;
        self.polls[from][to] = None;
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        self.drop_from_to(from, to);
        self.cut[from][to] = true;
    }

    pub fn is_whole(&self, a: usize, b: usize) -> bool {
        !self.cut[a][b] && !self.cut[b][a]
    }

    /// Nobody can receive them any more.
    pub fn forget_pings(&mut self) {
        self.pings = Default::default();
        self.pongs = Default::default();
    }
}
