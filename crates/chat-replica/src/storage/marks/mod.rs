//! How far mailboxes have come: in a large table that is written by neighbours, and a small one before it.
//!
//! Marks change with every message. In a large service, those that change together have nothing else in common, and each has a page of the table of all to
//! itself. So they go into a small table first, whose pages each batch writes anyway, and from there into the large one, whenever there are many: as many
//! as come in, in the order of the accounts, round and round. Of both rows, the small table's is the newer one.

use super::state::{SqliteState, int, number, page};
use chat_core::{AccountId, Marks};
use rusqlite::{OptionalExtension as _, Result, Row};

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

/// So many recent ones are kept: some 250 pages.
const RECENT: u64 = 64 * 1024;
/// At least so many move at once: where few come in at a time, pages are written less often.
const TOGETHER: usize = 1024;

const FIND: &str = "SELECT read, delivered, last FROM recent_marks WHERE account = ?1
    UNION ALL SELECT read, delivered, last FROM mailboxes WHERE account = ?1 LIMIT 1";
const CHANGE_RECENT: &str = "UPDATE recent_marks SET read = ?2, delivered = ?3, last = ?4 WHERE account = ?1";
const INSERT_RECENT: &str = "INSERT INTO recent_marks (account, read, delivered, last) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (account) DO NOTHING";
const CHANGE: &str = "UPDATE mailboxes SET read = ?2, delivered = ?3, last = ?4 WHERE account = ?1";
const OLDEST: &str = "SELECT account, read, delivered, last FROM recent_marks WHERE account >= ?1
    ORDER BY account LIMIT ?2";
pub(super) const ALL: &str = "SELECT m.account, coalesce(r.read, m.read), coalesce(r.delivered, m.delivered),
    coalesce(r.last, m.last) FROM mailboxes m LEFT JOIN recent_marks r ON r.account = m.account ORDER BY m.account";

impl SqliteState<'_> {
    pub(super) fn find_marks(&self, account: AccountId) -> Result<Option<Marks>> {
        self.prepare(FIND)?.query_row([int(account.0)], |row| marks(row, 0)).optional()
    }

    /// Keeps the marks of existing mailboxes.
    pub(crate) fn set_all_marks(&mut self, all: impl IntoIterator<Item = (AccountId, Marks)>) -> Result<()> {
        let (mut change, mut insert) = (self.prepare(CHANGE_RECENT)?, self.prepare(INSERT_RECENT)?);
        let (mut inserted, mut count) = (0, 0_usize);
        for (account, marks) in all {
            let row = row(account.0, marks);
            count += 1;
            // Where there are many at a time, most are not there yet.
            let new = insert.execute(row)?;
            inserted += new as u64;
            if new == 0 {
                change.execute(row)?;
            }
        }
        let state = "SELECT rows, next FROM recent_marks_state";
        let (rows, next) = self.prepare(state)?.query_row([], |row| Ok((number(row, 0)?, number(row, 1)?)))?;
        let rows = rows + inserted;
        let (mut moved, mut next, together) = (0, next, TOGETHER.max(count));
        // Round and round: behind the last account comes the first.
        for _ in 0..2 {
            if rows > RECENT && moved < together {
                let some = self.move_some(next, together - moved)?;
                (moved, next) = (moved + some.0, some.1);
            }
        }
        if inserted > 0 || moved > 0 {
            let state = "UPDATE recent_marks_state SET rows = ?1, next = ?2";
            self.prepare(state)?.execute((int(rows.saturating_sub(moved as u64)), int(next)))?;
        }
        Ok(())
    }

    /// Moves recent marks of accounts from `next` on into the table of all. Returns how many, and which come next.
    fn move_some(&self, next: u64, limit: usize) -> Result<(usize, u64)> {
        let mut statement = self.prepare(OLDEST)?;
        let rows = statement.query_map((int(next), page(limit)), |row| Ok((number(row, 0)?, marks(row, 1)?)))?;
        let moving = rows.collect::<Result<Vec<_>>>()?;
        let mut change = self.prepare(CHANGE)?;
        moving.iter().try_for_each(|(account, marks)| change.execute(row(*account, *marks)).map(drop))?;
        let delete = "DELETE FROM recent_marks WHERE account BETWEEN ?1 AND ?2";
        let last = moving.last().map_or(0, |(account, _)| *account);
        self.prepare(delete)?.execute((int(next), int(last)))?;
        let is_end = moving.len() < limit;
        Ok((moving.len(), if is_end { 0 } else { last + 1 }))
    }
}

fn row(account: u64, marks: Marks) -> [i64; 4] {
    [account, marks.read, marks.delivered, marks.last].map(int)
}

pub(super) fn marks(row: &Row<'_>, first: usize) -> Result<Marks> {
    Ok(Marks { read: number(row, first)?, delivered: number(row, first + 1)?, last: number(row, first + 2)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations::migrate;
    use chat_core::{Lookup as _, Read as _};
    use rusqlite::Connection;

    /// Many more than are kept, in batches that jump about, and with marks that say which batch they are from.
    #[test]
    fn marks_are_what_was_set_last_wherever_they_are() {
        const ACCOUNTS: u64 = 3 * RECENT;
        let mut connection = Connection::open_in_memory().expect("a database");
        migrate(&mut connection).expect("made");
        connection
            .execute(
                "WITH RECURSIVE n(account) AS (SELECT 1 UNION ALL SELECT account + 1 FROM n LIMIT ?1)
                INSERT INTO mailboxes SELECT account, 0, 0, 0 FROM n",
                [ACCOUNTS as i64],
            )
            .expect("inserted");
        let mut state = SqliteState::new(&connection);
        let mut expected = vec![0; ACCOUNTS as usize + 1];
        for batch in 1..=24 {
            let accounts = (0..9000).map(|step| (batch * 7919 + step * 65_537) % ACCOUNTS + 1);
            let set = accounts.inspect(|account| expected[*account as usize] = batch);
            let all = set.map(|account| (AccountId(account), Marks { read: 0, delivered: 0, last: batch }));
            state.set_all_marks(Vec::from_iter(all)).expect("set");
        }
        let rows: u64 =
            connection.query_row("SELECT count(*) FROM recent_marks", [], |row| number(row, 0)).expect("counted");
        let kept = "SELECT rows FROM recent_marks_state";
        let kept: u64 = connection.query_row(kept, [], |row| number(row, 0)).expect("counted");
        assert_eq!(rows, kept, "it knows how many there are");
        assert!((RECENT / 2..=RECENT + 9000).contains(&rows), "{rows} recent ones");
        for account in (1..=ACCOUNTS).step_by(101) {
            assert_eq!(state.marks(AccountId(account)).expect("found").last, expected[account as usize], "{account}");
        }
        let mut seen = 0;
        let visit = &mut |row: chat_core::Row<'_>| {
            if let chat_core::Row::Mailbox { account, marks } = row {
                seen += 1;
                assert_eq!((account.0, marks.last), (seen, expected[seen as usize]), "each once, in order");
            }
        };
        state.for_each_row(visit).expect("read");
        assert_eq!(seen, ACCOUNTS);
    }
}
