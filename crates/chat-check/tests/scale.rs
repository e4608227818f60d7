//! Many operations are judged in seconds. A million: `cargo test -p chat-check --release --test scale -- --nocapture`;
//! the debug build judges fewer.

use std::time::Instant;

use chat_check::{Answer, ClientId, History, Key, Mailbox, Marks, Message, Name, Outcome, Replica, Request, check_all};

const MAILBOXES: usize = 100;

/// Sends, with a page, an acknowledgement and a delivery now and then; three replicas.
fn history(operations: usize) -> History {
    let names: Vec<Name> = (0..MAILBOXES).map(|number| format!("user{number}").into()).collect();
    let mut history = History::default();
    let mut mailboxes: Vec<Mailbox> =
        names.iter().map(|name| Mailbox { account: name.clone(), ..Mailbox::default() }).collect();
    let streams: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| history.open(ClientId(number as u64), name.clone(), 0, Some(0)))
        .collect();
    let mut id = 0;
    for number in 0..operations {
        let (from, to) = (number % MAILBOXES, (number * 7 + number / MAILBOXES) % MAILBOXES);
        let (client, at, overlap) = (ClientId(from as u64), 10 * (number as u64 + 100), 500);
        let (begun, ended) = (at - overlap + number as u64 % 7, at + overlap);
        let mine = &mailboxes[from].messages;
        let last = mine.len() as u64;
        let (request, answer) = match number % 10 {
            8 => {
                let after = last.saturating_sub(5);
                (Request::ReadMailbox { after, limit: 10 }, Answer::Page(mine[after as usize..].to_vec()))
            }
            9 => {
                let marks = Marks { read: 0, delivered: last, last };
                (Request::Acknowledge { delivered: Some(last), read: None }, Answer::Marks(marks))
            }
            _ => {
                id += 1;
                let text: std::sync::Arc<str> = format!("message {number}").into();
                let seq = mailboxes[to].messages.len() as u64 + 1;
                let (sender, recipient) = (names[from].clone(), names[to].clone());
                let message = Message { id, seq, from: sender, to: recipient.clone(), text: text.clone() };
                history.deliver(streams[to], at + 20, None, message.clone());
                mailboxes[to].messages.push(message);
                let key = Some(Key(number as u128));
                (Request::Send { key, to: recipient, text }, Answer::Sent { id, seq, index: id / 8 + 1 })
            }
        };
        let call = history.begin(client, names[from].clone(), begun, request);
        // One in fifty is not told, though it was done.
        let outcome = if number.is_multiple_of(50) { Outcome::Unknown } else { Outcome::Done(answer) };
        history.end(call, ended, outcome);
    }
    let replica =
        |id| Replica { id, applied: operations as u64, hash: Some("5eed".into()), mailboxes: mailboxes.clone() };
    history.finals = (1..=3).map(replica).collect();
    history
}

#[test]
fn a_large_history_is_judged_in_seconds() {
    let operations = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    let history = history(operations);
    let start = Instant::now();
    let report = check_all(&history);
    let took = start.elapsed();
    println!("{operations} operations over {MAILBOXES} mailboxes in {took:?}\n{report}");
    report.assert_good();
}
