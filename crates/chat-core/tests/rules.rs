//! Rules that random sequences reach seldom, one by one.

mod common;

use chat_core::session::MAX_PER_ACCOUNT;
use chat_core::{
    AccountId, Applied, Command, Event, Lookup, MemoryStore, Outcome, Read, Rejection, Timestamp, apply, repeated,
    state_hash,
};
use common::{key, name, open, register, text, token};

struct Service {
    store: MemoryStore,
    position: usize,
}

impl Service {
    /// With the accounts 1 and 2 logged in under the tokens 1 and 2.
    fn new() -> Self {
        let mut service = Service { store: MemoryStore::default(), position: 0 };
        for command in [register(1, 0), register(2, 1), open(3, 1, 1, 1000), open(4, 2, 2, 1000)] {
            assert!(service.run(command).result.is_ok());
        }
        service
    }

    fn run(&mut self, command: Command) -> Applied {
        self.position += 1;
        let Ok(applied) = apply(&mut self.store, common::provenance(self.position), &command);
        applied
    }

    fn open_sessions(&self, account: u64) -> usize {
        let Ok(sessions) = self.store.sessions_of(AccountId(account));
        sessions.len()
    }
}

fn send(key_number: u8, session: u8, to: usize, at: i64) -> Command {
    let (key, session, to) = (key(key_number), token(session), name(to));
    Command::Send { key, session, to, text: text("hello"), at: Timestamp(at) }
}

fn delete(key_number: u8, session: u8, refuse_if_undelivered: bool) -> Command {
    Command::DeleteAccount { key: key(key_number), session: token(session), refuse_if_undelivered, at: Timestamp(9) }
}

fn acknowledge(session: u8, delivered: Option<u64>, read: Option<u64>) -> Command {
    Command::Acknowledge { session: token(session), delivered, read, at: Timestamp(9) }
}

#[test]
fn one_session_more_than_allowed_ends_the_oldest() {
    let mut service = Service::new();
    for number in 100..100 + MAX_PER_ACCOUNT as u8 - 1 {
        assert!(service.run(open(number, 1, number, 1000)).events.is_empty());
    }
    assert_eq!(service.open_sessions(1), MAX_PER_ACCOUNT);
    let applied = service.run(open(200, 1, 200, 1000));
    assert_eq!(applied.events, [Event::SessionEnded { token: token(1) }]);
    assert_eq!(service.open_sessions(1), MAX_PER_ACCOUNT);
    assert_eq!(service.run(send(201, 1, 1, 5)).result, Err(Rejection::SessionInvalid));
}

#[test]
fn expired_sessions_are_refused_and_cleared_away_a_few_at_a_time() {
    let mut service = Service::new();
    for number in 100..106 {
        service.run(open(number, 1, number, 500 + i64::from(number)));
    }
    assert!(service.run(send(10, 100, 1, 599)).result.is_ok());
    assert_eq!(service.run(send(11, 100, 1, 600)).result, Err(Rejection::SessionInvalid));
    let later = |key_number, number| Command::OpenSession {
        key: key(key_number),
        account: AccountId(2),
        token: token(number),
        at: Timestamp(700),
        expires_at: Timestamp(2000),
    };
    let ended: Vec<_> = (100..104).map(|number| Event::SessionEnded { token: token(number) }).collect();
    assert_eq!(service.run(later(12, 50)).events, ended);
    assert_eq!(service.run(later(13, 51)).events.len(), 2);
    assert_eq!(service.run(later(14, 52)).events, []);
    assert_eq!(service.open_sessions(1), 1);
}

#[test]
fn a_token_opens_one_session_and_a_login_can_be_asked_for_again_after_it_was_closed() {
    let mut service = Service::new();
    assert_eq!(service.run(open(10, 2, 1, 1000)).result, Err(Rejection::TokenInvalid));
    let close = Command::CloseSession { token: token(1), at: Timestamp(3) };
    let applied = service.run(close.clone());
    assert_eq!(
        (applied.result, applied.events),
        (Ok(Outcome::SessionClosed), vec![Event::SessionEnded { token: token(1) }])
    );
    let applied = service.run(close);
    assert_eq!((applied.result, applied.events), (Ok(Outcome::SessionClosed), vec![]));
    assert!(matches!(service.run(open(3, 1, 1, 1000)).result, Ok(Outcome::SessionOpened { duplicate: true, .. })));
    assert_eq!(service.open_sessions(1), 0);
    assert_eq!(service.run(send(11, 1, 1, 5)).result, Err(Rejection::SessionInvalid));
}

