//! Messages in blocks against a model.

use super::*;
use crate::storage::migrations;
use std::collections::BTreeMap;

/// A message as the model has it: recipient, seq, sender, time, text.
type Kept = (u64, u64, u64, i64, String);

fn new() -> Connection {
    let mut connection = Connection::open_in_memory().expect("a database");
    migrations::migrate(&mut connection).expect("made");
    connection
}

/// What a message says, by its id: mostly short texts, some long, one that needs several pages.
fn kept(id: u64) -> Kept {
    let length = match id % 97 {
        13 => 3000,
        14 => 65_536,
        15 => 4049,
        other => 1 + (other as usize * 31) % 300,
    };
    (id * 7 % 1000, id, id * 13 % 1000, 1_700_000_000_000 + (id * id % 5000) as i64 - 2500, "x".repeat(length))
}

fn stored<'m>((id, (to, seq, from, sent_at, text)): (&'m u64, &'m Kept)) -> Stored<'m> {
    Stored { id: *id, to: *to, seq: *seq, from: *from, sent_at: *sent_at, text }
}

fn all(messages: Messages<'_>) -> BTreeMap<u64, Kept> {
    let mut all = BTreeMap::new();
    let note = |Stored { id, to, seq, from, sent_at, text }: Stored<'_>| {
        assert!(all.insert(id, (to, seq, from, sent_at, text.to_owned())).is_none(), "{id} comes once");
        Ok(())
    };
    messages.for_each(note).expect("read");
    all
}

/// In batches of many lengths, some of one message; ids have gaps, as where sends were refused.
fn filled(connection: &Connection) -> BTreeMap<u64, Kept> {
    let (messages, mut model, mut id) = (Messages::new(connection), BTreeMap::new(), 0);
    for batch in 0..60u64 {
        let mut new = BTreeMap::new();
        for _ in 0..1 + batch * batch % 40 {
            id += 1 + u64::from(id % 11 == 3) * 400;
            new.insert(id, kept(id));
        }
        messages.insert(new.iter().map(stored)).expect("inserted");
        model.append(&mut new);
    }
    model
}

#[test]
fn what_was_inserted_is_there_and_nothing_else() {
    let connection = new();
    let model = filled(&connection);
    let messages = Messages::new(&connection);
    assert!(all(messages) == model);
}

/// One by one: those that are there, and no others, in any order of asking.
fn each_is_found(connection: &Connection, model: &BTreeMap<u64, Kept>) {
    let last = model.keys().last().copied().unwrap_or_default();
    let one = model.keys().nth(model.len() / 2).copied().unwrap_or_default();
    for step in [1, 3, 29, 500, 5000] {
        let mut ascending = Ascending::new(connection).expect("prepared");
        let back = [u64::MAX, 0, last, one, one, one.saturating_sub(1), one, 1];
        for id in (0..last + 3).step_by(step).chain(back).chain((0..last).rev().step_by(step)) {
            let found = ascending.get(id).expect("read");
            assert_eq!(found, model.get_key_value(&id).map(stored), "{id}");
        }
    }
}

#[test]
fn each_message_is_found_by_its_id_and_no_other_is() {
    let connection = new();
    let mut model = filled(&connection);
    each_is_found(&connection, &model);
    // Single ones, and all of several blocks.
    let ids: Vec<_> = model.keys().copied().collect();
    let gone = ids.iter().enumerate().filter(|(at, _)| at % 5 == 0 || (200..400).contains(at)).map(|(_, id)| *id);
    let gone: Vec<_> = gone.rev().collect();
    Messages::new(&connection).remove(&gone, |_| Ok(())).expect("removed");
    gone.iter().for_each(|id| drop(model.remove(id)));
    each_is_found(&connection, &model);
}

#[test]
fn a_block_that_is_damaged_takes_no_others_with_it() {
    let connection = new();
    let model = filled(&connection);
    let blocks = "SELECT first FROM message_blocks ORDER BY first LIMIT 3";
    let mut statement = connection.prepare(blocks).expect("prepared");
    let firsts = statement.query_map([], |row| number(row, 0)).expect("read").collect::<Result<Vec<_>>>();
    let [first, second, third] = firsts.expect("read")[..] else { panic!("there are three") };
    let garbled = "UPDATE message_blocks SET messages = substr(messages, 1, length(messages) - 1) WHERE first = ?1";
    assert_eq!(connection.execute(garbled, [int(second)]), Ok(1));
    let mut ascending = Ascending::new(&connection).expect("prepared");
    ascending.get(third - 1).expect_err("damaged");
    for id in [third, first] {
        assert_eq!(ascending.get(id).expect("read"), model.get_key_value(&id).map(stored), "{id}");
    }
}

