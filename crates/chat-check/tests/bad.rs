//! Each way of being bad is complained of by the checker that is there for it, and its good neighbour is not.

use chat_check::{
    Answer, CallId, ClientId, Fault, History, Key, Mailbox, Marks, Outcome, Reason, Replica, Request, Verdict,
    acknowledged, client_order, deletion, duplicates, gapless, linearizable, replicas, well_formed,
};

fn message(id: u64, seq: u64, from: &str, to: &str, text: &str) -> chat_check::Message {
    chat_check::Message { id, seq, from: from.into(), to: to.into(), text: text.into() }
}

const ANN: ClientId = ClientId(1);
const BOB: ClientId = ClientId(2);

fn send(text: &str, key: u128) -> Request {
    Request::Send { key: Some(Key(key)), to: "bob".into(), text: text.into() }
}

fn sent(place: u64) -> Outcome {
    Outcome::Done(Answer::Sent { id: place, seq: place, index: place })
}

/// A call of Ann's, or of whom else, from and until then.
fn call(history: &mut History, who: &str, from: u64, until: u64, request: Request, outcome: Outcome) -> CallId {
    let client = if who == "ann" { ANN } else { BOB };
    let call = history.begin(client, who, from, request);
    history.end(call, until, outcome);
    call
}

/// Ann sent Bob two messages, one after the other.
fn two() -> History {
    let mut history = History::default();
    call(&mut history, "ann", 10, 20, send("one", 1), sent(1));
    call(&mut history, "ann", 30, 40, send("two", 2), sent(2));
    history
}

fn ones() -> Vec<chat_check::Message> {
    vec![message(1, 1, "ann", "bob", "one"), message(2, 2, "ann", "bob", "two")]
}

fn replica(id: u32, applied: u64, hash: &str, messages: Vec<chat_check::Message>) -> Replica {
    let mailbox = Mailbox { account: "bob".into(), deleted: false, marks: None, messages };
    Replica { id, applied, hash: Some(hash.into()), mailboxes: vec![mailbox] }
}

fn delete() -> Request {
    Request::Delete { key: Some(Key(99)), refuse_if_undelivered: false }
}

#[track_caller]
fn complains(verdict: Verdict, expected: impl Fn(&Fault) -> bool) {
    let complaints = verdict.expect_err("nobody complains");
    assert!(complaints.iter().any(|complaint| expected(&complaint.fault)), "another complaint: {complaints:?}");
    assert!(complaints.iter().all(|complaint| complaint.to_string().starts_with("not so: ")));
}

#[track_caller]
fn accepts(verdict: Verdict) {
    assert_eq!(verdict, Ok(()));
}

macro_rules! fault {
    ($pattern:pat) => {
        |fault| matches!(fault, $pattern)
    };
}

#[test]
fn broken_recordings() {
    let mut history = two();
    accepts(well_formed::check(&history));
    history.calls[0].ended = Some(5);
    complains(well_formed::check(&history), fault!(Fault::EndsBeforeItBegins));
    let mut history = two();
    history.calls[0].outcome = Outcome::Done(Answer::Registered);
    complains(well_formed::check(&history), fault!(Fault::OutcomeDoesNotFit));
    let mut history = two();
    let stream = history.open(BOB, "bob", 50, Some(0));
    history.deliver(stream, 49, None, ones().remove(0));
    complains(well_formed::check(&history), fault!(Fault::NoSuchStream { .. }));
    let mut history = two();
    history.finals = vec![replica(1, 2, "a", ones()), replica(1, 2, "a", ones())];
    complains(well_formed::check(&history), fault!(Fault::ReplicaTwice { replica: 1 }));
}

#[test]
fn a_later_send_in_an_earlier_place_is_not_linearizable() {
    let mut history = two();
    accepts(linearizable::check(&history));
    (history.calls[0].outcome, history.calls[1].outcome) = (sent(2), sent(1));
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
    // Where they overlap, either can come first.
    history.calls[1].begun = 15;
    accepts(linearizable::check(&history));
}

