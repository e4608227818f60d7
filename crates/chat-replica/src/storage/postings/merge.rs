//! Runs become larger ones: in slices, so that no batch waits for a large one, and no faster than is needed, so that no batch pays for many.

use super::runs::{Run, behind, ripe};
use super::{Index, Posting, Postings, key, read};
use rusqlite::Result;

/// A slice takes so many blocks of each run at most: some 40,000 postings of eight runs.
const BLOCKS: usize = 12;
/// One block of each run for so many messages: what is left of the last one is written again, so the more a slice has, the less that costs.
const PER_BLOCK: usize = 128;

/// The next blocks of a run.
struct Head {
    /// In order.
    postings: Vec<Posting>,
    /// Where the blocks begin.
    firsts: Vec<Posting>,
    /// The run has more of them.
    more: bool,
}

impl Postings<'_> {
    /// Merges what is due, now that there are all messages up to the id `last`, of which so many have come in just now.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn merge(self, last: u64, messages: usize) -> Result<()> {
        let blocks = (messages / PER_BLOCK).clamp(1, BLOCKS);
        loop {
            let mut runs = self.runs()?;
            if let Some(sources) = ripe(&runs) {
                self.begin(sources)?;
                runs = self.runs()?;
            }
            let Some((target, sources)) = behind(&runs, last) else { return Ok(()) };
            // The oldest first.
            let sources: Vec<_> = sources.iter().rev().map(|run| run.number).collect();
            let moved = self.slice(Index::Mailboxes, &sources, target, blocks)?;
            self.grown(target, moved)?;
            if moved + self.as_many(moved, &sources, target, blocks)? == 0 {
                self.arrived(target)?;
            }
        }
    }

    fn begin(self, sources: &[Run]) -> Result<()> {
        let Some(oldest) = sources.last() else { return Ok(()) };
        let number = self.next_number()?;
        self.insert_run(Run { first: oldest.first, number, messages: 0, target: None })?;
        sources.iter().try_for_each(|run| self.aim(run.number, number))
    }

    /// Moves at least so many of conversations, too, or all there are, and returns how many: between many accounts their blocks hold fewer, and what is behind
    /// when all mailboxes have moved would be for one batch.
    fn as_many(self, moved: usize, sources: &[u64], target: u64, blocks: usize) -> Result<usize> {
        let mut also = 0;
        loop {
            let more = self.slice(Index::Conversations, sources, target, blocks)?;
            also += more;
            if more == 0 || also >= moved {
                return Ok(also);
            }
        }
    }

    /// Moves the lowest postings of the runs, of so many blocks of each at most, and returns how many. 0: there are none.
    fn slice(self, index: Index, sources: &[u64], target: u64, blocks: usize) -> Result<usize> {
        // The oldest are the largest, and of the others no more is read than goes along.
        let (mut heads, mut end) = (Vec::with_capacity(sources.len()), [u64::MAX; 3]);
        for run in sources {
            let head = self.head(index, *run, blocks, end)?;
            if let Some(last) = head.postings.last().filter(|_| head.more) {
                // Nothing is known of what follows.
                end = end.min(*last);
            }
            heads.push(head);
        }
        let mut moved = Vec::new();
        for (head, run) in heads.iter().zip(sources) {
            let (out, rest) = head.postings.split_at(head.postings.partition_point(|posting| *posting <= end));
            moved.extend_from_slice(out);
            let taken = head.firsts.partition_point(|first| *first <= end);
            if let Some(last) = head.firsts[..taken].last() {
                self.delete_until(index, *run, *last)?;
            }
            // Of the last block that was taken, some may stay.
            let stays =
                head.firsts.get(taken).map_or(rest.len(), |next| rest.partition_point(|posting| posting < next));
            self.write(index, *run, rest[..stays].iter().copied())?;
        }
        // They are sorted runs already, which this sort makes use of.
        moved.sort_by_key(|[x, y, z]| (*x, *y, *z));
        self.write(index, target, moved.iter().copied())?;
        Ok(moved.len())
    }

    /// The next blocks of a run: no more than so many, and none that begins behind `end`.
    fn head(self, index: Index, run: u64, blocks: usize, end: Posting) -> Result<Head> {
        let mut statement = self.connection.prepare_cached(index.forwards())?;
        let mut rows = statement.query(key(run, [0; 3]))?;
        let mut head = Head { postings: Vec::new(), firsts: Vec::new(), more: false };
        while let Some(row) = rows.next()? {
            if head.firsts.len() == blocks || head.postings.last() > Some(&end) {
                head.more = true;
                break;
            }
            head.firsts.push(read(row, &mut head.postings)?);
        }
        Ok(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations;
    use rusqlite::Connection;

    #[test]
    fn of_a_run_no_more_is_read_than_can_go_along() {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrations::migrate(&mut connection).expect("made");
        let postings = Postings::new(&connection);
        postings.write(Index::Mailboxes, 1, (1..=100_000).map(|at| [at, 1, at])).expect("written");
        let head = |blocks, end| postings.head(Index::Mailboxes, 1, blocks, end).expect("read");
        let all = head(usize::MAX, [u64::MAX; 3]);
        assert!(all.firsts.len() > 20 && all.postings.len() == 100_000 && !all.more);
        let some = head(12, [u64::MAX; 3]);
        assert!(some.firsts == all.firsts[..12] && some.more);
        let none_behind = |end: Posting| {
            let head = head(12, end);
            assert!(head.more && head.postings.last() > Some(&end));
            head.firsts.len()
        };
        assert_eq!(none_behind([1, 1, 1]), 1);
        let [x, ..] = all.firsts[2];
        assert_eq!([none_behind([x - 2, 1, x - 2]), none_behind([x, 1, x])], [2, 3]);
    }
}
