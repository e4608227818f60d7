//! Messages that are looked up one by one, by ids that mostly ascend, as the log's entries want them.

use super::block::{Block, Entry, Walk};
use super::{AT, SINGLE_AT, Stored, block, single};
use crate::storage::state::int;
use rusqlite::{CachedStatement, Connection, Result};

/// Keeps the block at hand, where the next message mostly is, too.
pub(in crate::storage) struct Ascending<'c> {
    at: CachedStatement<'c>,
    are_single: bool,
    bytes: Vec<u8>,
    walk: Option<Walk>,
}

impl<'c> Ascending<'c> {
    /// # Errors
    /// SQLite's own.
    pub fn new(connection: &'c Connection) -> Result<Self> {
        let (at, are_single) = match connection.prepare_cached(AT) {
            Ok(at) => (at, false),
            Err(error) => (connection.prepare_cached(SINGLE_AT).map_err(|_| error)?, true),
        };
        Ok(Ascending { at, are_single, bytes: Vec::new(), walk: None })
    }

    /// The message with this id, if it is there.
    ///
    /// # Errors
    /// SQLite's own, and damage.
    pub fn get(&mut self, id: u64) -> Result<Option<Stored<'_>>> {
        // Who was told of damage does not hear of it again where others are wanted.
        let is_there = self.come_to(id).inspect_err(|_| self.walk = None)?;
        let Some(walk) = self.walk.as_mut().filter(|_| is_there) else { return Ok(None) };
        walk.next(&self.bytes)?.map(Entry::message).transpose()
    }

    fn come_to(&mut self, id: u64) -> Result<bool> {
        let is_ahead = self.walk.is_some_and(|walk| walk.is_before(id));
        let mut next = if is_ahead { self.pass(id)? } else { None };
        if next.is_none() {
            self.take_block(id)?;
            next = self.pass(id)?;
        }
        Ok(next == Some(id))
    }

    /// Goes on to the first message of the block that has this id or a higher one, and returns its id.
    fn pass(&mut self, id: u64) -> Result<Option<u64>> {
        let Some(walk) = &mut self.walk else { return Ok(None) };
        let mut ahead = *walk;
        while let Some(entry) = ahead.next(&self.bytes)? {
            if entry.id >= id {
                return Ok(Some(entry.id));
            }
            *walk = ahead;
        }
        Ok(None)
    }

    fn take_block(&mut self, id: u64) -> Result<()> {
        self.walk = None;
        self.bytes.clear();
        let mut rows = self.at.query([int(id)])?;
        let Some(row) = rows.next()? else { return Ok(()) };
        let first = if self.are_single {
            let one = Block::with(&single(row)?);
            self.bytes = one.bytes;
            one.first
        } else {
            let (first, bytes) = block(row)?;
            self.bytes.extend_from_slice(bytes);
            first
        };
        self.walk = Some(Walk::new(first, &self.bytes)?);
        Ok(())
    }
}
