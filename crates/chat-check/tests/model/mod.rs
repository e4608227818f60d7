//! Random histories that are good: a sequential run of the reference service, with overlaps and lost answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use chat_check::linearizable::exhaustive::{Operation, Service};
use chat_check::{Answer, CallId, ClientId, History, Key, Name, Outcome, Replica, Request};
use proptest::prelude::*;
use stateright::semantics::SequentialSpec;

/// One random step: what is asked for, how long it takes, and what its caller is told.
#[derive(Clone, Debug)]
pub struct Step {
    who: usize,
    kind: u32,
    other: usize,
    number: u64,
    early: u64,
    late: u64,
    /// 0: lost before it was done. 1: lost after. Otherwise: told.
    told: u32,
}

/// Steps of so many accounts.
pub fn steps(count: std::ops::Range<usize>, accounts: usize, overlap: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = (0..accounts, 0..100u32, 0..accounts, 0..8u64, 0..=overlap, 0..=overlap, 0..12u32)
        .prop_map(|(who, kind, other, number, early, late, told)| Step { who, kind, other, number, early, late, told });
    proptest::collection::vec(step, count)
}

/// The same, but that all messages go to the first account.
#[allow(dead_code, reason = "not every test that uses the model needs it")]
pub fn to_the_first(steps: &[Step]) -> Vec<Step> {
    steps.iter().map(|step| Step { other: 0, ..step.clone() }).collect()
}

/// The same, with sends instead of deletions.
#[allow(dead_code, reason = "not every test that uses the model needs it")]
pub fn without_deletions(steps: &[Step]) -> Vec<Step> {
    let kept = |step: &Step| if (10..13).contains(&step.kind) { 13 } else { step.kind };
    steps.iter().map(|step| Step { kind: kept(step), ..step.clone() }).collect()
}

/// The name of an account.
pub fn name(number: usize) -> Name {
    ["ann", "bob", "cem", "dora", "eve", "finn"][number % 6].into()
}

fn request(step: &Step, number: usize) -> Request {
    let key = Some(Key(number as u128 + 1));
    match step.kind {
        0..10 => Request::Register { key },
        10..13 => Request::Delete { key, refuse_if_undelivered: step.number.is_multiple_of(2) },
        13..60 => Request::Send { key, to: name(step.other), text: Arc::from(format!("text {number}")) },
        60..72 => Request::ReadConversation {
            with: name(step.other),
            before: (step.number > 6).then_some(step.number),
            limit: 1 + step.number as u32,
            stale: false,
        },
        72..84 => Request::ReadMailbox { after: step.number / 2, limit: 1 + step.number as u32 },
        84..90 => Request::Acknowledge { delivered: None, read: None },
        90..96 => Request::Acknowledge { delivered: Some(step.number), read: None },
        _ => Request::Acknowledge { delivered: None, read: Some(step.number / 2) },
    }
}

/// A good history of calls alone, and the service after it.
pub fn calls(steps: &[Step], accounts: usize) -> (History, Service) {
    let mut service = Service::default();
    let mut history = History::default();
    let mut begun = BTreeMap::new();
    for (number, step) in
        (0..accounts).map(|who| Step { who, kind: 0, ..FIRST }).chain(steps.iter().cloned()).enumerate()
    {
        let moment = 100 * (number as u64 + 1);
        let (account, request) = (name(step.who), request(&step, number));
        // A client begins its calls in the order in which they are carried out.
        let last = begun.get(&step.who).map_or(0, |last| last + 1);
        let begins = moment.saturating_sub(100 * step.early).max(last);
        begun.insert(step.who, begins);
        let call = history.begin(ClientId(step.who as u64), account.clone(), begins, request.clone());
        if step.told == 0 {
            // Nobody is told, and nothing was done. Sometimes the caller gives up.
            if step.late > 1 {
                history.end(call, moment + 100 * step.late, Outcome::Unknown);
            }
            continue;
        }
        let outcome = service.invoke(&Operation { account, request });
        let outcome = if step.told == 1 { Outcome::Unknown } else { outcome };
        history.end(call, moment + 100 * step.late, outcome);
    }
    (history, service)
}

const FIRST: Step = Step { who: 0, kind: 0, other: 0, number: 0, early: 0, late: 0, told: 9 };

/// A good history with streams and three replicas: mailboxes are delivered at the end, in two streams.
pub fn whole(steps: &[Step], accounts: usize) -> History {
    let (mut history, service) = calls(steps, accounts);
    let late = history.calls.iter().filter_map(|call| call.ended).max().unwrap_or(0) + 1;
    let mailboxes = service.mailboxes();
    for (number, mailbox) in mailboxes.iter().enumerate().filter(|(_, mailbox)| !mailbox.deleted) {
        let half = mailbox.messages.len() / 2;
        let client = ClientId(100 + number as u64);
        let first = history.open(client, mailbox.account.clone(), late, Some(0));
        mailbox.messages[..half].iter().for_each(|message| history.deliver(first, late + 1, None, message.clone()));
        let second = history.open(client, mailbox.account.clone(), late + 2, Some(half as u64));
        mailbox.messages[half..].iter().for_each(|message| history.deliver(second, late + 3, None, message.clone()));
    }
    let applied = 10_000;
    let replica = |id| Replica { id, applied, hash: Some("5eed".into()), mailboxes: mailboxes.clone() };
    history.finals = (1..=3).map(replica).collect();
    history
}

/// All sends that were answered.
#[allow(dead_code, reason = "not every test that uses the model needs it")]
pub fn answered(history: &History) -> Vec<CallId> {
    let sent = |call: &chat_check::Call| matches!(call.outcome, Outcome::Done(Answer::Sent { .. }));
    history.calls.iter().enumerate().filter(|(_, call)| sent(call)).map(|(number, _)| CallId(number)).collect()
}
