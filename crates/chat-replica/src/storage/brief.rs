//! What the log's table keeps of a batch of commands that was carried out: not what the table of messages has.
//!
//! Most of the log are texts that were sent, and each is a message, too. So an entry that was carried out before the database took it in is kept
//! in brief: of each send that made a message, what the message does not say. Whoever reads the entry gets it whole, with the texts from the table of
//! messages, in which none changes. Those that nobody had received when their recipient was deleted are in `discarded` from then on, for the log alone.
//!
//! That what was put together is what was appended is not taken on trust: the chain's hash tells (`chain`). Where a message is gone, so is the
//! entry, and a peer has it.

use super::messages::{Ascending, Stored};
use super::state::{corrupt, int};
use bytes::Bytes;
use chat_core::{Applied, Command, MessageId, Outcome};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Result, Row};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version 10 of the tables.
pub(crate) const DISCARDED_SCHEMA: &str = "
-- Messages that were discarded: the log's entries in brief need their texts.
CREATE TABLE discarded (
    id INTEGER PRIMARY KEY,
    sent_at INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;
";

/// The column of the bodies.
const BODY: usize = 4;
/// The first byte of a batch in brief. A batch that is whole begins with its format, which counts from 1.
const BRIEF: u8 = 0xff;

/// Bytes of most commands in brief, at most.
const COMMAND: usize = 96;

const DISCARDED: &str = "SELECT text, sent_at FROM discarded WHERE id = ?1";

/// Why an entry cannot be put together.
#[derive(Debug, Error)]
enum Fault {
    #[error("these bytes are no batch in brief")]
    Short,
    #[error("message {id}, of which the log or a mailbox tells, is not there")]
    Lost { id: u64 },
}

/// A batch of commands in brief, if it made messages: of its bytes, the commands, their bytes, and what came of each.
///
/// ```text
/// BRIEF, first message, length of what is before the first command, that, then of each command: length << 1 | made the next message, bytes
/// ```
///
/// Numbers are postcard's. The bytes of a send that made a message are without text and time, which come last.
pub(super) fn brief(body: &[u8], commands: &[Command], parts: &[&[u8]], results: &[Applied]) -> Option<Vec<u8>> {
    let first = results.iter().find_map(sent)?;
    let mut brief = begin(first.0, &body[..body.len().checked_sub(parts.iter().map(|bytes| bytes.len()).sum())?]);
    brief.reserve(COMMAND * commands.len());
    let (mut next, mut end) = (first, Vec::new());
    for ((command, bytes), applied) in commands.iter().zip(parts).zip(results) {
        let mut kept = None;
        if let (Command::Send { text, at, .. }, true) = (command, sent(applied) == Some(next)) {
            end = put((text, at), end);
            kept = bytes.strip_suffix(&end[..]);
            end.clear();
        }
        next.0 += u64::from(kept.is_some());
        let bytes = kept.unwrap_or(bytes);
        brief = put(bytes.len() << 1 | usize::from(kept.is_some()), brief);
        brief.extend_from_slice(bytes);
    }
    Some(brief)
}

/// What stands for a batch that would be taken for one in brief. Nobody can carry it out, and nobody has to, unless it is committed.
pub(super) fn escaped(body: &[u8]) -> Option<Vec<u8>> {
    body.starts_with(&[BRIEF]).then(|| begin(0, body))
}

fn begin(first: u64, head: &[u8]) -> Vec<u8> {
    let mut brief = put((first, head.len()), vec![BRIEF]);
    brief.extend_from_slice(head);
    brief
}

/// The message that was made, if one was.
fn sent(applied: &Applied) -> Option<MessageId> {
    match applied.result {
        Ok(Outcome::Sent { id, duplicate: false, .. }) => Some(id),
        _ => None,
    }
}

/// Batches as they were appended, of what the table has of them.
pub(super) struct Batches<'c> {
    connection: &'c Connection,
    /// Entries follow each other, and so do their messages.
    messages: Option<Ascending<'c>>,
    /// The batch that is put together.
    whole: Vec<u8>,
}

impl<'c> Batches<'c> {
    /// Of the rows that this connection reads.
    pub fn new(connection: &'c Connection) -> Self {
        Batches { connection, messages: None, whole: Vec::new() }
    }