#[test]
fn places_ids_and_indexes_that_contradict_each_other() {
    let mut history = two();
    history.calls[1].outcome = sent(1);
    complains(linearizable::check(&history), fault!(Fault::SamePlace { .. }));
    let mut history = two();
    history.calls[1].outcome = Outcome::Done(Answer::Sent { id: 3, seq: 2, index: 0 });
    complains(linearizable::check(&history), fault!(Fault::IndexesOutOfOrder { .. }));
    let mut history = two();
    history.calls[0].outcome = Outcome::Done(Answer::Sent { id: 9, seq: 1, index: 1 });
    complains(linearizable::check(&history), fault!(Fault::IdsOutOfOrder { .. }));
}

#[test]
fn a_place_that_nobody_took_is_accepted_only_where_an_outcome_is_unknown() {
    let mut history = two();
    history.calls[1].outcome = sent(3);
    complains(linearizable::check(&history), fault!(Fault::NothingSentThere { seq: 2, .. }));
    let lost = history.begin(ANN, "ann", 12, send("lost", 3));
    accepts(linearizable::check(&history));
    // It would have to have been sent before it was begun.
    history.calls[lost.0].begun = 41;
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
}

#[test]
fn pages_show_all_that_was_there_and_nothing_else() {
    let read = Request::ReadConversation { with: "bob".into(), before: None, limit: 10, stale: false };
    let page = |messages| Outcome::Done(Answer::Page(messages));
    let judged = |request: &Request, from, who: &str, messages| {
        let mut history = two();
        call(&mut history, who, from, 60, request.clone(), page(messages));
        linearizable::check(&history)
    };
    accepts(judged(&read, 50, "ann", ones()));
    complains(judged(&read, 50, "ann", ones()[..1].to_vec()), fault!(Fault::TooLate { .. }));
    accepts(judged(&read, 35, "ann", ones()[..1].to_vec()));
    complains(judged(&read, 50, "ann", ones()[1..].to_vec()), fault!(Fault::PageLacks { .. }));
    let stale = Request::ReadConversation { with: "bob".into(), before: None, limit: 10, stale: true };
    accepts(judged(&stale, 50, "ann", ones()[..1].to_vec()));
    complains(judged(&read, 50, "ann", ones().into_iter().rev().collect()), fault!(Fault::PageHas { .. }));
    let mailbox = Request::ReadMailbox { after: 0, limit: 2 };
    accepts(judged(&mailbox, 50, "bob", ones()));
    complains(judged(&mailbox, 50, "bob", Vec::new()), fault!(Fault::TooLate { .. }));
    complains(judged(&mailbox, 50, "bob", ones()[1..].to_vec()), fault!(Fault::PageLacks { .. }));
    // The future: read before it was sent.
    let mut history = History::default();
    call(&mut history, "bob", 1, 5, mailbox, page(ones()[..1].to_vec()));
    call(&mut history, "ann", 10, 20, send("one", 1), sent(1));
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
}

#[test]
fn marks_stand_where_somebody_put_them_and_only_grow() {
    let acknowledge = |delivered| Request::Acknowledge { delivered, read: None };
    let marks = |delivered, last| Outcome::Done(Answer::Marks(Marks { read: 0, delivered, last }));
    let mut history = two();
    call(&mut history, "bob", 50, 60, acknowledge(Some(1)), marks(1, 2));
    call(&mut history, "bob", 70, 80, acknowledge(None), marks(1, 2));
    accepts(linearizable::check(&history));
    history.calls[3].outcome = marks(0, 2);
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
    history.calls[3].outcome = marks(2, 2);
    complains(linearizable::check(&history), fault!(Fault::MarkFromNowhere { mark: 2, .. }));
    // One whose outcome is unknown can have put it there.
    history.begin(BOB, "bob", 55, acknowledge(Some(2)));
    accepts(linearizable::check(&history));
    history.calls[3].outcome = marks(1, 1);
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
    history.calls[3].outcome = marks(2, 1);
    complains(linearizable::check(&history), fault!(Fault::Contradiction));
}

