//! Two sends of one client to one recipient, begun in a row, arrive in that order.
//!
//! Sends are in a row as their calls begin, whether or not the first has been answered by then; calls that begin at
//! the same time, as they stand in the history. A send that its caller had given up as unknown before the next one
//! began has no place in the row, nor has one that was begun again after that.

use std::collections::{BTreeMap, BinaryHeap};

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{CallId, ClientId, History, Micros};
use crate::places::Places;
use crate::requests::{Asked, Requests};

/// A send whose place is known.
struct InRow {
    begun: (Micros, CallId),
    /// From here on, later sends come after it ...
    settled: (Micros, CallId),
    /// ... up to here.
    given_up: Micros,
    seq: u64,
}

/// Looks at all sends whose place in the mailbox anybody saw.
pub fn check(history: &History) -> Verdict {
    let requests = Requests::of(history);
    let places = Places::of(history, &requests);
    judge(history, &requests, &places)
}

/// The same, with what is known already.
pub(crate) fn judge(history: &History, requests: &Requests, places: &Places<'_>) -> Verdict {
    let mut complaints = Complaints::new(history, Property::ClientOrder);
    let mut rows: BTreeMap<(ClientId, &str, &str), Vec<InRow>> = BTreeMap::new();
    for place in &places.all {
        let Some(asked) = place.request.map(|number| &requests.sends[number]) else { continue };
        let client = history.calls[asked.first().0].client;
        rows.entry((client, place.from, place.to)).or_default().push(in_row(history, asked, place.seq));
    }
    for ((client, _, to), row) in &mut rows {
        look(*client, to, row, &mut complaints);
    }
    complaints.verdict()
}

fn in_row(history: &History, asked: &Asked, seq: u64) -> InRow {
    let done = asked.done.map_or(Micros::MAX, |(at, _)| at);
    let attempts = asked.calls.iter().map(|&id| (id, &history.calls[id.0]));
    let begins = attempts.clone().filter(|(_, call)| call.begun <= done).map(|(id, call)| (call.begun, id));
    let given_up = if asked.done.is_some() {
        Micros::MAX
    } else {
        attempts.filter_map(|(_, call)| call.ended).min().unwrap_or(Micros::MAX)
    };
    let first = begins.clone().min().unwrap_or((asked.begun, asked.first()));
    InRow { begun: first, settled: begins.max().unwrap_or(first), given_up, seq }
}

fn look(client: ClientId, to: &str, row: &mut [InRow], complaints: &mut Complaints<'_>) {
    row.sort_by_key(|send| send.begun);
    let mut by_settled: Vec<usize> = (0..row.len()).collect();
    by_settled.sort_by_key(|&number| row[number].settled);
    let mut waiting = by_settled.into_iter().peekable();
    let mut before: BinaryHeap<(u64, usize)> = BinaryHeap::new();
    for second in row.iter() {
        while let Some(number) = waiting.next_if(|&number| row[number].settled < second.begun) {
            before.push((row[number].seq, number));
        }
        while before.peek().is_some_and(|&(_, number)| row[number].given_up < second.begun.0) {
            before.pop();
        }
        if let Some(&(seq, number)) = before.peek().filter(|(seq, _)| *seq > second.seq) {
            let fault = Fault::OutOfOrder { client, to: to.into(), first: seq, second: second.seq };
            complaints.add(fault, [row[number].begun.1, second.begun.1]);
        }
    }
}
