//! Random sequences of commands, compared with an oracle, and held against the promises one by one.

mod common;
mod oracle;

use std::collections::BTreeMap;

use chat_core::{
    AccountId, Applied, Command, Event, Lookup, MemoryStore, Message, Outcome, Pattern, Read, Rejection, Timestamp,
    apply, repeated, state_hash,
};
use oracle::{Mail, Oracle};
use proptest::prelude::*;

fn run(store: &mut MemoryStore, position: usize, command: &Command) -> Applied {
    let Ok(applied) = apply(store, common::provenance(position), command);
    applied
}

fn run_all(commands: &[Command]) -> MemoryStore {
    let mut store = MemoryStore::default();
    for (position, command) in commands.iter().enumerate() {
        run(&mut store, position, command);
    }
    store
}

fn hash(store: &MemoryStore) -> [u8; 32] {
    let Ok(hash) = state_hash(store);
    hash
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

fn same(found: &[Message], expected: &[&Mail], oracle: &Oracle) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (message, mail) in found.iter().zip(expected) {
        let (from, to) = (&oracle.users[mail.from].account, &oracle.users[mail.to].account);
        prop_assert_eq!((message.id.0, message.seq, message.sent_at), (mail.id, mail.seq, mail.at));
        prop_assert_eq!(message.text.as_str(), mail.text.as_str());
        prop_assert_eq!((&message.from.id, &message.from.name), (&from.id, &from.name));
        prop_assert_eq!((&message.to.id, &message.to.name), (&to.id, &to.name));
        prop_assert_eq!(message.sender_deleted, from.deleted);
    }
    Ok(())
}

