//! Which runs there are, and which are to be merged.

use super::Postings;
use crate::storage::state::{int, number};
use rusqlite::Result;

/// So many runs of about one size become one.
const FAN: usize = 8;
/// Runs with fewer messages than [`FAN`] times this are of one size.
const SMALL: u64 = 512;

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
}
