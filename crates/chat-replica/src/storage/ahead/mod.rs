//! What sends will need of their recipients, looked up ahead: a start knows nothing of it, and where there are many accounts, it takes long until everybody
//! has been written to once.
//!
//! A few rows at a time between turns, with pauses, and only into places that nobody else has. Names, of which there are most, are read by a thread
//! (`names`), once the replica is in the view: a learner takes in the log first, with all that it has. Marks are no other look than that of a command at
//! this moment, and come last. Before all that, a thread makes room in memory where there are many (`room`).

mod names;
mod room;

use super::directory::DataDirectory;
use super::known::{Known, MANY, ROOM};
use super::marks::NEIGHBOURS;
use super::state::SqliteState;
use super::write_back::{CachedState, WriteBack};
use chat_core::{Lookup as _, Username};
use names::{Answer, Found, Names, TOGETHER};
use room::{Made, Making};
use rusqlite::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Marks of so many neighbours each.
const NEIGHBOURS_TOGETHER: u64 = 4;
/// A pause is so many times as long as what came before it took.
const PAUSE: u32 = 3;

pub(super) const NAMES: &str =
    "SELECT name, id FROM accounts INDEXED BY accounts_listed WHERE name > ?1 AND password IS NOT NULL
    ORDER BY name LIMIT ?2";

/// How far that is.
#[derive(Debug)]
pub(super) struct Ahead {
    directory: Arc<DataDirectory>,
    /// Told when it can go on.
    answered: Arc<Notify>,
    next: Next,
    /// When it goes on.
    at: Option<Instant>,
}

/// How far the replica has come: who has something else to do does that first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Not in the view.
    Learns,
    /// In the view, with committed entries to carry out.
    IsBehind,
    /// In the view, with nothing to carry out.
    IsUpToDate,
}

#[derive(Debug)]
enum Next {
    /// Room for all of it is being made.
    Room(Making),
    Names,
    Asked(Asked),
    /// Marks of neighbours, from so many times [`NEIGHBOURS`] on, unless a command has looked them up meanwhile.
    Marks(u64),
    Nothing,
}

/// Names are being read.
#[derive(Debug)]
struct Asked {
    names: Names,
    /// So many more have room.
    left: usize,
    /// How many accounts had been deleted, all of them in the database by then.
    deleted: u64,
}

impl Ahead {
    /// All is to come, from the database in this directory, in which there are so many accounts. `answered` is told when it can go on.
    pub fn new(directory: Arc<DataDirectory>, answered: Arc<Notify>, accounts: u64) -> Ahead {
        let room = if accounts >= MANY { Making::start(answered.clone()) } else { None };
        Ahead { directory, answered, next: room.map_or(Next::Names, Next::Room), at: None }
    }

    /// When it goes on where the replica has come so far; `None` if there is nothing more, or it can at once, or when it is told.
    pub fn at(&self, progress: Progress) -> Option<Instant> {
        self.at.filter(|_| self.next.is_due(progress))
    }

    /// Looks some up, if it is time for that.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn go_on(
        &mut self,
        now: Instant,
        progress: Progress,
        cache: &mut WriteBack,
        state: SqliteState<'_>,
    ) -> Result<()> {
        if self.at.is_some_and(|at| now < at) || !self.next.is_due(progress) {
            return Ok(());
        }
        self.at = None;
        let begun = Instant::now();
        let mut state = cache.over(state);
        self.next = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Room(making) => match making.room() {
                Made::NotYet => {
                    self.next = Next::Room(making);
                    return Ok(());
                }
                Made::Room(room) => {
                    state.known().move_to(room);
                    Next::Names
                }
                Made::Never => Next::Names,
            },
            Next::Names => match Names::start(self.directory.clone(), self.answered.clone()) {
                Some(names) => Next::Asked(Asked::ask(names, None, ROOM, state.known())),
                None => Next::Marks(0),
            },
            Next::Asked(asked) => match asked.names.answer()? {
                Answer::NotYet => {
                    self.next = Next::Asked(asked);
                    return Ok(());
                }
                Answer::Found(found) => asked.keep(&found, state.known()),
                Answer::Ended => Next::Marks(0),
            },
            Next::Marks(number) => state.marks_ahead(number)?,
            Next::Nothing => return Ok(()),
        };
        state.finish()?;
        let took = begun.elapsed();
        self.at = Some(now + took + (PAUSE * took).max(Duration::from_micros(100)));
        Ok(())
    }
}

impl Next {
    /// Whether there is something to do where the replica has come so far.
    fn is_due(&self, progress: Progress) -> bool {
        match self {
            Next::Room(_) => true,
            Next::Names | Next::Asked(_) => progress != Progress::Learns,
            Next::Marks(_) => progress == Progress::IsUpToDate,
            Next::Nothing => false,
        }
    }
}

