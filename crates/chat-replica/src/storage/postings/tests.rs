//! Both indexes against a model, through many merges.

use super::*;
use crate::storage::migrations;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A small generator, so that a failure comes again: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Every message there is, in both orders.
#[derive(Default)]
struct Model {
    all: [BTreeSet<Posting>; 2],
    last_id: u64,
    last_seq: std::collections::HashMap<u64, u64>,
}

impl Model {
    fn batch(&mut self, messages: u64, accounts: u64, numbers: &mut Numbers) -> Vec<Place> {
        let mut batch = Vec::new();
        for _ in 0..messages {
            let (from, to) = (1 + numbers.below(accounts), 1 + numbers.below(accounts));
            self.last_id += 1;
            let seq = self.last_seq.entry(to).or_default();
            *seq += 1;
            let place = Place { id: self.last_id, seq: *seq, from, to };
            for (all, index) in self.all.iter_mut().zip(Index::BOTH) {
                all.insert(place.posting(index));
            }
            batch.push(place);
        }
        batch
    }

    fn mailbox_after(&self, account: u64, seq: u64, limit: usize) -> Vec<u64> {
        let all = self.all[0].range([account, seq + 1, 0]..[account + 1, 0, 0]);
        all.map(|[_, _, id]| *id).take(limit).collect()
    }

    fn conversation_back(&self, [low, high]: [u64; 2], before: u64, limit: usize) -> Vec<u64> {
        self.all[1].range([low, high, 0]..[low, high, before]).rev().map(|[_, _, id]| *id).take(limit).collect()
    }

    /// Asks for some of both.
    fn compare(&self, connection: &Connection, accounts: u64, numbers: &mut Numbers) {
        let postings = Postings::new(connection);
        for _ in 0..200 {
            let (account, other) = (1 + numbers.below(accounts), 1 + numbers.below(accounts));
            let limit = 1 + numbers.below(60) as usize;
            let last = self.last_seq.get(&account).copied().unwrap_or_default();
            let seq = numbers.below(last + 2);
            let found = postings.mailbox_after(account, seq, limit).expect("read");
            assert_eq!(found, self.mailbox_after(account, seq, limit), "mailbox {account} after {seq}");
            let pair = [account.min(other), account.max(other)];
            let before = [u64::MAX, 1 + numbers.below(self.last_id + 1)][numbers.below(2) as usize];
            let mut found = Vec::new();
            let visit = |id| {
                found.push(id);
                Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            };
            postings.conversation_back(pair, before, visit).expect("read");
            assert_eq!(found, self.conversation_back(pair, before, limit), "conversation {pair:?} before {before}");
        }
    }
}

/// All postings of all runs.
fn everything(connection: &Connection, index: Index) -> Vec<Posting> {
    let postings = Postings::new(connection);
    let mut all = Vec::new();
    for run in postings.runs().expect("read") {
        let mut statement = connection.prepare(index.forwards()).expect("compiled");
        let mut rows = statement.query(key(run.number, [0; 3])).expect("read");
        while let Some(row) = rows.next().expect("read") {
            read(row, &mut all).expect("read");
        }
    }
    all.sort_unstable();
    all
}

fn new() -> Connection {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate(&mut connection).expect("made");
    connection
}

fn compared(accounts: u64, batches: u64, largest: u64, seed: u64) -> (Connection, Model) {
    println!("seed {seed}");
    let (connection, mut model, mut numbers) = (new(), Model::default(), Numbers(seed));
    for batch in 0..batches {
        let messages = 1 + numbers.below(if batch % 5 == 0 { largest } else { 20 });
        let places = model.batch(messages, accounts, &mut numbers);
        Postings::new(&connection).add(&places).expect("added");
        if batch % 40 == 39 {
            model.compare(&connection, accounts, &mut numbers);
        }
    }
    for (index, all) in Index::BOTH.into_iter().zip(&model.all) {
        assert!(everything(&connection, index).iter().eq(all), "{index:?} has each message once");
    }
    let runs = Postings::new(&connection).runs().expect("read").len();
    assert!(runs < 30, "{runs} runs after {batches} batches");
    (connection, model)
}

#[test]
fn few_accounts_find_what_they_sent() {
    compared(4, 400, 1500, 11);
}

#[test]
fn many_accounts_find_what_they_sent() {
    compared(100_000, 400, 3000, 12);
}

