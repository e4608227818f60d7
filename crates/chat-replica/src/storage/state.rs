//! The state in SQLite: what `chat-core` reads and writes while it applies commands, step ⑦.
//!
//! Transactions are the caller's: the state changes together with the applied index that describes it. Statements
//! are prepared once per connection; the connection's cache must hold [`STATEMENTS`] of them to keep them all.
//!
//! What grows with history is appended to: messages by id, in `messages`. Where those of a mailbox and of a conversation are is in `postings`, and what
//! requests have done in `requests`. The names of both ends of a message, and whether its sender is gone, are looked up when it is read.

use super::messages::{self, Messages, Stored};
use super::postings::{Place, Postings};
use super::requests::{self, Entry, Requests};
use chat_core::{
    Account, AccountId, Counters, DisplayName, Lookup, Marks, Message, MessageId, PasswordHash, Pattern, Read,
    RequestKey, RequestRecord, Row, Scope, Session, Store, Timestamp, TokenHash, Username,
};
use rusqlite::types::Type;
use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Result};
use std::sync::Arc;

/// How many different statements there are here, rounded up: for
/// [`Connection::set_prepared_statement_cache_capacity`].
pub const STATEMENTS: usize = 80;

/// Version 1 of the tables of the state.
pub(crate) const STATE_SCHEMA: &str = "
CREATE TABLE counters (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    accounts INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    sessions INTEGER NOT NULL
) STRICT;
INSERT INTO counters VALUES (1, 0, 0, 0);

-- A row without a password is the tombstone of a deleted account.
CREATE TABLE accounts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    password TEXT
) STRICT;

CREATE TABLE sessions (
    token BLOB PRIMARY KEY,
    account INTEGER NOT NULL,
    number INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_account ON sessions (account, number);
CREATE INDEX sessions_by_expiry ON sessions (expires_at, number);

-- Apart from the accounts, because it changes with every message.
CREATE TABLE mailboxes (
    account INTEGER PRIMARY KEY,
    read INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    last INTEGER NOT NULL
) STRICT;

CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    recipient INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    sender INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX messages_by_mailbox ON messages (recipient, seq);
-- Each entry ends with the id.
CREATE INDEX messages_by_conversation ON messages (min(sender, recipient), max(sender, recipient));

CREATE TABLE requests (
    key BLOB NOT NULL,
    scope INTEGER NOT NULL,
    body BLOB NOT NULL,
    answer BLOB NOT NULL,
    PRIMARY KEY (key, scope)
) STRICT, WITHOUT ROWID;
";

/// What a listing shows, in its order and without tombstones: a page of it is on a few pages of the file, not on one for each account.
pub(crate) const ACCOUNTS_LISTED: &str = "
CREATE INDEX accounts_listed ON accounts (name, display_name, created_at) WHERE password IS NOT NULL;
";

// The queries whose work must not grow with history: each seeks in an index and sorts nothing.
const LISTING: &str = "SELECT id, name, display_name, created_at, 0 FROM accounts
    WHERE name >= ?1 AND password IS NOT NULL ORDER BY name";
const LISTED: &str = "SELECT id, name, display_name, created_at, 0 FROM accounts INDEXED BY accounts_listed
    WHERE name = ?1 AND password IS NOT NULL";
const SESSIONS_OF: &str = "SELECT token, account, number, opened_at, expires_at FROM sessions WHERE account = ?1
    ORDER BY number";
const EXPIRED: &str = "SELECT token, account, number, opened_at, expires_at FROM sessions WHERE expires_at <= ?1
    ORDER BY expires_at, number LIMIT ?2";

/// The state on one connection, within the caller's transaction.
#[derive(Debug)]
pub struct SqliteState<'c> {
    pub(super) connection: &'c Connection,
}

impl<'c> SqliteState<'c> {
    /// The state in the file of `connection`, which [`super::migrations::migrate`] has brought up to date.
    pub fn new(connection: &'c Connection) -> Self {
        SqliteState { connection }
    }

    /// The last log entry that this state holds.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn applied(&self) -> Result<u64> {
        let applied = self.one("SELECT applied FROM replica", [], |row| row.get::<_, i64>(0))?;
        Ok(applied.unwrap_or_default() as u64)
    }

    pub(super) fn requests(&self) -> Requests<'c> {
        Requests::new(self.connection)
    }

    pub(super) fn messages(&self) -> Messages<'c> {
        Messages::new(self.connection)
    }

    pub(super) fn postings(&self) -> Postings<'c> {
        Postings::new(self.connection)
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>> {
        self.connection.prepare_cached(sql)
    }

    fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.prepare(sql)?.query_row(params, read).optional()
    }

    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.prepare(sql)?.query_map(params, read)?.collect()
    }

    fn each(&self, sql: &str, mut visit: impl FnMut(&rusqlite::Row<'_>) -> Result<()>) -> Result<()> {
        let mut statement = self.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            visit(row)?;
        }
        Ok(())
    }

    fn change(&self, sql: &str, params: impl Params) -> Result<()> {
        self.prepare(sql)?.execute(params).map(drop)
    }
}

