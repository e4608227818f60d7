//! The state in SQLite is the state in memory: the same outcomes, events, views and hash, also from a reopened file.

#[path = "../../chat-core/tests/common/mod.rs"]
mod common;

use std::path::Path;

use chat_core::{
    AccountId, Applied, Command, Counters, MemoryStore, MessageId, Pattern, Read, Store, Timestamp, apply, state_hash,
};
use chat_replica::storage::migrations::migrate;
use chat_replica::storage::state::{STATEMENTS, SqliteState};
use proptest::prelude::*;
use rusqlite::Connection;

fn open(path: &Path) -> Connection {
    let mut connection = Connection::open(path).unwrap();
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    migrate(&mut connection).unwrap();
    connection
}

fn run<S: Store>(store: &mut S, position: usize, command: &Command) -> Applied
where
    S::Error: std::fmt::Debug,
{
    apply(store, common::provenance(position), command).unwrap()
}

/// Everything that can be asked, of every account there is and one more.
fn views<R: Read>(store: &R) -> String
where
    R::Error: std::fmt::Debug,
{
    let Counters { accounts, .. } = store.counters().unwrap();
    let mut views = format!("{:?}", store.counters().unwrap());
    for id in (1..=accounts + 1).chain([u64::MAX]).map(AccountId) {
        let account = store.account(id).unwrap();
        let name = account.as_ref().map(|it| it.name.clone());
        views += &format!("\n{account:?} {:?}", name.as_ref().map(|it| store.account_by_name(it).unwrap()));
        views +=
            &format!("{:?} {:?}", store.password(id).unwrap().map(|it| it.as_phc().len()), store.marks(id).unwrap());
        views += &format!("{:?}", store.sessions_of(id).unwrap());
        for (seq, limit) in [(0, 1000), (1, 2), (u64::MAX, 5), (0, 0)] {
            let messages = store.messages_after(id, seq, limit).unwrap();
            let texts: Vec<_> = messages.iter().map(|it| it.text.as_str().to_owned()).collect();
            views += &format!("{messages:?}{texts:?}");
        }
        for other in (1..=accounts).map(AccountId) {
            for before in [None, Some(0), Some(4), Some(u64::MAX)] {
                views += &format!("{:?}", store.conversation(id, other, before.map(MessageId), 3).unwrap());
            }
        }
        for pattern in ["", "b*", "b?b", "*n", "B0B", "a", "[a]*", "\u{e4}*", "**.*"] {
            let pattern = Pattern::parse(pattern).unwrap();
            for limit in [1, 2, 100] {
                views += &format!("{:?}", store.accounts(&pattern, name.as_ref(), limit).unwrap());
            }
        }
    }
    for at in [0, 400, 901, 5000] {
        views += &format!("{:?}", store.expired_sessions(Timestamp(at), 3).unwrap());
    }
    views
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_does_what_memory_does(commands in common::commands(60), reopen in any::<prop::sample::Index>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("replica.db");
        let (mut memory, mut connection) = (MemoryStore::default(), open(&path));
        let reopen_at = reopen.index(commands.len() + 1);
        for (position, command) in commands.iter().enumerate() {
            if position == reopen_at {
                connection.close().unwrap();
                connection = open(&path);
            }
            let transaction = connection.transaction().unwrap();
            let applied = run(&mut SqliteState::new(&transaction), position, command);
            transaction.commit().unwrap();
            prop_assert_eq!(applied, run(&mut memory, position, command), "{:?}", command);
        }
        let here = SqliteState::new(&connection);
        prop_assert_eq!(views(&here), views(&memory));
        prop_assert_eq!(state_hash(&here).unwrap(), state_hash(&memory).unwrap());
        drop(connection);
        let again = open(&path);
        prop_assert_eq!(state_hash(&SqliteState::new(&again)).unwrap(), state_hash(&memory).unwrap());
    }
}

/// A value that nobody could have written is an error of the storage, not a panic and not a wrong answer.
#[test]
fn a_damaged_row_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut connection = open(&directory.path().join("replica.db"));
    let transaction = connection.transaction().unwrap();
    run(&mut SqliteState::new(&transaction), 0, &common::register(1, 0));
    transaction.commit().unwrap();
    for damage in [
        "UPDATE accounts SET name = '-'",
        "UPDATE accounts SET id = -5",
        "INSERT INTO mark_runs VALUES (0, 1); INSERT INTO recent_marks VALUES (0, x'01')",
        "INSERT INTO marks VALUES (0, x'01')",
        "UPDATE request_blocks SET records = x'ff'",
        "UPDATE request_blocks SET records = substr(records, 1, length(records) - 1)",
        "UPDATE accounts SET password = 'in clear'",
    ] {
        let transaction = connection.transaction().unwrap();
        assert!(state_hash(&SqliteState::new(&transaction)).is_ok());
        transaction.execute_batch(damage).unwrap();
        assert!(state_hash(&SqliteState::new(&transaction)).is_err(), "{damage}");
        transaction.rollback().unwrap();
    }
}