#[test]
fn what_is_merged_in_slices_is_found_meanwhile() {
    let (connection, mut model, mut numbers) = (new(), Model::default(), Numbers(13));
    let postings = Postings::new(&connection);
    let mut meanwhile = 0;
    for _ in 0..90 {
        postings.add(&model.batch(5000, 300, &mut numbers)).expect("added");
        let merging = postings.runs().expect("read").iter().any(|run| run.target.is_some());
        meanwhile += u32::from(merging);
        if merging {
            model.compare(&connection, 300, &mut numbers);
        }
    }
    assert!(meanwhile > 2, "a merge that took several batches was looked at {meanwhile} times");
    for (index, all) in Index::BOTH.into_iter().zip(&model.all) {
        assert!(everything(&connection, index).iter().eq(all), "{index:?} has each message once");
    }
}

/// A turn writes a small batch itself: where it took long, the next would be as small, and so would all that follow.
#[test]
fn a_small_batch_merges_little_of_what_is_large() {
    let (connection, mut model, mut numbers) = (new(), Model::default(), Numbers(17));
    let postings = Postings::new(&connection);
    let moving = |postings: Postings<'_>| {
        let runs = postings.runs().expect("read");
        let target = runs.iter().find_map(|run| run.target)?;
        runs.iter().find(|run| run.number == target).map(|run| run.messages)
    };
    while moving(postings).is_none() {
        postings.add(&model.batch(16_000, 300, &mut numbers)).expect("added");
    }
    let before = moving(postings).expect("a merge is under way");
    let mut one = || {
        postings.add(&model.batch(1, 300, &mut numbers)).expect("added");
        moving(postings).expect("it still is")
    };
    let (after_one, after_two) = (one(), one());
    let moved = after_one - before;
    assert!((1..12_000).contains(&moved), "{moved} messages were moved with one that came in");
    assert_eq!(after_two, after_one, "it is ahead of what comes in");
    model.compare(&connection, 300, &mut numbers);
}

/// Between many accounts, what is to move of mailboxes has moved before what is to move of conversations.
#[test]
fn no_small_batch_pays_for_the_end_of_a_merge() {
    let (connection, mut model, mut numbers) = (new(), Model::default(), Numbers(18));
    let postings = Postings::new(&connection);
    let mut add = |messages| postings.add(&model.batch(messages, 200_000, &mut numbers)).expect("added");
    (0..8).for_each(|_| add(16_000));
    let targets = || postings.runs().expect("read").iter().filter_map(|run| run.target).collect::<Vec<_>>();
    let large = *targets().last().expect("a merge of the large ones is under way");
    let count = "SELECT count(*) FROM conversation_blocks WHERE run = ?1";
    let blocks = || connection.query_row(count, [large as i64], |row| row.get::<_, i64>(0)).expect("counted");
    let mut most = 0;
    while targets().contains(&large) {
        let before = blocks();
        add(100);
        most = most.max(blocks() - before);
    }
    // Of some 360, and at the end of a merge as in its middle.
    assert!((1..=60).contains(&most), "{most} blocks of conversations came with one batch");
}

/// The messages of a mailbox above `seq`, as many as there are.
fn above(model: &Model, account: u64, seq: u64) -> Vec<Place> {
    let ids = BTreeSet::from_iter(model.mailbox_after(account, seq, usize::MAX));
    let theirs = model.all[1].iter().filter(|[.., id]| ids.contains(id));
    let from = |[low, high, id]: &Posting| (*id, if *low == account { *high } else { *low });
    let from: std::collections::HashMap<u64, u64> = theirs.map(from).collect();
    (seq + 1..).zip(ids).map(|(seq, id)| Place { id, seq, from: from[&id], to: account }).collect()
}

#[test]
fn what_is_discarded_is_in_neither_index() {
    let (connection, mut model) = compared(9, 60, 900, 14);
    let mut numbers = Numbers(16);
    let postings = Postings::new(&connection);
    // All of one, half or most of others, and of one nothing; all but the first while runs are being merged.
    for (account, kept) in [(3, 0), (5, model.last_seq[&5] / 2), (7, model.last_seq[&7]), (8, 10), (9, 5)] {
        let gone = above(&model, account, kept);
        postings.discard(&gone).expect("discarded");
        for place in gone {
            for (all, index) in model.all.iter_mut().zip(Index::BOTH) {
                assert!(all.remove(&place.posting(index)));
            }
        }
        model.last_seq.insert(account, kept);
        for (index, all) in Index::BOTH.into_iter().zip(&model.all) {
            assert!(everything(&connection, index).iter().eq(all), "{index:?}");
        }
        model.compare(&connection, 9, &mut numbers);
        while !postings.runs().expect("read").iter().any(|run| run.target.is_some()) {
            postings.add(&model.batch(16_000, 9, &mut numbers)).expect("added");
        }
    }
}

