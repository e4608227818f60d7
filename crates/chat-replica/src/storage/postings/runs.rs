//! Which runs there are, and which are to be merged.

use super::Postings;
use crate::storage::state::{int, number};
use rusqlite::Result;

/// So many runs of about one size become one.
const FAN: usize = 8;
/// Runs with fewer messages than [`FAN`] times this are of one size.
const SMALL: u64 = 512;
/// So many messages move to where they are merged for each that comes in meanwhile. With more than one, a merge is done before the next of its size is due.
/// The fewer, the more evenly is what merges cost spread over all that comes in; and the longer there are more runs to look into.
const PACE: u64 = 3;

/// Postings of some messages, in both indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The lowest id in it.
    pub first: u64,
    pub number: u64,
    /// How many, about.
    pub messages: u64,
    /// What it is being merged into.
    pub target: Option<u64>,
}

impl Run {
    /// A size more is eight times as many messages.
    fn size(&self) -> u32 {
        (self.messages / SMALL).max(1).ilog(FAN as u64)
    }
}

/// Which of the runs, newest first, are to become one: the newest, if enough of them are of one size, with all that are smaller.
/// None while those that come next are being merged: what they become may be what is wanted.
pub(super) fn ripe(runs: &[Run]) -> Option<&[Run]> {
    let is_target = |run: &Run| runs.iter().any(|other| other.target == Some(run.number));
    let free = runs.iter().take_while(|run| run.target.is_none() && !is_target(run)).count();
    let free = &runs[..free];
    let largest = free.iter().map(Run::size).max()?;
    (0..=largest).find_map(|size| {
        let together = free.iter().take_while(|run| run.size() <= size).count();
        let alike = free[..together].iter().filter(|run| run.size() == size).count();
        (alike >= FAN).then(|| &free[..together])
    })
}

/// What runs are being merged into, and they: where all have moved and that is to be said, or not fast enough for the messages that have come in since that
/// began, up to the id `last`. The smallest, if there are several.
pub(super) fn behind(runs: &[Run], last: u64) -> Option<(u64, &[Run])> {
    // What goes into one run lies side by side, the newest first: that was there last when the merge began.
    runs.chunk_by(|newer, older| newer.target == older.target).find_map(|sources| {
        let newest = sources.first()?;
        let target = newest.target?;
        let moved = runs.iter().find(|run| run.number == target)?.messages;
        let since = (last + 1).saturating_sub(newest.first.saturating_add(newest.messages));
        let all: u64 = sources.iter().map(|run| run.messages).sum();
        (moved >= all || moved < since.saturating_mul(PACE)).then_some((target, sources))
    })
}

