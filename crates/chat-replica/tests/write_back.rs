//! What is carried out and not written yet is seen by commands, is there for readers when it is shown, and is carried out again after a crash.

#[path = "../../chat-core/tests/common/mod.rs"]
mod common;

use chat_core::{Command, MemoryStore, Provenance, apply, state_hash};
use chat_replica::node::Disk as _;
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, Progress, SqliteDisk};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ID: ReplicaId = ReplicaId(1);

fn open(path: &Path) -> SqliteDisk {
    let directory = Arc::new(DataDirectory::take(path, ID).expect("free"));
    SqliteDisk::open(directory, ID).expect("readable").0
}

/// What happens after an entry.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    /// The database takes it in meanwhile, if it is much.
    HandOver,
    Show,
    LookAhead,
    Crash,
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        6 => Just(Then::Nothing),
        1 => Just(Then::HandOver),
        1 => Just(Then::Show),
        2 => Just(Then::LookAhead),
        1 => Just(Then::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_that_writes_late_does_what_memory_does(
        commands in common::commands(400),
        sizes in prop::collection::vec((1_usize..25, then()), 60),
    ) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("1");
        let (mut memory, mut disk) = (MemoryStore::default(), open(&path));
        let (mut entries, mut rest) = (Vec::<Entry>::new(), &commands[..]);
        for (size, then) in sizes {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let epoch = Epoch { round: 1, replica: ID };
            let previous = entries.last().map(|last| last.hash).unwrap_or_default();
            let body = Body::Commands(chat_core::codec::encode(batch).into());
            let entry = Entry::chained(previous, entries.len() as u64 + 1, epoch, body);
            disk.persist(&Persist::Append(entry.clone())).expect("written");
            disk.commit().expect("synced");
            let applied = disk.apply(&entry).expect("carried out");
            disk.commit().expect("committed");
            let expected: Vec<_> = batch.iter().map(|command| in_memory(&mut memory, &entry, command)).collect();
            prop_assert_eq!(applied, expected, "{:?}", batch);
            entries.push(entry);
            match then {
                Then::Nothing => disk.settle().expect("taken in"),
                Then::HandOver => disk.show().expect("handed over"),
                Then::Show => {
                    disk.take_in_all().expect("taken in");
                    prop_assert_eq!(disk.visible(), disk.applied());
                    prop_assert_eq!(state_hash(&disk.state()).expect("readable"), hash(&memory));
                    prop_assert!(disk.read(1, usize::MAX) == entries, "the log is what was appended");
                }
                Then::LookAhead => {
                    let at = disk.look_ahead_at(Progress::IsUpToDate).unwrap_or_else(Instant::now);
                    disk.look_ahead(at, Progress::IsUpToDate).expect("readable");
                }
                Then::Crash => {
                    drop(disk);
                    disk = open(&path);
                    for entry in &entries[disk.applied() as usize..] {
                        disk.apply(entry).expect("carried out again");
                        disk.commit().expect("committed");
                    }
                    prop_assert!(disk.read(1, usize::MAX) == entries, "the log is what was appended");
                }
            }
        }
        disk.take_in_all().expect("taken in");
        prop_assert_eq!(state_hash(&disk.state()).expect("readable"), hash(&memory));
    }
}

fn in_memory(memory: &mut MemoryStore, entry: &Entry, command: &Command) -> chat_core::Applied {
    let provenance = Provenance { index: entry.index, round: entry.epoch.round, replica: entry.epoch.replica.0 };
    let Ok(applied) = apply(memory, provenance, command);
    applied
}

fn hash(memory: &MemoryStore) -> [u8; 32] {
    let Ok(hash) = state_hash(memory);
    hash
}
