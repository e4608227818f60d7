//! What the log's table keeps of a batch of commands that was carried out: not what the table of messages has.
//!
//! Most of the log are texts that were sent, and each is a message, too. So an entry that was carried out before the database took it in is kept
//! in brief: of each send that made a message, what the message does not say. Whoever reads the entry gets it whole, with the texts from the table of
//! messages, in which none changes. Those that nobody had received when their recipient was deleted are in `discarded` from then on, for the log alone.
//!
//! That what was put together is what was appended is not taken on trust: the chain's hash tells (`chain`). Where a message is gone, so is the
//! entry, and a peer has it.

use super::state::{checked, corrupt, int};
use bytes::Bytes;
use chat_core::{Applied, Command, MessageId, MessageText, Outcome, RequestKey, Timestamp, TokenHash, Username, codec};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Result};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version 9 of the tables.
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

const TEXT: &str = "SELECT text, sent_at FROM messages WHERE id = ?1
    UNION ALL SELECT text, sent_at FROM discarded WHERE id = ?1 LIMIT 1";

/// There is no such message.
#[derive(Debug, Error)]
#[error("message {id}, which the log's entry tells of, is not there")]
struct Lost {
    id: u64,
}

#[derive(Serialize, Deserialize)]
struct Brief<C> {
    /// The id of the first message that it made. Each of those that follow has the next one.
    first: MessageId,
    commands: Vec<Kept<C>>,
}

/// What is kept of a command.
#[derive(Serialize, Deserialize)]
enum Kept<C> {
    Whole(C),
    /// A send that made the next message.
    Sent {
        key: RequestKey,
        session: TokenHash,
        to: Username,
    },
}

/// A batch of commands in brief, if that is less: `body` are its bytes, and `results` what came of each.
pub(super) fn brief(body: &[u8], commands: &[Command], results: &[Applied]) -> Option<Vec<u8>> {
    let first = results.iter().find_map(sent)?;
    let mut next = first;
    let kept = commands.iter().zip(results).map(|(command, applied)| match command {
        Command::Send { key, session, to, .. } if sent(applied) == Some(next) => {
            next.0 += 1;
            Kept::Sent { key: *key, session: *session, to: to.clone() }
        }
        other => Kept::Whole(other),
    });
    let brief = Brief { first, commands: kept.collect() };
    // Put together again it must be the same, byte for byte. Whoever wrote it may have had other ways to write the same.
    let is_ours = codec::encode(commands) == body;
    is_ours.then(|| postcard::to_extend(&brief, vec![BRIEF]).ok()).flatten()
}

/// The message that was made, if one was.
fn sent(applied: &Applied) -> Option<MessageId> {
    match applied.result {
        Ok(Outcome::Sent { id, duplicate: false, .. }) => Some(id),
        _ => None,
    }
}

/// The batch as it was appended, of what the table has of it.
///
/// # Errors
/// SQLite's own, or one that says that the bytes mean nothing. That a message is not there is for the chain's hash to tell.
pub(super) fn whole(connection: &Connection, stored: Vec<u8>) -> Result<Bytes> {
    let Some((&BRIEF, brief)) = stored.split_first() else { return Ok(stored.into()) };
    let brief: Brief<Command> = postcard::from_bytes(brief).map_err(|error| corrupt(BODY, Type::Blob, error))?;
    let mut statement = connection.prepare_cached(TEXT)?;
    let mut id = brief.first.0;
    let whole = brief.commands.into_iter().map(|kept| match kept {
        Kept::Whole(command) => Ok(command),
        Kept::Sent { key, session, to } => {
            let message = statement.query_row([int(id)], |row| {
                let text = checked(row, 0, |text: &str| MessageText::new(text))?;
                Ok((text, Timestamp(row.get(1)?)))
            });
            let lost = || corrupt(BODY, Type::Blob, Lost { id });
            let (text, at) = message.optional()?.ok_or_else(lost)?;
            id += 1;
            Ok(Command::Send { key, session, to, text, at })
        }
    });
    Ok(codec::encode(&whole.collect::<Result<Vec<_>>>()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Disk as _;
    use crate::protocol::*;
    use crate::storage::{DataDirectory, SqliteDisk};
    use chat_core::{AccountId, DisplayName, PasswordHash};
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

    fn written() -> Written {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ID).expect("free"));
        let (mut disk, ..) = SqliteDisk::open(directory.clone(), ID).expect("a new disk");
        let (epoch, mut entries) = (Epoch { round: 1, replica: ID }, Vec::<Entry>::new());
        for batch in batches() {
            let before = entries.last().map(|last| last.hash).unwrap_or_default();
            let body = Body::Commands(codec::encode(&batch).into());
            let entry = Entry::chained(before, entries.len() as u64 + 1, epoch, body);
            disk.persist(&Persist::Append(entry.clone())).expect("persisted");
            disk.commit().expect("committed");
            disk.apply(&entry).expect("carried out");
            disk.set_committed(entry.index);
            disk.commit().expect("committed");
            entries.push(entry);
        }
        disk.take_in_all().expect("taken in");
        Written { _dir: dir, directory, disk, entries }
    }

    #[test]
    fn a_text_is_in_the_database_once_and_in_the_log_all_the_same() {
        let Written { _dir, directory, disk, entries } = written();
        let texts = |table: &str, column: &str| -> Vec<i64> {
            let sql = format!("SELECT count(*), sum(instr({column}, '{TEXT}') > 0) FROM {table}");
            let counts = |row: &rusqlite::Row<'_>| Ok(vec![row.get(0)?, row.get::<_, Option<i64>>(1)?.unwrap_or(0)]);
            disk.state().connection.query_row(&sql, [], counts).expect("counted")
        };
        assert_eq!(texts("messages", "text"), [3, 3], "31, 35, 37: the others were discarded");
        assert_eq!(texts("discarded", "text"), [2, 2]);
        assert_eq!(texts("log", "body"), [4, 3], "those that were refused, or sent twice, made no message");
        assert!(disk.read(1, usize::MAX) == entries);
        drop(disk);
        let (disk, _, found) = SqliteDisk::open(directory, ID).expect("started");
        assert_eq!((found.impaired_until, found.log.last), (None, 4));
        assert!(disk.read(1, usize::MAX) == entries);
    }

    #[test]
    fn an_entry_whose_message_is_not_what_it_was_is_damaged() {
        for (sql, sound) in [
            ("UPDATE messages SET text = 'another' WHERE id = 1", 1),
            ("UPDATE messages SET sent_at = 0 WHERE id = 4", 3),
            ("DELETE FROM discarded WHERE id = 3", 3),
        ] {
            let Written { _dir, directory, mut disk, entries } = written();
            assert_eq!(disk.state().connection.execute(sql, []).expect("changed"), 1, "{sql}");
            assert!(disk.read(1, usize::MAX).is_empty());
            let error = disk.commit().expect_err("it was read");
            assert!(error.is_damage(), "{error}");
            disk.last_words(&error);
            drop(disk);
            let (disk, _, found) = SqliteDisk::open(directory, ID).expect("salvaged");
            assert_eq!(found.impaired_until, Some(4), "the rest comes from a peer; {sql}");
            assert!(disk.read(1, usize::MAX) == entries[..sound], "{sql}");
        }
    }
}