#[test]
fn accounts_begin_once_and_end_once() {
    let register = |key| Request::Register { key: Some(Key(key)) };
    let done = || Outcome::Done(Answer::Registered);
    let mut history = History::default();
    call(&mut history, "bob", 1, 5, register(7), done());
    call(&mut history, "bob", 6, 8, register(8), Outcome::Rejected(Reason::NameTaken));
    call(&mut history, "ann", 10, 20, send("one", 1), sent(1));
    accepts(linearizable::check(&history));
    history.calls[1].outcome = done();
    complains(linearizable::check(&history), fault!(Fault::DoneTwice { .. }));
    history.calls[1].outcome = Outcome::Rejected(Reason::NotDone("no leader".into()));
    history.calls[0].outcome = Outcome::Rejected(Reason::NotDone("no leader".into()));
    complains(linearizable::check(&history), fault!(Fault::ExistsFromNowhere { .. }));
    history.calls[0].outcome = Outcome::Unknown;
    accepts(linearizable::check(&history));
    history.calls[0].begun = 21;
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
}

#[test]
fn who_is_gone_was_deleted() {
    let mut history = two();
    call(&mut history, "ann", 50, 60, send("three", 3), Outcome::Rejected(Reason::NoSuchRecipient));
    complains(linearizable::check(&history), fault!(Fault::GoneFromNowhere { .. }));
    let deleted = history.begin(BOB, "bob", 45, delete());
    accepts(linearizable::check(&history));
    history.end(deleted, 70, Outcome::Done(Answer::Deleted { discarded: 2 }));
    accepts(linearizable::check(&history));
    history.end(deleted, 70, Outcome::Done(Answer::Deleted { discarded: 1 }));
    complains(linearizable::check(&history), fault!(Fault::Miscounted { count: 1, least: 2, most: 2 }));
}

#[test]
fn what_is_counted_was_sent_by_then() {
    let refusing = Request::Delete { key: Some(Key(99)), refuse_if_undelivered: true };
    let refused = |count| Outcome::Rejected(Reason::UndeliveredMessages { count });
    // Ann is there only after Bob's mailbox had her message.
    let counted = |registered, request: Request, outcome: Outcome| {
        let mut history = History::default();
        let register = Request::Register { key: Some(Key(50)) };
        call(&mut history, "ann", registered, registered, register, Outcome::Done(Answer::Registered));
        call(&mut history, "ann", 30, 30, send("one", 1), Outcome::Unknown);
        call(&mut history, "bob", 40, 40, request, outcome);
        linearizable::check(&history)
    };
    accepts(counted(20, refusing.clone(), refused(1)));
    complains(counted(41, refusing.clone(), refused(1)), fault!(Fault::Miscounted { .. }));
    accepts(counted(20, delete(), Outcome::Done(Answer::Deleted { discarded: 1 })));
    complains(counted(41, delete(), Outcome::Done(Answer::Deleted { discarded: 1 })), fault!(Fault::Miscounted { .. }));
    // The one that was counted has the first place, so what is sent later has the second.
    let then = |place| {
        let mut history = History::default();
        call(&mut history, "ann", 30, 40, send("one", 1), Outcome::Unknown);
        call(&mut history, "bob", 50, 60, refusing.clone(), refused(1));
        call(&mut history, "ann", 70, 80, send("two", 2), sent(place));
        linearizable::check(&history)
    };
    accepts(then(2));
    complains(then(1), fault!(Fault::TooLate { .. }));
}

#[test]
fn what_is_read_is_delivered_with_it() {
    let acknowledged = |delivered, read| {
        let mut history = two();
        let outcome = |read| Outcome::Done(Answer::Marks(Marks { read, delivered: 1, last: 2 }));
        call(&mut history, "bob", 50, 60, Request::Acknowledge { delivered, read: None }, outcome(0));
        call(&mut history, "bob", 55, 70, Request::Acknowledge { delivered: None, read: Some(1) }, outcome(read));
        linearizable::check(&history)
    };
    accepts(acknowledged(Some(1), 1));
    complains(acknowledged(None, 1), fault!(Fault::MarkFromNowhere { .. }));
}

