//! Accounts: that they exist when something is done for them, and the order within each mailbox.

use std::collections::HashSet;

use crate::complaint::Fault;
use crate::history::{Answer, CallId, Micros, Outcome, Reason, Request};
use crate::requests::Asked;

use super::graph::{Bound, Node, What};
use super::{Work, marks};

/// An account and its mailbox.
pub(super) struct Account<'a> {
    pub name: &'a str,
    /// Requests that registered it, or can have.
    pub registers: Vec<Once>,
    /// The same of deletions.
    pub deletes: Vec<Once>,
    /// Something was done with it or for it: it existed.
    pub alive: bool,
    /// Somebody tried to register it, and the name was not taken before the history began.
    pub asked_for: bool,
    pub register: Option<Node>,
    pub delete: Option<Node>,
    /// The places that are known to have been taken, ascending.
    pub chain: Vec<(u64, Node)>,
    /// The newest message that anybody was told of.
    pub last: u64,
    /// Sends to it that can have happened and that nobody saw: from when on. Latest first.
    pub unseen: Vec<Micros>,
    pub delivered: marks::Axis,
    pub read: marks::Axis,
}

/// A request for what happens at most once to an account, and that it can have made happen.
pub(super) struct Once {
    pub begun: Micros,
    /// Its first call.
    pub call: CallId,
    /// By when it was done, and to which call that was said.
    pub done: Option<(Micros, CallId)>,
}

impl Once {
    fn of(asked: &Asked) -> Option<Self> {
        asked.possible.then(|| Once { begun: asked.begun, call: asked.first(), done: asked.done })
    }
}

impl<'a> Account<'a> {
    pub fn new(name: &'a str) -> Self {
        Account {
            name,
            registers: Vec::new(),
            deletes: Vec::new(),
            alive: false,
            asked_for: false,
            register: None,
            delete: None,
            chain: Vec::new(),
            last: 0,
            unseen: Vec::new(),
            delivered: marks::Axis::default(),
            read: marks::Axis::default(),
        }
    }
}

impl<'a> Work<'a> {
    pub(super) fn find_accounts(&mut self) {
        let (history, places) = (self.history, self.places);
        for (number, place) in places.all.iter().enumerate() {
            let ends = (self.account(place.from), self.account(place.to));
            self.ends.push(ends);
            self.accounts[ends.0].alive = true;
            let to = &mut self.accounts[ends.1];
            to.alive = true;
            to.chain.push((place.seq, number as Node));
            to.last = to.last.max(place.seq);
        }
        for call in &history.calls {
            let number = self.account(&call.account);
            if let Request::Send { to, .. } = &call.request {
                self.account(to);
            }
            let account = &mut self.accounts[number];
            match (&call.request, &call.outcome) {
                (Request::Register { .. }, Outcome::Rejected(Reason::NameTaken)) => {}
                (Request::Register { .. }, _) => account.asked_for = true,
                (_, Outcome::Done(Answer::Marks(marks))) => {
                    account.alive = true;
                    account.last = account.last.max(marks.last);
                }
                (_, Outcome::Rejected(Reason::MarkBeyondLast { last })) => account.last = account.last.max(*last),
                (_, Outcome::Rejected(Reason::UndeliveredMessages { count })) => {
                    let delivered = self.levels.certain(&call.account, call.begun);
                    account.last = account.last.max(count.saturating_add(delivered));
                }
                (Request::ReadConversation { stale: true, .. }, _) => {}
                (_, Outcome::Done(_)) => account.alive = true,
                _ => {}
            }
        }
        for asked in &self.requests.registers {
            let number = self.account(&history.calls[asked.first().0].account);
            self.accounts[number].registers.extend(Once::of(asked));
        }
        for asked in &self.requests.deletes {
            let number = self.account(&history.calls[asked.first().0].account);
            self.accounts[number].deletes.extend(Once::of(asked));
        }
        for number in 0..self.accounts.len() {
            let registers = std::mem::take(&mut self.accounts[number].registers);
            self.accounts[number].register = self.happens_once(number, What::Register(number), &registers);
            self.accounts[number].registers = registers;
            let deletes = std::mem::take(&mut self.accounts[number].deletes);
            self.accounts[number].delete = self.happens_once(number, What::Delete(number), &deletes);
            self.accounts[number].deletes = deletes;
        }
        self.find_unseen();
    }

    fn find_unseen(&mut self) {
        let seen: HashSet<usize> = self.places.all.iter().filter_map(|place| place.request).collect();
        for (_, asked) in self.requests.sends.iter().enumerate().filter(|(number, _)| !seen.contains(number)) {
            if let (Some(earliest), Some((_, to, _))) = (self.earliest(asked), asked.send(self.history)) {
                let to = self.numbers[&**to];
                self.accounts[to].unseen.push(earliest);
            }
        }
        for account in &mut self.accounts {
            account.unseen.sort_unstable_by_key(|&earliest| std::cmp::Reverse(earliest));
        }
    }