impl Lookup for SqliteState<'_> {
    type Error = rusqlite::Error;

    fn account(&self, id: AccountId) -> Result<Option<Account>> {
        let sql = "SELECT id, name, display_name, created_at, password IS NULL FROM accounts WHERE id = ?1";
        self.one(sql, [int(id.0)], account)
    }

    fn account_by_name(&self, name: &Username) -> Result<Option<Account>> {
        // Most are found in the index of the listing, which has all that is wanted: one seek instead of two, on pages with nothing else.
        let listed = self.one(LISTED, [name.as_str()], account)?;
        let sql = "SELECT id, name, display_name, created_at, password IS NULL FROM accounts WHERE name = ?1";
        listed.map_or_else(|| self.one(sql, [name.as_str()], account), |account| Ok(Some(account)))
    }

    fn session(&self, token: &TokenHash) -> Result<Option<Session>> {
        let sql = "SELECT token, account, number, opened_at, expires_at FROM sessions WHERE token = ?1";
        self.one(sql, [&token.0], session)
    }

    fn sessions_of(&self, account: AccountId) -> Result<Vec<Session>> {
        self.all(SESSIONS_OF, [int(account.0)], session)
    }

    fn expired_sessions(&self, at: Timestamp, limit: usize) -> Result<Vec<Session>> {
        self.all(EXPIRED, (at.0, page(limit)), session)
    }

    fn request(&self, key: &RequestKey, scope: Scope) -> Result<Option<RequestRecord>> {
        self.requests().find(requests::place(key, scope)).map(requests::Found::record)
    }

    fn marks(&self, account: AccountId) -> Result<Marks> {
        Ok(self.find_marks(account)?.unwrap_or_default())
    }

    fn counters(&self) -> Result<Counters> {
        let sql = "SELECT accounts, messages, sessions FROM counters";
        self.prepare(sql)?.query_row([], |row| {
            Ok(Counters { accounts: number(row, 0)?, messages: number(row, 1)?, sessions: number(row, 2)? })
        })
    }
}