#[test]
fn what_was_acknowledged_and_is_not_kept() {
    let mut history = two();
    history.finals = vec![replica(1, 2, "a", ones())];
    accepts(acknowledged::check(&history));
    history.finals[0].mailboxes[0].messages.pop();
    complains(acknowledged::check(&history), fault!(Fault::Lost { seq: 2, found: None, .. }));
    // Who asked to be deleted may have lost it, whether or not anybody was told.
    history.finals[0].mailboxes[0].deleted = true;
    complains(acknowledged::check(&history), fault!(Fault::Lost { .. }));
    history.begin(BOB, "bob", 45, delete());
    accepts(acknowledged::check(&history));
    // But not what had been delivered.
    history.finals[0].mailboxes[0].marks = Some(Marks { read: 0, delivered: 2, last: 2 });
    complains(acknowledged::check(&history), fault!(Fault::Lost { seq: 2, .. }));
    let mut history = two();
    history.finals = vec![replica(1, 1, "a", ones())];
    complains(acknowledged::check(&history), fault!(Fault::NotApplied { index: 2, applied: 1 }));
    // A send of unknown outcome may be there or not.
    history.calls[1].outcome = Outcome::Unknown;
    accepts(acknowledged::check(&history));
    history.finals[0].mailboxes[0].messages.pop();
    accepts(acknowledged::check(&history));
    // Another one in its place.
    history.finals[0].mailboxes[0].messages[0].text = "other".into();
    complains(acknowledged::check(&history), fault!(Fault::Lost { seq: 1, found: Some(_), .. }));
}

#[test]
fn a_mark_that_was_acknowledged_and_is_not_kept() {
    let mut history = two();
    let marks = Marks { read: 0, delivered: 2, last: 2 };
    let request = Request::Acknowledge { delivered: Some(2), read: None };
    call(&mut history, "bob", 50, 60, request, Outcome::Done(Answer::Marks(marks)));
    history.finals = vec![replica(1, 2, "a", ones())];
    history.finals[0].mailboxes[0].marks = Some(marks);
    accepts(acknowledged::check(&history));
    history.finals[0].mailboxes[0].marks = Some(Marks { delivered: 1, ..marks });
    complains(acknowledged::check(&history), fault!(Fault::MarkLost { replica: 1, .. }));
}

#[test]
fn replicas_that_differ() {
    let mut history = two();
    history.finals =
        vec![replica(1, 2, "a", ones()), replica(2, 2, "a", ones()), replica(3, 1, "b", ones()[..1].to_vec())];
    accepts(replicas::check(&history));
    history.finals[1].hash = Some("c".into());
    complains(replicas::check(&history), fault!(Fault::HashesDiffer { first: 1, second: 2, .. }));
    history.finals[1] = replica(2, 2, "a", ones()[..1].to_vec());
    complains(replicas::check(&history), fault!(Fault::MailboxesDiffer { seq: 2, at_first: None, .. }));
    history.finals[1] = replica(2, 2, "a", ones());
    history.finals[2].mailboxes[0].messages[0].text = "other".into();
    complains(replicas::check(&history), fault!(Fault::MailboxesDiffer { seq: 1, first: 3, .. }));
    history.finals.pop();
    history.finals[0].mailboxes[0].marks = Some(Marks { read: 0, delivered: 0, last: 2 });
    history.finals[1].mailboxes[0].marks = Some(Marks { read: 0, delivered: 1, last: 2 });
    complains(replicas::check(&history), fault!(Fault::MarksDiffer { .. }));
}

