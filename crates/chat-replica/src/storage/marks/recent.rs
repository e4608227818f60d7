//! Recent marks: each batch makes a sorted run, and of runs that are about as long as what comes after them, one is made.
//!
//! So there are usually some eight runs, each longer than the next newer one (45 where all batches are small), and a mark is written some seven times before it
//! goes to all others, always among its neighbours. This is what `postings` do, with two runs at a time instead of eight: whoever looks for marks that are in no memory asks every run.

use super::block::{encode, over, read};
use super::{Held, TOGETHER};
use crate::storage::state::{SqliteState, int, number};
use rusqlite::{Result, Row};
use std::ops::Range;

/// So many recent ones are kept. Each page of all others takes as many of them at once as there are, so that it is not written for a few.
pub(super) const RECENT: usize = 256 * 1024;
/// No row has more bytes of marks, so that four share a page.
const BYTES: usize = 1000;
/// A row's key: the number of its run, and its first account in so many bits.
const ACCOUNT_BITS: u32 = 44;
const LARGEST_ACCOUNT: u64 = (1 << ACCOUNT_BITS) - 1;
/// All accounts.
pub(super) const ALL: Range<u64> = 0..LARGEST_ACCOUNT;
/// What comes in makes runs of so many at most, or of so many times as many as come in: a small batch is written within a turn, and everybody waits for it.
const FEW: usize = 16 * 1024;
const MANY_TIMES: usize = 32;
/// Where numbers come so high, all runs become one, and they begin anew.
const HIGHEST: u64 = 1 << 18;

const RUNS: &str = "SELECT number, marks FROM mark_runs ORDER BY number DESC";
const BACKWARDS: &str = "SELECT key, marks FROM recent_marks WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC";
const FORWARDS: &str = "SELECT key, marks FROM recent_marks WHERE key BETWEEN ?1 AND ?2 ORDER BY key";

/// Marks that came in together, or were merged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// Newer ones have higher numbers.
    number: u64,
    /// How many it has.
    pub marks: usize,
}

impl Run {
    fn key(self, account: u64) -> i64 {
        int(self.number << ACCOUNT_BITS | account.min(LARGEST_ACCOUNT))
    }

    /// Where a row begins.
    fn first(self, row: &Row<'_>) -> Result<u64> {
        Ok(number(row, 0)? & LARGEST_ACCOUNT)
    }

    fn read(self, row: &Row<'_>, wanted: &Range<u64>) -> Result<Held> {
        read(row, 1, self.first(row)?..LARGEST_ACCOUNT, wanted)
    }
}

impl SqliteState<'_> {
    /// The newest first.
    pub(super) fn mark_runs(&self) -> Result<Vec<Run>> {
        let mut statement = self.prepare(RUNS)?;
        let runs =
            statement.query_map([], |row| Ok(Run { number: number(row, 0)?, marks: number(row, 1)? as usize }))?;
        runs.collect()
    }

    /// What a run has of these accounts.
    pub(super) fn recent_marks(&self, run: Run, accounts: &Range<u64>) -> Result<Held> {
        let mut statement = self.prepare(BACKWARDS)?;
        let mut rows = statement.query([run.key(0), run.key(accounts.end - 1)])?;
        let mut held = Held::new();
        while let Some(row) = rows.next()? {
            // Seldom more than one has any.
            let before = run.read(row, accounts)?;
            held.splice(..0, before);
            if run.first(row)? <= accounts.start {
                break;
            }
        }
        Ok(held)
    }

    /// What a run has, the lowest accounts first: at least so many, or all that there are.
    fn lowest_recent_marks(&self, run: Run, limit: usize) -> Result<Held> {
        let mut statement = self.prepare(FORWARDS)?;
        let mut rows = statement.query([run.key(0), run.key(LARGEST_ACCOUNT)])?;
        let mut held = Held::with_capacity(run.marks.min(limit));
        while held.len() < limit
            && let Some(row) = rows.next()?
        {
            held.extend(run.read(row, &ALL)?);
        }
        Ok(held)
    }

    /// All that a run has.
    pub(super) fn all_recent_marks(&self, run: Run) -> Result<Held> {
        self.lowest_recent_marks(run, usize::MAX)
    }

    /// Adds marks, which ascend by account, as the newest run. Returns the runs that there are then, the newest first.
    pub(super) fn add_run(&self, mut all: Held) -> Result<Vec<Run>> {
        let mut runs = self.mark_runs()?;
        let mut new = runs.first().map_or(0, |newest| newest.number + 1);
        let mut merged = 0;
        let (anew, most) = (new >= HIGHEST, FEW.max(MANY_TIMES * all.len()));
        for run in &runs {
            if !anew && (run.marks > all.len() || run.marks + all.len() > most) {
                break;
            }
            all = over(self.all_recent_marks(*run)?, &all);
            self.remove_until(*run, LARGEST_ACCOUNT, 0)?;
            (new, merged) = (run.number, merged + 1);
        }
        let number = if merged == runs.len() { 0 } else { new };
        let new = Run { number, marks: all.len() };
        let mut insert = self.prepare("INSERT INTO recent_marks (key, marks) VALUES (?1, ?2)")?;
        let mut left = all.as_slice();
        while let Some((first, _)) = left.first() {
            let (bytes, count) = encode(*first, left, BYTES);
            insert.execute((new.key(*first), bytes))?;
            left = &left[count..];
        }
        self.prepare("INSERT INTO mark_runs (number, marks) VALUES (?1, ?2)")?
            .execute((int(new.number), new.marks as i64))?;
        runs.splice(..merged, [new]);
        Ok(runs)
    }

    /// Takes marks out of the oldest run, the lowest accounts first: about so many, or all that it has.
    pub(super) fn take_oldest(&self, oldest: Run, limit: usize) -> Result<Held> {
        let taken = self.lowest_recent_marks(oldest, limit.max(TOGETHER))?;
        let last = taken.last().map_or(LARGEST_ACCOUNT, |(account, _)| *account);
        self.remove_until(oldest, last, oldest.marks.saturating_sub(taken.len()))?;
        Ok(taken)
    }

    /// Removes the rows of a run that begin at `account` or before it; so many marks are left.
    fn remove_until(&self, run: Run, account: u64, left: usize) -> Result<()> {
        self.prepare("DELETE FROM recent_marks WHERE key BETWEEN ?1 AND ?2")?
            .execute([run.key(0), run.key(account)])?;
        match left {
            0 => self.prepare("DELETE FROM mark_runs WHERE number = ?1")?.execute([int(run.number)]),
            left => self
                .prepare("UPDATE mark_runs SET marks = ?2 WHERE number = ?1")?
                .execute((int(run.number), left as i64)),
        }
        .map(drop)
    }
}