impl Asked {
    fn ask(names: Names, after: Option<Username>, left: usize, known: &Known) -> Asked {
        names.ask(after);
        Asked { names, left, deleted: known.deleted() }
    }

    /// What was found is kept, and more is asked for, if there is any.
    fn keep(self, found: &Found, known: &mut Known) -> Next {
        let Asked { names, left, deleted } = self;
        // Perhaps one of these was deleted since: then they are left for whoever wants one.
        let are_sure = deleted == known.deleted();
        let rest = left.saturating_sub(found.len());
        let next = match found.last() {
            Some((last, _)) if found.len() == TOGETHER && rest > 0 => {
                Next::Asked(Asked::ask(names, Some(last.clone()), rest, known))
            }
            _ => Next::Marks(0),
        };
        if are_sure {
            found.iter().for_each(|(name, account)| known.offer_recipient(name, *account));
        }
        next
    }
}

impl CachedState<'_> {
    /// Ids are given out one after the other, from 1 on.
    fn marks_ahead(&mut self, number: u64) -> Result<Next> {
        let last = self.counters()?.accounts.min(ROOM as u64) / NEIGHBOURS;
        let next = number + NEIGHBOURS_TOGETHER;
        (number..next.min(last + 1)).try_for_each(|number| self.learn_marks(number))?;
        Ok(if next <= last { Next::Marks(next) } else { Next::Nothing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplicaId;
    use crate::storage::disk::connect;
    use crate::storage::migrations::migrate;
    use chat_core::{Account, AccountId, Counters, DisplayName, Marks, PasswordHash, Store as _, Timestamp};
    use rusqlite::{Connection, OpenFlags};
    use tempfile::TempDir;

    const ACCOUNTS: u64 = 3 * TOGETHER as u64 + 5;

    fn name(number: u64) -> Username {
        Username::parse(&format!("user-{number}")).expect("a name")
    }

    fn last(last: u64) -> Marks {
        Marks { read: 0, delivered: 0, last }
    }

    /// A start on a database with many accounts, of which number 9 is deleted.
    struct Start {
        directory: Arc<DataDirectory>,
        connection: Connection,
        cache: WriteBack,
        ahead: Ahead,
        answered: Arc<Notify>,
        now: Instant,
        _dir: TempDir,
    }

    impl Start {
        fn new() -> Start {
            Start::of(ACCOUNTS)
        }

        /// It is told that there are so many.
        fn of(accounts: u64) -> Start {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
            let mut connection = connect(&directory.database(), OpenFlags::default()).expect("a database");
            migrate(&mut connection).expect("made");
            connection.execute_batch("BEGIN").expect("begun");
            let mut state = SqliteState::new(&connection);
            let password = PasswordHash::new("$x").expect("a hash");
            for number in 1..=ACCOUNTS {
                let (id, name) = (AccountId(number), name(number));
                let display_name = DisplayName::of(&name);
                let account = Account { id, name, display_name, created_at: Timestamp(0), deleted: false };
                state.insert_account(&account, &password).expect("inserted");
            }
            let all = (1..=ACCOUNTS).step_by(3).map(|number| (AccountId(number), last(number)));
            state.set_all_marks(Vec::from_iter(all)).expect("set");
            state.bury_account(AccountId(9)).expect("buried");
            state.set_counters(Counters { accounts: ACCOUNTS, ..Counters::default() }).expect("set");
            connection.execute_batch("COMMIT").expect("committed");
            let answered = Arc::new(Notify::new());
            let ahead = Ahead::new(directory.clone(), answered.clone(), accounts);
            let (cache, now) = (WriteBack::new().expect("there is memory"), Instant::now());
            Start { directory, connection, cache, ahead, answered, now, _dir: dir }
        }

        fn state(&mut self) -> CachedState<'_> {
            self.cache.over(SqliteState::new(&self.connection))
        }

        /// Goes on once, when it is time for that.
        async fn step(&mut self) {
            self.step_at(Progress::IsUpToDate).await;
        }

        async fn step_at(&mut self, progress: Progress) {
            if let Next::Asked(_) | Next::Room(_) = self.ahead.next {
                let answered = self.answered.notified();
                tokio::time::timeout(Duration::from_secs(20), answered).await.expect("it is answered");
            }
            let state = SqliteState::new(&self.connection);
            self.ahead.go_on(self.now, progress, &mut self.cache, state).expect("readable");
            let at = self.ahead.at(progress);
            assert!(at.is_none_or(|at| at > self.now), "there is a pause");
            self.now = at.unwrap_or(self.now);
        }

        async fn all(&mut self) {
            while !matches!(self.ahead.next, Next::Nothing) {
                self.step().await;
            }
        }
    }

    #[tokio::test]
    async fn all_is_known_that_is_in_the_database_and_what_is_newer_stands() {
        all_is_known_after(Start::new()).await;
    }

    #[tokio::test]
    async fn with_many_accounts_room_is_made_first_and_what_was_known_is_looked_up_again() {
        let mut start = Start::of(MANY);
        assert!(matches!(start.ahead.next, Next::Room(_)), "{:?}", start.ahead.next);
        let state = start.state();
        assert_eq!(state.recipient(&name(1)), Ok(Some(AccountId(1))));
        assert_eq!(state.marks(AccountId(1)), Ok(last(1)));
        // Also where nothing else is done.
        start.step_at(Progress::Learns).await;
        assert!(matches!(start.ahead.next, Next::Names), "{:?}", start.ahead.next);
        let mut state = start.state();
        assert_eq!((state.known().recipient(&name(1)), state.known().marks(AccountId(1))), (None, None));
        all_is_known_after(start).await;
    }

    #[tokio::test]
    async fn a_learner_reads_no_names() {
        let mut start = Start::new();
        start.step_at(Progress::Learns).await;
        assert!(matches!(start.ahead.next, Next::Names), "{:?}", start.ahead.next);
        start.step_at(Progress::IsBehind).await;
        assert!(matches!(start.ahead.next, Next::Asked(_)), "{:?}", start.ahead.next);
    }

    async fn all_is_known_after(mut start: Start) {
        // It is known here; one that is only in what waits is below.
        start.state().set_marks(AccountId(4), last(100)).expect("set");
        start.all().await;
        // From here on nothing is looked up.
        let gone = "DROP TABLE recent_marks; DROP TABLE marks; DROP TABLE accounts";
        start.connection.execute_batch(gone).expect("gone");
        let state = start.state();
        for number in (1..=ACCOUNTS).filter(|number| *number != 9) {
            let expected = if number == 4 {
                100
            } else if number % 3 == 1 {
                number
            } else {
                0
            };
            assert_eq!(state.recipient(&name(number)), Ok(Some(AccountId(number))));
            assert_eq!(state.marks(AccountId(number)), Ok(last(expected)), "{number}");
        }
        assert!(state.recipient(&name(9)).is_err(), "a tombstone is nobody to send to");
    }

    #[tokio::test]
    async fn marks_that_are_only_in_what_waits_are_not_taken_from_the_database() {
        let mut start = Start::new();
        let account = AccountId(4);
        let mut state = start.state();
        state.set_marks(account, Marks { last: 1 << 40, ..last(0) }).expect("set");
        assert_eq!(state.known().marks(account), None, "they do not fit");
        start.cache.hand_over();
        start.all().await;
        assert_eq!(start.state().marks(account), Ok(last(1 << 40)));
    }

    /// The thread reads while commands are carried out.
    #[tokio::test]
    async fn an_account_that_is_deleted_while_its_name_is_read_is_nobody_to_send_to() {
        let mut start = Start::new();
        // Names are asked for, and read.
        start.step().await;
        start.answered.notified().await;
        start.answered.notify_one();
        let first = AccountId(1);
        let mut state = start.state();
        assert_eq!(state.recipient(&name(1)), Ok(Some(first)));
        state.bury_account(first).expect("buried");
        state.finish().expect("committed");
        start.all().await;
        assert_eq!(start.state().recipient(&name(1)), Ok(None));
        assert_eq!(start.state().recipient(&name(2)), Ok(Some(AccountId(2))));
    }

    #[tokio::test]
    async fn a_start_that_ends_early_leaves_the_database_to_the_next() {
        let mut start = Start::new();
        start.step().await;
        let Start { directory, connection, cache, ahead, .. } = start;
        drop((connection, cache, ahead));
        assert_eq!(Arc::strong_count(&directory), 1, "its thread has ended");
    }

    #[tokio::test]
    async fn without_names_marks_are_looked_up_all_the_same() {
        let mut start = Start::new();
        std::fs::remove_file(start.directory.database()).expect("removed");
        start.all().await;
        assert_eq!(start.state().known().recipient(&name(1)), None);
        assert_eq!(start.state().known().marks(AccountId(1)), Some(last(1)));
    }

    #[tokio::test]
    async fn marks_wait_until_the_replica_is_up_to_date() {
        let mut start = Start::new();
        while !matches!(start.ahead.next, Next::Marks(_)) {
            start.step().await;
        }
        let state = SqliteState::new(&start.connection);
        start.ahead.go_on(start.now, Progress::IsBehind, &mut start.cache, state).expect("readable");
        assert!(matches!(start.ahead.next, Next::Marks(0)), "{:?}", start.ahead.next);
        assert_eq!(start.ahead.at(Progress::IsBehind), None);
        assert!(start.ahead.at(Progress::IsUpToDate).is_some());
    }
}