impl Postings<'_> {
    /// All runs, the newest first; one that is being merged before what it goes into.
    pub(super) fn runs(self) -> Result<Vec<Run>> {
        let sql = "SELECT first, number, messages, target FROM runs ORDER BY first DESC, number";
        let mut statement = self.connection.prepare_cached(sql)?;
        let runs = statement.query_map([], |row| {
            let target: Option<i64> = row.get(3)?;
            let target = target.map(|_| number(row, 3)).transpose()?;
            Ok(Run { first: number(row, 0)?, number: number(row, 1)?, messages: number(row, 2)?, target })
        })?;
        runs.collect()
    }

    pub(super) fn next_number(self) -> Result<u64> {
        let sql = "SELECT coalesce(max(number), 0) + 1 FROM runs";
        self.connection.prepare_cached(sql)?.query_row([], |row| number(row, 0))
    }

    pub(super) fn insert_run(self, run: Run) -> Result<()> {
        let sql = "INSERT INTO runs (first, number, messages, target) VALUES (?1, ?2, ?3, ?4)";
        let row = (int(run.first), int(run.number), int(run.messages), run.target.map(int));
        self.connection.prepare_cached(sql)?.execute(row).map(drop)
    }

    /// `run` is being merged into `target` from now on.
    pub(super) fn aim(self, run: u64, target: u64) -> Result<()> {
        let sql = "UPDATE runs SET target = ?2 WHERE number = ?1";
        self.connection.prepare_cached(sql)?.execute((int(run), int(target))).map(drop)
    }

    /// A run has so many messages more.
    pub(super) fn grown(self, run: u64, messages: usize) -> Result<()> {
        let sql = "UPDATE runs SET messages = messages + ?2 WHERE number = ?1";
        self.connection.prepare_cached(sql)?.execute((int(run), int(messages as u64))).map(drop)
    }

    /// What was to go into `target` is there.
    pub(super) fn arrived(self, target: u64) -> Result<()> {
        self.connection.prepare_cached("DELETE FROM runs WHERE target = ?1")?.execute([int(target)]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs with so many messages, the newest first.
    fn runs(messages: &[u64]) -> Vec<Run> {
        let number = |at: usize| (messages.len() - at) as u64;
        let run = |(at, messages): (usize, &u64)| Run {
            first: number(at),
            number: number(at),
            messages: *messages,
            target: None,
        };
        messages.iter().enumerate().map(run).collect()
    }

    #[test]
    fn eight_of_a_size_and_what_is_smaller_and_newer_become_one() {
        let lengths = |messages: &[u64]| ripe(&runs(messages)).map(<[Run]>::len);
        assert_eq!(lengths(&[]), None);
        assert_eq!(lengths(&[1; 7]), None);
        assert_eq!(lengths(&[1; 8]), Some(8));
        assert_eq!(lengths(&[1, 4095, 1, 1, 1, 1, 1, 1, 4096]), Some(8), "what is larger stays");
        assert_eq!(lengths(&[4096; 8]), Some(8));
        assert_eq!(lengths(&[1, 1, 5000, 5000, 5000, 5000, 9000, 5000, 5000, 5000, 40_000]), Some(10));
        assert_eq!(lengths(&[5000, 1, 1, 1, 1, 1, 1, 1, 1]), None, "only neighbours, and the newest first");
        assert_eq!(lengths(&[40_000, 300_000, 3_000_000, 20_000_000]), None);
    }

    #[test]
    fn what_is_being_merged_is_left_alone() {
        let mut some = runs(&[1; 20]);
        for run in &mut some[7..] {
            run.target = Some(21);
        }
        assert_eq!(ripe(&some), None);
        some[7].target = None;
        assert_eq!(ripe(&some).map(<[Run]>::len), Some(8));
        some[9].target = Some(3);
        assert_eq!(some[17].number, 3);
        assert_eq!(ripe(&some).map(<[Run]>::len), Some(8));
    }

    #[test]
    fn a_merge_goes_on_where_less_has_moved_than_three_times_what_came_in() {
        // What has come in since, in two runs; eight that have not all moved into 19 yet; and what is older, into 9.
        let run = |first, number, messages, target| Run { first, number, messages, target };
        let mut runs = vec![run(1900, 21, 40, None), run(1880, 20, 20, None)];
        runs.extend((0..8).map(|at| run(1870 - 10 * at, 18 - at, 10, Some(19))));
        runs.push(run(1800, 19, 0, None));
        runs.extend([run(1400, 8, 400, Some(9)), run(1000, 7, 400, Some(9)), run(1000, 9, 0, None)]);
        let with = |moved: [u64; 2], last| {
            let mut runs = runs.clone();
            [runs[10].messages, runs[13].messages] = moved;
            behind(&runs, last).map(|(target, _)| target)
        };
        assert_eq!(with([0, 500], 1879), None, "nothing has come in since");
        assert_eq!(with([2, 500], 1880), Some(19));
        assert_eq!(with([3, 500], 1880), None);
        assert_eq!(with([77, 500], 1905), Some(19));
        assert_eq!(with([78, 500], 1905), None);
        assert_eq!(with([80, 500], 1879), Some(19), "all have moved");
        assert_eq!(with([79, 299], 1899), Some(9), "100 have come in since it began");
        assert_eq!(with([79, 300], 1899), None);
        assert_eq!(with([0, 0], 1939), Some(19), "the smallest first");
        assert_eq!(behind(&[], u64::MAX - 1), None);
    }
}
