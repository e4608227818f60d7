//! The messages themselves: by ascending ids, many to a row.
//!
//! A row is a block of some 28 short messages, as many as a page of the database holds (`block`), and its key is the lowest id that belongs in it. Messages
//! only come at the end: of each batch that the database takes in, the first fill the last block, and the others make new ones. Where they are by
//! mailbox and by conversation is in `postings`. No message changes; those that nobody had received when their recipient was deleted are removed.

mod ascending;
mod block;
mod read;
#[cfg(test)]
mod tests;

pub(super) use ascending::Ascending;
pub(super) use block::Stored;
pub(crate) use read::Found;
pub(super) use read::text;

use super::brief;
use super::log_table::undecodable;
use super::state::{corrupt, int, number};
use block::{Block, COLUMN, Walk};
use rusqlite::types::Type;
use rusqlite::{Connection, Error, Result, Row, ffi};
use std::ops::ControlFlow;

/// Version 13 of the table.
const MESSAGES_SCHEMA: &str = "
CREATE TABLE message_blocks (
    -- All messages from this id on are in it, up to where the next block begins.
    first INTEGER PRIMARY KEY,
    messages BLOB NOT NULL
) STRICT;
";

/// The block that an id belongs in, and those before it.
pub(super) const AT: &str = "SELECT first, messages FROM message_blocks WHERE first <= ?1 ORDER BY first DESC";
const ALL: &str = "SELECT first, messages FROM message_blocks ORDER BY first";

/// A message whose id is so far from the block at hand is come to from there, block by block; one that is further away is looked up, from the root down. Two or
/// three blocks of short messages have so many.
const NEAR: u64 = 64;
/// After so many blocks without a message that is wanted, the next one is looked up all the same: these messages are long.
const IN_VAIN: u32 = 3;

/// All messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Messages<'c> {
    connection: &'c Connection,
}

