//! Pages: complete up to a moment, and nothing else.

use std::collections::HashMap;

use crate::complaint::Fault;
use crate::history::{CallId, Message, Micros, Request};

use super::graph::{Bound, Node, What};
use super::{Work, around};

/// Of each conversation that somebody read: its places, by id.
pub(super) type Conversations = HashMap<(usize, usize), Vec<usize>>;

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl<'a> Work<'a> {
    pub(super) fn conversations(&mut self) -> Conversations {
        let history = self.history;
        let mut conversations = Conversations::new();
        for call in &history.calls {
            if let Request::ReadConversation { with, .. } = &call.request {
                let (reader, other) = (self.account(&call.account), self.account(with));
                conversations.entry(pair(reader, other)).or_default();
            }
        }
        for (place, &(from, to)) in self.ends.iter().enumerate() {
            if let Some(conversation) = conversations.get_mut(&pair(from, to)) {
                conversation.push(place);
            }
        }
        for conversation in conversations.values_mut() {
            conversation.sort_unstable_by_key(|&place| self.places.all[place].id);
        }
        conversations
    }

    /// The oldest messages of the reader's mailbox after a position.
    pub(super) fn see_mailbox(&mut self, id: CallId, node: Node, page: &[Message], after: u64, limit: u32) {
        let account = self.numbers[&*self.history.calls[id.0].account];
        let mut last = after;
        for (number, message) in page.iter().enumerate() {
            if *message.to != *self.accounts[account].name || number >= limit as usize || message.seq <= last {
                return self.complaints.add(Fault::PageHas { message: message.clone() }, [id]);
            }
            if message.seq > last + 1 {
                return self.page_skips(id, account, last + 1);
            }
            last = message.seq;
        }
        let (seen, next) = around(&self.accounts[account].chain, last);
        if let Some(seen) = seen.filter(|_| !page.is_empty()) {
            self.graph.before(seen, node);
        }
        if let Some(next) = next.filter(|_| page.len() < limit as usize) {
            self.graph.before(node, next);
        }
    }

    fn page_skips(&mut self, id: CallId, account: usize, seq: u64) {
        let missing = self.places.of_mailbox(self.accounts[account].name).iter().find(|place| place.seq == seq);
        match missing {
            Some(place) => self.complaints.add(Fault::PageLacks { missing: place.message() }, [id]),
            None => self.complaints.add(Fault::Contradiction, [id]),
        }
    }

    /// The newest messages of a conversation before a position.
    pub(super) fn see_conversation(&mut self, id: CallId, page: &[Message], conversations: &Conversations) {
        let call = &self.history.calls[id.0];
        let (&Request::ReadConversation { ref with, before, limit, stale }, Some(ended)) = (&call.request, call.ended)
        else {
            return;
        };
        if let Some(message) = foreign(page, &call.account, with, before, limit) {
            return self.complaints.add(Fault::PageHas { message: message.clone() }, [id]);
        }
        if limit == 0 {
            return;
        }
        // A backup shows the state of some earlier moment.
        let earliest = if stale { Bound::NEVER_BEFORE } else { Bound(call.begun, Some(id)) };
        let node = self.graph.add(What::Look(id), earliest, Bound(ended, Some(id)));
        let reader = self.numbers[&*call.account];
        if !stale {
            self.while_alive(reader, node);
        }
        let conversation = &conversations[&pair(reader, self.numbers[&**with])];
        let places = &self.places.all;
        let from = match page.first() {
            Some(first) if page.len() == limit as usize => {
                conversation.partition_point(|&place| places[place].id < first.id)
            }
            _ => 0,
        };
        let mut rest = page.iter().peekable();
        for &place in &conversation[from..] {
            let found = places[place].id;
            while rest.next_if(|message| message.id < found).is_some() {}
            if rest.next_if(|message| message.id == found).is_some() {
                // Only the last one matters; the others come before it.
                if rest.peek().is_none() {
                    self.graph.before(place as Node, node);
                }
            } else if self.can_be_discarded(place, ended) {
                continue;
            } else if rest.peek().is_some() {
                let missing = places[place].message();
                return self.complaints.add(Fault::PageLacks { missing }, [id]);
            } else {
                if before.is_none_or(|before| found < before) {
                    self.graph.before(node, place as Node);
                }
                return;
            }
        }
    }

    fn can_be_discarded(&self, place: usize, by: Micros) -> bool {
        let delete = self.accounts[self.ends[place].1].delete;
        delete.is_some_and(|delete| self.graph.moment(delete).earliest.0 <= by)
    }
}

/// The first message that does not belong on such a page.
fn foreign<'m>(page: &'m [Message], reader: &str, with: &str, before: Option<u64>, limit: u32) -> Option<&'m Message> {
    let mut last = 0;
    for (number, message) in page.iter().enumerate() {
        let ends = (&*message.from, &*message.to);
        let theirs = ends == (reader, with) || ends == (with, reader);
        let asked_for = number < limit as usize && before.is_none_or(|before| message.id < before);
        if !theirs || !asked_for || message.id <= last {
            return Some(message);
        }
        last = message.id;
    }
    None
}
