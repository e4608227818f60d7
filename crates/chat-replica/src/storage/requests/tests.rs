use super::block::BYTES;
use super::*;
use crate::storage::migrations;
use chat_core::{AccountId, Answer, MessageId, Provenance, Timestamp};
use proptest::prelude::*;
use rusqlite::hooks::Wal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

fn new() -> Connection {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate(&mut connection).expect("made");
    connection
}

/// Numbers that look random, and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 7
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    /// As clients make them.
    fn key(&mut self, millis: u64) -> RequestKey {
        let mut key = self.bytes();
        key[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        RequestKey(key)
    }
}

/// How the keys of a batch are chosen.
#[derive(Clone, Copy, Debug)]
enum Keys {
    InOrder,
    Overlapping,
    OneClockAhead,
    Random,
    Descending,
    /// They differ in their scopes only.
    Same,
    /// At both ends of all keys.
    Extreme,
}

/// What is expected, and what makes it.
struct Model {
    all: BTreeMap<(RequestKey, Scope), RequestRecord>,
    numbers: Numbers,
    millis: u64,
    messages: u64,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model { all: BTreeMap::new(), numbers: Numbers(seed), millis: 1_764_000_000_000, messages: 0 }
    }

    fn key(&mut self, keys: Keys, at: u64) -> RequestKey {
        let numbers = &mut self.numbers;
        self.millis += numbers.below(2);
        match keys {
            Keys::InOrder => numbers.key(self.millis),
            Keys::Overlapping => {
                let late = numbers.below(400);
                numbers.key(self.millis - late)
            }
            Keys::OneClockAhead => {
                let is_ahead = numbers.below(10) == 0;
                numbers.key(self.millis + if is_ahead { 86_400_000 } else { 0 })
            }
            Keys::Random => RequestKey(numbers.bytes()),
            Keys::Descending => numbers.key(self.millis / 2 - at - self.messages),
            Keys::Same => RequestKey([self.millis as u8 % 4; 16]),
            Keys::Extreme => {
                let mut key = [if numbers.below(2) == 0 { 0 } else { 255 }; 16];
                key[15] = numbers.next() as u8;
                RequestKey(key)
            }
        }
    }

    fn record(&mut self) -> RequestRecord {
        let numbers = &mut self.numbers;
        self.messages += 1;
        let account = AccountId(1 + numbers.below(100_000));
        let answer = match numbers.below(200) {
            0 => Answer::Registered { account },
            1 => Answer::SessionOpened { account, expires_at: Timestamp(self.millis as i64 + 1_000_000_000) },
            2 => Answer::Deleted { discarded: numbers.below(1000) },
            3 => {
                let provenance = Provenance { index: numbers.next(), round: u64::MAX, replica: u32::MAX };
                Answer::Sent { id: MessageId(u64::MAX), seq: u64::MAX, at: Timestamp(i64::MIN), provenance }
            }
            _ => {
                let provenance = Provenance { index: 1_000_000 + self.messages / 31, round: 7, replica: 2 };
                let at = Timestamp(self.millis as i64 + numbers.below(3) as i64);
                Answer::Sent { id: MessageId(10_000_000 + self.messages), seq: numbers.below(4000), at, provenance }
            }
        };
        RequestRecord { body: BodyHash(numbers.bytes()), answer }
    }

    /// So many new records, in order.
    fn batch(&mut self, keys: Keys, length: u64) -> Vec<Entry> {
        let mut batch = BTreeMap::new();
        for at in 0..length {
            let place = (self.key(keys, at), Scope::from_u64(self.numbers.below(5000)));
            if !self.all.contains_key(&place) {
                batch.insert(place, self.record());
            }
        }
        self.all.extend(batch.iter().map(|(place, record)| (*place, record.clone())));
        batch.into_iter().map(|((key, scope), record)| Entry { key, scope, record }).collect()
    }

    fn compare(&mut self, connection: &Connection) {
        let requests = Requests::new(connection);
        let mut all = self.all.iter();
        let visit = |key: &RequestKey, scope, record: &RequestRecord| {
            assert_eq!(Some((&(*key, scope), record)), all.next(), "each once, in order");
        };
        requests.for_each(visit).expect("read");
        assert_eq!(all.next(), None);
        let step = 1 + self.all.len() / 500;
        for ((key, scope), record) in self.all.iter().step_by(step) {
            assert_eq!(found(requests, key, *scope).as_ref(), Some(record));
            for (key, scope) in [(self.numbers.key(self.millis), *scope), (*key, Scope::from_u64(9999))] {
                assert_eq!(found(requests, &key, scope), self.all.get(&(key, scope)).cloned());
                self.compare_gap(requests.find(place(&key, scope)).expect("read"));
            }
        }
        shaped(connection);
    }

    fn compare_gap(&self, found: Found) {
        let Found::Nothing(Gap { after, before }) = found else { return };
        let record_place = |(key, scope): &(RequestKey, Scope)| place(key, *scope);
        let mut beyond = self.all.keys().map(record_place).skip_while(|place| *place <= after);
        assert!(beyond.next().is_none_or(|next| before.is_some_and(|before| before <= next)), "nothing is in a gap");
    }
}

