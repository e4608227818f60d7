//! What a batch costs a replica and its disk: into the log with a sync, committed, and carried out on the state. One replica alone, so
//! without a network; on a real directory (`TMPDIR`), so with that disk's syncs.
//!
//! `cargo bench -p chat-replica --bench storage`

use bytes::Bytes;
use chat_core::{Applied, Command, DisplayName, MessageText, PasswordHash, RequestKey, Timestamp, TokenHash, Username};
use chat_replica::node::{Node, Outbox};
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, SqliteDisk};
use divan::Bencher;
use divan::counter::ItemsCount;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

/// Accounts in the state; each has a session and sends.
const ACCOUNTS: u64 = 64;
/// Bytes of a text.
const TEXT: usize = 128;
const AT: Timestamp = Timestamp(1_000);

fn main() {
    divan::main();
}

/// Counts what was carried out, and that the rules accepted it.
#[derive(Default)]
struct Accepted(u64);

impl Outbox for Accepted {
    fn send(&mut self, _: Envelope) {}
    fn applied(&mut self, _: &Entry, results: Vec<Applied>, _: usize) {
        assert!(results.iter().all(|applied| applied.result.is_ok()), "the rules accept all of it");
        self.0 += results.len() as u64;
    }
    fn event(&mut self, _: Event) {}
}

/// A replica that is a cluster by itself.
struct Alone {
    node: Node<SqliteDisk>,
    began: Instant,
    /// Gone when this is.
    _data: TempDir,
}

impl Alone {
    fn founded() -> Alone {
        let data = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&data.path().join("1"), ReplicaId(1)).expect("free"));
        let (disk, me, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("a new disk");
        let config = Config::new(me, Vec::new(), ClusterId([7; 16]), 1);
        let node = Node::new(Replica::new(config, found, Time(0)), disk);
        let mut alone = Alone { node, began: Instant::now(), _data: data };
        alone.turns([Input::Tick]);
        assert_eq!(alone.node.replica().accepts(), Ok(()), "it leads");
        let accounts: Vec<Command> = (0..ACCOUNTS).flat_map(account).collect();
        assert_eq!(alone.turns([Input::Propose(batch(&accounts))]), 2 * ACCOUNTS);
        alone
    }

    /// A turn with these inputs, and those that must follow until everything is carried out; returns how many commands were.
    fn turns<const N: usize>(&mut self, inputs: [Input; N]) -> u64 {
        let (began, mut accepted) = (self.began, Accepted::default());
        let clock = || Time(began.elapsed().as_micros() as u64);
        let mut turned = self.node.turn(clock(), inputs, &clock, &mut accepted).expect("the disk works");
        while turned.synced.is_some() || self.node.is_behind() {
            let synced = turned.synced.map(|took| Input::Persisted { took });
            turned = self.node.turn(clock(), synced, &clock, &mut accepted).expect("the disk works");
        }
        accepted.0
    }
}

fn name(number: u64) -> Username {
    Username::parse(&format!("user-{number}")).expect("a name")
}

fn key(kind: u8, number: u64) -> RequestKey {
    let mut key = [kind; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    RequestKey(key)
}

fn account(number: u64) -> [Command; 2] {
    let (name, token) = (name(number), TokenHash([number as u8; 32]));
    let password = PasswordHash::new(&format!("$argon2id${}", "x".repeat(80))).expect("shaped like a hash");
    let display_name = DisplayName::of(&name);
    let account = chat_core::AccountId(number + 1);
    [
        Command::Register { key: key(1, number), name, display_name, password, at: AT },
        Command::OpenSession { key: key(2, number), account, token, at: AT, expires_at: Timestamp(i64::MAX) },
    ]
}

fn send(number: u64) -> Command {
    let text = MessageText::new("x".repeat(TEXT)).expect("a text");
    let session = TokenHash([(number % ACCOUNTS) as u8; 32]);
    Command::Send { key: key(3, number), session, to: name(number * 7 % ACCOUNTS), text, at: AT }
}

fn batch(commands: &[Command]) -> Bytes {
    chat_core::codec::encode(commands).into()
}

#[divan::bench(args = [1, 64], sample_count = 200, sample_size = 1)]
fn commit_and_apply_sends(bencher: Bencher<'_, '_>, messages: u64) {
    let (mut alone, mut number) = (Alone::founded(), 0);
    let next = || {
        number += messages;
        batch(&(number - messages..number).map(send).collect::<Vec<_>>())
    };
    bencher.counter(ItemsCount::new(messages)).with_inputs(next).bench_local_values(|bytes| {
        assert_eq!(alone.turns([Input::Propose(bytes)]), messages);
    });
}