    /// The batch of a row.
    ///
    /// # Errors
    /// SQLite's own, or one that says that the bytes mean nothing, or that a message is not there.
    pub fn whole(&mut self, stored: &[u8]) -> Result<Bytes> {
        let Some((&BRIEF, mut rest)) = stored.split_first() else { return Ok(Bytes::copy_from_slice(stored)) };
        let (mut next, head): (u64, usize) = take(&mut rest)?;
        self.whole.clear();
        self.whole.extend_from_slice(cut(&mut rest, head)?);
        while !rest.is_empty() {
            let length: usize = take(&mut rest)?;
            self.whole.extend_from_slice(cut(&mut rest, length >> 1)?);
            if length & 1 != 0 {
                self.put_end_of(next)?;
                next += 1;
            }
        }
        Ok(Bytes::copy_from_slice(&self.whole))
    }

    /// The end of the bytes of the send that made this message.
    fn put_end_of(&mut self, id: u64) -> Result<()> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            None => self.messages.insert(Ascending::new(self.connection)?),
        };
        let whole = std::mem::take(&mut self.whole);
        self.whole = match messages.get(id)? {
            Some(Stored { text, sent_at, .. }) => put((text, sent_at), whole),
            None => {
                let mut discarded = self.connection.prepare_cached(DISCARDED)?;
                let put = |row: &Row<'_>| Ok(put((row.get_ref(0)?.as_str()?, row.get::<_, i64>(1)?), whole));
                discarded.query_row([int(id)], put).optional()?.ok_or_else(|| lost(id))?
            }
        };
        Ok(())
    }
}

fn put(value: impl Serialize, to: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(&value, to).expect("texts and numbers encode to memory")
}

fn take<'b, T: Deserialize<'b>>(rest: &mut &'b [u8]) -> Result<T> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| damaged(Fault::Short))?;
    *rest = after;
    Ok(value)
}

fn cut<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8]> {
    let (bytes, after) = rest.split_at_checked(length).ok_or_else(|| damaged(Fault::Short))?;
    *rest = after;
    Ok(bytes)
}

/// A message is not there that should be.
pub(super) fn lost(id: u64) -> rusqlite::Error {
    damaged(Fault::Lost { id })
}

