//! The log's chain of hashes, followed at a start and wherever entries are read (rule 15).
//!
//! A start has no time for the whole log, and need not take it. Every page has a checksum that is verified when it is read, and all are read
//! in the background. So only what is new is followed: from the last entry that was known to be committed when the state was written, in the same
//! transaction and with that entry there, to the end. Of what lies before, a start needs the views and where epochs begin. Each epoch begins with a view
//! (rule 5: the winner appends one before anything else, and the founding is one too; a cut takes an end away, so what is left of an epoch begins
//! as it did), so the index of the views says both.
//!
//! Whoever follows the chain reads messages, too: what of an entry is only there is put into it again (`brief`).
//!
//! That the index is whole is not taken on trust: a view that it lacks would be missed by rule 4, and two could lead. A page that a disk
//! never wrote has a checksum too, that of what was there before. So the index must have as many views as the row of facts says, in order, the
//! first at the beginning, and the last must be in the log, of the epoch of the entry from which the chain is followed. Where that is not so, the
//! whole chain is followed.

use super::brief::Batches;
use super::disk::DiskError;
use super::log_table::{self, Facts};
use super::mark::Mark;
use crate::protocol::{ChainHash, Entry, Persist, RecoveredLog};
use rusqlite::Connection;

/// The log as it was found.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Followed {
    pub log: RecoveredLog,
    /// The first entry that does not verify, and the last that was there.
    pub broken: Option<(u64, u64)>,
    /// The chain at the place that the mark names.
    pub at_mark: Option<ChainHash>,
    /// How many views are known to be committed, if the log goes so far and is sound.
    pub views: Option<u64>,
}

/// The views in a log, as they are counted beside the state.
#[derive(Debug)]
pub(super) struct Views {
    counted: u64,
    /// Where the later ones are.
    later: Vec<u64>,
}

impl Views {
    /// Of a log as it was found. `None`: how many there are is for the next start to find out.
    pub fn of(found: &Followed) -> Option<Views> {
        let later = found.log.views.iter().map(|at| at.index).filter(|index| *index > found.log.committed);
        Some(Views { counted: found.views?, later: later.collect() })
    }

    /// The log changes.
    pub fn note(&mut self, what: &Persist) {
        match what {
            Persist::Append(entry) if entry.body.view().is_some() => self.later.push(entry.index),
            Persist::CutBack(from) => self.later.retain(|index| index < from),
            _ => {}
        }
    }

    /// How many there are up to what is committed, which never goes back.
    pub fn up_to(&mut self, committed: u64) -> u64 {
        let before = self.later.len();
        self.later.retain(|index| *index > committed);
        self.counted += (before - self.later.len()) as u64;
        self.counted
    }
}

/// Reads the whole log.
///
/// # Errors
/// SQLite's own.
pub(super) fn whole(connection: &Connection, facts: &Facts, mark: Option<Mark>) -> Result<Followed, DiskError> {
    let at_mark = mark.filter(|mark| mark.index == 0).map(|_| ChainHash::default());
    let mut found = Followed { at_mark, ..Followed::default() };
    found.follow(connection, mark)?;
    if found.broken.is_none() && found.log.last >= facts.applied.max(facts.committed) {
        let views = found.log.views.iter().filter(|at| at.index <= facts.committed);
        found.views = Some(views.count() as u64);
    }
    found.log.end(facts.committed);
    Ok(found)
}

/// Reads the log from the last entry on that was committed when the state was written. `None` if that is not there, or what lies before it is in doubt.
///
/// # Errors
/// SQLite's own.
pub(super) fn from_state(
    connection: &Connection,
    facts: &Facts,
    mark: Option<Mark>,
) -> Result<Option<Followed>, DiskError> {
    let anchor = facts.committed;
    if anchor == 0 || facts.applied > anchor {
        return Ok(None);
    }
    let Some(views) = log_table::views(connection)? else { return Ok(None) };
    let Some(log) = before(connection, anchor, views)? else { return Ok(None) };
    let mut found = Followed { log, views: Some(views), ..Followed::default() };
    if let Some(mark) = mark.filter(|mark| mark.index <= anchor) {
        // After a power failure the mark may be behind.
        found.at_mark = log_table::place_at(connection, mark.index)?.map(|(_, hash)| hash);
    }
    found.follow(connection, mark)?;
    found.log.end(facts.committed);
    Ok(Some(found))
}