#[test]
fn those_that_are_wanted_are_shown_from_the_last_on_as_far_as_is_wanted() {
    let connection = new();
    let model = filled(&connection);
    let last = *model.keys().last().expect("many");
    for (step, most) in [(1, 50), (3, 1), (29, 7), (500, 1000), (5000, 2)] {
        for highest in [last + 10, last, last / 2, 1] {
            // Some of them were never there.
            let ids: Vec<_> = (1..=highest).rev().step_by(step).take(300).collect();
            let mut seen = Vec::new();
            let visit = |message: Stored<'_>| {
                assert_eq!(Some(message), model.get_key_value(&message.id).map(stored));
                seen.push(message.id);
                Ok(if seen.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            };
            let more = Messages::new(&connection).visit_back(&ids, visit).expect("read");
            let wanted: Vec<_> = ids.iter().copied().filter(|id| model.contains_key(id)).take(most).collect();
            assert_eq!(seen, wanted, "{step} {most} {highest}");
            assert_eq!(more.is_break(), seen.len() == most);
        }
    }
}

#[test]
fn what_is_removed_is_shown_and_gone_and_others_can_follow() {
    let connection = new();
    let mut model = filled(&connection);
    let messages = Messages::new(&connection);
    let ids: Vec<_> = model.keys().copied().collect();
    // Single ones, neighbours, the whole end, and the first.
    let rounds: [Vec<u64>; 4] = [
        ids.iter().copied().step_by(5).collect(),
        ids[100..200].to_vec(),
        ids[ids.len() - 150..].to_vec(),
        ids[..3].to_vec(),
    ];
    for mut gone in rounds {
        gone.retain(|id| model.contains_key(id));
        gone.reverse();
        let mut shown = BTreeMap::new();
        let note = |Stored { id, to, seq, from, sent_at, text }: Stored<'_>| {
            shown.insert(id, (to, seq, from, sent_at, text.to_owned()));
            Ok(())
        };
        messages.remove(&gone, note).expect("removed");
        for id in &gone {
            assert!(model.remove(id) == shown.remove(id));
        }
        assert!(shown.is_empty() && all(messages) == model);
        let error = messages.remove(&gone[..1], |_| Ok(())).expect_err("it is gone");
        assert!(crate::storage::damage::is_damage(&error), "{error}");
    }
    let next = ids.last().expect("many") + 1;
    messages.insert([stored((&next, &kept(next)))]).expect("inserted");
    model.insert(next, kept(next));
    assert!(all(messages) == model);
    messages.insert([stored((&next, &kept(next)))]).expect_err("it is there");
    assert!(all(messages) == model);
}

/// SQLite keeps what is too long for a page on pages of its own.
#[test]
fn a_block_is_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let flags = rusqlite::OpenFlags::default();
    let mut connection = crate::storage::disk::connect(&directory.path().join("db"), flags).expect("a database");
    migrations::migrate(&mut connection).expect("made");
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("counted");
    let pages = || count("PRAGMA page_count") - count("PRAGMA freelist_count");
    let (before, text) = (pages(), "x".repeat(60));
    let far = i64::MAX as u64 - 20_000;
    let message = |at| Stored { id: far + at, to: far, seq: far + at, from: far, sent_at: at as i64, text: &text };
    Messages::new(&connection).insert((0..20_000).map(message)).expect("inserted");
    let (pages, blocks) = (pages() - before, count("SELECT count(*) FROM message_blocks"));
    assert!(blocks > 400, "{blocks} blocks");
    assert!((blocks..=blocks + 4).contains(&pages), "{pages} pages for {blocks} blocks");
}

/// A database of version 12, as the version before this one left it.
#[test]
fn messages_of_an_earlier_version_are_there() {
    for count in [0, 1, 2000] {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrations::migrate_to(&mut connection, 12).expect("made");
        let model: BTreeMap<_, _> = (1..=count).map(|at| (at * 3, kept(at * 3))).collect();
        let sql = "INSERT INTO messages (id, recipient, seq, sender, sent_at, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        for (id, (to, seq, from, sent_at, text)) in &model {
            let row = (int(*id), int(*to), int(*seq), int(*from), sent_at, text);
            connection.execute(sql, row).expect("inserted");
        }
        each_is_found(&connection, &model);
        migrations::migrate(&mut connection).expect("brought up to date");
        assert!(all(Messages::new(&connection)) == model);
    }
}