fn found(requests: Requests<'_>, key: &RequestKey, scope: Scope) -> Option<RequestRecord> {
    requests.find(place(key, scope)).expect("read").record()
}

/// How long the blocks are, in order. No block is too long, and each has what begins at it and before the next.
fn shaped(connection: &Connection) -> Vec<usize> {
    let mut statement = connection.prepare("SELECT first, records FROM request_blocks ORDER BY first").expect("valid");
    let blocks = statement.query_map([], |row| {
        let places = Entries::new(records(row)?).map(|entry| entry.map(|entry| entry.place()));
        Ok((first(row, 0)?, places.collect::<Result<Vec<_>>>()?, records(row)?.len()))
    });
    let blocks: Vec<_> = blocks.expect("read").map(|block| block.expect("readable")).collect();
    for (at, (first, places, length)) in blocks.iter().enumerate() {
        assert!(*length <= BYTES, "{length}");
        assert!(places.first().is_none_or(|place| place >= first));
        assert!(blocks.get(at + 1).is_none_or(|(next, ..)| places.last().is_some_and(|place| place < next)));
        assert!(!places.is_empty() || blocks.len() == 1);
    }
    blocks.into_iter().map(|(_, _, length)| length).collect()
}

fn keys() -> impl Strategy<Value = Keys> {
    use Keys::*;
    proptest::sample::select(vec![InOrder, InOrder, Overlapping, OneClockAhead, Random, Descending, Same, Extreme])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_knows_what_was_inserted_and_nothing_else(
        seed in any::<u64>(),
        batches in prop::collection::vec((keys(), prop_oneof![3 => Just(1), 2 => 1..40_u64, 1 => 100..1500_u64]), 0..60),
    ) {
        let (connection, mut model) = (new(), Model::new(seed));
        for (keys, length) in batches {
            Requests::new(&connection).insert(model.batch(keys, length)).expect("inserted");
        }
        model.compare(&connection);
    }
}

/// Bytes of all blocks, and how full they are, after many batches of one length.
fn filled(keys: Keys, batches: u64, length: u64) -> (u64, f64) {
    let (connection, mut model) = (new(), Model::new(8));
    for _ in 0..batches {
        Requests::new(&connection).insert(model.batch(keys, length)).expect("inserted");
    }
    model.compare(&connection);
    let lengths = shaped(&connection);
    let bytes: usize = lengths.iter().sum();
    ((lengths.len() * BYTES / model.all.len()) as u64, bytes as f64 / (lengths.len() * BYTES) as f64)
}

#[test]
fn a_record_takes_few_bytes_where_keys_are_nearly_in_order() {
    for (keys, batches, length, most, fullness) in [
        (Keys::InOrder, 3, 8192, 28, 0.98),
        (Keys::InOrder, 8000, 1, 28, 0.98),
        (Keys::OneClockAhead, 8000, 1, 29, 0.95),
        (Keys::Overlapping, 3, 8192, 30, 0.95),
        (Keys::Overlapping, 8000, 1, 44, 0.65),
        (Keys::Random, 8000, 1, 52, 0.65),
        (Keys::Descending, 8000, 1, 29, 0.95),
    ] {
        let (bytes, full) = filled(keys, batches, length);
        assert!(bytes <= most, "{bytes} bytes for each: {keys:?}, {length} at once");
        assert!(full >= fullness, "{full} full: {keys:?}, {length} at once");
    }
}

/// SQLite keeps what is too long for a page on pages of its own.
#[test]
fn a_block_is_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("db");
    let mut connection = crate::storage::disk::connect(&path, rusqlite::OpenFlags::default()).expect("a database");
    migrations::migrate(&mut connection).expect("made");
    let pages =
        || connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0)).expect("counted") as usize;
    let (before, mut model) = (pages(), Model::new(6));
    for _ in 0..2 {
        Requests::new(&connection).insert(model.batch(Keys::InOrder, 8192)).expect("inserted");
    }
    let (pages, blocks) = (pages() - before, shaped(&connection).len());
    assert!(pages <= blocks + 4, "{pages} pages for {blocks} blocks");
}