impl<'c> Messages<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Messages { connection }
    }

    /// Adds messages, whose ids ascend and are higher than all before, within the open transaction.
    ///
    /// # Errors
    /// SQLite's own, and damage.
    pub(super) fn insert<'m>(self, messages: impl IntoIterator<Item = Stored<'m>>) -> Result<()> {
        let mut end = self.end()?;
        messages.into_iter().try_for_each(|message| end.push(&message))?;
        end.finish()
    }

    /// Shows those of these messages that are there, in the order of their ids, which descend, for as long as `visit` wants more.
    ///
    /// # Errors
    /// SQLite's own, damage, and those of `visit`.
    pub(super) fn visit_back(
        self,
        mut ids: &[u64],
        mut visit: impl FnMut(Stored<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        debug_assert!(ids.is_sorted_by(|a, b| a > b), "they descend");
        let mut statement = self.connection.prepare_cached(AT)?;
        while let Some(highest) = ids.first() {
            let mut rows = statement.query([int(*highest)])?;
            let mut in_vain = 0;
            loop {
                let Some(row) = rows.next()? else { return Ok(ControlFlow::Continue(())) };
                let first = number(row, 0)?;
                let (here, before) = ids.split_at(ids.partition_point(|id| *id >= first));
                // Of a block that nobody wants, no more is read than where it begins: a long text has pages of its own.
                if !here.is_empty() && show_back(here, first, block(row)?.1, &mut visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                ids = before;
                in_vain = if here.is_empty() { in_vain + 1 } else { 0 };
                if in_vain == IN_VAIN || ids.first().is_none_or(|next| first - next > NEAR) {
                    break;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Shows every message, by ascending ids.
    ///
    /// # Errors
    /// SQLite's own, damage, and those of `visit`.
    pub(super) fn for_each(self, mut visit: impl FnMut(Stored<'_>) -> Result<()>) -> Result<()> {
        let mut statement = self.connection.prepare(ALL)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (first, bytes) = block(row)?;
            let mut walk = Walk::new(first, bytes)?;
            while let Some(entry) = walk.next(bytes)? {
                visit(entry.message()?)?;
            }
        }
        Ok(())
    }

    /// Removes messages, whose ids descend, and shows each before.
    ///
    /// # Errors
    /// SQLite's own; damage, as it is if one of them is not there; and those of `visit`.
    pub(super) fn remove(self, mut ids: &[u64], mut visit: impl FnMut(Stored<'_>) -> Result<()>) -> Result<()> {
        debug_assert!(ids.is_sorted_by(|a, b| a > b), "they descend");
        while let Some(highest) = ids.first() {
            let (first, bytes) = self.at(*highest)?.ok_or_else(|| brief::lost(*highest))?;
            let here = ids.partition_point(|id| *id >= first);
            let mut gone = ids[..here].iter().rev().copied().peekable();
            let mut walk = Walk::new(first, &bytes)?;
            let mut left = Block::new(first, walk.base());
            while let Some(entry) = walk.next(&bytes)? {
                let message = entry.message()?;
                if gone.next_if_eq(&message.id).is_some() {
                    visit(message)?;
                } else if !left.push(&message) {
                    // It takes no more room than it did, unless the block was none that a batch has made.
                    return Err(undecodable(COLUMN));
                }
            }
            if let Some(missing) = gone.next() {
                return Err(brief::lost(missing));
            }
            if left.is_empty() {
                self.connection.prepare_cached(DELETE)?.execute([int(first)])?;
            } else {
                self.write(UPDATE, first, &left.bytes)?;
            }
            ids = &ids[here..];
        }
        Ok(())
    }

    fn at(self, id: u64) -> Result<Option<(u64, Vec<u8>)>> {
        let mut statement = self.connection.prepare_cached(AT)?;
        let mut rows = statement.query([int(id)])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let (first, bytes) = block(row)?;
        Ok(Some((first, bytes.to_vec())))
    }

    /// Where messages are added.
    fn end(self) -> Result<End<'c>> {
        let last = self.at(u64::MAX)?;
        let block = last.map(|(first, bytes)| Block::of(first, &bytes)).transpose()?;
        Ok(End { messages: self, is_there: block.is_some(), block, is_changed: false })
    }

    fn write(self, sql: &str, first: u64, bytes: &[u8]) -> Result<()> {
        self.connection.prepare_cached(sql)?.execute((int(first), bytes)).map(drop)
    }
}

/// Shows those of these messages that are in a block, the highest id first, which is the order of `ids`.
fn show_back(
    ids: &[u64],
    first: u64,
    bytes: &[u8],
    visit: &mut impl FnMut(Stored<'_>) -> Result<ControlFlow<()>>,
) -> Result<ControlFlow<()>> {
    let (mut walk, mut found) = (Walk::new(first, bytes)?, Vec::with_capacity(ids.len()));
    let mut wanted = ids.iter().rev().copied().peekable();
    while wanted.peek().is_some()
        && let Some(entry) = walk.next(bytes)?
    {
        while wanted.next_if(|id| *id < entry.id).is_some() {}
        if wanted.next_if_eq(&entry.id).is_some() {
            found.push(entry);
        }
    }
    for entry in found.into_iter().rev() {
        if visit(entry.message()?)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

const INSERT: &str = "INSERT INTO message_blocks (first, messages) VALUES (?1, ?2)";
const UPDATE: &str = "UPDATE message_blocks SET messages = ?2 WHERE first = ?1";
const DELETE: &str = "DELETE FROM message_blocks WHERE first = ?1";

/// The last block, and whether it is in the table, and as it is there.
struct End<'c> {
    messages: Messages<'c>,
    block: Option<Block>,
    is_there: bool,
    is_changed: bool,
}

impl End<'_> {
    fn push(&mut self, message: &Stored<'_>) -> Result<()> {
        if self.block.as_ref().and_then(Block::last).is_some_and(|last| message.id <= last) {
            return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CONSTRAINT_PRIMARYKEY), None));
        }
        if !self.block.as_mut().is_some_and(|block| block.push(message)) {
            self.put()?;
            (self.block, self.is_there) = (Some(Block::with(message)), false);
        }
        self.is_changed = true;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.put()
    }

    fn put(&mut self) -> Result<()> {
        let Some(block) = self.block.as_ref().filter(|_| self.is_changed) else { return Ok(()) };
        self.is_changed = false;
        self.messages.write(if self.is_there { UPDATE } else { INSERT }, block.first, &block.bytes)
    }
}

/// A row's block, and where it begins.
fn block<'r>(row: &'r Row<'_>) -> Result<(u64, &'r [u8])> {
    let bytes = row.get_ref(COLUMN)?.as_blob().map_err(|error| corrupt(COLUMN, Type::Blob, error))?;
    Ok((number(row, 0)?, bytes))
}

/// A row's message, in versions before 13.
fn single<'r>(row: &'r Row<'_>) -> Result<Stored<'r>> {
    let text = row.get_ref(5)?.as_str().map_err(|error| corrupt(5, Type::Text, error))?;
    let [id, to, seq, from] = [number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?];
    Ok(Stored { id, to, seq, from, sent_at: row.get(4)?, text })
}

/// Of those, the one with an id or before it: whoever salvages such a database reads it as it is.
const SINGLE_AT: &str =
    "SELECT id, recipient, seq, sender, sent_at, text FROM messages WHERE id <= ?1 ORDER BY id DESC";

/// Makes the blocks of a database of an earlier version, from its table of single messages, and removes that.
///
/// # Errors
/// SQLite's own.
pub(super) fn build(connection: &Connection) -> Result<()> {
    connection.execute_batch(MESSAGES_SCHEMA)?;
    {
        let mut end = Messages::new(connection).end()?;
        let all = "SELECT id, recipient, seq, sender, sent_at, text FROM messages ORDER BY id";
        let mut statement = connection.prepare(all)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            end.push(&single(row)?)?;
        }
        end.finish()?;
    }
    connection.execute_batch("DROP TABLE messages")
}