/// An account that many wrote to is deleted within a turn, and everybody waits for that.
#[test]
fn discarding_takes_no_look_into_every_run_for_every_sender() {
    use std::sync::atomic::{AtomicU64, Ordering};
    const SENDERS: u64 = 3000;
    let mut connection = new();
    let steps = std::sync::Arc::new(AtomicU64::new(0));
    let counted = steps.clone();
    let count = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        false
    };
    connection.progress_handler(1, Some(count)).expect("set");
    let postings = Postings::new(&connection);
    let mut places = Vec::new();
    for batch in 0..20 {
        let sent = (0..SENDERS / 20).map(|at| batch * SENDERS / 20 + at + 1);
        let sent: Vec<_> = sent.map(|id| Place { id, seq: id, from: 1 + (id * 7919) % SENDERS, to: 9999 }).collect();
        // Without merges: there are as many runs as there are.
        let run = Run { first: sent[0].id, number: batch + 1, messages: sent.len() as u64, target: None };
        postings.insert_run(run).expect("inserted");
        for index in Index::BOTH {
            let mut all: Vec<_> = sent.iter().map(|place| place.posting(index)).collect();
            all.sort_unstable();
            postings.write(index, run.number, all).expect("written");
        }
        places.extend(sent);
    }
    let before = steps.load(Ordering::Relaxed);
    postings.discard(&places).expect("discarded");
    let each = (steps.load(Ordering::Relaxed) - before) / SENDERS;
    assert!(each < 100, "{each} steps of SQLite's for each message");
    assert!(Index::BOTH.iter().all(|index| everything(&connection, *index).is_empty()));
}

/// A database of version 5, as the version before this one left it.
#[test]
fn messages_of_an_earlier_version_are_found() {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate_to(&mut connection, 5).expect("made");
    let (mut model, mut numbers) = (Model::default(), Numbers(15));
    let insert = "INSERT INTO messages (id, recipient, seq, sender, sent_at, text) VALUES (?1, ?2, ?3, ?4, 0, 'x')";
    for Place { id, seq, from, to } in model.batch(5000, 40, &mut numbers) {
        connection.execute(insert, [id, to, seq, from].map(int)).expect("inserted");
    }
    migrations::migrate(&mut connection).expect("brought up to date");
    model.compare(&connection, 40, &mut numbers);
    Postings::new(&connection).add(&model.batch(100, 40, &mut numbers)).expect("added");
    model.compare(&connection, 40, &mut numbers);
    let tables = "SELECT count(*) FROM sqlite_schema WHERE tbl_name IN ('messages', 'mailbox_postings', 'conversation_postings')";
    let left: i64 = connection.query_row(tables, [], |row| row.get(0)).expect("counted");
    assert_eq!(left, 0);
}

#[test]
fn a_database_without_messages_is_brought_up_to_date() {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate_to(&mut connection, 5).expect("made");
    migrations::migrate(&mut connection).expect("brought up to date");
    assert_eq!(Postings::new(&connection).runs().expect("read"), []);
}

/// SQLite keeps what is too long for a page on pages of its own: the longest keys must leave room.
#[test]
fn a_block_is_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let flags = rusqlite::OpenFlags::default();
    let mut connection = crate::storage::disk::connect(&directory.path().join("db"), flags).expect("a database");
    migrations::migrate(&mut connection).expect("made");
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("counted");
    let pages = || count("PRAGMA page_count") - count("PRAGMA freelist_count");
    let before = pages();
    let far = i64::MAX as u64 - 20_000;
    let postings = (0..20_000).map(|at| [far + at, far + at * 7919 % 20_000, far + at * 104_729 % 20_000]);
    Postings::new(&connection).write(Index::Conversations, far, postings).expect("written");
    let (pages, blocks) = (pages() - before, count("SELECT count(*) FROM conversation_blocks"));
    assert!(blocks > 50, "{blocks} blocks");
    let index = blocks / 50;
    assert!((blocks..=blocks + index + 4).contains(&pages), "{pages} pages for {blocks} blocks");
}
