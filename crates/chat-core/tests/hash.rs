//! Nothing in the state is left out of its hash.

mod common;

use chat_core::{
    Account, AccountId, Answer, BodyHash, Counters, DisplayName, Marks, MemoryStore, Message, MessageId, Party,
    Provenance, RequestRecord, Scope, Session, Store, Timestamp, state_hash,
};
use common::{key, name, password, text, token};

/// A state with one of everything; `changed` is the number of the one value that is another than usual.
fn state(changed: u64) -> MemoryStore {
    let mut position = 0;
    let mut value = |usual: u64| {
        position += 1;
        if position == changed { usual + 1 } else { usual }
    };
    let mut store = MemoryStore::default();
    let counters = Counters { accounts: value(10), messages: value(10), sessions: value(10) };
    let account = Account {
        id: AccountId(value(1)),
        name: name(value(0) as usize),
        display_name: DisplayName::of(&name(value(2) as usize)),
        created_at: Timestamp(value(7) as i64),
        deleted: false,
    };
    let hash = password(value(1) as u8);
    let session = Session {
        token: token(value(1) as u8),
        account: AccountId(value(1)),
        number: value(1),
        opened_at: Timestamp(value(7) as i64),
        expires_at: Timestamp(value(9) as i64),
    };
    let marks = Marks { read: value(1), delivered: value(3), last: value(5) };
    let message = Message {
        id: MessageId(value(1)),
        seq: value(5),
        from: Party { id: AccountId(value(1)), name: name(0) },
        to: Party { id: AccountId(value(1)), name: name(0) },
        text: text(&"x".repeat(value(3) as usize)),
        sent_at: Timestamp(value(7) as i64),
        sender_deleted: false,
    };
    let (id, seq, at) = (MessageId(value(1)), value(5), Timestamp(value(7) as i64));
    let provenance = Provenance { index: value(3), round: value(2), replica: value(1) as u32 };
    let opened = Answer::SessionOpened { account: AccountId(value(1)), expires_at: Timestamp(value(9) as i64) };
    store.set_counters(counters).unwrap();
    store.insert_account(&account, &hash).unwrap();
    store.set_marks(AccountId(value(1)), marks).unwrap();
    store.insert_session(&session).unwrap();
    store.insert_message(&message.into()).unwrap();
    let answers = [
        Answer::Sent { id, seq, at, provenance },
        opened,
        Answer::Registered { account: AccountId(value(1)) },
        Answer::Deleted { discarded: value(1) },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let body = BodyHash([value(1) as u8; 8]);
        let scope = Scope::from_u64(value(1));
        let key = key(value(10 * number as u64) as u8);
        store.insert_request(&key, scope, &RequestRecord { body, answer }).unwrap();
    }
    if value(0) == 1 {
        store.bury_account(account.id).unwrap();
    }
    assert_eq!(position, VALUES, "each of them is changed once");
    store
}

const VALUES: u64 = 46;

#[test]
fn every_value_counts() {
    let mut hashes: Vec<_> = (0..=VALUES).map(|changed| state_hash(&state(changed)).unwrap()).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len() as u64, VALUES + 1);
}
