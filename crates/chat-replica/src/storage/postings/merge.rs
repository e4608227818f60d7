//! Runs become larger ones: in slices, so that no batch waits for a large one.

use super::runs::{Run, ripe};
use super::{Index, Posting, Postings, key, read};
use rusqlite::Result;

/// A slice takes so many blocks of each run at most: some 40,000 postings of eight runs.
const BLOCKS: usize = 12;
/// A block has so many postings, about.
const POSTINGS: usize = 430;
/// Postings of both indexes that are moved with each message that comes in. Each goes through five or six runs in a life.
const PER_MESSAGE: usize = 16;
/// And so many with each batch. A small batch is written within a turn, and everybody waits for it; a slice is a block of each run at least, some thousands more.
const PER_BATCH: usize = 1024;

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
    /// Merges what is due, about as much as must be done for each `messages` that come in.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn merge(self, messages: usize) -> Result<()> {
        let mut left = PER_BATCH + PER_MESSAGE * messages;
        loop {
            let mut runs = self.runs()?;
            if let Some(sources) = ripe(&runs) {
                self.begin(sources)?;
                runs = self.runs()?;
            }
            // The newest first: they are the smallest, and there are the most of them.
            let Some(target) = runs.iter().find_map(|run| run.target) else { return Ok(()) };
            let sources: Vec<_> = runs.iter().filter(|run| run.target == Some(target)).map(|run| run.number).collect();
            // Half of it in each index.
            let blocks = (left / (2 * POSTINGS * sources.len())).clamp(1, BLOCKS);
            let moved = self.slice(Index::Mailboxes, &sources, target, blocks)?;
            self.grown(target, moved)?;
            let also = self.slice(Index::Conversations, &sources, target, blocks)?;
            if moved + also == 0 {
                self.arrived(target)?;
            }
            match left.checked_sub(moved + also) {
                Some(rest) => left = rest,
                None => return Ok(()),
            }
        }
    }

    fn begin(self, sources: &[Run]) -> Result<()> {
        let Some(oldest) = sources.last() else { return Ok(()) };
        let number = self.next_number()?;
        self.insert_run(Run { first: oldest.first, number, messages: 0, target: None })?;
        sources.iter().try_for_each(|run| self.aim(run.number, number))
    }

    /// Moves the lowest postings of the runs, of so many blocks of each at most, and returns how many. 0: there are none.
    fn slice(self, index: Index, sources: &[u64], target: u64, blocks: usize) -> Result<usize> {
        let heads: Vec<_> = sources.iter().map(|run| self.head(index, *run, blocks)).collect::<Result<_>>()?;
        // Of a run that has more, nothing is known beyond this.
        let end = heads.iter().filter(|head| head.more).filter_map(|head| head.postings.last()).min();
        let end = end.copied().unwrap_or([u64::MAX; 3]);
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

    fn head(self, index: Index, run: u64, blocks: usize) -> Result<Head> {
        let mut statement = self.connection.prepare_cached(index.forwards())?;
        let mut rows = statement.query(key(run, [0; 3]))?;
        let mut head = Head { postings: Vec::new(), firsts: Vec::new(), more: false };
        while let Some(row) = rows.next()? {
            if head.firsts.len() == blocks {
                head.more = true;
                break;
            }
            head.firsts.push(read(row, &mut head.postings)?);
        }
        Ok(head)
    }
}
