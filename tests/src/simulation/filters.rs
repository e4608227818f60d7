//! What a filter between two hosts can do: single kinds of messages, and single dials.

use super::network::kind;
use super::world::{Happening, World};
use chat_replica::protocol::Input;

impl World {
    /// Messages of this kind from a to b get lost from now on, or "all" of them.
    pub fn mute(&mut self, a: usize, b: usize, kind: &'static str) {
        self.network.muted.push((a, b, kind));
        self.note(|| format!("of {}->{} each {kind} gets lost", a + 1, b + 1));
    }

    /// Ends [`World::mute`] of what these hosts send.
    pub fn unmute(&mut self, hosts: &[usize]) {
        self.network.muted.retain(|(from, _, _)| !hosts.contains(from));
        self.note(|| "messages get through again".to_string());
    }

    /// Messages of this kind from a to b are held back from now on, until [`World::let_go`].
    pub fn hold_back(&mut self, a: usize, b: usize, kind: &'static str) {
        self.network.held.push((a, b, kind));
        self.note(|| format!("of {}->{} each {kind} is held back", a + 1, b + 1));
    }

    /// No more messages are held back; those that are stay where they are.
    pub fn stop_holding(&mut self) {
        self.network.held.clear();
    }

    /// What of one kind was held back arrives now.
    pub fn let_go(&mut self, what: &'static str) {
        let held_back = std::mem::take(&mut self.network.held_back);
        let (go, stay) = held_back.into_iter().partition(|(_, envelope)| kind(&envelope.message) == what);
        self.network.held_back = stay;
        for (session, envelope) in go {
            self.after(0, Happening::Deliver { session, envelope });
        }
    }

    /// One dial of b by a is refused, although b lives.
    pub fn refuse_once(&mut self, a: usize, b: usize) {
        if let Some(peer) = self.process(a).and_then(|process| process.dials[b].last) {
            self.note(|| format!("one dial {}->{} is refused", a + 1, b + 1));
            self.input(a, Input::Refused { peer });
        }
    }

    /// A firewall between the two refuses a's dials and ends the session that a dialled; b's own lasts.
    pub fn reject(&mut self, a: usize, b: usize) {
        self.network.rejects.push((a, b));
        self.note(|| format!("dials {}->{} are refused from now on", a + 1, b + 1));
        if let Some(session) = self.process(a).and_then(|process| process.dials[b].session) {
            self.ended(session, true);
        }
    }

    /// No dial of a process that listens is refused any more.
    pub fn stop_rejecting(&mut self) {
        self.network.rejects.clear();
        self.note(|| "no dials are refused any more".to_string());
    }
}
