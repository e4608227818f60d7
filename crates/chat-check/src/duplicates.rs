//! One request, one message; nothing that nobody sent; nothing delivered to an application twice.
//!
//! A stream may begin with what the application had before only if it was asked for that: after a position, or, without
//! one, after a `delivered` mark that nobody had moved further by then.

use std::collections::{HashMap, HashSet};

use crate::complaint::{Complaints, Fault, Property, Seen, Verdict};
use crate::history::{History, Outcome, Request};
use crate::levels::Levels;
use crate::places::{Place, Places};
use crate::requests::Requests;

/// Looks at all messages that anybody saw, and at all streams.
pub fn check(history: &History) -> Verdict {
    let requests = Requests::of(history);
    let places = Places::of(history, &requests);
    judge(history, &requests, &places)
}

/// The same, with what is known already.
pub(crate) fn judge(history: &History, requests: &Requests, places: &Places<'_>) -> Verdict {
    let mut complaints = Complaints::new(history, Property::Duplicates);
    for &(first, second) in &requests.differing {
        complaints.add(Fault::AnswersDiffer, [first, second]);
    }
    for &(first, second) in &requests.key_twice {
        complaints.add(Fault::KeyDoneTwice, [first, second]);
    }
    // Something else than what its sender was told stands there: that was never sent either.
    for (fault, calls) in &places.faults {
        complaints.add(fault.clone(), calls.iter().copied());
    }
    for place in &places.all {
        match place.request.map(|number| &requests.sends[number]) {
            Some(asked) if asked.begun > place.by => {
                let calls = [asked.first()].into_iter().chain(place.witness.call());
                complaints.add(Fault::NeverSent { message: place.message(), seen: place.witness }, calls);
            }
            Some(_) => {}
            None => unsent(history, requests, places, place, &mut complaints),
        }
    }
    finals(history, &mut complaints);
    streams(history, &mut complaints);
    complaints.verdict()
}

/// A place that no request is left for: has each of the equal requests its own?
fn unsent(
    history: &History,
    requests: &Requests,
    places: &Places<'_>,
    place: &Place<'_>,
    complaints: &mut Complaints<'_>,
) {
    let body = (place.from, place.to, place.text);
    let equal: Vec<_> =
        requests.sends.iter().filter(|asked| asked.possible && asked.send(history) == Some(body)).collect();
    let seen = place.seen;
    if equal.is_empty() {
        let refused = history.calls.iter().position(|call| match &call.request {
            Request::Send { to, text, .. } => {
                (&call.account, to, text) == body && matches!(call.outcome, Outcome::Rejected(_))
            }
            _ => false,
        });
        let calls = refused.map(crate::CallId).into_iter().chain(seen.call());
        return complaints.add(Fault::NeverSent { message: place.message(), seen }, calls);
    }
    let same = places.of_mailbox(place.to).iter().filter(|other| (other.from, other.to, other.text) == body);
    let (messages, requests) = (same.count(), equal.len());
    let calls: Vec<_> = equal.iter().map(|asked| asked.first()).collect();
    complaints.add(Fault::Doubled { message: place.message(), seen, messages, requests }, calls);
}

/// Within each replica, ids are unique, and messages are in the mailbox of their recipient.
fn finals(history: &History, complaints: &mut Complaints<'_>) {
    for replica in &history.finals {
        let mut ids = HashSet::new();
        for mailbox in &replica.mailboxes {
            for message in &mailbox.messages {
                if !ids.insert(message.id) || message.to != mailbox.account {
                    let (message, seen) = (message.clone(), Seen::At(replica.id));
                    complaints.add(Fault::Doubled { message, seen, messages: 2, requests: 1 }, []);
                }
            }
        }
    }
}

fn streams(history: &History, complaints: &mut Complaints<'_>) {
    let levels = Levels::of(history);
    let mut next: HashMap<usize, u64> = HashMap::new();
    for delivery in &history.deliveries {
        let Some(stream) = history.streams.get(delivery.stream.0) else { continue };
        let (message, id) = (&delivery.message, delivery.stream);
        if message.to != stream.account {
            let (account, message) = (stream.account.clone(), message.clone());
            complaints.add(Fault::Misdelivered { stream: id, account, message }, []);
            continue;
        }
        let next = next
            .entry(id.0)
            .or_insert_with(|| 1 + stream.after.unwrap_or_else(|| levels.certain(&stream.account, stream.opened)));
        if message.seq < *next {
            complaints.add(Fault::DeliveredAgain { stream: id, message: message.clone() }, []);
        }
        *next = (*next).max(message.seq + 1);
    }
}
