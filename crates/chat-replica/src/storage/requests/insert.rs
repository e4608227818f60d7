//! New records go into the blocks that their places are in.
//!
//! Blocks are to be full, though they are never joined. What is too much for one goes to the beginning of the next if that has room: records that come in
//! order, some a little late, fill one block after the other. Where the next one has none, a new block takes what is too much, if it came behind the others;
//! what stands behind the new records, if that is the smaller part: the keys of a client whose clock is ahead, before which all other clients' come to
//! stand; and else one half of all.

use super::block::{BYTES, Block, End, Entries, Entry, LONGEST, Packer, Place, pack};
use super::{Requests, first, first_bytes, records};
use crate::storage::state::{int, number};
use rusqlite::{Error, Result, ffi};

/// A block that is there.
struct Home {
    number: u64,
    block: Block,
}

/// The records of a block that stand behind the first new one.
struct Tail {
    /// What they come behind.
    end: End,
    bytes: Vec<u8>,
}

/// Where new records stand among those of their block.
struct New {
    last: Place,
    /// There is none of the old between them.
    is_together: bool,
    /// So many bytes are before their end.
    length: usize,
}

impl Requests<'_> {
    /// Adds records, which ascend and are not there yet, within the open transaction.
    ///
    /// # Errors
    /// SQLite's own, and damage.
    pub(in crate::storage) fn insert(self, entries: impl IntoIterator<Item = Entry>) -> Result<()> {
        let mut entries = entries.into_iter().peekable();
        while let Some(entry) = entries.next() {
            let place = entry.place();
            let home = self.home(place)?;
            // Nobody asks where the next block begins while one record is to be added, and it fits.
            let next = if entries.peek().is_some() { self.after(place)? } else { None };
            let is_here = |entry: &Entry| next.is_none_or(|next| entry.place() < next);
            let others = std::iter::from_fn(|| entries.next_if(is_here));
            self.add(home, place, std::iter::once(entry).chain(others))?;
        }
        Ok(())
    }

    fn home(self, place: Place) -> Result<Home> {
        self.at(place, |row| {
            let block = Block { first: first(row, 2)?, bytes: records(row)?.to_vec() };
            Ok(Home { number: number(row, 0)?, block })
        })
    }

    /// Adds records, the first of which has this place, to the block that they belong in.
    fn add(self, home: Home, place: Place, new: impl Iterator<Item = Entry>) -> Result<()> {
        let Home { number, mut block } = home;
        let (end, bytes) = block.split_off(place)?;
        let tail = Tail { end, bytes };
        let mut packer = Packer::behind(block, end);
        let new = merge(&mut packer, &tail, place, new)?;
        let mut blocks = packer.finish();
        if blocks.len() > 1
            && let Some(next) = self.after(place)?
            && !self.pour(&mut blocks, next)?
            && !tail.bytes.is_empty()
        {
            blocks = divided(&blocks, &new, &tail)?;
        }
        self.put(number, &blocks)
    }

    /// Puts the last of these blocks into the next one that is there, if that has room for it.
    fn pour(self, blocks: &mut Vec<Block>, next: Place) -> Result<bool> {
        let Some(last) = blocks.last() else { return Ok(false) };
        let Home { number, block: neighbour } = self.home(next)?;
        if last.bytes.len() + neighbour.bytes.len() > BYTES {
            return Ok(false);
        }
        let both = pack(Entries::new(&last.bytes).chain(Entries::new(&neighbour.bytes)), BYTES)?;
        let [Block { first, bytes }] = &*both else { return Ok(false) };
        let sql = "UPDATE request_blocks SET first = ?2, records = ?3 WHERE number = ?1";
        self.connection.prepare_cached(sql)?.execute((int(number), first_bytes(*first), bytes))?;
        blocks.pop();
        Ok(true)
    }

    /// Puts the first of these blocks in the place of one that is there, and the others behind it.
    fn put(self, number: u64, blocks: &[Block]) -> Result<()> {
        let Some((first, others)) = blocks.split_first() else { return Ok(()) };
        let sql = "UPDATE request_blocks SET records = ?2 WHERE number = ?1";
        self.connection.prepare_cached(sql)?.execute((int(number), &first.bytes))?;
        let sql = "INSERT INTO request_blocks (first, records) VALUES (?1, ?2)";
        let mut insert = self.connection.prepare_cached(sql)?;
        others.iter().try_for_each(|Block { first, bytes }| insert.execute((first_bytes(*first), bytes)).map(drop))
    }
}

/// Puts new records, the first of which has this place, and those that stand behind it in order.
fn merge(packer: &mut Packer, tail: &Tail, place: Place, new: impl Iterator<Item = Entry>) -> Result<New> {
    let mut old = Entries::behind(tail.end, &tail.bytes).peekable();
    let (mut last, mut is_together) = (place, true);
    for entry in new {
        while let Some(Ok(before)) = old.next_if(|old| old.as_ref().is_ok_and(|old| old.place() < entry.place())) {
            packer.push(&before);
            is_together = false;
        }
        if old.peek().is_some_and(|old| old.as_ref().is_ok_and(|old| old.place() == entry.place())) {
            // Whoever adds one has looked for it, and would overwrite the first answer.
            return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CONSTRAINT_UNIQUE), None));
        }
        packer.push(&entry);
        last = entry.place();
    }
    let length = packer.length();
    old.try_for_each(|old| old.map(|old| packer.push(&old)))?;
    Ok(New { last, is_together, length })
}

/// The same records in other blocks.
fn divided(blocks: &[Block], new: &New, tail: &Tail) -> Result<Vec<Block>> {
    let all = || blocks.iter().flat_map(|block| Entries::new(&block.bytes));
    let length: usize = blocks.iter().map(|block| block.bytes.len()).sum();
    if new.is_together && 2 * new.length >= length {
        let up_to_new = |entry: &Result<Entry>| entry.as_ref().map_or(true, |entry| entry.place() <= new.last);
        let mut divided = pack(all().take_while(up_to_new), BYTES)?;
        divided.extend(pack(Entries::behind(tail.end, &tail.bytes), BYTES)?);
        return Ok(divided);
    }
    pack(all(), BYTES.min(length / blocks.len() + LONGEST))
}
