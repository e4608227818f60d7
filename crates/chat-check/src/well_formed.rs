//! The history says what the other checkers rely on.
//!
//! A complaint here is about the recording, not about the service.

use std::collections::HashSet;

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{Answer, Call, CallId, History, Outcome, Request};

/// Looks for calls that end before they begin, answers to something else, deliveries without a stream, and replicas
/// listed twice.
pub fn check(history: &History) -> Verdict {
    let mut complaints = Complaints::new(history, Property::WellFormed);
    for (number, call) in history.calls.iter().enumerate() {
        if call.ended.is_some_and(|ended| ended < call.begun) {
            complaints.add(Fault::EndsBeforeItBegins, [CallId(number)]);
        }
        if !fits(call) {
            complaints.add(Fault::OutcomeDoesNotFit, [CallId(number)]);
        }
    }
    for delivery in &history.deliveries {
        let stream = history.streams.get(delivery.stream.0);
        if stream.is_none_or(|stream| delivery.left.unwrap_or(delivery.at).min(delivery.at) < stream.opened) {
            let (stream, message) = (delivery.stream, delivery.message.clone());
            complaints.add(Fault::NoSuchStream { stream, message }, []);
        }
    }
    let mut replicas = HashSet::new();
    for replica in history.finals.iter().filter(|replica| !replicas.insert(replica.id)) {
        complaints.add(Fault::ReplicaTwice { replica: replica.id }, []);
    }
    complaints.verdict()
}

fn fits(call: &Call) -> bool {
    match (&call.outcome, &call.request) {
        (Outcome::Unknown, _) => true,
        _ if call.ended.is_none() => false,
        (Outcome::Rejected(_), _) => true,
        (Outcome::Done(answer), request) => matches!(
            (answer, request),
            (Answer::Registered, Request::Register { .. })
                | (Answer::Deleted { .. }, Request::Delete { .. })
                | (Answer::Sent { .. }, Request::Send { .. })
                | (Answer::Page(_), Request::ReadConversation { .. } | Request::ReadMailbox { .. })
                | (Answer::Marks(_), Request::Acknowledge { .. })
        ),
    }
}
