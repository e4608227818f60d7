//! Every call happened at one moment between its beginning and its end, and saw what had happened by then.
//!
//! Deciding that is exponential in general. Here it is not, because answers say where in the one order of everything
//! they stand: a message's id and `seq`, the marks that an acknowledgement returns. What is left is a graph of
//! moments, each within bounds, that must come one after another: [`check`] needs O(n log n) and judges a million calls
//! in seconds. A call whose outcome is unknown may have happened at any moment after it began, or never.
//!
//! It never complains of a history that is linearizable. It misses what only a choice between several explanations
//! would show: a refused send to an account whose registration and deletion both ran meanwhile; which of several unknown
//! sends with the same text came first, and which of several moved a mark; the exact count of undelivered messages
//! while sends or acknowledgements run; that a conversation lacks a message whose sender was not told and that nobody
//! saw; messages of a deleted mailbox that a page lacks. Where every send and every acknowledgement was answered and
//! nobody asked to be deleted, it misses nothing that one mailbox can show. `exhaustive` (a feature of this crate)
//! misses nothing anywhere, and is for a few calls.
//!
//! The history begins with empty mailboxes; accounts that it does not register are taken to exist from the start.

use std::collections::HashMap;

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{CallId, History};
use crate::levels::Levels;
use crate::places::Places;
use crate::requests::Requests;

mod accounts;
#[cfg(feature = "exhaustive")]
pub mod exhaustive;
mod graph;
mod looks;
mod marks;
mod pages;

use accounts::Account;
use graph::{Bound, Graph, Node, Problem, What};

/// Judges the whole history at once, across all accounts and mailboxes.
pub fn check(history: &History) -> Verdict {
    let requests = Requests::of(history);
    let places = Places::of(history, &requests);
    judge(history, &requests, &places)
}

/// The same, with what is known already.
pub(crate) fn judge<'a>(history: &'a History, requests: &'a Requests, places: &'a Places<'a>) -> Verdict {
    let mut work = Work {
        history,
        requests,
        places,
        complaints: Complaints::new(history, Property::Linearizable),
        graph: Graph::default(),
        accounts: Vec::new(),
        numbers: HashMap::new(),
        ends: Vec::new(),
        levels: Levels::of(history),
    };
    for (fault, calls) in &places.faults {
        work.complaints.add(fault.clone(), calls.iter().copied());
    }
    work.moments_of_places();
    work.find_accounts();
    work.chain_ids();
    work.chain_mailboxes();
    work.bind_to_accounts();
    work.look_all();
    work.judge();
    work.complaints.verdict()
}

/// What is known while the graph is being made.
struct Work<'a> {
    history: &'a History,
    requests: &'a Requests,
    places: &'a Places<'a>,
    complaints: Complaints<'a>,
    /// The moments of the places come first: they have the same numbers.
    graph: Graph,
    accounts: Vec<Account<'a>>,
    numbers: HashMap<&'a str, usize>,
    /// For each place: the numbers of its sender's and its recipient's account.
    ends: Vec<(usize, usize)>,
    levels: Levels<'a>,
}

impl<'a> Work<'a> {
    fn moments_of_places(&mut self) {
        for (number, place) in self.places.all.iter().enumerate() {
            if place.request.is_none() {
                // No request is left that can have put it there.
                let (message, seen) = (place.message(), place.seen);
                self.complaints.add(Fault::NeverSent { message, seen }, seen.call());
            }
            let earliest = place.request.map_or(Bound::NEVER_BEFORE, |request| {
                let asked = &self.requests.sends[request];
                Bound(asked.begun, Some(asked.first()))
            });
            self.graph.add(What::Send(number), earliest, Bound(place.by, place.witness.call()));
        }
    }

    /// The number of an account; a new one where it is new.
    fn account(&mut self, name: &'a str) -> usize {
        let new = self.accounts.len();
        let number = *self.numbers.entry(name).or_insert(new);
        if number == new {
            self.accounts.push(Account::new(name));
        }
        number
    }