fn same_views(store: &MemoryStore, oracle: &Oracle) -> Result<(), TestCaseError> {
    for (index, user) in oracle.users.iter().enumerate() {
        let id = user.account.id;
        prop_assert_eq!(store.account(id), Ok(Some(user.account.clone())));
        prop_assert_eq!(store.account_by_name(&user.account.name), Ok(Some(user.account.clone())));
        prop_assert_eq!(store.password(id).map(|it| it.is_none()), Ok(user.account.deleted));
        prop_assert_eq!(store.marks(id), Ok(user.marks));
        for after in [0, 2, u64::MAX] {
            let expected: Vec<_> = oracle.mail.iter().filter(|it| it.to == index && it.seq > after).take(3).collect();
            let Ok(found) = store.messages_after(id, after, 3);
            same(&found, &expected, oracle)?;
        }
        for (other, peer) in oracle.users.iter().enumerate() {
            let between = |it: &&Mail| (it.from, it.to) == (index, other) || (it.from, it.to) == (other, index);
            for before in [None, Some(0), Some(3), Some(u64::MAX)] {
                let older: Vec<_> =
                    oracle.mail.iter().filter(between).filter(|it| before.is_none_or(|id| it.id < id)).collect();
                let newest = &older[older.len().saturating_sub(2)..];
                let Ok(found) = store.conversation(id, peer.account.id, before.map(chat_core::MessageId), 2);
                same(&found, newest, oracle)?;
            }
        }
    }
    let mut listed: Vec<_> = oracle.users.iter().map(|it| it.account.clone()).filter(|it| !it.deleted).collect();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let everyone = Pattern::parse("").unwrap();
    prop_assert_eq!(store.accounts(&everyone, None, 1000), Ok(listed.clone()));
    // Page by page, each after the last name of the one before.
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map(|it: &chat_core::Account| it.name.clone());
        let Ok(page) = store.accounts(&everyone, after.as_ref(), 2);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    prop_assert_eq!(paged, listed);
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn does_what_the_oracle_says(commands in common::commands(60)) {
        let (mut store, mut oracle) = (MemoryStore::default(), Oracle::default());
        for (position, command) in commands.iter().enumerate() {
            let known = repeated(&store, command);
            let before = hash(&store);
            let applied = run(&mut store, position, command);
            prop_assert_eq!(&applied.result, &oracle.step(common::provenance(position), command), "{:?}", command);
            if let Ok(Some(known)) = known {
                prop_assert_eq!(&applied.result, &known);
            }
            let nothing_done = applied.result.is_err() || is_duplicate(&applied.result);
            if nothing_done {
                prop_assert_eq!(hash(&store), before, "refused or repeated, but something changed: {:?}", command);
                prop_assert!(applied.events.is_empty());
            }
        }
        same_views(&store, &oracle)?;
    }

    #[test]
    fn the_same_sequence_comes_to_the_same_state(commands in common::commands(60)) {
        prop_assert_eq!(hash(&run_all(&commands)), hash(&run_all(&commands)));
    }

    #[test]
    fn every_change_shows_in_the_hash(commands in common::commands(40)) {
        let mut store = MemoryStore::default();
        for (position, command) in commands.iter().enumerate() {
            let before = hash(&store);
            let applied = run(&mut store, position, command);
            if !applied.events.is_empty() {
                prop_assert_ne!(hash(&store), before);
            }
        }
    }

    #[test]
    fn repeating_any_requests_changes_nothing(
        commands in common::commands(50),
        repeats in prop::collection::vec((any::<prop::sample::Index>(), 0_i64..1000), 0..30),
    ) {
        let mut store = MemoryStore::default();
        let mut results = Vec::new();
        for (position, command) in commands.iter().enumerate() {
            let result = run(&mut store, position, command).result;
            results.push((result, sender(&store, command)));
        }
        let before = hash(&store);
        for (which, at) in repeats {
            if commands.is_empty() {
                break;
            }
            let position = which.index(commands.len());
            let (command, (first, from)) = (&commands[position], &results[position]);
            // The few tokens here are used by one account after another, whose requests are not the same request.
            let by_another = sender(&store, command).is_some_and(|now| Some(now) != *from);
            if command.key().is_none() || first.is_err() || by_another {
                continue;
            }
            let second = run(&mut store, 10_000, &common::again(command, Timestamp(at)));
            prop_assert!(second.events.is_empty());
            match (first, second.result) {
                (Ok(Outcome::Sent { id, seq, at, provenance, .. }), Ok(again)) => {
                    let (id, seq, at, provenance) = (*id, *seq, *at, *provenance);
                    prop_assert_eq!(again, Outcome::Sent { id, seq, at, provenance, duplicate: true });
                }
                (Ok(Outcome::Sent { .. }), Err(rejection)) => prop_assert_eq!(rejection, Rejection::SessionInvalid),
                (_, again) => prop_assert!(is_duplicate(&again), "{:?}", again),
            }
        }
        prop_assert_eq!(hash(&store), before);
    }

    #[test]
    fn order_and_marks_hold_at_every_step(commands in common::commands(80)) {
        let mut store = MemoryStore::default();
        let mut mailboxes: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut marks = BTreeMap::new();
        for (position, command) in commands.iter().enumerate() {
            for event in run(&mut store, position, command).events {
                if let Event::Delivered { recipient, message } = event {
                    let mailbox = mailboxes.entry(recipient.0).or_default();
                    mailbox.push(message.id.0);
                    prop_assert_eq!(message.seq, mailbox.len() as u64, "gapless from 1");
                    prop_assert!(mailbox.is_sorted(), "in the order of sending");
                }
            }
            let Ok(counters) = store.counters();
            for id in 1..=counters.accounts {
                let Ok(now) = store.marks(AccountId(id));
                prop_assert!(now.read <= now.delivered && now.delivered <= now.last);
                let before = marks.insert(id, now).unwrap_or_default();
                prop_assert!(before.read <= now.read && before.delivered <= now.delivered && before.last <= now.last);
            }
        }
    }
}

fn sender(store: &MemoryStore, command: &Command) -> Option<AccountId> {
    let Command::Send { session, .. } = command else { return None };
    let Ok(session) = store.session(session);
    session.map(|session| session.account)
}

fn is_duplicate(result: &Result<Outcome, Rejection>) -> bool {
    match result {
        Ok(
            Outcome::Registered { duplicate, .. }
            | Outcome::SessionOpened { duplicate, .. }
            | Outcome::Sent { duplicate, .. }
            | Outcome::Deleted { duplicate, .. },
        ) => *duplicate,
        _ => false,
    }
}
