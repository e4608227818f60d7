//! Where the messages of a mailbox and of a conversation are: two indexes that are sorted before they are written.
//!
//! An index of SQLite's is a tree in which each message of a large service has a page to itself: between people at random, three
//! pages of 4096 bytes were written for its sake, twice, and read before that. Here a batch of messages makes a *run*: its postings, sorted, as many to a
//! row as a page holds (`block`). Runs of about one size are merged into one that is larger, in slices, beside what each batch writes (`merge`): so a posting is written
//! some five times in all, but always among its neighbours. This is a log-structured merge tree (O'Neil et al., 1996), with SQLite's pages and transactions
//! below it: at each commit the runs hold every message exactly once.
//!
//! Ids ascend, and a batch has higher ones than all before it. So of one mailbox, or one conversation, a newer run has what comes later, and whoever
//! looks for the newest can stop early (`look`). A run that is being merged stands before the one that it goes into: what is left in it comes later, too.

mod block;
mod earlier;
mod look;
mod merge;
mod runs;
#[cfg(test)]
mod tests;

pub(super) use earlier::{POSTINGS_SCHEMA, build, rebuild};
#[cfg(test)]
pub(super) use look::BELOW;

use super::state::int;
use block::Block;
use runs::Run;
use rusqlite::{Connection, Result, Row, params};

/// Where a message is found. Ascending, as arrays do.
pub(super) type Posting = [u64; 3];

/// What is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Index {
    /// (recipient, seq, id).
    Mailboxes,
    /// (the lower of both accounts, the higher, id).
    Conversations,
}

/// The same statement on the table of either index.
macro_rules! sql {
    ($index:expr, $before:literal, $after:literal) => {
        match $index {
            Index::Mailboxes => concat!($before, "mailbox_blocks", $after),
            Index::Conversations => concat!($before, "conversation_blocks", $after),
        }
    };
}

impl Index {
    pub(super) const BOTH: [Index; 2] = [Index::Mailboxes, Index::Conversations];

    fn insert(self) -> &'static str {
        sql!(self, "INSERT INTO ", " (run, x, y, z, rest) VALUES (?1, ?2, ?3, ?4, ?5)")
    }

    fn delete(self) -> &'static str {
        sql!(self, "DELETE FROM ", " WHERE run = ?1 AND x = ?2 AND y = ?3 AND z = ?4")
    }

    /// The blocks of a run that begin at a posting or before it.
    pub(super) fn delete_until(self) -> &'static str {
        sql!(self, "DELETE FROM ", " WHERE run = ?1 AND (x, y, z) <= (?2, ?3, ?4)")
    }

    /// The blocks of a run that begin at a posting or behind it.
    pub(super) fn forwards(self) -> &'static str {
        sql!(self, "SELECT x, y, z, rest FROM ", " WHERE run = ?1 AND (x, y, z) >= (?2, ?3, ?4) ORDER BY x, y, z")
    }

    /// Where the blocks of a run begin that do so at a posting or before it, the last first.
    pub(super) fn firsts(self) -> &'static str {
        sql!(
            self,
            "SELECT x, y, z FROM ",
            " WHERE run = ?1 AND (x, y, z) <= (?2, ?3, ?4) ORDER BY x DESC, y DESC, z DESC"
        )
    }

    /// The blocks of a run that begin at a posting or before it, the last first.
    pub(super) fn backwards(self) -> &'static str {
        sql!(
            self,
            "SELECT x, y, z, rest FROM ",
            " WHERE run = ?1 AND (x, y, z) <= (?2, ?3, ?4) ORDER BY x DESC, y DESC, z DESC"
        )
    }
}

/// Where one message is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub id: u64,
    pub seq: u64,
    pub from: u64,
    pub to: u64,
}

impl Place {
    fn posting(self, index: Index) -> Posting {
        match index {
            Index::Mailboxes => [self.to, self.seq, self.id],
            Index::Conversations => [self.from.min(self.to), self.from.max(self.to), self.id],
        }
    }
}

/// The postings of a run, as an index is looked at and changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Postings<'c> {
    connection: &'c Connection,
}

