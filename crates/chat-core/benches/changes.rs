//! What a change costs without log, disk and network: carrying it out in memory, and its way into bytes and back.
//!
//! `cargo bench -p chat-core`

use chat_core::codec::{decode, encode};
use chat_core::{
    Command, DisplayName, MemoryStore, MessageText, Outcome, PasswordHash, Provenance, RequestKey, Timestamp,
    TokenHash, Username, apply,
};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

/// Accounts in the store.
const ACCOUNTS: u64 = 1000;
/// Bytes of a text.
const TEXT: usize = 128;
const AT: Timestamp = Timestamp(1_000);

fn main() {
    divan::main();
}

fn name(number: u64) -> Username {
    Username::parse(&format!("user-{number}")).expect("a name")
}

fn key(kind: u8, number: u64) -> RequestKey {
    let mut key = [kind; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    RequestKey(key)
}

fn token(number: u64) -> TokenHash {
    TokenHash([number as u8; 32])
}

fn register(number: u64) -> Command {
    let password = PasswordHash::new(&format!("$argon2id${}", "x".repeat(80))).expect("shaped like a hash");
    let name = name(number);
    Command::Register { key: key(1, number), display_name: DisplayName::of(&name), name, password, at: AT }
}

fn send(number: u64) -> Command {
    let text = MessageText::new("x".repeat(TEXT)).expect("a text");
    Command::Send { key: key(3, number), session: token(number % 64), to: name(number * 7 % ACCOUNTS), text, at: AT }
}

fn carry_out(store: &mut MemoryStore, command: &Command) -> Outcome {
    let provenance = Provenance { index: 1, round: 1, replica: 1 };
    apply(store, provenance, command).expect("memory does not fail").result.expect("the rules accept it")
}

/// A store with accounts, of which 64 have a session.
fn store() -> MemoryStore {
    let mut store = MemoryStore::default();
    for number in 0..ACCOUNTS {
        let Outcome::Registered { account, .. } = carry_out(&mut store, &register(number)) else {
            panic!("it is no registration");
        };
        if number < 64 {
            let (key, account, token) = (key(2, number), account.id, token(number));
            let expires_at = Timestamp(i64::MAX);
            carry_out(&mut store, &Command::OpenSession { key, account, token, at: AT, expires_at });
        }
    }
    store
}

#[divan::bench]
fn apply_send(bencher: Bencher<'_, '_>) {
    let (mut store, mut number) = (store(), 0);
    let next = || {
        number += 1;
        send(number)
    };
    bencher.with_inputs(next).bench_local_refs(|command| carry_out(&mut store, command));
}

#[divan::bench]
fn apply_register(bencher: Bencher<'_, '_>) {
    let (mut store, mut number) = (store(), ACCOUNTS);
    let next = || {
        number += 1;
        register(number)
    };
    bencher.with_inputs(next).bench_local_refs(|command| carry_out(&mut store, command));
}

#[divan::bench(args = [1, 64])]
fn encode_sends(bencher: Bencher<'_, '_>, batch: u64) {
    let commands: Vec<Command> = (0..batch).map(send).collect();
    bencher.counter(ItemsCount::new(batch)).bench(|| encode(black_box(&commands)));
}

#[divan::bench(args = [1, 64])]
fn decode_sends(bencher: Bencher<'_, '_>, batch: u64) {
    let bytes = encode(&(0..batch).map(send).collect::<Vec<_>>());
    bencher.counter(ItemsCount::new(batch)).bench(|| decode(black_box(&bytes)).expect("it was encoded"));
}
