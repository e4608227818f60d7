//! How far mailboxes have come: in blocks of neighbours (`block`), and of those, recent ones apart (`recent`).
//!
//! Marks change with every message. In a large service, those that change together have nothing else in common, and each would have a page of the database to
//! itself. So they are sorted first, and go from there to all others, whenever there are many: as many as come in, in the order of the accounts. What is
//! recent counts, and of that, what is newer. A mailbox that has nothing has no marks.

mod block;
mod recent;

use super::state::{SqliteState, int, number};
use block::{find, over};
use chat_core::{AccountId, Marks};
use recent::{ALL, RECENT};
use rusqlite::{Connection, OptionalExtension as _, Result};
use std::ops::Range;

/// Version 8 of the tables.
pub(crate) const MARKS_SCHEMA: &str = "
CREATE TABLE recent_marks (
    account INTEGER PRIMARY KEY,
    read INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE recent_marks_state (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    -- How many there are.
    rows INTEGER NOT NULL,
    -- The first account that comes next.
    next INTEGER NOT NULL
) STRICT;
INSERT INTO recent_marks_state VALUES (1, 0, 0);
";

/// What version 11 has instead.
const BLOCKS_SCHEMA: &str = "
-- Marks of accounts from 128 times the number on.
CREATE TABLE marks (
    number INTEGER PRIMARY KEY,
    marks BLOB NOT NULL
) STRICT;

-- Newer ones, in runs. The key: the number of the run, times 2^44, and the first account.
CREATE TABLE recent_marks (
    key INTEGER PRIMARY KEY,
    marks BLOB NOT NULL
) STRICT;

-- The runs, of which the newest has the highest number.
CREATE TABLE mark_runs (
    number INTEGER PRIMARY KEY,
    -- How many it has.
    marks INTEGER NOT NULL
) STRICT;
";

/// At least so many go from the recent ones to all others at once: where few come in at a time, pages are written less often.
const TOGETHER: usize = 1024;
/// So many accounts that follow each other, from a multiple of it on, are neighbours: they have a row among all, and are looked up together.
pub(super) const NEIGHBOURS: u64 = 128;

const FIND: &str = "SELECT marks FROM marks WHERE number = ?1";

/// Marks by account, ascending.
type Held = Vec<(u64, Marks)>;

impl SqliteState<'_> {
    pub(super) fn find_marks(&self, account: AccountId) -> Result<Option<Marks>> {
        let it = account.0..account.0.saturating_add(1);
        for run in self.mark_runs()? {
            if let Some((_, marks)) = self.recent_marks(run, &it)?.first() {
                return Ok(Some(*marks));
            }
        }
        Ok(self.held(account.0 / NEIGHBOURS, &it)?.first().map(|(_, marks)| *marks))
    }

    /// These accounts, which ascend, with their marks.
    pub(super) fn each_with_marks(
        &self,
        accounts: impl Iterator<Item = Result<u64>>,
        mut visit: impl FnMut(AccountId, Marks),
    ) -> Result<()> {
        let (mut near, mut held) = (None, Held::new());
        for account in accounts {
            let account = account?;
            if near.replace(account / NEIGHBOURS) != Some(account / NEIGHBOURS) {
                held = self.marks_of_neighbours(account / NEIGHBOURS)?;
            }
            visit(AccountId(account), find(&held, account).unwrap_or_default());
        }
        Ok(())
    }

    /// The marks of neighbours, from [`NEIGHBOURS`] times `number` on, by account, ascending.
    pub(super) fn marks_of_neighbours(&self, number: u64) -> Result<Held> {
        let accounts = number * NEIGHBOURS..(number + 1) * NEIGHBOURS;
        let mut held = self.held(number, &accounts)?;
        for run in self.mark_runs()?.into_iter().rev() {
            held = over(held, &self.recent_marks(run, &accounts)?);
        }
        Ok(held)
    }

    /// Keeps the marks of existing mailboxes. Of several of one account, the last count.
    pub(crate) fn set_all_marks(&mut self, all: impl IntoIterator<Item = (AccountId, Marks)>) -> Result<()> {
        let mut all: Held = all.into_iter().map(|(account, marks)| (account.0, marks)).collect();
        block::keep_last(&mut all);
        if all.is_empty() {
            return Ok(());
        }
        let came = all.len();
        let runs = self.add_run(all)?;
        match runs.last() {
            Some(oldest) if runs.iter().map(|run| run.marks).sum::<usize>() > RECENT => {
                self.put_over(&self.take_oldest(*oldest, came)?)
            }
            _ => Ok(()),
        }
    }

    /// Puts marks, which ascend by account, over those that are among all.
    fn put_over(&self, marks: &[(u64, Marks)]) -> Result<()> {
        let mut put = self.prepare("REPLACE INTO marks (number, marks) VALUES (?1, ?2)")?;
        for some in marks.chunk_by(|(a, _), (b, _)| a / NEIGHBOURS == b / NEIGHBOURS) {
            let number = some[0].0 / NEIGHBOURS;
            let (bytes, _) = block::encode(number * NEIGHBOURS, &over(self.held(number, &ALL)?, some), usize::MAX);
            put.execute((int(number), bytes))?;
        }
        Ok(())
    }

    /// What a row of all has of these accounts; nothing, if there is no such row.
    fn held(&self, number: u64, accounts: &Range<u64>) -> Result<Held> {
        let first = number.saturating_mul(NEIGHBOURS);
        let whole = first..first.saturating_add(NEIGHBOURS);
        let read = |row: &rusqlite::Row<'_>| block::read(row, 0, whole, accounts);
        Ok(self.prepare(FIND)?.query_row([int(number)], read).optional()?.unwrap_or_default())
    }
}

