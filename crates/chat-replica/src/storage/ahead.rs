//! What sends will need of their recipients, looked up ahead: a start knows nothing of it, and where there are many accounts, it takes long until everybody
//! has been written to once.
//!
//! A few rows at a time between turns, with pauses, and only into places that nobody else has. It is no other look than that of a command at this moment. For
//! a million accounts it takes some ten seconds of a quarter of the driver's time.

use super::known::ROOM;
use super::marks::NEIGHBOURS;
use super::state::{SqliteState, checked, number, page};
use super::write_back::{CachedState, WriteBack};
use chat_core::{AccountId, Lookup as _, Username};
use rusqlite::Result;
use std::time::{Duration, Instant};

/// So many rows at a time: whoever comes meanwhile waits for that.
const TOGETHER: usize = 256;
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
    next: Option<Next>,
    /// When it goes on.
    at: Option<Instant>,
}

#[derive(Debug)]
enum Next {
    /// Names after this one, so many at most.
    Names(Option<Username>, usize),
    /// Marks of neighbours, from so many times [`NEIGHBOURS`] on, unless a command has looked them up meanwhile.
    Marks(u64),
}

impl Ahead {
    /// All is to come.
    pub fn new() -> Ahead {
        Ahead { next: Some(Next::Names(None, ROOM)), at: None }
    }

    /// When it goes on; `None` if there is nothing more, or it can at once.
    pub fn at(&self) -> Option<Instant> {
        self.at.filter(|_| self.next.is_some())
    }

    /// Looks some up, if it is time for that.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn go_on(&mut self, now: Instant, cache: &mut WriteBack, state: SqliteState<'_>) -> Result<()> {
        if self.next.is_none() || self.at.is_some_and(|at| now < at) {
            return Ok(());
        }
        let begun = Instant::now();
        let mut state = cache.over(state);
        self.next = match self.next.take() {
            Some(Next::Names(after, left)) => state.names_ahead(after, left)?,
            Some(Next::Marks(number)) => state.marks_ahead(number)?,
            None => None,
        };
        state.finish()?;
        let took = begun.elapsed();
        self.at = Some(now + took + (PAUSE * took).max(Duration::from_micros(100)));
        Ok(())
    }
}

impl CachedState<'_> {
    fn names_ahead(&mut self, after: Option<Username>, left: usize) -> Result<Option<Next>> {
        let after = after.as_ref().map_or("", Username::as_str);
        let some = left.min(TOGETHER);
        let row = |row: &rusqlite::Row<'_>| Ok((checked(row, 0, Username::parse)?, AccountId(number(row, 1)?)));
        let found: Vec<(Username, AccountId)> = self.database()?.all(NAMES, (after, page(some)), row)?;
        found.iter().for_each(|(name, account)| self.known().offer_recipient(name, *account));
        let last = found.last().filter(|_| found.len() == TOGETHER);
        let next = last.map(|(name, _)| Next::Names(Some(name.clone()), left - some));
        Ok(next.or(Some(Next::Marks(0))))
    }

    /// Ids are given out one after the other, from 1 on.
    fn marks_ahead(&mut self, number: u64) -> Result<Option<Next>> {
        let last = self.counters()?.accounts.min(ROOM as u64) / NEIGHBOURS;
        let next = number + NEIGHBOURS_TOGETHER;
        (number..next.min(last + 1)).try_for_each(|number| self.learn_marks(number))?;
        Ok((next <= last).then_some(Next::Marks(next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations::migrate;
    use chat_core::{Account, Counters, DisplayName, Marks, PasswordHash, Store as _, Timestamp};
    use rusqlite::Connection;

    const ACCOUNTS: u64 = 3 * TOGETHER as u64 + 5;

    fn name(number: u64) -> Username {
        Username::parse(&format!("user-{number}")).expect("a name")
    }

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrate(&mut connection).expect("made");
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
        connection
    }

    fn last(last: u64) -> Marks {
        Marks { read: 0, delivered: 0, last }
    }

    #[test]
    fn all_is_known_that_is_in_the_database_and_what_is_newer_stands() {
        let connection = database();
        let (mut cache, mut ahead) = (WriteBack::new(), Ahead::new());
        let mut state = cache.over(SqliteState::new(&connection));
        // It is known here; one that is only in what waits is below.
        state.set_marks(AccountId(4), last(100)).expect("set");
        let mut steps = 0;
        let mut now = Instant::now();
        while ahead.next.is_some() {
            ahead.go_on(now, &mut cache, SqliteState::new(&connection)).expect("readable");
            let at = ahead.at();
            assert!(at.is_none_or(|at| at > now), "there is a pause");
            now = at.unwrap_or(now);
            steps += 1;
        }
        assert_eq!(steps, ACCOUNTS.div_ceil(TOGETHER as u64) + ACCOUNTS.div_ceil(NEIGHBOURS * NEIGHBOURS_TOGETHER));
        // From here on nothing is looked up.
        let gone = "DROP TABLE recent_marks; DROP TABLE marks; DROP TABLE accounts";
        connection.execute_batch(gone).expect("gone");
        let state = cache.over(SqliteState::new(&connection));
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

    #[test]
    fn marks_that_are_only_in_what_waits_are_not_taken_from_the_database() {
        let connection = database();
        let (mut cache, mut ahead) = (WriteBack::new(), Ahead::new());
        let account = AccountId(4);
        let mut state = cache.over(SqliteState::new(&connection));
        state.set_marks(account, Marks { last: 1 << 40, ..last(0) }).expect("set");
        assert_eq!(state.known().marks(account), None, "they do not fit");
        cache.hand_over();
        while ahead.next.is_some() {
            let now = ahead.at().unwrap_or_else(Instant::now);
            ahead.go_on(now, &mut cache, SqliteState::new(&connection)).expect("readable");
        }
        let state = cache.over(SqliteState::new(&connection));
        assert_eq!(state.marks(account), Ok(last(1 << 40)));
    }
}
