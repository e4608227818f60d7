//! Calls that tell of the state: what they were told holds at one moment of theirs.

use crate::complaint::Fault;
use crate::history::{Answer, Call, CallId, Marks, Micros, Outcome, Reason, Request};

use super::graph::{Bound, Node, What};
use super::{Work, around};

impl<'a> Work<'a> {
    pub(super) fn look_all(&mut self) {
        let history = self.history;
        self.find_marks();
        let conversations = self.conversations();
        for (number, call) in history.calls.iter().enumerate() {
            let (id, Some(ended)) = (CallId(number), call.ended) else { continue };
            match (&call.outcome, &call.request) {
                (Outcome::Done(Answer::Marks(marks)), &Request::Acknowledge { delivered, read }) => {
                    let node = self.look(id, call, ended);
                    if contradicts(*marks, delivered, read) {
                        self.complaints.add(Fault::Contradiction, [id]);
                    }
                    self.see_last(call, node, marks.last);
                    self.see_marks(id, call, node, *marks);
                }
                (Outcome::Done(Answer::Page(page)), &Request::ReadMailbox { after, limit }) => {
                    let node = self.look(id, call, ended);
                    self.see_mailbox(id, node, page, after, limit);
                }
                (Outcome::Done(Answer::Page(page)), Request::ReadConversation { .. }) => {
                    self.see_conversation(id, page, &conversations);
                }
                (Outcome::Done(Answer::Deleted { discarded }), _) => self.count_discarded(id, *discarded),
                (Outcome::Rejected(reason), _) => self.refused(id, call, ended, reason),
                _ => {}
            }
        }
    }

    /// The moment of a call of an account that exists.
    fn look(&mut self, id: CallId, call: &Call, ended: Micros) -> Node {
        let node = self.graph.add(What::Look(id), Bound(call.begun, Some(id)), Bound(ended, Some(id)));
        let account = self.numbers[&*call.account];
        self.while_alive(account, node);
        node
    }

    fn see_last(&mut self, call: &Call, node: Node, last: u64) {
        let (newest, next) = around(&self.accounts[self.numbers[&*call.account]].chain, last);
        if let Some(newest) = newest {
            self.graph.before(newest, node);
        }
        if let Some(next) = next {
            self.graph.before(node, next);
        }
    }

    fn refused(&mut self, id: CallId, call: &'a Call, ended: Micros, reason: &Reason) {
        let moment =
            |work: &mut Self| work.graph.add(What::Look(id), Bound(call.begun, Some(id)), Bound(ended, Some(id)));
        match (reason, &call.request) {
            (Reason::NameTaken, Request::Register { .. }) => {
                if let Some(register) = self.accounts[self.numbers[&*call.account]].register {
                    let node = moment(self);
                    self.graph.before(register, node);
                }
            }
            (Reason::AccountDeleted, _) => {
                let node = moment(self);
                self.when_gone(self.numbers[&*call.account], node, id);
            }
            (Reason::NoSuchRecipient, Request::Send { to, .. }) => {
                let node = self.look(id, call, ended);
                self.nobody(id, call, ended, to, node);
            }
            (&Reason::MarkBeyondLast { last }, &Request::Acknowledge { delivered, read }) => {
                let node = self.look(id, call, ended);
                self.see_last(call, node, last);
                if delivered.max(read).is_none_or(|asked| asked <= last) {
                    self.complaints.add(Fault::Contradiction, [id]);
                }
            }
            (&Reason::UndeliveredMessages { count }, Request::Delete { .. }) => {
                let node = self.look(id, call, ended);
                self.see_undelivered(call, ended, node, count);
                self.count_undelivered(id, call, ended, count);
            }
            _ => {}
        }
    }

    /// The recipient did not exist yet, or no more.
    fn nobody(&mut self, id: CallId, call: &Call, ended: Micros, to: &'a str, node: Node) {
        let to = self.account(to);
        let account = &self.accounts[to];
        let not_yet = match account.register {
            Some(register) => call.begun <= self.graph.moment(register).latest.0,
            None => !account.alive,
        };
        let no_more = account.delete.is_some_and(|delete| self.graph.moment(delete).earliest.0 <= ended);
        match (not_yet, no_more, account.register) {
            (true, false, Some(register)) => self.graph.before(node, register),
            (false, ..) => self.when_gone(to, node, id),
            (true, ..) => {}
        }
    }

    /// No send and no acknowledgement comes after the deletion, so the last of them count.
    fn count_discarded(&mut self, id: CallId, count: u64) {
        let call = &self.history.calls[id.0];
        let account = &self.accounts[self.numbers[&*call.account]];
        let in_time = |earliest: &&Micros| call.ended.is_none_or(|ended| **earliest <= ended);
        let last = account.last;
        let least = last.saturating_sub(account.delivered.highest_possible);
        let most = (last + account.unseen.iter().filter(in_time).count() as u64)
            .saturating_sub(account.delivered.highest_certain);
        if !(least..=most).contains(&count) {
            self.complaints.add(Fault::Miscounted { count, least, most }, [id]);
        }
    }

    /// So many came after the mark `delivered`, wherever that was, and no more.
    fn see_undelivered(&mut self, call: &Call, ended: Micros, node: Node, count: u64) {
        let chain = &self.accounts[self.numbers[&*call.account]].chain;
        let least = count.saturating_add(self.levels.certain(&call.account, call.begun));
        let most = count.saturating_add(self.levels.possible(&call.account, ended));
        let (newest, beyond) = (around(chain, least).0, around(chain, most).1);
        if let Some(newest) = newest {
            self.graph.before(newest, node);
        }
        if let Some(beyond) = beyond {
            self.graph.before(node, beyond);
        }
    }

    fn count_undelivered(&mut self, id: CallId, call: &Call, ended: Micros, count: u64) {
        let to_me =
            |asked: &&crate::requests::Asked| asked.send(self.history).is_some_and(|(_, to, _)| *to == call.account);
        let (mut certain, mut possible) = (0, 0);
        for asked in self.requests.sends.iter().filter(to_me) {
            certain += u64::from(asked.done.is_some_and(|(by, _)| by < call.begun));
            possible += u64::from(self.earliest(asked).is_some_and(|earliest| earliest <= ended));
        }
        let least = certain.saturating_sub(self.levels.possible(&call.account, ended)).max(1);
        let most = possible.saturating_sub(self.levels.certain(&call.account, call.begun));
        if !(least..=most).contains(&count) {
            self.complaints.add(Fault::Miscounted { count, least, most }, [id]);
        }
    }
}

fn contradicts(marks: Marks, delivered: Option<u64>, read: Option<u64>) -> bool {
    let ordered = marks.read <= marks.delivered && marks.delivered <= marks.last;
    let moved = delivered.max(read).is_none_or(|asked| asked <= marks.delivered);
    !(ordered && moved && read.is_none_or(|asked| asked <= marks.read))
}
