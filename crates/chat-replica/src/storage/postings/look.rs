//! Looking up where messages are.

use super::{Index, Posting, Postings, block, key, stored};
use crate::storage::state::{int, number};
use rusqlite::Result;
use std::ops::ControlFlow;

/// All runs that have messages below an id, the newest first.
pub(in crate::storage) const BELOW: &str = "SELECT number FROM runs WHERE first < ?1 ORDER BY first DESC, number";

impl Postings<'_> {
    /// The ids of a mailbox's messages with a `seq` above `seq`, ascending, at most `limit`.
    ///
    /// # Errors
    /// SQLite's own.
    pub(in crate::storage) fn mailbox_after(self, account: u64, seq: u64, limit: usize) -> Result<Vec<u64>> {
        let Some(next) = seq.checked_add(1) else { return Ok(Vec::new()) };
        let mut statement = self.connection.prepare_cached(BELOW)?;
        let mut runs = statement.query([i64::MAX])?;
        let mut pages = Vec::new();
        while let Some(run) = runs.next()? {
            let page = self.ascending(number(run, 0)?, [account, next, 0], limit)?;
            // A mailbox has no gaps: older runs have nothing that is wanted.
            let is_first = page.first().is_some_and(|[_, found, _]| *found == next);
            pages.push(page);
            if is_first {
                break;
            }
        }
        Ok(pages.into_iter().rev().flatten().map(|[_, _, id]| id).take(limit).collect())
    }

    /// What a run has of a mailbox from a posting on, at most `limit`.
    fn ascending(self, run: u64, from: Posting, limit: usize) -> Result<Vec<Posting>> {
        let mut statement = self.connection.prepare_cached(Index::Mailboxes.forwards())?;
        let mut rows = statement.query(key(run, self.floor(Index::Mailboxes, run, from)?))?;
        let (mut page, mut is_whole) = (Vec::new(), limit == 0);
        while !is_whole && let Some(row) = rows.next()? {
            let (first, rest) = stored(row)?;
            block::each(first, rest, |posting| {
                if posting >= from {
                    let is_wanted = posting[0] == from[0];
                    page.extend(is_wanted.then_some(posting));
                    is_whole = !is_wanted || page.len() == limit;
                }
                if is_whole { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(page)
    }

    /// The ids of the messages between two accounts below `before`, descending, for as long as `visit` wants more.
    ///
    /// # Errors
    /// SQLite's own, and those of `visit`.
    pub(in crate::storage) fn conversation_back(
        self,
        [low, high]: [u64; 2],
        before: u64,
        mut visit: impl FnMut(u64) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(BELOW)?;
        let mut runs = statement.query([int(before)])?;
        let (begin, end) = ([low, high, 0], [low, high, before]);
        let mut ids = Vec::new();
        while let Some(run) = runs.next()? {
            let mut statement = self.connection.prepare_cached(Index::Conversations.backwards())?;
            let mut rows = statement.query(key(number(run, 0)?, end))?;
            while let Some(row) = rows.next()? {
                ids.clear();
                let (first, rest) = stored(row)?;
                block::each(first, rest, |posting| {
                    let [x, y, id] = posting;
                    // Most postings that are come to are wanted, so that is asked first.
                    let is_wanted = x == low && y == high && id < before;
                    if is_wanted {
                        ids.push(id);
                    }
                    if is_wanted || posting < begin { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                for id in ids.iter().rev() {
                    if visit(*id)?.is_break() {
                        return Ok(());
                    }
                }
                if first < begin {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where the block begins that has a posting, if one has; else the posting.
    fn floor(self, index: Index, run: u64, posting: Posting) -> Result<Posting> {
        let mut statement = self.connection.prepare_cached(index.firsts())?;
        let mut rows = statement.query(key(run, posting))?;
        match rows.next()? {
            Some(row) => Ok([number(row, 0)?, number(row, 1)?, number(row, 2)?]),
            None => Ok(posting),
        }
    }
}
