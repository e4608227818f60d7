//! A way through the states, for people.

use super::cluster::{Action, Arrival, State, What};
use super::host::{N, id};
use super::model::{Search, Way};
use chat_replica::protocol::*;
use std::fmt::Write;

/// One line for each action, what each left behind where that says more, and every replica at the end.
pub fn path(search: &Search, way: Way) -> String {
    let mut text = String::new();
    let steps = way.into_vec();
    for (number, (state, what)) in steps.iter().enumerate() {
        match what {
            Some(what) => {
                let _ = writeln!(text, "{:>3}. {}", number + 1, action(state, what));
                if let Some((after, _)) = steps.get(number + 1) {
                    text += &changes(state, after);
                }
            }
            None => text += &last(search, state),
        }
    }
    text
}

pub fn action(state: &State, action: &Action) -> String {
    let mut text = what(state, action.what);
    if let Some((at, after)) = action.crash {
        let _ = write!(text, "; {} crashes in the middle of its turn, after {after} of its effects", name(state, at));
    }
    text
}

fn name(state: &State, at: usize) -> String {
    state.hosts[at].member().map_or_else(|| id(at).to_string(), |member| member.to_string())
}

fn what(state: &State, what: What) -> String {
    let name = |at| name(state, at);
    match what {
        What::Receive { from, to, arrival } => {
            let queue = &state.network.messages[from][to];
            let envelope = queue.get(usize::from(arrival == Arrival::Overtaking));
            let how = match arrival {
                Arrival::InOrder => "",
                Arrival::Doubled => " (and will once more)",
                Arrival::Overtaking => " (before an earlier one)",
            };
            format!("{} receives {}{how}", name(to), envelope.map(message).unwrap_or_default())
        }
        What::Lose { from, to } => {
            let lost = state.network.messages[from][to].first().map(message).unwrap_or_default();
            format!("lost on the way to {}: {lost}", name(to))
        }
        What::Exchange { from, to } => format!("{} pings {}, and is answered", name(from), name(to)),
        What::Ping { from, to } => format!("{} pings {}, and the answer is late", name(from), name(to)),
        What::Pong { from, to } => format!("the late answer of {} reaches {}", name(from), name(to)),
        What::Poll { from, to } => format!("{} polls {}, and is answered", name(from), name(to)),
        What::Crash { at } => format!("{} crashes", name(at)),
        What::Restart { at } => format!("{} starts again", id(at)),
        What::HangUp { at, peer } => format!("the sessions of {} with {} end", name(at), id(peer)),
        What::Refused { at, peer } => format!("the address of {} refuses {}", id(peer), name(at)),
        What::Connect { a, b } => format!("{} and {} begin sessions", name(a), name(b)),
        What::Moment => "a moment passes".to_owned(),
        What::Quanta { count, asleep } => {
            let time = if count == 1 { "one quantum passes".to_owned() } else { format!("{count} quanta pass") };
            asleep.map_or(time.clone(), |at| format!("{time}; {} sleeps", name(at)))
        }
        What::Propose { at } => format!("{} is given a new entry", name(at)),
        What::Cut { from, to } => format!("from now on nothing of {} reaches {}", name(from), name(to)),
        What::Heal => "all links are whole again".to_owned(),
        What::Leave { at } => format!("{} is told to leave", name(at)),
        What::Damage { at } => format!("the disk of {} loses its last entry", id(at)),
    }
}

fn message(envelope: &Envelope) -> String {
    let from = envelope.from;
    match &envelope.message {
        Message::Append(append) => {
            let entries: Vec<String> = append.entries.iter().map(entry).collect();
            let Append { epoch, prev, committed, .. } = append;
            let entries = entries.join(", ");
            format!(
                "Append({epoch}, after {}@{}: [{entries}], committed {committed}) from {from}",
                prev.index, prev.epoch
            )
        }
        Message::Hello(hello) => {
            let Hello { promised, last, committed, .. } = hello;
            format!("Hello(promised {promised}, last {}@{}, committed {committed}) from {from}", last.index, last.epoch)
        }
        Message::AppendReply { epoch, matched, conflict, .. } => {
            format!(
                "AppendReply({epoch}, {} {matched}) from {from}",
                if *conflict { "conflict after" } else { "matched" }
            )
        }
        Message::RequestVote { epoch, last } => {
            format!("RequestVote({epoch}, last {}@{}) from {from}", last.index, last.epoch)
        }
        Message::Vote { epoch, granted, .. } => {
            format!("Vote({epoch}, {}) from {from}", if *granted { "granted" } else { "denied" })
        }
        Message::Poll { last, .. } => format!("Poll(last {}@{}) from {from}", last.index, last.epoch),
        Message::PollReply { willing, .. } => {
            format!("PollReply({}) from {from}", if *willing { "willing" } else { "unwilling" })
        }
        other => format!("{other:?} from {from}"),
    }
}

fn entry(entry: &Entry) -> String {
    let what = match &entry.body {
        Body::Commands(bytes) => format!("entry {bytes:?}"),
        Body::View(view) => format!("view {:?} led by {}", view.members, view.primary),
        Body::Founding { view, .. } => format!("founding of {:?}", view.members),
    };
    format!("{}@{} {what}", entry.index, entry.epoch)
}

/// Who leads, what is committed: where that changed.
fn changes(before: &State, after: &State) -> String {
    let mut text = String::new();
    for at in 0..N {
        let of = |state: &State| {
            state.process(at).map(|process| {
                let status = process.replica.status();
                (status.standing, status.epoch, process.replica.serving(), status.committed, status.last)
            })
        };
        let (old, new) = (of(before), of(after));
        if let (Some((standing, epoch, serving, committed, last)), true) = (new, old != new) {
            let serves = if serving.is_some() { ", serves" } else { "" };
            let _ = writeln!(
                text,
                "         {}: {standing:?} in {epoch}{serves}, log up to {last}, committed {committed}",
                name(after, at)
            );
        }
    }
    text
}

fn last(search: &Search, state: &State) -> String {
    let mut text = "\nAt the end:\n".to_owned();
    for at in 0..N {
        let host = &state.hosts[at];
        let log: Vec<String> = host.disk.log.iter().map(entry).collect();
        let _ = match &host.process {
            Some(process) => {
                let status = process.replica.status();
                let lease = process.replica.lease_until().filter(|until| *until > state.clock(&search.bounds, at));
                let serving = process.replica.serving().map_or(String::new(), |epoch| format!(", serving in {epoch}"));
                let reads = if lease.is_some() { ", may read" } else { "" };
                writeln!(text, "  {}: {:?}{serving}{reads}, committed {}", status.me, status.standing, status.committed)
            }
            None => writeln!(text, "  {} is down", id(at)),
        };
        let _ = writeln!(text, "      disk: promised {}, {}", host.disk.promised, log.join(", "));
    }
    let truth = &state.truth;
    let committed: Vec<String> =
        truth.committed.iter().enumerate().map(|(at, c)| format!("{}@{}", at + 1, c.epoch)).collect();
    let _ = writeln!(text, "  Committed: {}; acknowledged up to {}", committed.join(", "), truth.acknowledged);
    if let Some(broken) = &truth.broken {
        let _ = writeln!(text, "  {broken:?}");
    }
    text
}
