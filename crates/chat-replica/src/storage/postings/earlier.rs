//! What databases of earlier versions have, and how they are brought up to date.

use super::runs::Run;
use super::{Index, Posting, Postings, block, read};
use crate::storage::state::{int, number};
use rusqlite::{Connection, Result, params};

/// Version 6 of the tables. `runs` is as it is still; the other two were blocks of which four shared a page, in trees whose upper nodes kept whole blocks, too.
pub(crate) const POSTINGS_SCHEMA: &str = "
CREATE TABLE runs (
    -- The lowest id of a message in it.
    first INTEGER NOT NULL,
    number INTEGER NOT NULL,
    -- How many messages it has, about: where some were discarded it can have fewer.
    messages INTEGER NOT NULL,
    -- The run that it is being merged into.
    target INTEGER,
    PRIMARY KEY (first DESC, number)
) STRICT, WITHOUT ROWID;

-- Postings from (x, y, z) on: (recipient, seq, id).
CREATE TABLE mailbox_postings (
    run INTEGER NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    z INTEGER NOT NULL,
    rest BLOB NOT NULL,
    PRIMARY KEY (run, x, y, z)
) STRICT, WITHOUT ROWID;

-- The same: (the lower of two accounts, the higher, id).
CREATE TABLE conversation_postings (
    run INTEGER NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    z INTEGER NOT NULL,
    rest BLOB NOT NULL,
    PRIMARY KEY (run, x, y, z)
) STRICT, WITHOUT ROWID;
";

/// The blocks of version 6 had so many bytes beside their keys, at most.
const BYTES: usize = 940;
/// So many postings are in memory at a time while they are moved.
const PORTION: usize = 64 * 1024;

/// The old table of an index.
fn table(index: Index) -> &'static str {
    match index {
        Index::Mailboxes => "mailbox_postings",
        Index::Conversations => "conversation_postings",
    }
}

/// Makes one run of all messages that a database before version 7 has, by its indexes, and removes these.
///
/// # Errors
/// SQLite's own.
pub(crate) fn build(connection: &Connection) -> Result<()> {
    let postings = Postings::new(connection);
    let counted = "SELECT coalesce(min(id), 0), count(*) FROM messages";
    let (first, messages) = connection.query_row(counted, [], |row| Ok((number(row, 0)?, number(row, 1)?)))?;
    if messages > 0 {
        postings.insert_run(Run { first, number: 1, messages, target: None })?;
        for (index, sql) in [
            (Index::Mailboxes, "SELECT recipient, seq, id FROM messages ORDER BY recipient, seq"),
            (
                Index::Conversations,
                "SELECT min(sender, recipient), max(sender, recipient), id FROM messages
                ORDER BY min(sender, recipient), max(sender, recipient), id",
            ),
        ] {
            let insert = format!("INSERT INTO {} (run, x, y, z, rest) VALUES (1, ?1, ?2, ?3, ?4)", table(index));
            let mut insert = connection.prepare(&insert)?;
            let mut statement = connection.prepare(sql)?;
            let rows = statement.query_map([], |row| Ok([number(row, 0)?, number(row, 1)?, number(row, 2)?]))?;
            let mut failed = None;
            let rows = rows.map_while(|row| row.map_err(|error| failed = Some(error)).ok());
            block::encode(rows, BYTES, |block::Block { first: [x, y, z], rest }| {
                insert.execute(params![int(*x), int(*y), int(*z), rest]).map(drop)
            })?;
            failed.map_or(Ok(()), Err)?;
        }
    }
    connection.execute_batch("DROP INDEX messages_by_mailbox; DROP INDEX messages_by_conversation;")
}

/// Version 12 of the tables: a block has a page to itself, and an index of short rows says where each begins.
const BLOCKS_SCHEMA: &str = "
-- Postings from (x, y, z) on, up to where the next block of the run begins: (recipient, seq, id).
CREATE TABLE mailbox_blocks (
    number INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    z INTEGER NOT NULL,
    rest BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX mailbox_blocks_by_first ON mailbox_blocks (run, x, y, z);

-- The same: (the lower of two accounts, the higher, id).
CREATE TABLE conversation_blocks (
    number INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    z INTEGER NOT NULL,
    rest BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX conversation_blocks_by_first ON conversation_blocks (run, x, y, z);
";

/// Makes blocks of a page's length of those that a database before version 12 has.
///
/// # Errors
/// SQLite's own, and damage.
pub(crate) fn rebuild(connection: &Connection) -> Result<()> {
    connection.execute_batch(BLOCKS_SCHEMA)?;
    let postings = Postings::new(connection);
    for run in postings.runs()? {
        for index in Index::BOTH {
            postings.move_from_earlier(index, run.number)?;
        }
    }
    connection.execute_batch("DROP TABLE mailbox_postings; DROP TABLE conversation_postings;")
}

impl Postings<'_> {
    fn move_from_earlier(self, index: Index, run: u64) -> Result<()> {
        let sql = format!("SELECT x, y, z, rest FROM {} WHERE run = ?1 ORDER BY x, y, z", table(index));
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([int(run)])?;
        let mut portion: Vec<Posting> = Vec::new();
        while let Some(row) = rows.next()? {
            read(row, &mut portion)?;
            if portion.len() >= PORTION {
                self.write(index, run, portion.drain(..))?;
            }
        }
        self.write(index, run, portion)
    }
}