#[test]
fn a_send_is_repeated_in_another_session_and_its_key_is_the_senders_own() {
    let mut service = Service::new();
    let first = service.run(send(10, 1, 1, 5)).result;
    service.run(open(11, 1, 7, 1000));
    let Ok(Outcome::Sent { id, seq, at, provenance, duplicate: false }) = first else { panic!("{first:?}") };
    let again = service.run(send(10, 7, 1, 80));
    assert_eq!(again.result, Ok(Outcome::Sent { id, seq, at, provenance, duplicate: true }));
    assert_eq!(again.events, []);
    assert_eq!(service.run(send(10, 1, 0, 6)).result, Err(Rejection::KeyConflict));
    // Somebody else's key of the same bytes is another key.
    assert!(matches!(service.run(send(10, 2, 1, 6)).result, Ok(Outcome::Sent { seq: 2, duplicate: false, .. })));
}

#[test]
fn registering_again_does_not_depend_on_the_salt_and_a_taken_name_stays_taken() {
    let mut service = Service::new();
    let again = common::again(&register(1, 0), Timestamp(99));
    let Ok(Outcome::Registered { account, duplicate: true }) = service.run(again).result else { panic!() };
    assert_eq!((account.id, account.created_at), (AccountId(1), Timestamp(1)));
    assert_eq!(service.run(register(1, 3)).result, Err(Rejection::KeyConflict));
    assert_eq!(service.run(open(1, 1, 9, 1000)).result, Err(Rejection::KeyConflict));
    assert_eq!(service.run(register(20, 0)).result, Err(Rejection::NameTaken { name: name(0) }));
    assert!(service.run(delete(21, 1, false)).result.is_ok());
    assert_eq!(service.run(register(22, 0)).result, Err(Rejection::NameTaken { name: name(0) }));
}

#[test]
fn deleting_discards_what_nobody_received_and_keeps_the_rest() {
    let mut service = Service::new();
    for number in 10..13 {
        service.run(send(number, 2, 0, 5));
    }
    service.run(send(13, 1, 1, 5));
    service.run(acknowledge(1, Some(1), None));
    assert_eq!(service.run(delete(20, 1, true)).result, Err(Rejection::UndeliveredMessages { count: 2 }));
    assert_eq!(service.open_sessions(1), 1);

    // Refused is not done: the same key can be used to do it after all.
    let applied = service.run(delete(20, 1, false));
    assert_eq!(applied.result, Ok(Outcome::Deleted { discarded: 2, duplicate: false }));
    let ended = Event::SessionEnded { token: token(1) };
    assert_eq!(applied.events, [ended, Event::AccountDeleted { account: AccountId(1) }]);

    let Ok(history) = service.store.conversation(AccountId(1), AccountId(2), None, 10);
    let seen: Vec<_> = history.iter().map(|it| (it.id.0, it.from.id.0, it.sender_deleted)).collect();
    assert_eq!(seen, [(1, 2, false), (4, 1, true)]);
    let Ok(inbox) = service.store.messages_after(AccountId(2), 0, 10);
    assert!(inbox[0].sender_deleted);
    let Ok(password) = service.store.password(AccountId(1));
    assert_eq!(password, None);

    assert_eq!(service.run(send(30, 2, 0, 6)).result, Err(Rejection::NoSuchRecipient { name: name(0) }));
    assert_eq!(service.run(open(31, 1, 9, 1000)).result, Err(Rejection::WrongCredentials));
    // Its discarded messages were sent all the same, and say so when they are sent again.
    assert!(matches!(service.run(send(12, 2, 0, 6)).result, Ok(Outcome::Sent { seq: 3, duplicate: true, .. })));
    // Asked for again after the session is gone, and known without the log.
    let Ok(known) = repeated(&service.store, &delete(20, 1, false));
    assert_eq!(known, Some(Ok(Outcome::Deleted { discarded: 2, duplicate: true })));
    let again = service.run(delete(20, 1, false)).result;
    assert_eq!(again, Ok(Outcome::Deleted { discarded: 2, duplicate: true }));
    assert_eq!(service.run(delete(20, 1, true)).result, Err(Rejection::KeyConflict));
    assert_eq!(service.run(delete(32, 1, false)).result, Err(Rejection::SessionInvalid));
}

#[test]
fn marks_only_grow_and_never_pass_the_newest_message() {
    let mut service = Service::new();
    service.run(send(10, 1, 0, 5));
    service.run(send(11, 1, 0, 5));
    let marked = |service: &mut Service, delivered, read| match service.run(acknowledge(1, delivered, read)).result {
        Ok(Outcome::Marked(marks)) => (marks.read, marks.delivered, marks.last),
        other => panic!("{other:?}"),
    };
    assert_eq!(marked(&mut service, None, None), (0, 0, 2));
    assert_eq!(marked(&mut service, None, Some(1)), (1, 1, 2));
    assert_eq!(marked(&mut service, Some(2), None), (1, 2, 2));
    assert_eq!(marked(&mut service, Some(0), Some(0)), (1, 2, 2));
    let before = state_hash(&service.store);
    let applied = service.run(acknowledge(1, Some(1), Some(3)));
    assert_eq!(applied.result, Err(Rejection::MarkBeyondLast { mark: 3, last: 2 }));
    assert_eq!(state_hash(&service.store), before);
    assert_eq!(service.run(acknowledge(1, Some(2), None)).events, []);
}