    /// From when on a send can have happened: not before its two accounts were there, and never where one of them
    /// was gone when it began.
    pub(super) fn earliest(&self, asked: &Asked) -> Option<Micros> {
        let (from, to, _) = asked.send(self.history).filter(|_| asked.possible)?;
        let mut earliest = asked.begun;
        for name in [from, to] {
            let account = &self.accounts[*self.numbers.get(&**name)?];
            if account.delete.is_some_and(|delete| self.graph.moment(delete).latest.0 < asked.begun) {
                return None;
            }
            let registered = account.register.map_or(0, |register| self.graph.moment(register).earliest.0);
            earliest = earliest.max(registered);
        }
        Some(earliest)
    }

    fn happens_once(&mut self, number: usize, what: What, possible: &[Once]) -> Option<Node> {
        let mut done = possible.iter().filter_map(|once| once.done.map(|done| (once.begun, done)));
        if let Some((begun, (by, call))) = done.next() {
            for (_, (_, other)) in done {
                let account = self.accounts[number].name.into();
                self.complaints.add(Fault::DoneTwice { account }, [call, other]);
            }
            return Some(self.graph.add(what, Bound(begun, Some(call)), Bound(by, Some(call))));
        }
        let first = possible.iter().min_by_key(|once| once.begun)?;
        Some(self.graph.add(what, Bound(first.begun, Some(first.call)), Bound::NO_LATEST))
    }

    /// Each mailbox in the order of `seq`; places that nobody saw were taken by sends that nobody saw.
    pub(super) fn chain_mailboxes(&mut self) {
        for number in 0..self.accounts.len() {
            let known = std::mem::take(&mut self.accounts[number].chain);
            let mut chain = Vec::with_capacity(known.len());
            let mut next = 1;
            let until = self.accounts[number].last;
            for (seq, node) in known {
                self.fill(number, next, seq, &mut chain);
                chain.push((seq, node));
                next = seq.saturating_add(1);
            }
            self.fill(number, next, until.saturating_add(1), &mut chain);
            for pair in chain.windows(2) {
                self.in_sequence(pair[0].1, pair[1].1);
            }
            self.accounts[number].chain = chain;
        }
    }

    fn fill(&mut self, number: usize, from: u64, until: u64, chain: &mut Vec<(u64, Node)>) {
        for seq in from..until {
            let account = &mut self.accounts[number];
            let Some(begun) = account.unseen.pop() else {
                let account = account.name.into();
                return self.complaints.add(Fault::NothingSentThere { account, seq }, []);
            };
            let node = self.graph.add(What::Unseen(number, seq), Bound(begun, None), Bound::NO_LATEST);
            chain.push((seq, node));
        }
    }

    fn in_sequence(&mut self, first: Node, second: Node) {
        if let (What::Send(a), What::Send(b)) = (self.graph.moment(first).what, self.graph.moment(second).what) {
            let (earlier, later) = (&self.places.all[a], &self.places.all[b]);
            if earlier.id >= later.id {
                let calls = [earlier.seen.call(), later.seen.call()].into_iter().flatten();
                let fault = Fault::IdsOutOfOrder { earlier: earlier.message(), later: later.message() };
                return self.complaints.add(fault, calls);
            }
        }
        self.graph.before(first, second);
    }

    /// What takes a place has a sender and a recipient that exist.
    pub(super) fn bind_to_accounts(&mut self) {
        for place in 0..self.ends.len() {
            let (from, to) = self.ends[place];
            self.while_alive(from, place as Node);
            if from != to {
                self.while_alive(to, place as Node);
            }
        }
        for number in 0..self.accounts.len() {
            let places = self.ends.len();
            let chain = self.accounts[number].chain.iter().map(|&(_, node)| node);
            let unseen: Vec<Node> = chain.filter(|&node| node as usize >= places).collect();
            for node in unseen {
                self.while_alive(number, node);
            }
            let Account { name, alive, asked_for, register, delete, .. } = self.accounts[number];
            if let Some((register, delete)) = register.zip(delete) {
                self.graph.before(register, delete);
            }
            if alive && asked_for && register.is_none() {
                let calls = self
                    .history
                    .calls
                    .iter()
                    .enumerate()
                    .filter(|(_, call)| &*call.account == name && matches!(call.request, Request::Register { .. }));
                let calls: Vec<_> = calls.map(|(call, _)| CallId(call)).take(4).collect();
                self.complaints.add(Fault::ExistsFromNowhere { account: name.into() }, calls);
            }
        }
    }

    /// `node` happens between the account's registration and its deletion.
    pub(super) fn while_alive(&mut self, account: usize, node: Node) {
        let Account { register, delete, .. } = self.accounts[account];
        if let Some(register) = register {
            self.graph.before(register, node);
        }
        if let Some(delete) = delete {
            self.graph.before(node, delete);
        }
    }

    /// `node` happens after the account was deleted.
    pub(super) fn when_gone(&mut self, account: usize, node: Node, call: CallId) {
        match self.accounts[account].delete {
            Some(delete) => self.graph.before(delete, node),
            None => {
                let account = self.accounts[account].name.into();
                self.complaints.add(Fault::GoneFromNowhere { account }, [call]);
            }
        }
    }
}
