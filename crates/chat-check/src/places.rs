//! Which message stands where, as far as anybody saw it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::complaint::{Fault, MAX_COMPLAINTS, Seen};
use crate::history::{Answer, CallId, History, Message, Micros, Name, Outcome, Replica};
use crate::requests::Requests;

/// A place in a mailbox that somebody saw taken.
pub(crate) struct Place<'a> {
    pub to: &'a Name,
    /// The mailbox's number, by name: comparing names would take most of the time.
    rank: u32,
    pub seq: u64,
    pub id: u64,
    pub from: &'a Name,
    pub text: &'a Arc<str>,
    /// Where it was seen; where possible in the answer to its send.
    pub seen: Seen,
    /// It was taken by then, and who says so.
    pub by: Micros,
    pub witness: Seen,
    /// Of [`Requests::sends`]: the one that took it.
    pub request: Option<usize>,
}

/// All places, by mailbox and `seq`; and what contradicts itself.
pub(crate) struct Places<'a> {
    pub all: Vec<Place<'a>>,
    pub faults: Vec<(Fault, Vec<CallId>)>,
}

/// The replica that applied most; the first of them.
pub(crate) fn furthest(history: &History) -> Option<&Replica> {
    history.finals.iter().max_by_key(|replica| (replica.applied, std::cmp::Reverse(replica.id)))
}

impl Place<'_> {
    pub fn message(&self) -> Message {
        let Place { id, seq, from, to, text, .. } = *self;
        Message { id, seq, from: from.clone(), to: to.clone(), text: text.clone() }
    }

    fn same(&self, other: &Place<'_>) -> bool {
        self.id == other.id && self.from == other.from && self.text == other.text
    }
}

impl<'a> Places<'a> {
    pub fn of(history: &'a History, requests: &Requests) -> Self {
        let mut seen = sightings(history, requests);
        rank(&mut seen);
        // The answer to the send first: `request` is known only there.
        seen.sort_unstable_by_key(|sight| (sight.rank, sight.seq, sight.request.is_none()));
        let mut places = Places { all: Vec::new(), faults: Vec::new() };
        for sight in seen {
            match places.all.last_mut() {
                Some(place) if place.seq == sight.seq && place.rank == sight.rank => {
                    if !place.same(&sight) {
                        let fault = same_place(place, &sight);
                        places.fault(fault);
                    } else if sight.by < place.by {
                        (place.by, place.witness) = (sight.by, sight.witness);
                    }
                }
                _ => places.all.push(sight),
            }
        }
        places.match_unanswered(history, requests);
        places
    }

    fn fault(&mut self, fault: (Fault, Vec<CallId>)) {
        if self.faults.len() < MAX_COMPLAINTS {
            self.faults.push(fault);
        }
    }

    /// Finds the requests of those places whose senders were not told: equal ones in the order in which they began.
    fn match_unanswered(&mut self, history: &History, requests: &Requests) {
        let mut open: HashMap<(&str, &str, &str), Vec<usize>> = HashMap::new();
        for (number, asked) in requests.sends.iter().enumerate() {
            if let (true, None, Some((from, to, text))) = (asked.possible, asked.done, asked.send(history)) {
                open.entry((from, to, text)).or_default().push(number);
            }
        }
        for same in open.values_mut() {
            same.sort_by_key(|&number| std::cmp::Reverse(requests.sends[number].begun));
        }
        for place in self.all.iter_mut().filter(|place| place.request.is_none()) {
            place.request = open.get_mut(&(&**place.from, &**place.to, &**place.text)).and_then(|same| same.pop());
        }
    }

    /// The places of one mailbox, by `seq`.
    pub fn of_mailbox(&self, account: &str) -> &[Place<'a>] {
        let from = self.all.partition_point(|place| &**place.to < account);
        let until = self.all.partition_point(|place| &**place.to <= account);
        &self.all[from..until]
    }
}

fn sightings<'a>(history: &'a History, requests: &Requests) -> Vec<Place<'a>> {
    let mut seen = Vec::new();
    for (number, asked) in requests.sends.iter().enumerate() {
        let (Some(sent), Some((from, to, text)), Some((by, call))) =
            (asked.sent(history), asked.send(history), asked.done)
        else {
            continue;
        };
        let (at, request) = (Seen::By(call), Some(number));
        seen.push(Place { to, rank: 0, seq: sent.seq, id: sent.id, from, text, seen: at, by, witness: at, request });
    }
    let mut see = |message: &'a Message, at: Seen, by: Micros| {
        let Message { id, seq, from, to, text } = message;
        seen.push(Place { to, rank: 0, seq: *seq, id: *id, from, text, seen: at, by, witness: at, request: None });
    };
    for (number, call) in history.calls.iter().enumerate() {
        if let (Outcome::Done(Answer::Page(page)), Some(ended)) = (&call.outcome, call.ended) {
            page.iter().for_each(|message| see(message, Seen::By(CallId(number)), ended));
        }
    }
    for delivery in &history.deliveries {
        see(&delivery.message, Seen::On(delivery.stream), delivery.left.unwrap_or(delivery.at));
    }
    if let Some(replica) = furthest(history) {
        for message in replica.mailboxes.iter().flat_map(|mailbox| &mailbox.messages) {
            see(message, Seen::At(replica.id), Micros::MAX);
        }
    }
    seen
}

fn rank(seen: &mut [Place<'_>]) {
    let mut ranks: HashMap<&str, u32> = seen.iter().map(|sight| (&**sight.to, 0)).collect();
    let mut names: Vec<&str> = ranks.keys().copied().collect();
    names.sort_unstable();
    for (rank, name) in (0..).zip(names) {
        ranks.insert(name, rank);
    }
    for sight in seen {
        sight.rank = ranks[&**sight.to];
    }
}

fn same_place(first: &Place<'_>, second: &Place<'_>) -> (Fault, Vec<CallId>) {
    let calls = [first.seen, second.seen].into_iter().filter_map(Seen::call).collect();
    let (seen_first, seen_second) = (first.seen, second.seen);
    (Fault::SamePlace { first: first.message(), seen_first, second: second.message(), seen_second }, calls)
}

impl Seen {
    /// The call, if it was one.
    pub(crate) fn call(self) -> Option<CallId> {
        match self {
            Seen::By(call) => Some(call),
            _ => None,
        }
    }
}
