//! Nothing is done for, or delivered from, an account that is gone: whose deletion was answered before it began.
//!
//! When a delivery left the replica only a simulation knows ([`crate::Delivery::left`]). Without that, what was on its
//! way may still arrive: then only streams count that were asked for after the deletion was answered.

use std::collections::HashMap;

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{CallId, History, Micros, Outcome, Request};
use crate::requests::Requests;

/// Looks at all deliveries, and at all calls that were done.
pub fn check(history: &History) -> Verdict {
    let requests = Requests::of(history);
    judge(history, &requests)
}

/// The same, with what is known already.
pub(crate) fn judge(history: &History, requests: &Requests) -> Verdict {
    let mut complaints = Complaints::new(history, Property::Deletion);
    let mut gone: HashMap<&str, (Micros, CallId)> = HashMap::new();
    for asked in &requests.deletes {
        if let Some(done) = asked.done {
            let first = gone.entry(&history.calls[asked.first().0].account).or_insert(done);
            *first = done.min(*first);
        }
    }
    for delivery in &history.deliveries {
        let Some(stream) = history.streams.get(delivery.stream.0) else { continue };
        let at = delivery.left.unwrap_or(stream.opened);
        if let Some(&(gone, call)) = gone.get(&*stream.account).filter(|(gone, _)| at > *gone) {
            let (stream, account, message) = (delivery.stream, stream.account.clone(), delivery.message.clone());
            complaints.add(Fault::DeliveredAfterDeletion { stream, account, message, at, gone }, [call]);
        }
    }
    done_after(history, requests, &gone, &mut complaints);
    not_discarded(history, &mut complaints);
    complaints.verdict()
}

fn done_after(
    history: &History,
    requests: &Requests,
    gone: &HashMap<&str, (Micros, CallId)>,
    complaints: &mut Complaints<'_>,
) {
    let mut look = |account: &str, at: Micros, call: CallId| {
        if let Some(&(gone, deleted)) = gone.get(account).filter(|(gone, _)| at > *gone) {
            complaints.add(Fault::DoneAfterDeletion { account: account.into(), at, gone }, [deleted, call]);
        }
    };
    // When a request was first made counts: asked again, it gets its first answer, even of an account that is gone.
    for asked in &requests.sends {
        if let (Some((_, call)), Some((from, to, _))) = (asked.done, asked.send(history)) {
            look(from, asked.begun, call);
            if from != to {
                look(to, asked.begun, call);
            }
        }
    }
    for (number, call) in history.calls.iter().enumerate() {
        let own = match call.request {
            Request::ReadConversation { stale, .. } => !stale,
            Request::ReadMailbox { .. } | Request::Acknowledge { .. } => true,
            _ => false,
        };
        if own && matches!(call.outcome, Outcome::Done(_)) {
            look(&call.account, call.begun, CallId(number));
        }
    }
}

fn not_discarded(history: &History, complaints: &mut Complaints<'_>) {
    for replica in &history.finals {
        for mailbox in replica.mailboxes.iter().filter(|mailbox| mailbox.deleted) {
            let Some(marks) = mailbox.marks else { continue };
            if let Some(message) = mailbox.messages.iter().find(|message| message.seq > marks.delivered) {
                let (replica, account, message) = (replica.id, mailbox.account.clone(), message.clone());
                complaints.add(Fault::NotDiscarded { replica, account, message }, []);
            }
        }
    }
}