    /// Ids are the one order of everything; log indexes ascend with them.
    fn chain_ids(&mut self) {
        let places = &self.places.all;
        let mut by_id: Vec<usize> = (0..places.len()).collect();
        by_id.sort_unstable_by_key(|&number| places[number].id);
        let mut highest = (0, 0, None);
        for pair in by_id.windows(2) {
            let (first, second) = (&places[pair[0]], &places[pair[1]]);
            if first.id == second.id {
                let fault = Fault::SamePlace {
                    first: first.message(),
                    seen_first: first.seen,
                    second: second.message(),
                    seen_second: second.seen,
                };
                self.complaints.add(fault, first.seen.call().into_iter().chain(second.seen.call()));
            } else {
                self.graph.before(pair[0] as Node, pair[1] as Node);
            }
        }
        for place in by_id.iter().map(|&number| &places[number]) {
            let Some(asked) = place.request.map(|request| &self.requests.sends[request]) else { continue };
            let Some(sent) = asked.sent(self.history) else { continue };
            let call = asked.done.map(|(_, call)| call);
            let (earlier, index, other) = highest;
            if sent.index < index {
                let fault = Fault::IndexesOutOfOrder { earlier, later: place.id };
                self.complaints.add(fault, [other, call].into_iter().flatten());
            } else {
                highest = (place.id, sent.index, call);
            }
        }
    }

    fn judge(&mut self) {
        for problem in self.graph.problems() {
            match problem {
                Problem::TooLate { node, cause } => {
                    let (moment, cause) = (self.graph.moment(node), self.graph.moment(cause));
                    let (latest, earliest) = (moment.latest.0, cause.earliest.0);
                    let mut calls = self.calls_of(moment.what);
                    calls.extend(moment.latest.1.into_iter().chain(cause.earliest.1));
                    calls.extend(self.calls_of(cause.what));
                    let what = self.words(moment.what);
                    self.complaints.add(Fault::TooLate { what, latest, earliest }, unique(calls));
                }
                Problem::Circle(nodes) => {
                    let whats: Vec<_> = nodes.iter().map(|&node| self.graph.moment(node).what).collect();
                    let calls = whats.iter().flat_map(|&what| self.calls_of(what)).collect();
                    let what = whats.first().map_or_else(String::new, |&what| self.words(what));
                    self.complaints.add(Fault::BeforeItself { what }, unique(calls).into_iter().take(8));
                }
            }
        }
    }

    fn calls_of(&self, what: What) -> Vec<CallId> {
        match what {
            What::Send(place) => {
                let request = self.places.all[place].request;
                request.map(|request| self.requests.sends[request].first()).into_iter().collect()
            }
            What::Look(call) => vec![call],
            What::Register(account) => self.accounts[account].registers.iter().map(|once| once.call).collect(),
            What::Delete(account) => self.accounts[account].deletes.iter().map(|once| once.call).collect(),
            What::Unseen(..) | What::Mark(..) => Vec::new(),
        }
    }

    fn words(&self, what: What) -> String {
        match what {
            What::Send(place) => self.places.all[place].message().to_string(),
            What::Unseen(account, seq) => {
                format!("the send to place {seq} of {}'s mailbox", self.accounts[account].name)
            }
            What::Look(call) => call.to_string(),
            What::Mark(account, mark) => {
                format!("moving the mark of {}'s mailbox to {mark}", self.accounts[account].name)
            }
            What::Register(account) => format!("registering {}", self.accounts[account].name),
            What::Delete(account) => format!("deleting {}", self.accounts[account].name),
        }
    }
}

fn unique(mut calls: Vec<CallId>) -> Vec<CallId> {
    calls.sort_unstable();
    calls.dedup();
    calls
}

/// In a list that ascends: what stands there, and what comes next.
fn around(chain: &[(u64, Node)], place: u64) -> (Option<Node>, Option<Node>) {
    let next = chain.partition_point(|&(other, _)| other <= place);
    let here = next.checked_sub(1).map(|last| chain[last]).filter(|&(other, _)| other == place);
    (here.map(|(_, node)| node), chain.get(next).map(|&(_, node)| node))
}