/// Puts the marks of a database of an earlier version into blocks, and removes its tables.
///
/// # Errors
/// SQLite's own.
pub(crate) fn build(connection: &Connection) -> Result<()> {
    connection.execute_batch("ALTER TABLE recent_marks RENAME TO earlier_recent_marks")?;
    connection.execute_batch(BLOCKS_SCHEMA)?;
    let state = SqliteState::new(connection);
    let mut statement = connection.prepare(
        "SELECT m.account, coalesce(r.read, m.read), coalesce(r.delivered, m.delivered), coalesce(r.last, m.last)
        FROM mailboxes m LEFT JOIN earlier_recent_marks r ON r.account = m.account ORDER BY m.account",
    )?;
    let mut rows = statement.query([])?;
    let mut some = Held::new();
    while let Some(row) = rows.next()? {
        let marks = Marks { read: number(row, 1)?, delivered: number(row, 2)?, last: number(row, 3)? };
        if some.len() >= TOGETHER {
            state.put_over(&some)?;
            some.clear();
        }
        some.extend((marks != Marks::default()).then_some((number(row, 0)?, marks)));
    }
    state.put_over(&some)?;
    drop(rows);
    drop(statement);
    connection.execute_batch("DROP TABLE mailboxes; DROP TABLE earlier_recent_marks; DROP TABLE recent_marks_state;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations::{migrate, migrate_to};
    use chat_core::{Lookup as _, Read as _};

    fn accounts(connection: &Connection, count: u64) {
        let sql = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT ?1)
            INSERT INTO accounts SELECT id, 'user' || id, 'User', 0, NULL FROM n";
        connection.execute(sql, [int(count)]).expect("inserted");
    }

    fn all_marks(state: &SqliteState<'_>) -> Vec<(u64, Marks)> {
        let mut all = Vec::new();
        let visit = &mut |row: chat_core::Row<'_>| {
            if let chat_core::Row::Mailbox { account, marks } = row {
                all.push((account.0, marks));
            }
        };
        state.for_each_row(visit).expect("read");
        all
    }

    fn made() -> Connection {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrate(&mut connection).expect("made");
        connection
    }

    /// Runs are what the table of them says, and few.
    fn runs_are_sound(state: &SqliteState<'_>) {
        let runs = state.mark_runs().expect("readable");
        let mut rows = 0;
        for run in &runs {
            let held = state.all_recent_marks(*run).expect("readable");
            assert!(held.is_sorted_by(|(a, _), (b, _)| a < b));
            assert_eq!(held.len(), run.marks, "{runs:?}");
            rows += held.len();
        }
        assert!(runs.len() <= 45, "{runs:?}");
        assert!(rows <= RECENT + 9000, "{rows} recent ones");
    }

    /// Many more than are kept, in batches of all sizes that jump about, and with marks that say which batch they are from.
    #[test]
    fn marks_are_what_was_set_last_wherever_they_are() {
        const ACCOUNTS: u64 = 3 * RECENT as u64 / 2;
        let connection = made();
        accounts(&connection, ACCOUNTS);
        let mut state = SqliteState::new(&connection);
        let mut expected = vec![Marks::default(); ACCOUNTS as usize + 1];
        for batch in 1..=90 {
            let size = [9000, 1, 2000, 9000, 300][batch as usize % 5];
            let accounts = (0..size).map(|step| (batch * 7919 + step * 65_537) % ACCOUNTS + 1);
            let marks = Marks { read: batch % 3, delivered: batch / 2, last: batch * batch };
            let set = accounts.inspect(|account| expected[*account as usize] = marks);
            state.set_all_marks(Vec::from_iter(set.map(|account| (AccountId(account), marks)))).expect("set");
            if batch % 9 == 0 {
                runs_are_sound(&state);
            }
        }
        let moved = connection.query_row("SELECT count(*) FROM marks", [], |row| number(row, 0)).expect("counted");
        assert!(moved > 100, "only {moved} rows of all");
        for account in (1..=ACCOUNTS).step_by(101) {
            assert_eq!(state.marks(AccountId(account)).expect("found"), expected[account as usize], "{account}");
        }
        let expected: Vec<_> = (1..).zip(expected.into_iter().skip(1)).collect();
        assert!(all_marks(&state) == expected, "each once, in order");
    }

    #[test]
    fn a_batch_that_says_two_things_of_one_mailbox_means_the_last() {
        let connection = made();
        let mut state = SqliteState::new(&connection);
        let last = |last| Marks { read: 0, delivered: 0, last };
        let said = [(7, 1), (8, 5), (7, 2), (7, 3), (6, 9)];
        state.set_all_marks(said.map(|(account, seq)| (AccountId(account), last(seq)))).expect("set");
        let found = [6, 7, 8, 9].map(|account| state.find_marks(AccountId(account)).expect("readable"));
        assert_eq!(found, [Some(last(9)), Some(last(3)), Some(last(5)), None]);
        runs_are_sound(&state);
    }

    #[test]
    fn numbers_of_runs_do_not_grow_for_ever() {
        let connection = made();
        let mut state = SqliteState::new(&connection);
        let set = |state: &mut SqliteState<'_>, accounts: std::ops::Range<u64>, last| {
            let all = accounts.map(|account| (AccountId(account), Marks { last, ..Marks::default() }));
            state.set_all_marks(all).expect("set");
        };
        set(&mut state, 0..100, 1);
        connection
            .execute_batch("UPDATE mark_runs SET number = 262144; UPDATE recent_marks SET key = key + (262144 << 44)")
            .expect("as after a long time");
        set(&mut state, 50..60, 2);
        let runs = connection.prepare("SELECT number FROM mark_runs").expect("a query");
        let runs: Vec<u64> = { runs }.query_map([], |row| number(row, 0)).expect("read").map(Result::unwrap).collect();
        assert_eq!(runs, [0]);
        let last = |account| state.marks(AccountId(account)).expect("readable").last;
        assert_eq!([0, 49, 50, 59, 60, 99, 100].map(last), [1, 1, 2, 2, 1, 1, 0]);
    }

    /// Everybody waits for a small batch.
    #[test]
    fn a_small_batch_merges_little() {
        let connection = made();
        let mut state = SqliteState::new(&connection);
        let mut largest = 0;
        for batch in 0..3000_u64 {
            let all = (0..60).map(|step| (AccountId(1 + (batch * 60 + step) * 7919 % 1_000_003), Marks::default()));
            state.set_all_marks(all).expect("set");
            largest = largest.max(state.mark_runs().expect("readable")[0].marks);
        }
        assert!((8 * 1024..=16 * 1024).contains(&largest), "{largest}");
        runs_are_sound(&state);
    }

    #[test]
    fn a_few_mailboxes_are_one_short_run() {
        let connection = made();
        let mut state = SqliteState::new(&connection);
        for last in 1..100 {
            let all = (1..=64).map(|account| (AccountId(account), Marks { last, ..Marks::default() }));
            state.set_all_marks(all).expect("set");
        }
        let runs = state.mark_runs().expect("readable");
        assert_eq!(Vec::from_iter(runs.iter().map(|run| run.marks)), [64]);
    }

    #[test]
    fn marks_of_an_earlier_version_come_over() {
        let mut connection = Connection::open_in_memory().expect("a database");
        migrate_to(&mut connection, 10).expect("made");
        accounts(&connection, 3000);
        let old = "INSERT INTO mailboxes SELECT id, 0, id % 2, id % 3 FROM accounts;
            INSERT INTO recent_marks SELECT id, 1, 2, 1000 + id FROM accounts WHERE id % 10 = 0;";
        connection.execute_batch(old).expect("inserted");
        migrate(&mut connection).expect("brought up to date");
        let expected = (1..=3000).map(|id| match id % 10 {
            0 => (id, Marks { read: 1, delivered: 2, last: 1000 + id }),
            _ => (id, Marks { read: 0, delivered: id % 2, last: id % 3 }),
        });
        assert_eq!(all_marks(&SqliteState::new(&connection)), Vec::from_iter(expected));
    }
}