impl<'c> Postings<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Postings { connection }
    }

    /// Adds messages, whose ids are higher than all before, within the open transaction, and merges some of what is there.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn add(self, places: &[Place]) -> Result<()> {
        let ids = || places.iter().map(|place| place.id);
        let (Some(first), Some(last)) = (ids().min(), ids().max()) else { return Ok(()) };
        let run = Run { first, number: self.next_number()?, messages: places.len() as u64, target: None };
        for index in Index::BOTH {
            let mut postings: Vec<_> = places.iter().map(|place| place.posting(index)).collect();
            postings.sort_unstable();
            self.write(index, run.number, postings)?;
        }
        self.insert_run(run)?;
        self.merge(last, places.len())
    }

    /// Removes messages. Each is in one run, so about one block is looked at for each, however many people sent them.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn discard(self, places: &[Place]) -> Result<()> {
        let runs = self.runs()?;
        for index in Index::BOTH {
            let mut gone: Vec<_> = places.iter().map(|place| place.posting(index)).collect();
            gone.sort_unstable();
            for run in &runs {
                gone = self.remove(index, run, &gone)?;
            }
        }
        Ok(())
    }

    /// Removes postings, which ascend, from a run, and returns those that it does not have.
    fn remove(self, index: Index, run: &Run, mut gone: &[Posting]) -> Result<Vec<Posting>> {
        let mut elsewhere = Vec::new();
        while let Some((posting, others)) = gone.split_first() {
            let has_it = |(_, block): &(Posting, Vec<Posting>)| block.binary_search(posting).is_ok();
            let found = if posting[2] < run.first { None } else { self.block(index, run.number, *posting)? };
            let Some((first, mut block)) = found.filter(has_it) else {
                elsewhere.push(*posting);
                gone = others;
                continue;
            };
            let (here, behind) = gone.split_at(gone.partition_point(|posting| Some(posting) <= block.last()));
            elsewhere.extend(here.iter().filter(|posting| block.binary_search(posting).is_err()));
            block.retain(|posting| here.binary_search(posting).is_err());
            self.delete(index, run.number, first)?;
            self.write(index, run.number, block)?;
            gone = behind;
        }
        Ok(elsewhere)
    }

    /// The block that has a posting, if one has, and where it begins.
    fn block(self, index: Index, run: u64, posting: Posting) -> Result<Option<(Posting, Vec<Posting>)>> {
        let mut statement = self.connection.prepare_cached(index.backwards())?;
        let mut rows = statement.query(key(run, posting))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let mut block = Vec::new();
        Ok(Some((read(row, &mut block)?, block)))
    }

    fn write(self, index: Index, run: u64, postings: impl IntoIterator<Item = Posting>) -> Result<()> {
        let mut statement = self.connection.prepare_cached(index.insert())?;
        block::encode(postings, block::BYTES, |Block { first: [x, y, z], rest }| {
            statement.execute(params![int(run), int(*x), int(*y), int(*z), rest]).map(drop)
        })
    }

    fn delete(self, index: Index, run: u64, first: Posting) -> Result<()> {
        self.connection.prepare_cached(index.delete())?.execute(key(run, first)).map(drop)
    }

    fn delete_until(self, index: Index, run: u64, last: Posting) -> Result<()> {
        self.connection.prepare_cached(index.delete_until())?.execute(key(run, last)).map(drop)
    }
}

/// What a statement is asked for: a run, and a place in it. SQLite's numbers end where half of ours do, and nothing is stored beyond.
fn key(run: u64, [x, y, z]: Posting) -> [i64; 4] {
    [run, x, y, z].map(int)
}

/// Adds the postings of a row's block, and returns the first.
fn read(row: &Row<'_>, to: &mut Vec<Posting>) -> Result<Posting> {
    let (first, rest) = stored(row)?;
    block::decode(first, rest, to)?;
    Ok(first)
}

/// A row's block: its first posting, and the others as they are stored.
fn stored<'r>(row: &'r Row<'_>) -> Result<(Posting, &'r [u8])> {
    let number = |column| super::state::number(row, column);
    let rest = row.get_ref(3)?.as_blob().map_err(|error| block::damaged(Box::new(error)))?;
    Ok(([number(0)?, number(1)?, number(2)?], rest))
}