/// What is to be known of the log up to this entry, whose hash is taken as it is.
fn before(connection: &Connection, anchor: u64, views: u64) -> rusqlite::Result<Option<RecoveredLog>> {
    let Some((epoch, hash)) = log_table::place_at(connection, anchor)? else { return Ok(None) };
    let index = log_table::views_up_to(connection, anchor)?;
    let in_order = index.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
    let begins = index.first().is_some_and(|(first, _)| *first == 1);
    let (Some((newest, _)), true) = (index.last(), in_order && begins && index.len() as u64 == views) else {
        return Ok(None);
    };
    let newest = log_table::entry_at(connection, *newest)?.filter(|entry| entry.epoch == epoch);
    let Some(newest) = newest.filter(|entry| entry.body.view().is_some()) else { return Ok(None) };
    let mut log = RecoveredLog::default();
    for (index, epoch) in index {
        if log.spans.last().is_none_or(|(_, last)| *last != epoch) {
            log.spans.push((index, epoch));
        }
    }
    log.push(&newest);
    (log.last, log.last_hash) = (anchor, hash);
    Ok(Some(log))
}

impl Followed {
    /// Goes on to the log's end, or to where its chain breaks.
    fn follow(&mut self, connection: &Connection, mark: Option<Mark>) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(log_table::SELECT_FROM)?;
        let (mut rows, mut batches) = (statement.query([self.log.last as i64 + 1])?, Batches::new(connection));
        while let Some(row) = rows.next()? {
            let entry = match log_table::entry(row, &mut batches) {
                // A page that cannot be read says nothing of the log's chain. Salvage may be able to mend it.
                Err(error @ rusqlite::Error::SqliteFailure(..)) => return Err(error),
                entry => entry.ok(),
            };
            let sound = entry.filter(|entry| entry.index == self.log.last + 1 && entry.follows(self.log.last_hash));
            let Some(entry) = sound else {
                self.broken = Some((self.log.last + 1, log_table::last(connection)?));
                break;
            };
            self.log.push(&entry);
            if mark.is_some_and(|mark| mark.index == entry.index) {
                self.at_mark = Some(entry.hash);
            }
        }
        Ok(())
    }
}