impl Read for SqliteState<'_> {
    fn password(&self, id: AccountId) -> Result<Option<PasswordHash>> {
        let sql = "SELECT password FROM accounts WHERE id = ?1 AND password IS NOT NULL";
        self.one(sql, [int(id.0)], |row| checked(row, 0, |phc: &str| PasswordHash::new(phc)))
    }

    fn accounts(&self, pattern: &Pattern, after: Option<&Username>, limit: usize) -> Result<Vec<Account>> {
        // Matched here and not by GLOB, whose brackets are not ours. One lower bound, so that the index seeks to it.
        let mut statement = self.prepare(LISTING)?;
        let mut rows = statement.query([pattern.prefix().max(after.map_or("", Username::as_str))])?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let account = account(row)?;
            if !account.name.as_str().starts_with(pattern.prefix()) {
                break;
            }
            if pattern.matches(&account.name) && Some(&account.name) != after {
                found.push(account);
            }
        }
        Ok(found)
    }

    fn messages_after(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>> {
        // Most who ask have everything: the marks say so by one seek, where the runs of postings would all have to be looked at.
        if self.marks(account)?.last <= seq { Ok(Vec::new()) } else { self.mailbox(account, seq, limit) }
    }

    fn conversation(
        &self,
        a: AccountId,
        b: AccountId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>> {
        let (Some(a), Some(b)) = (self.account(a)?, self.account(b)?) else { return Ok(Vec::new()) };
        let mut newest = Vec::new();
        self.conversation_back((&a, &b), before, limit, |found| {
            newest.push(found.message()?);
            Ok(true)
        })?;
        newest.reverse();
        Ok(newest)
    }

    fn for_each_row(&self, visit: &mut dyn FnMut(Row<'_>)) -> Result<()> {
        let accounts =
            "SELECT id, name, display_name, created_at, password IS NULL, password FROM accounts ORDER BY id";
        self.each(accounts, |row| {
            let account = account(row)?;
            let password = match account.deleted {
                true => None,
                false => Some(checked(row, 5, |phc: &str| PasswordHash::new(phc))?),
            };
            visit(Row::Account { account: &account, password: password.as_ref() });
            Ok(())
        })?;
        self.each("SELECT token, account, number, opened_at, expires_at FROM sessions ORDER BY number", |row| {
            visit(Row::Session(&session(row)?));
            Ok(())
        })?;
        let mut accounts = self.prepare("SELECT id FROM accounts ORDER BY id")?;
        let accounts = accounts.query_map([], |row| number(row, 0))?;
        self.each_with_marks(accounts, |account, marks| visit(Row::Mailbox { account, marks }))?;
        self.messages().for_each(|Stored { id, seq, from, to, text, sent_at }| {
            let text = messages::text(text)?;
            let (id, from, to, sent_at) = (MessageId(id), AccountId(from), AccountId(to), Timestamp(sent_at));
            visit(Row::Message { id, seq, from, to, text: &text, sent_at });
            Ok(())
        })?;
        self.requests().for_each(|key, scope, record| visit(Row::Request { key, scope, record }))
    }
}

impl Store for SqliteState<'_> {
    fn set_counters(&mut self, counters: Counters) -> Result<()> {
        let Counters { accounts, messages, sessions } = counters;
        let sql = "UPDATE counters SET accounts = ?1, messages = ?2, sessions = ?3";
        self.change(sql, (int(accounts), int(messages), int(sessions)))
    }

    fn insert_account(&mut self, account: &Account, password: &PasswordHash) -> Result<()> {
        let Account { id, name, display_name, created_at, deleted: _ } = account;
        let sql = "INSERT INTO accounts (id, name, display_name, created_at, password) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.change(sql, (int(id.0), name.as_str(), display_name.as_str(), created_at.0, password.as_phc()))
    }

    fn bury_account(&mut self, id: AccountId) -> Result<()> {
        self.change("UPDATE accounts SET password = NULL WHERE id = ?1", [int(id.0)])
    }

    fn insert_session(&mut self, session: &Session) -> Result<()> {
        let Session { token, account, number, opened_at, expires_at } = session;
        let sql = "INSERT INTO sessions (token, account, number, opened_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.change(sql, (&token.0, int(account.0), int(*number), opened_at.0, expires_at.0))
    }

    fn remove_session(&mut self, token: &TokenHash) -> Result<()> {
        self.change("DELETE FROM sessions WHERE token = ?1", [&token.0])
    }

    fn set_marks(&mut self, account: AccountId, marks: Marks) -> Result<()> {
        self.set_all_marks([(account, marks)])
    }

    fn insert_message(&mut self, message: &Arc<Message>) -> Result<()> {
        self.insert_messages(std::slice::from_ref(message))
    }

    fn discard_after(&mut self, account: AccountId, seq: u64) -> Result<()> {
        let mut ids = self.postings().mailbox_after(account.0, seq, usize::MAX)?;
        ids.reverse();
        // The log's entries in brief need what they say.
        let mut keep = self.prepare("INSERT INTO discarded (id, sent_at, text) VALUES (?1, ?2, ?3)")?;
        let mut places = Vec::with_capacity(ids.len());
        self.messages().remove(&ids, |Stored { id, seq, from, to, sent_at, text }| {
            places.push(Place { id, seq, from, to });
            keep.execute((int(id), sent_at, text)).map(drop)
        })?;
        self.postings().discard(&places)
    }

    fn insert_request(&mut self, key: &RequestKey, scope: Scope, record: &RequestRecord) -> Result<()> {
        self.requests().insert([Entry { key: *key, scope, record: record.clone() }])
    }
}

/// Many rows of one kind, by one statement.
impl SqliteState<'_> {
    pub(crate) fn insert_messages(&mut self, messages: &[Arc<Message>]) -> Result<()> {
        self.messages().insert(messages.iter().map(|message| {
            let Message { id, seq, from, to, text, sent_at, sender_deleted: _ } = &**message;
            Stored { id: id.0, to: to.id.0, seq: *seq, from: from.id.0, sent_at: sent_at.0, text: text.as_str() }
        }))?;
        let places = messages.iter().map(|message| {
            let Message { id, seq, from, to, .. } = &**message;
            Place { id: id.0, seq: *seq, from: from.id.0, to: to.id.0 }
        });
        self.postings().add(&Vec::from_iter(places))
    }
}

/// SQLite's integers end where half of ours do. Nothing that is stored comes near; what a client asks for can, and
/// then the largest stands for it: there is nothing beyond either.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn page(limit: usize) -> i64 {
    int(limit as u64)
}

pub(super) fn number(row: &rusqlite::Row<'_>, column: usize) -> Result<u64> {
    let stored: i64 = row.get(column)?;
    u64::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}

