//! Long answers, page by page.

use std::{collections::VecDeque, sync::Arc};

use chat_proto::v1;

use crate::{
    call::Safety,
    error::Error,
    history::{self, MOST_MESSAGES},
    model::{Account, Message},
    owner::{Route, Rpc},
    session::Session,
};

/// Accounts in a page.
const ACCOUNTS: u32 = 1000;
/// Messages in a page, unless told: their texts may have 64 KiB each.
const MESSAGES: u32 = 100;

/// A listing, ascending by name. Made by [`Session::accounts`].
#[derive(Debug)]
pub struct Accounts {
    session: Session,
    pattern: String,
    after: String,
    fetched: VecDeque<Account>,
    more: bool,
}

impl Accounts {
    pub(crate) fn new(session: Session, pattern: &str) -> Self {
        Self { session, pattern: pattern.to_owned(), after: String::new(), fetched: VecDeque::new(), more: true }
    }

    /// The next account, `None` after the last. Accounts that come and go while the listing is read may be in it or
    /// not; all others are, once.
    ///
    /// # Errors
    /// [`Error::Refused`] with `PatternInvalid` or `SessionInvalid`; [`Error::NoLeader`]. May be called again after
    /// an error, and goes on where it was.
    ///
    /// # Cancellation safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Option<Account>, Error> {
        while self.fetched.is_empty() && self.more {
            let message = v1::ListAccountsRequest {
                pattern: self.pattern.clone(),
                after: self.after.clone(),
                limit: ACCOUNTS,
                min_index: None,
            };
            let method = |mut rpc: Rpc, request| async move { rpc.list_accounts(request).await };
            let page = self.session.call(Safety::Idempotent, message, method).await?;
            // A page that brings nothing cannot be followed by one that does: its last name is where to go on.
            self.more = page.more && !page.accounts.is_empty();
            if let Some(last) = page.accounts.last() {
                self.after.clone_from(&last.name);
            }
            self.fetched.extend(page.accounts.into_iter().map(Account::from));
        }
        Ok(self.fetched.pop_front())
    }

    /// All that remain.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancellation safety
    /// Safe: nothing is changed, and what was fetched is dropped.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// # let session = client.log_in("ann", "correct horse").await?;
    /// assert_eq!(session.accounts("ann").all().await?.len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn all(mut self) -> Result<Vec<Account>, Error> {
        let mut accounts = Vec::new();
        while let Some(account) = self.next().await? {
            accounts.push(account);
        }
        Ok(accounts)
    }
}

/// A conversation, from its newest page to its oldest. Made by [`Session::history`].
#[derive(Debug)]
pub struct History {
    session: Session,
    with: String,
    before: Option<u64>,
    limit: u32,
    more: bool,
}

impl History {
    pub(crate) fn new(session: Session, with: &str) -> Self {
        Self { session, with: with.to_owned(), before: None, limit: MESSAGES, more: true }
    }

    /// Begins with the messages whose id is below this one.
    #[must_use]
    pub fn before(mut self, id: u64) -> Self {
        self.before = Some(id);
        self
    }

    /// How many messages a page has: 1 to 1000, 100 unless told. Their texts may have 64 KiB each.
    #[must_use]
    pub fn page_size(mut self, messages: u32) -> Self {
        self.limit = messages.clamp(1, MOST_MESSAGES);
        self
    }

    /// The next older page, ascending by id; `None` after the oldest.
    ///
    /// # Errors
    /// [`Error::Refused`] with `NoSuchAccount` or `SessionInvalid`; [`Error::NoLeader`]. May be called again after
    /// an error, and goes on where it was.
    ///
    /// # Cancellation safety
    /// Safe.
    pub async fn older(&mut self) -> Result<Option<Vec<Message>>, Error> {
        if !self.more {
            return Ok(None);
        }
        let message =
            v1::HistoryRequest { with: self.with.clone(), before: self.before, limit: self.limit, min_index: None };
        let method = |route: Arc<Route>, request| async move { history::history(&route, request).await };
        let page = self.session.call_on(Safety::Idempotent, message, method).await?;
        self.more = page.more && !page.messages.is_empty();
        let Some(oldest) = page.messages.first() else { return Ok(None) };
        self.before = Some(oldest.id);
        Ok(Some(page.messages))
    }
}