/// Whatever the keys are, one more is a look at a few rows and a change of a few pages.
#[test]
fn a_record_among_many_is_found_and_inserted_in_a_few_steps() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut connection = Connection::open(directory.path().join("db")).expect("a database");
    connection.pragma_update(None, "journal_mode", "wal").expect("set");
    connection.pragma_update(None, "synchronous", "off").expect("set");
    migrations::migrate(&mut connection).expect("made");
    let (steps, pages) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicI32::new(0)));
    let (counted, written) = (steps.clone(), pages.clone());
    let step = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    connection.progress_handler(1, Some(step)).expect("set");
    let committed = move |_: &mut Wal, length| {
        written.store(length, Ordering::Relaxed);
        Ok(())
    };
    connection.wal_hook(Some(committed)).expect("set");
    let (mut model, requests) = (Model::new(5), Requests::new(&connection));
    for _ in 0..10 {
        for keys in [Keys::InOrder, Keys::Random, Keys::Descending, Keys::OneClockAhead] {
            requests.insert(model.batch(keys, 5000)).expect("inserted");
        }
    }
    let taken = |what: &str, most: u64| {
        let taken = steps.swap(0, Ordering::Relaxed);
        assert!(taken <= most, "{what}: {taken} steps of SQLite's");
    };
    for keys in [Keys::InOrder, Keys::Random, Keys::Descending, Keys::OneClockAhead, Keys::Same, Keys::Extreme] {
        for _ in 0..300 {
            let batch = model.batch(keys, 1);
            for Entry { key, scope, .. } in &batch {
                taken("", u64::MAX);
                assert_eq!(found(requests, key, *scope), None);
                taken("a look", 40);
            }
            connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("moved");
            taken("", u64::MAX);
            pages.store(0, Ordering::Relaxed);
            requests.insert(batch).expect("inserted");
            taken("an insertion", 120);
            let pages = pages.load(Ordering::Relaxed);
            assert!(pages <= 12, "{keys:?}: {pages} pages were written for one record");
        }
    }
}

/// The first answer stays.
#[test]
fn a_record_that_is_there_is_not_overwritten() {
    let (connection, mut model) = (new(), Model::new(3));
    let requests = Requests::new(&connection);
    requests.insert(model.batch(Keys::InOrder, 500)).expect("inserted");
    for (key, scope) in model.all.keys().step_by(100) {
        let record = RequestRecord { body: BodyHash([9; 8]), answer: Answer::Deleted { discarded: 9 } };
        let refused = requests.insert([Entry { key: *key, scope: *scope, record }]).expect_err("it is there");
        assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::ConstraintViolation));
    }
    model.compare(&connection);
}

#[test]
fn a_damaged_block_is_an_error() {
    let (connection, mut model) = (new(), Model::new(4));
    let requests = Requests::new(&connection);
    requests.insert(model.batch(Keys::InOrder, 500)).expect("inserted");
    for damage in [
        "UPDATE request_blocks SET records = zeroblob(30)",
        "UPDATE request_blocks SET records = substr(records, 1, length(records) - 1)",
        "UPDATE request_blocks SET records = cast(x'ff' || records AS BLOB)",
        "UPDATE request_blocks SET records = cast(records || records AS BLOB)",
        "UPDATE request_blocks SET first = cast(x'00' || substr(first, 2) AS BLOB) WHERE number = 2",
        "DELETE FROM request_blocks",
    ] {
        connection.execute_batch("SAVEPOINT before").expect("set");
        connection.execute_batch(damage).expect("damaged");
        let errors = [
            requests.for_each(|_, _, _| ()).err(),
            requests.find((u128::MAX, 0)).err(),
            requests.insert(model.batch(Keys::InOrder, 1)).err(),
        ];
        let is_damage = |error: &Option<_>| error.as_ref().is_some_and(crate::storage::damage::is_damage);
        assert!(errors.iter().any(is_damage), "{damage}: {errors:?}");
        connection.execute_batch("ROLLBACK TO before; RELEASE before").expect("as before");
    }
}

/// A database of version 8, as the version before this one left it.
#[test]
fn records_of_an_earlier_version_are_known() {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate_to(&mut connection, 8).expect("made");
    let mut model = Model::new(15);
    let insert = "INSERT INTO requests (key, scope, body, answer) VALUES (?1, ?2, ?3, ?4)";
    for keys in [Keys::InOrder, Keys::Random, Keys::Same, Keys::InOrder] {
        for Entry { key, scope, record } in model.batch(keys, 1 + PORTION as u64) {
            let mut long = [7; 16];
            long[..8].copy_from_slice(&record.body.0);
            let answer = codec::encode_answer(&record.answer);
            connection.execute(insert, (key.0, scope.as_u64() as i64, long, answer)).expect("inserted");
        }
    }
    migrations::migrate(&mut connection).expect("brought up to date");
    model.compare(&connection);
    Requests::new(&connection).insert(model.batch(Keys::Overlapping, 1000)).expect("inserted");
    model.compare(&connection);
    let left = "SELECT count(*) FROM sqlite_schema WHERE name = 'requests'";
    assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).expect("counted"), 0);
}

#[test]
fn a_database_without_records_is_brought_up_to_date() {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate_to(&mut connection, 8).expect("made");
    migrations::migrate(&mut connection).expect("brought up to date");
    Model::new(1).compare(&connection);
}