/// A text that was valid when it was written; an error says that the file is not what was written.
pub(super) fn checked<'r, T, E>(
    row: &'r rusqlite::Row<'_>,
    column: usize,
    parse: impl FnOnce(&'r str) -> Result<T, E>,
) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str().map_err(|error| corrupt(column, Type::Text, error))?;
    parse(text).map_err(|error| corrupt(column, Type::Text, error))
}

pub(super) fn corrupt(
    column: usize,
    kind: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(error))
}

fn account(row: &rusqlite::Row<'_>) -> Result<Account> {
    Ok(Account {
        id: AccountId(number(row, 0)?),
        name: checked(row, 1, Username::parse)?,
        display_name: checked(row, 2, DisplayName::parse)?,
        created_at: Timestamp(row.get(3)?),
        deleted: row.get(4)?,
    })
}

fn session(row: &rusqlite::Row<'_>) -> Result<Session> {
    Ok(Session {
        token: TokenHash(row.get(0)?),
        account: AccountId(number(row, 1)?),
        number: number(row, 2)?,
        opened_at: Timestamp(row.get(3)?),
        expires_at: Timestamp(row.get(4)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::ahead;
    use super::super::postings::{BELOW, Index};
    use super::super::requests::{AFTER, AT};
    use super::*;

    #[test]
    fn pages_are_read_by_index() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::storage::migrations::migrate(&mut connection).unwrap();
        for (query, index) in [
            (LISTING, "INDEX accounts_listed (name>?)"),
            (LISTED, "INDEX accounts_listed (name=?)"),
            (ahead::NAMES, "INDEX accounts_listed (name>?)"),
            (SESSIONS_OF, "INDEX sessions_by_account (account=?)"),
            (EXPIRED, "INDEX sessions_by_expiry (expires_at<?)"),
            (AT, "request_blocks USING INDEX request_blocks_by_first (first<?)"),
            (AFTER, "request_blocks USING COVERING INDEX request_blocks_by_first (first>?)"),
            (messages::AT, "message_blocks USING INTEGER PRIMARY KEY (rowid<?)"),
            (BELOW, "runs USING PRIMARY KEY (first<?)"),
            (Index::Mailboxes.forwards(), "mailbox_blocks_by_first (run=? AND (x,y,z)>(?,?,?))"),
            (Index::Mailboxes.backwards(), "mailbox_blocks_by_first (run=? AND (x,y,z)<(?,?,?))"),
            (
                Index::Mailboxes.firsts(),
                "mailbox_blocks USING COVERING INDEX mailbox_blocks_by_first (run=? AND (x,y,z)<(?,?,?))",
            ),
            (Index::Mailboxes.delete_until(), "mailbox_blocks_by_first (run=? AND (x,y,z)<(?,?,?))"),
            (Index::Conversations.forwards(), "conversation_blocks_by_first (run=? AND (x,y,z)>(?,?,?))"),
            (Index::Conversations.backwards(), "conversation_blocks_by_first (run=? AND (x,y,z)<(?,?,?))"),
            (
                Index::Conversations.firsts(),
                "conversation_blocks USING COVERING INDEX conversation_blocks_by_first (run=? AND (x,y,z)<(?,?,?))",
            ),
            (Index::Conversations.delete_until(), "conversation_blocks_by_first (run=? AND (x,y,z)<(?,?,?))"),
        ] {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
            let parameters = vec![1; statement.parameter_count()];
            let steps = statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get::<_, String>(3));
            let plan: Vec<_> = steps.unwrap().map(Result::unwrap).collect();
            assert!(plan[0].contains(index), "{query}: {plan:?}");
            let seeks = plan.iter().all(|step| step.starts_with("SEARCH") || step.starts_with("SCALAR SUBQUERY"));
            assert!(seeks, "neither a scan of everything nor a sort: {query}: {plan:?}");
        }
    }

    #[test]
    fn a_statement_is_not_compiled_again_for_another_limit() {
        let dir = tempfile::tempdir().unwrap();
        let flags = rusqlite::OpenFlags::default();
        let mut connection = crate::storage::disk::connect(&dir.path().join("db"), flags).unwrap();
        crate::storage::migrations::migrate(&mut connection).unwrap();
        for query in [EXPIRED] {
            let mut statement = connection.prepare(query).unwrap();
            for limit in 1..5 {
                let parameters = vec![limit; statement.parameter_count()];
                assert!(statement.query(rusqlite::params_from_iter(parameters)).unwrap().next().unwrap().is_none());
            }
            assert_eq!(statement.get_status(rusqlite::StatementStatus::RePrepare), 0, "{query}");
        }
    }
}