#[test]
fn gaps() {
    let mut history = two();
    history.finals = vec![replica(1, 2, "a", ones())];
    let stream = history.open(BOB, "bob", 50, None);
    ones().into_iter().for_each(|message| history.deliver(stream, 60, None, message));
    accepts(gapless::check(&history));
    history.deliveries.remove(0);
    complains(gapless::check(&history), fault!(Fault::StreamGap { expected: 1, found: 2, .. }));
    // If an acknowledgement can have moved the mark, the stream may begin after it.
    history.begin(BOB, "bob", 55, Request::Acknowledge { delivered: Some(1), read: None });
    accepts(gapless::check(&history));
    history.finals[0].mailboxes[0].messages.remove(0);
    complains(gapless::check(&history), fault!(Fault::MailboxGap { expected: 1, found: 2, .. }));
    history.finals[0].mailboxes[0].messages.clear();
    history.finals[0].mailboxes[0].marks = Some(Marks { read: 0, delivered: 0, last: 1 });
    complains(gapless::check(&history), fault!(Fault::MailboxGap { expected: 1, found: 0, .. }));
}

#[test]
fn sends_that_overtake_each_other() {
    let mut history = two();
    // In a row, though the first was not answered yet when the second began.
    history.calls[0].ended = Some(50);
    accepts(client_order::check(&history));
    (history.calls[0].outcome, history.calls[1].outcome) = (sent(2), sent(1));
    complains(client_order::check(&history), fault!(Fault::OutOfOrder { first: 2, second: 1, .. }));
    // Nobody promised anything to two clients,
    history.calls[1].client = BOB;
    accepts(client_order::check(&history));
    // nor after the first was given up, which is known from where it was found.
    history.calls[1].client = ANN;
    history.calls[0].outcome = Outcome::Unknown;
    history.calls[0].ended = Some(25);
    let found = vec![message(1, 1, "ann", "bob", "two"), message(2, 2, "ann", "bob", "one")];
    history.finals = vec![replica(1, 2, "a", found)];
    accepts(client_order::check(&history));
    history.calls[0].ended = None;
    complains(client_order::check(&history), fault!(Fault::OutOfOrder { .. }));
}

#[test]
fn what_comes_twice() {
    let mut history = two();
    let first = history.open(BOB, "bob", 50, Some(0));
    ones().into_iter().for_each(|message| history.deliver(first, 60, None, message));
    accepts(duplicates::check(&history));
    let mut same_stream = history.clone();
    same_stream.deliver(first, 70, None, ones().remove(1));
    complains(duplicates::check(&same_stream), fault!(Fault::DeliveredAgain { .. }));
    // Across a reconnection: after what it asked for, or after what was acknowledged.
    let mut again = history.clone();
    let second = again.open(BOB, "bob", 70, Some(2));
    again.deliver(second, 80, None, ones().remove(1));
    complains(duplicates::check(&again), fault!(Fault::DeliveredAgain { .. }));
    let mut after_mark = history.clone();
    let second = after_mark.open(BOB, "bob", 70, None);
    after_mark.deliver(second, 80, None, ones().remove(1));
    let marks = Marks { read: 0, delivered: 2, last: 2 };
    let request = Request::Acknowledge { delivered: Some(2), read: None };
    let acknowledged = call(&mut after_mark, "bob", 61, 65, request, Outcome::Done(Answer::Marks(marks)));
    complains(duplicates::check(&after_mark), fault!(Fault::DeliveredAgain { .. }));
    after_mark.calls[acknowledged.0].outcome = Outcome::Unknown;
    accepts(duplicates::check(&after_mark));
}

