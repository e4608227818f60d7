//! Marks: each stands where somebody put it, and only grows.

use std::collections::BTreeMap;

use crate::complaint::Fault;
use crate::history::{Answer, Call, CallId, Marks, Micros, Outcome, Request};

use super::graph::{Bound, Node, What};
use super::{Work, around};

/// One mark of one mailbox.
#[derive(Default)]
pub(super) struct Axis {
    /// Where somebody saw it, ascending, and the moments at which it came there. Without 0.
    pub chain: Vec<(u64, Node)>,
    /// The highest that was acknowledged to somebody.
    pub highest_certain: u64,
    /// The highest that somebody asked for who was not refused.
    pub highest_possible: u64,
    /// Where it was seen, and by whom first.
    seen: BTreeMap<u64, CallId>,
    /// Where it was put: the first call that began to and can have moved it there.
    put: BTreeMap<u64, (Micros, CallId)>,
    /// When the first of those began that leave the other mark behind this one.
    put_alone: BTreeMap<u64, Micros>,
}

impl Axis {
    fn note(&mut self, id: CallId, call: &Call, asked: Option<u64>, alone: bool, result: Option<u64>) {
        if let Some(asked) = asked {
            self.highest_possible = self.highest_possible.max(asked);
            if result.is_none_or(|result| result == asked) {
                let first = self.put.entry(asked).or_insert((call.begun, id));
                *first = (*first).min((call.begun, id));
                if alone {
                    let first = self.put_alone.entry(asked).or_insert(call.begun);
                    *first = (*first).min(call.begun);
                }
            }
        }
        if let Some(result) = result.filter(|&result| result > 0) {
            self.highest_certain = self.highest_certain.max(result);
            self.seen.entry(result).or_insert(id);
        }
    }
}

impl Work<'_> {
    pub(super) fn find_marks(&mut self) {
        let history = self.history;
        for (number, call) in history.calls.iter().enumerate() {
            let Request::Acknowledge { delivered, read } = call.request else { continue };
            let result = match &call.outcome {
                Outcome::Done(Answer::Marks(marks)) => Some(*marks),
                Outcome::Unknown => None,
                _ => continue,
            };
            let account = &mut self.accounts[self.numbers[&*call.account]];
            let id = CallId(number);
            let result_delivered = result.map(|marks| marks.delivered);
            account.delivered.note(id, call, delivered.max(read), delivered > read, result_delivered);
            account.read.note(id, call, read, false, result.map(|marks| marks.read));
        }
        for number in 0..self.accounts.len() {
            let delivered = std::mem::take(&mut self.accounts[number].delivered);
            self.accounts[number].delivered = self.moments_of_marks(number, delivered);
            let read = std::mem::take(&mut self.accounts[number].read);
            self.accounts[number].read = self.moments_of_marks(number, read);
        }
    }

    fn moments_of_marks(&mut self, number: usize, mut axis: Axis) -> Axis {
        for (&mark, &seen) in &axis.seen {
            let Some(&(begun, call)) = axis.put.get(&mark) else {
                let account = self.accounts[number].name.into();
                self.complaints.add(Fault::MarkFromNowhere { account, mark }, [seen]);
                continue;
            };
            let node = self.graph.add(What::Mark(number, mark), Bound(begun, Some(call)), Bound::NO_LATEST);
            if let Some(&(_, previous)) = axis.chain.last() {
                self.graph.before(previous, node);
            }
            // Nothing is marked before it is there.
            if let (Some(sent), _) = around(&self.accounts[number].chain, mark) {
                self.graph.before(sent, node);
            }
            axis.chain.push((mark, node));
        }
        axis
    }

    pub(super) fn see_marks(&mut self, id: CallId, call: &Call, node: Node, marks: Marks) {
        let account = &self.accounts[self.numbers[&*call.account]];
        // What is read is delivered with it: only what marks no more than deliveries leaves `read` behind.
        let moved = account.delivered.put_alone.get(&marks.delivered);
        if marks.read < marks.delivered && moved.is_none_or(|&begun| call.ended.is_some_and(|ended| ended < begun)) {
            let fault = Fault::MarkFromNowhere { account: account.name.into(), mark: marks.delivered };
            self.complaints.add(fault, [id]);
        }
        let (here, next) = around(&account.delivered.chain, marks.delivered);
        let (read_here, read_next) = around(&account.read.chain, marks.read);
        // What is read is delivered too.
        let (_, read_beyond) = around(&account.read.chain, marks.delivered);
        for before in [here, read_here].into_iter().flatten() {
            self.graph.before(before, node);
        }
        for after in [next, read_next, read_beyond].into_iter().flatten() {
            self.graph.before(node, after);
        }
    }
}