fn damaged(fault: Fault) -> rusqlite::Error {
    corrupt(BODY, Type::Blob, fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Disk as _;
    use crate::protocol::*;
    use crate::storage::{DataDirectory, SqliteDisk};
    use chat_core::{
        AccountId, DisplayName, MessageText, PasswordHash, RequestKey, Timestamp, TokenHash, Username, codec,
    };
    use std::sync::Arc;

    const TEXT: &str = "a text that nobody else would write";
    const AT: Timestamp = Timestamp(1_700_000_000_000);
    const ID: ReplicaId = ReplicaId(1);

    fn name(number: u8) -> Username {
        Username::parse(&format!("user{number}")).expect("a name")
    }

    fn key(number: u8) -> RequestKey {
        RequestKey([number; 16])
    }

    fn token(number: u8) -> TokenHash {
        TokenHash([number; 32])
    }

    fn account(number: u8) -> [Command; 2] {
        let password = PasswordHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2g").expect("a hash");
        let display_name = DisplayName::of(&name(number));
        let register = Command::Register { key: key(number), name: name(number), display_name, password, at: AT };
        let (account, expires_at) = (AccountId(number.into()), Timestamp(AT.0 + 1_000_000));
        let open = Command::OpenSession { key: key(100 + number), account, token: token(number), at: AT, expires_at };
        [register, open]
    }

    fn send(number: u8, to: &str) -> Command {
        let text = MessageText::new(format!("{TEXT}, {number}")).expect("a text");
        let to = Username::parse(to).expect("a name");
        Command::Send { key: key(number), session: token(1), to, text, at: Timestamp(AT.0 + i64::from(number)) }
    }

    /// Two accounts, sends of all kinds, and the deletion of the one that was sent to.
    fn batches() -> Vec<Vec<Command>> {
        let acknowledge =
            Command::Acknowledge { session: token(2), delivered: Some(1), read: None, at: Timestamp(AT.0 + 40) };
        let delete = Command::DeleteAccount { key: key(60), session: token(2), refuse_if_undelivered: false, at: AT };
        vec![
            [account(1), account(2)].concat(),
            vec![send(31, "user2"), send(32, "nobody"), acknowledge, send(33, "user2"), send(31, "user2")],
            vec![send(32, "nobody")],
            vec![send(34, "user2"), send(35, "user1"), delete, send(36, "user2"), send(37, "user1")],
        ]
    }

    struct Written {
        _dir: tempfile::TempDir,
        directory: Arc<DataDirectory>,
        disk: SqliteDisk,
        entries: Vec<Entry>,
    }

    impl Written {
        fn append(&mut self, batch: &[Command]) -> Entry {
            let before = self.entries.last().map(|last| last.hash).unwrap_or_default();
            let body = Body::Commands(codec::encode(batch).into());
            let index = self.entries.len() as u64 + 1;
            let entry = Entry::chained(before, index, Epoch { round: 1, replica: ID }, body);
            self.disk.persist(&Persist::Append(entry.clone())).expect("persisted");
            self.disk.commit().expect("committed");
            self.entries.push(entry.clone());
            entry
        }

        fn carry_out(&mut self, batch: &[Command]) {
            let entry = self.append(batch);
            self.disk.apply(&entry).expect("carried out");
            self.disk.set_committed(entry.index);
            self.disk.commit().expect("committed");
        }

        /// Lets a message say something else, or have been sent at another time.
        fn say(&self, id: u64, text: Option<&str>, sent_at: Option<i64>) {
            let (messages, mut all) = (self.disk.state().messages(), Vec::new());
            let note = |stored: Stored<'_>| {
                all.push((Stored { text: "", ..stored }, stored.text.to_owned()));
                Ok(())
            };
            messages.for_each(note).expect("read");
            let ids: Vec<_> = all.iter().rev().map(|(stored, _)| stored.id).collect();
            messages.remove(&ids, |_| Ok(())).expect("removed");
            let changed = all.iter().map(|(stored, was)| match stored.id == id {
                true => Stored { text: text.unwrap_or(was), sent_at: sent_at.unwrap_or(stored.sent_at), ..*stored },
                false => Stored { text: was, ..*stored },
            });
            messages.insert(changed).expect("inserted");
        }

        fn change(&self, sql: &str) {
            assert_eq!(self.disk.state().connection.execute(sql, []).expect("changed"), 1, "{sql}");
        }
    }

    fn written() -> Written {
        written_up_to(usize::MAX)
    }

    fn written_up_to(count: usize) -> Written {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ID).expect("free"));
        let (disk, ..) = SqliteDisk::open(directory.clone(), ID).expect("a new disk");
        let mut written = Written { _dir: dir, directory, disk, entries: Vec::new() };
        batches().iter().take(count).for_each(|batch| written.carry_out(batch));
        written.disk.take_in_all().expect("taken in");
        written
    }

    #[test]
    fn a_text_is_in_the_database_once_and_in_the_log_all_the_same() {
        let Written { _dir, directory, disk, entries } = written();
        let messages = disk.state().messages();
        let mut kept = Vec::new();
        let note = |message: Stored<'_>| {
            kept.push(message.text.contains(TEXT));
            Ok(())
        };
        messages.for_each(note).expect("read");
        assert_eq!(kept, [true; 3], "31, 35, 37: the others were discarded");
        let texts = |table: &str, column: &str| -> Vec<i64> {
            let sql = format!("SELECT count(*), sum(instr({column}, '{TEXT}') > 0) FROM {table}");
            let counts = |row: &rusqlite::Row<'_>| Ok(vec![row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0)]);
            disk.state().connection.query_row(&sql, [], counts).expect("counted")
        };
        assert_eq!(texts("discarded", "text"), [2, 2]);
        assert_eq!(texts("log", "body"), [4, 3], "those that were refused, or sent twice, made no message");
        assert!(disk.read(1, usize::MAX) == entries);
        drop(disk);
        let (disk, _, found) = SqliteDisk::open(directory, ID).expect("started");
        assert_eq!((found.impaired_until, found.log.last), (None, 4));
        assert!(disk.read(1, usize::MAX) == entries);
    }

    #[test]
    fn bytes_that_look_like_a_batch_in_brief_are_none() {
        let mut written = written();
        let body = Body::Commands(vec![BRIEF; 20].into());
        let entry = Entry::chained(written.entries[3].hash, 5, Epoch { round: 1, replica: ID }, body);
        written.disk.persist(&Persist::Append(entry.clone())).expect("persisted");
        written.entries.push(entry);
        written.disk.take_in_all().expect("taken in");
        let Written { _dir, disk, entries, .. } = written;
        assert!(disk.read(1, usize::MAX) == entries);
        for stored in [&[BRIEF][..], &[BRIEF, 1], &[BRIEF, 1, 2, 3], &[BRIEF, 1, 0, 9, 1], &[BRIEF, 0, 0, 1]] {
            let error = Batches::new(disk.state().connection).whole(stored).expect_err("no batch");
            assert!(crate::storage::damage::is_damage(&error), "{error}");
        }
    }

    #[test]
    fn an_entry_whose_message_is_not_what_it_was_is_damaged() {
        type Change = fn(&Written);
        let changes: [(Change, usize); 3] = [
            (|written| written.say(1, Some("another"), None), 1),
            (|written| written.say(4, None, Some(0)), 3),
            (|written| written.change("DELETE FROM discarded WHERE id = 3"), 3),
        ];
        for (change, sound) in changes {
            let written = written();
            change(&written);
            let Written { _dir, directory, mut disk, entries } = written;
            assert!(disk.read(1, usize::MAX).is_empty());
            let error = disk.commit().expect_err("it was read");
            assert!(error.is_damage(), "{error}");
            disk.last_words(&error);
            drop(disk);
            let (disk, _, found) = SqliteDisk::open(directory, ID).expect("salvaged");
            assert_eq!(found.impaired_until, Some(4), "the rest comes from a peer");
            assert!(disk.read(1, usize::MAX) == entries[..sound], "{sound}");
        }
    }

    /// A start that follows the whole log finds it, as the one who reads the entry does: the state lacks what the log tells of.
    #[test]
    fn a_state_that_lacks_a_message_of_the_log_is_made_anew() {
        let written = written();
        written.say(1, Some("another"), None);
        written.change("UPDATE replica SET views = NULL");
        let Written { _dir, directory, disk, entries } = written;
        drop(disk);
        let (disk, _, found) = SqliteDisk::open(directory.clone(), ID).expect("salvaged");
        assert!(directory.beside(".damaged-1").exists());
        assert_eq!((found.impaired_until, found.log.last, disk.applied()), (Some(4), 1, 0));
        assert!(disk.read(1, usize::MAX) == entries[..1]);
    }

    #[test]
    fn a_flipped_bit_among_the_messages_takes_nothing_from_the_log() {
        use std::os::unix::fs::FileExt as _;
        let written = written();
        written.change("UPDATE replica SET views = NULL");
        let moved = written.disk.state().connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        assert_eq!(moved, Ok(0));
        let Written { _dir, directory, disk, entries } = written;
        drop(disk);
        let bytes = std::fs::read(directory.database()).expect("readable");
        let text = format!("{TEXT}, 31");
        let at = bytes.windows(text.len()).position(|some| some == text.as_bytes()).expect("it is there once");
        let file = std::fs::File::options().write(true).open(directory.database()).expect("there");
        file.write_all_at(&[bytes[at] ^ 4], at as u64).expect("written");
        let (disk, _, found) = SqliteDisk::open(directory.clone(), ID).expect("salvaged");
        assert!(directory.beside(".damaged-1").exists());
        assert_eq!((found.impaired_until, found.log.last), (None, 4), "the bit was turned back");
        assert!(disk.read(1, usize::MAX) == entries);
    }

    /// Rot is found by whoever reads it, and a newer version may be the first to start after that: what it salvages was not brought up to date.
    #[test]
    fn what_an_earlier_version_left_damaged_keeps_its_log() {
        let Written { _dir, directory, disk, entries } = written();
        drop(disk);
        let database = crate::storage::disk::connect(&directory.database(), rusqlite::OpenFlags::default());
        let database = database.expect("opened");
        let earlier = "CREATE TABLE messages (id INTEGER PRIMARY KEY, recipient INTEGER NOT NULL, seq INTEGER NOT NULL,
            sender INTEGER NOT NULL, sent_at INTEGER NOT NULL, text TEXT NOT NULL) STRICT; PRAGMA user_version = 12;";
        database.execute_batch(earlier).expect("made");
        let insert = "INSERT INTO messages (id, recipient, seq, sender, sent_at, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let move_back = |Stored { id, to, seq, from, sent_at, text }: Stored<'_>| {
            database.execute(insert, (int(id), int(to), int(seq), int(from), sent_at, text)).map(drop)
        };
        crate::storage::state::SqliteState::new(&database).messages().for_each(move_back).expect("moved");
        database.execute_batch("DROP TABLE message_blocks; PRAGMA wal_checkpoint(TRUNCATE)").expect("dropped");
        drop(database);
        std::fs::write(directory.beside(chat_sqlite_checksum::DAMAGE_SUFFIX), "a page of postings").expect("noted");
        let (disk, _, found) = SqliteDisk::open(directory.clone(), ID).expect("salvaged");
        assert!(directory.beside(".damaged-1").exists());
        assert_eq!((found.impaired_until, found.log.last), (None, 4));
        assert!(disk.read(1, usize::MAX) == entries);
    }

    #[test]
    fn a_message_that_is_lost_when_it_is_to_be_discarded_is_damage() {
        let mut written = written_up_to(3);
        written.disk.state().messages().remove(&[2], |_| Ok(())).expect("removed");
        let entry = written.append(&batches()[3]);
        let error = written.disk.apply(&entry).expect_err("33 was not received");
        assert!(error.is_damage(), "{error}");
    }
}