/// Entries from `from` up to `to`, at least one if there is one, about `max_bytes` at most. A start does not follow the chain through them all, so it is
/// followed here: what is carried out or sent to a peer follows from what was before it.
///
/// # Errors
/// SQLite's own, or one that says that the chain breaks.
pub(super) fn read(connection: &Connection, from: u64, to: u64, max_bytes: usize) -> rusqlite::Result<Vec<Entry>> {
    let mut statement = connection.prepare_cached(log_table::SELECT_FROM)?;
    let mut rows = statement.query([from.saturating_sub(1) as i64])?;
    let (mut batches, mut entries, mut bytes) = (Batches::new(connection), Vec::new(), 0);
    let mut before = (from <= 1).then_some((0, ChainHash::default()));
    while let Some(row) = rows.next()? {
        let place = log_table::index_and_hash(row)?;
        // An entry is put together only if it is wanted: it has as many bytes as are stored of it, and mostly more.
        if place.0 > to || (!entries.is_empty() && bytes + log_table::stored(row)?.len() > max_bytes) {
            break;
        }
        if place.0 >= from {
            let entry = log_table::entry(row, &mut batches)?;
            if !before.is_some_and(|(index, hash)| entry.index == index + 1 && entry.follows(hash)) {
                return Err(log_table::unchained(entry.index));
            }
            bytes += entry.size();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry);
        }
        before = Some(place);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Disk as _;
    use crate::protocol::*;
    use crate::storage::{DataDirectory, SqliteDisk, damage, disk, scrub};
    use chat_sqlite_checksum::PAGE;
    use proptest::prelude::*;
    use rusqlite::OpenFlags;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::sync::Arc;

    fn epoch(round: u64) -> Epoch {
        Epoch { round, replica: ReplicaId(1 + round as u32 % 3) }
    }

    fn view(epoch: Epoch) -> View {
        View { epoch, primary: epoch.replica, members: Vec::new() }
    }

    fn batch() -> Body {
        Body::Commands(chat_core::codec::encode(&[]).into())
    }

    fn take(path: &Path) -> Arc<DataDirectory> {
        Arc::new(DataDirectory::take(path, ReplicaId(1)).expect("free"))
    }

    fn connect(directory: &DataDirectory) -> Connection {
        disk::connect(&directory.database(), OpenFlags::default()).expect("opened")
    }

    /// A log as elections make it, on the disk and in memory.
    struct Written {
        disk: SqliteDisk,
        entries: Vec<Entry>,
        committed: u64,
    }

    impl Written {
        fn new(directory: Arc<DataDirectory>) -> Written {
            let (disk, ..) = SqliteDisk::open(directory, ReplicaId(1)).expect("a new disk");
            let mut written = Written { disk, entries: Vec::new(), committed: 0 };
            written.append(epoch(1), Body::Founding { cluster: ClusterId([7; 16]), view: view(epoch(1)) });
            written
        }

        fn append(&mut self, epoch: Epoch, body: Body) {
            let before = self.entries.last().map(|entry| entry.hash).unwrap_or_default();
            let entry = Entry::chained(before, self.entries.len() as u64 + 1, epoch, body);
            self.disk.persist(&Persist::Append(entry.clone())).expect("persisted");
            self.disk.commit().expect("committed");
            self.entries.push(entry);
        }

        /// Cuts back some of what is not committed.
        fn cut(&mut self, entries: u64) {
            let from = (self.entries.len() as u64 + 1).saturating_sub(entries).max(self.committed + 1);
            self.disk.persist(&Persist::CutBack(from)).expect("cut");
            self.disk.commit().expect("committed");
            self.entries.truncate(from as usize - 1);
        }

        /// Commits some of what is not, and carries some of that out.
        fn carry_out(&mut self, commit: u64, leave: u64) {
            self.committed = self.entries.len().min((self.committed + commit) as usize) as u64;
            self.disk.set_committed(self.committed);
            for index in self.disk.applied() + 1..=self.committed.saturating_sub(leave) {
                self.disk.apply(&self.entries[index as usize - 1]).expect("applied");
            }
            self.disk.show().expect("shown");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Elect { cut: u64 },
        ChangeView,
        Append(u64),
        CarryOut { commit: u64, leave: u64 },
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u64).prop_map(|cut| Step::Elect { cut }),
            Just(Step::ChangeView),
            (1..5u64).prop_map(Step::Append),
            (0..9u64, 0..4u64).prop_map(|(commit, leave)| Step::CarryOut { commit, leave }),
            Just(Step::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_end_of_a_log_says_what_all_of_it_says(steps in prop::collection::vec((step(), any::<bool>()), 1..24)) {
            let memory = Path::new("/dev/shm");
            let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
            let dir = dir.expect("a temporary directory");
            let directory = take(&dir.path().join("1"));
            let (mut written, mut round) = (Written::new(directory.clone()), 1);
            for (step, taken_in) in steps {
                match step {
                    Step::Elect { cut } => {
                        written.cut(cut);
                        round += 1;
                        // Where even the founding was cut, it comes again: nobody is elected before.
                        if written.entries.is_empty() {
                            written.append(epoch(round), Body::Founding { cluster: ClusterId([7; 16]), view: view(epoch(round)) });
                        } else {
                            written.append(epoch(round), Body::View(view(epoch(round))));
                        }
                    }
                    Step::ChangeView | Step::Append(_) if written.entries.last().is_none_or(|last| last.epoch != epoch(round)) => {}
                    Step::ChangeView => written.append(epoch(round), Body::View(view(epoch(round)))),
                    Step::Append(count) => (0..count).for_each(|_| written.append(epoch(round), batch())),
                    Step::CarryOut { commit, leave } => written.carry_out(commit, leave),
                    Step::Restart => {
                        let Written { disk, entries, .. } = written;
                        let applied = disk.applied();
                        drop(disk);
                        let (disk, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("opened");
                        let committed = found.log.committed;
                        prop_assert!(committed >= applied && disk.applied() == applied);
                        prop_assert_eq!(found.log, RecoveredLog::of(&entries, committed));
                        written = Written { disk, entries, committed };
                    }
                }
                if !taken_in {
                    // A restart finds it in the redo log.
                    continue;
                }
                written.disk.take_in_all().expect("taken in");
                let connection = connect(&directory);
                let facts = log_table::facts(&connection).expect("readable").expect("there");
                let all = whole(&connection, &facts, None).expect("readable");
                prop_assert_eq!(&all.log, &RecoveredLog::of(&written.entries, facts.committed));
                let end = from_state(&connection, &facts, None).expect("readable");
                prop_assert_eq!(end.is_none(), facts.committed == 0, "the shorter way is taken once there is a state");
                prop_assert!(end.is_none_or(|end| end == all));
                for index in 0..=written.entries.len() as u64 {
                    let hash = index.checked_sub(1).map(|at| written.entries[at as usize].hash).unwrap_or_default();
                    let mark = Mark { index, hash, promised: Epoch::ZERO, run: None, is_last: true };
                    let end = from_state(&connection, &facts, Some(mark)).expect("readable");
                    prop_assert!(end.is_none_or(|end| end.at_mark == Some(hash)), "the mark at {}", index);
                }
            }
        }
    }

    /// Each of these is what a disk leaves that says that it wrote a page, and did not.
    #[test]
    fn an_index_that_lacks_something_is_not_believed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = take(&dir.path().join("1"));
        let mut written = Written::new(directory.clone());
        written.append(epoch(2), Body::View(view(epoch(2))));
        written.append(epoch(2), batch());
        written.append(epoch(2), Body::View(view(epoch(2))));
        (0..3).for_each(|_| written.append(epoch(2), batch()));
        written.carry_out(6, 3);
        let connection = connect(&directory);
        let facts = log_table::facts(&connection).expect("readable").expect("there");
        let end = |connection: &Connection| from_state(connection, &facts, None).expect("readable");
        let all = whole(&connection, &facts, None).expect("readable");
        assert_eq!(end(&connection).as_ref(), Some(&all));
        assert_eq!(all.views, Some(3));
        for sql in [
            "UPDATE replica SET views = NULL",
            "UPDATE replica SET views = 4",
            // As many, but one is none any more.
            "UPDATE log SET kind = 0 WHERE idx = 4; UPDATE replica SET views = 2; UPDATE log SET round = 3 WHERE idx = 6",
            "DELETE FROM log WHERE idx = 1; UPDATE replica SET views = 2",
            "DELETE FROM log WHERE idx = 6",
            "UPDATE replica SET committed = 2",
            "UPDATE replica SET committed = 8",
        ] {
            let transaction = connection.unchecked_transaction().expect("begun");
            transaction.execute_batch(sql).expect("changed");
            let facts = log_table::facts(&transaction).expect("readable").expect("there");
            assert_eq!(from_state(&transaction, &facts, None).expect("readable"), None, "{sql}");
        }
        assert_eq!(end(&connection), Some(all), "and all was taken back");
    }

    /// A start reads the end of a log. What rots before is found by whoever reads it, or in the background; the next start makes the rest of it.
    #[tokio::test]
    async fn a_start_does_not_read_a_long_log() {
        const ENTRIES: u64 = 2000;
        const CARRIED_OUT: u64 = 1900;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = take(&dir.path().join("1"));
        let Written { mut disk, mut entries, .. } = Written::new(directory.clone());
        let marker = |index: u64| (0xfeed_0000_0000 + index).to_le_bytes();
        for index in 2..=ENTRIES {
            // Nobody can carry these out, and nobody has to.
            let body = Body::Commands(marker(index).repeat(400).into());
            entries.push(Entry::chained(entries[index as usize - 2].hash, index, epoch(1), body));
            disk.persist(&Persist::Append(entries[index as usize - 1].clone())).expect("persisted");
        }
        disk.commit().expect("committed");
        disk.take_in_all().expect("taken in");
        drop(disk);
        let connection = connect(&directory);
        let sql = "UPDATE replica SET committed = ?1, applied = ?1, views = 1";
        connection.execute(sql, [CARRIED_OUT as i64]).expect("as if all that were carried out");
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
        drop(connection);

        let bytes = std::fs::read(directory.database()).expect("readable");
        let file = std::fs::OpenOptions::new().write(true).open(directory.database()).expect("there");
        let is_early = |page: &[u8]| {
            let numbers = page.windows(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 of them")));
            let marked: Vec<u64> =
                numbers.filter(|number| number >> 32 == 0xfeed).map(|number| number & 0xffff).collect();
            !marked.is_empty() && marked.iter().all(|index| (3..CARRIED_OUT - 2).contains(index))
        };
        let early: Vec<usize> =
            (0..bytes.len() / PAGE).filter(|page| is_early(&bytes[page * PAGE..][..PAGE])).collect();
        assert!(early.len() > 1800, "{} pages", early.len());
        for page in &early {
            file.write_all_at(&[0xff; 512], (page * PAGE) as u64).expect("written");
        }

        let (disk, me, found) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("started");
        assert_eq!((found.log.last, found.impaired_until, disk.applied()), (ENTRIES, None, CARRIED_OUT));
        assert_eq!(found.log, RecoveredLog::of(&entries, CARRIED_OUT));
        assert!(damage::noted(&directory).is_none() && !directory.beside(".damaged-1").exists());
        assert!(disk.read(CARRIED_OUT, usize::MAX) == entries[CARRIED_OUT as usize - 1..]);

        let mut damaged = directory.damaged.subscribe();
        scrub::scrub(Arc::downgrade(&directory)).await;
        assert!(damaged.wait_for(Option::is_some).await.expect("held").is_some());
        drop(disk);
        let (_, again, found) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("salvaged");
        assert!(again.same_disk(&me) && directory.beside(".damaged-1").exists());
        assert_eq!(found.impaired_until, Some(ENTRIES), "the rest comes from a peer");
        assert!(found.log.last < 5, "{}", found.log.last);
    }
}