#[test]
fn what_nobody_sent() {
    let mut history = two();
    let stream = history.open(BOB, "bob", 5, Some(0));
    history.deliver(stream, 60, None, message(1, 1, "ann", "bob", "made up"));
    complains(duplicates::check(&history), fault!(Fault::SamePlace { .. }));
    history.deliveries[0].message.seq = 3;
    history.deliveries[0].message.id = 3;
    complains(duplicates::check(&history), fault!(Fault::NeverSent { .. }));
    let mut history = two();
    let stream = history.open(BOB, "bob", 5, Some(0));
    history.deliver(stream, 9, None, ones().remove(0));
    complains(duplicates::check(&history), fault!(Fault::NeverSent { .. }));
    // What was refused was not sent; what is unknown can have been.
    let mut history = two();
    let refused = call(&mut history, "ann", 50, 60, send("no", 3), Outcome::Rejected(Reason::NoSuchRecipient));
    let stream = history.open(BOB, "bob", 5, Some(2));
    history.deliver(stream, 70, None, message(3, 3, "ann", "bob", "no"));
    complains(duplicates::check(&history), fault!(Fault::NeverSent { .. }));
    history.calls[refused.0].outcome = Outcome::Unknown;
    accepts(duplicates::check(&history));
    // Another's mailbox.
    history.streams[stream.0].account = "cem".into();
    complains(duplicates::check(&history), fault!(Fault::Misdelivered { .. }));
}

#[test]
fn one_request_that_makes_two_messages() {
    let mut history = two();
    // The same key: asked again after a lost answer.
    history.calls[0].outcome = Outcome::Unknown;
    call(&mut history, "ann", 50, 60, send("one", 1), sent(1));
    history.finals = vec![replica(1, 2, "a", ones())];
    accepts(duplicates::check(&history));
    accepts(linearizable::check(&history));
    history.finals[0].mailboxes[0].messages.push(message(3, 3, "ann", "bob", "one"));
    complains(duplicates::check(&history), fault!(Fault::Doubled { messages: 2, requests: 1, .. }));
    // Another key: another message.
    call(&mut history, "ann", 70, 80, send("one", 3), Outcome::Unknown);
    accepts(duplicates::check(&history));
    // One key, two answers; one key, two contents.
    call(&mut history, "ann", 90, 95, send("one", 1), sent(3));
    complains(duplicates::check(&history), fault!(Fault::AnswersDiffer));
    let mut history = two();
    call(&mut history, "ann", 90, 95, send("else", 1), sent(3));
    complains(duplicates::check(&history), fault!(Fault::KeyDoneTwice));
    // Twice under one id.
    let mut history = two();
    history.finals = vec![replica(1, 2, "a", vec![ones().remove(0), ones().remove(0)])];
    complains(duplicates::check(&history), fault!(Fault::Doubled { .. }));
}

#[test]
fn what_happens_after_deletion() {
    let mut history = two();
    let early = history.open(BOB, "bob", 42, Some(0));
    call(&mut history, "bob", 45, 50, delete(), Outcome::Done(Answer::Deleted { discarded: 2 }));
    // It can have been on its way.
    history.deliver(early, 60, None, ones().remove(0));
    accepts(deletion::check(&history));
    history.deliveries[0].left = Some(55);
    complains(deletion::check(&history), fault!(Fault::DeliveredAfterDeletion { at: 55, gone: 50, .. }));
    history.deliveries[0].left = None;
    history.streams[early.0].opened = 51;
    complains(deletion::check(&history), fault!(Fault::DeliveredAfterDeletion { .. }));
    // Unknown: it need not be gone.
    history.calls[2].outcome = Outcome::Unknown;
    accepts(deletion::check(&history));
}

#[test]
fn what_is_done_for_who_is_gone() {
    let mut history = two();
    call(&mut history, "bob", 45, 50, delete(), Outcome::Done(Answer::Deleted { discarded: 2 }));
    // Asked again under its key, it gets its first answer.
    call(&mut history, "ann", 60, 70, send("two", 2), sent(2));
    accepts(deletion::check(&history));
    call(&mut history, "ann", 60, 70, send("three", 3), sent(3));
    complains(deletion::check(&history), fault!(Fault::DoneAfterDeletion { at: 60, gone: 50, .. }));
    complains(linearizable::check(&history), fault!(Fault::TooLate { .. }));
    let mut kept = two();
    kept.finals = vec![replica(1, 2, "a", ones())];
    kept.finals[0].mailboxes[0].deleted = true;
    kept.finals[0].mailboxes[0].marks = Some(Marks { read: 0, delivered: 1, last: 2 });
    complains(deletion::check(&kept), fault!(Fault::NotDiscarded { .. }));
}
