//! What the state is kept in: a trait, so that the same logic runs on memory and on SQLite.
//!
//! Errors are those of the storage, and nothing else. A store does what it is told: the rules are in
//! [`crate::apply()`].

use std::sync::Arc;

use crate::{
    Account, AccountId, Marks, Message, MessageId, MessageText, PasswordHash, Pattern, Rejection, RequestKey,
    RequestRecord, Scope, Session, Timestamp, TokenHash, Username,
};

/// How many entries a page has when the client does not say.
pub const DEFAULT_PAGE: u32 = 100;
/// How many entries a page has at most.
pub const MAX_PAGE: u32 = 1000;

/// The size of a page: 0 stands for 100, more than 1000 is [`Rejection::LimitInvalid`].
pub fn page_limit(asked: u32) -> Result<usize, Rejection> {
    match asked {
        0 => Ok(DEFAULT_PAGE as usize),
        1..=MAX_PAGE => Ok(asked as usize),
        _ => Err(Rejection::LimitInvalid { asked: u64::from(asked) }),
    }
}

/// The last number given out of each kind; the next is one more. 0: none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of [`AccountId`].
    pub accounts: u64,
    /// Of [`MessageId`].
    pub messages: u64,
    /// Of [`Session::number`].
    pub sessions: u64,
}

/// One row of the state, as it goes into the state hash.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// An account, or its tombstone.
    Account {
        /// As others see it.
        account: &'a Account,
        /// `None` once deleted.
        password: Option<&'a PasswordHash>,
    },
    /// A session, valid or expired.
    Session(&'a Session),
    /// A mailbox's marks.
    Mailbox {
        /// Whose.
        account: AccountId,
        /// As they are.
        marks: Marks,
    },
    /// A message that has not been discarded.
    Message {
        /// Its id.
        id: MessageId,
        /// Its place in the recipient's mailbox.
        seq: u64,
        /// Who sent it.
        from: AccountId,
        /// Who receives it.
        to: AccountId,
        /// What it says.
        text: &'a MessageText,
        /// When it was taken.
        sent_at: Timestamp,
    },
    /// A request that was carried out.
    Request {
        /// The client's key.
        key: &'a RequestKey,
        /// Within what it is unique.
        scope: Scope,
        /// What came of it.
        record: &'a RequestRecord,
    },
}

/// What carrying out a command has to know of the state: single rows, by their keys.
pub trait Lookup {
    /// What can go wrong with the storage.
    type Error;

    /// An account or tombstone by its id.
    fn account(&self, id: AccountId) -> Result<Option<Account>, Self::Error>;

    /// An account or tombstone by its name.
    fn account_by_name(&self, name: &Username) -> Result<Option<Account>, Self::Error>;

    /// To whom something can be sent under this name: the account, if it has not been deleted.
    fn recipient(&self, name: &Username) -> Result<Option<AccountId>, Self::Error> {
        let account = self.account_by_name(name)?;
        Ok(account.filter(|account| !account.deleted).map(|account| account.id))
    }

    /// The name of an account or tombstone.
    fn name(&self, id: AccountId) -> Result<Option<Username>, Self::Error> {
        Ok(self.account(id)?.map(|account| account.name))
    }

    /// A session, expired or not.
    fn session(&self, token: &TokenHash) -> Result<Option<Session>, Self::Error>;

    /// All sessions of an account, expired or not, by ascending number: at most [`crate::session::MAX_PER_ACCOUNT`].
    fn sessions_of(&self, account: AccountId) -> Result<Vec<Session>, Self::Error>;

    /// Sessions of any account that are no longer valid at `at`, by (expiry, number), at most `limit`.
    fn expired_sessions(&self, at: Timestamp, limit: usize) -> Result<Vec<Session>, Self::Error>;

    /// What came of a request, if it was carried out.
    fn request(&self, key: &RequestKey, scope: Scope) -> Result<Option<RequestRecord>, Self::Error>;

    /// A mailbox's marks; all 0 where there is no such account.
    fn marks(&self, account: AccountId) -> Result<Marks, Self::Error>;

    /// The last numbers given out.
    fn counters(&self) -> Result<Counters, Self::Error>;
}

/// Looking at the state as people do: in pages.
pub trait Read: Lookup {
    /// An account's password hash; `None` if there is no such account or it was deleted.
    fn password(&self, id: AccountId) -> Result<Option<PasswordHash>, Self::Error>;

    /// Accounts that match, without tombstones, in the order of their names as bytes, after `after`, at most `limit`.
    fn accounts(&self, pattern: &Pattern, after: Option<&Username>, limit: usize) -> Result<Vec<Account>, Self::Error>;

    /// The messages of a mailbox with a `seq` above `seq`, ascending, at most `limit`.
    fn messages_after(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>, Self::Error>;

    /// The messages between two accounts in both directions with an id below `before`: the newest `limit` of them,
    /// by ascending id.
    fn conversation(
        &self,
        a: AccountId,
        b: AccountId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>, Self::Error>;

    /// Every row, in the canonical order: accounts by id, sessions by number, mailboxes by account, messages by id,
    /// requests by key and then scope.
    fn for_each_row(&self, visit: &mut dyn FnMut(Row<'_>)) -> Result<(), Self::Error>;
}

/// Changing the state. The caller makes all changes of a command, and of a log entry, in one transaction.
pub trait Store: Lookup {
    /// Keeps the last numbers given out.
    fn set_counters(&mut self, counters: Counters) -> Result<(), Self::Error>;

    /// Adds an account, whose id and name are new, with an empty mailbox.
    fn insert_account(&mut self, account: &Account, password: &PasswordHash) -> Result<(), Self::Error>;

    /// Makes an account a tombstone: its password hash goes, the name stays.
    fn bury_account(&mut self, id: AccountId) -> Result<(), Self::Error>;

    /// Adds a session, whose token and number are new.
    fn insert_session(&mut self, session: &Session) -> Result<(), Self::Error>;

    /// Removes a session; nothing happens if it is not there.
    fn remove_session(&mut self, token: &TokenHash) -> Result<(), Self::Error>;

    /// Keeps the marks of an existing mailbox.
    fn set_marks(&mut self, account: AccountId, marks: Marks) -> Result<(), Self::Error>;

    /// Adds a message, whose id is new and whose `seq` is new in its mailbox. Leaves the marks alone.
    fn insert_message(&mut self, message: &Arc<Message>) -> Result<(), Self::Error>;

    /// Removes the messages of a mailbox with a `seq` above `seq`, from everywhere. Leaves the marks alone.
    fn discard_after(&mut self, account: AccountId, seq: u64) -> Result<(), Self::Error>;

    /// Remembers what came of a request, whose key is new in its scope.
    fn insert_request(&mut self, key: &RequestKey, scope: Scope, record: &RequestRecord) -> Result<(), Self::Error>;
}
