//! A write-back cache over the state: step ⑦ without a page of the database for most commands.
//!
//! What commands change is kept here, and goes into the database later, many commands in one transaction: hot rows once,
//! new rows side by side. Nothing rests on it: the log has it all, and what a crash takes from here is carried out again from there. Only
//! the deletion of an account, which is rare, changes the database at once.
//!
//! Rows that commands look up again and again are kept within a bound; those that wait to be written are bounded by whoever applies
//! ([`WriteBack::is_full`]). While some are being written by another thread ([`WriteBack::hand_over`]), they are looked up here, too.

use super::intake::run;
use super::known::Known;
use super::marks::NEIGHBOURS;
use super::requests::{self, Entry, Found, Place};
use super::state::SqliteState;
use chat_core::{
    Account, AccountId, Command, Counters, Lookup, Marks, Message, PasswordHash, RequestKey, RequestRecord, Scope,
    Session, Store, Timestamp, TokenHash, Username,
};
use rusqlite::Result;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Rows of a kind that are written at once at most, about: many share the pages that they go to, where they are close to each other.
const PORTION: usize = 8192;
/// And at least: with fewer, those that are close to each other would pay for pages that they did not share.
const SMALL_PORTION: usize = 2048;
/// Where rows are far apart, fewer are written at once, in so much time: readers wait for that, and what comes behind it.
const PORTION_TIME: Duration = Duration::from_millis(250);
/// So few are written at once where that is wanted.
const LITTLE: usize = 64;
/// Bytes of their texts, about.
const BYTES: usize = 8 << 20;

/// What is kept between turns.
#[derive(Debug)]
pub(crate) struct WriteBack {
    known: RefCell<Known>,
    waiting: Waiting,
    /// Being written.
    leaving: Option<Arc<Waiting>>,
    /// So many rows of a kind are written at once.
    portion: usize,
}

/// Not in the database yet.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    counters: Option<Counters>,
    accounts: BTreeMap<AccountId, (Account, PasswordHash)>,
    names: BTreeMap<Username, AccountId>,
    /// `None`: it has ended.
    sessions: BTreeMap<TokenHash, Option<Session>>,
    /// They are sorted when they are written.
    marks: HashMap<AccountId, Marks>,
    messages: Vec<Arc<Message>>,
    requests: BTreeMap<Place, RequestRecord>,
    bytes: usize,
}

impl Waiting {
    /// Whether there are so many rows of a kind, or so many bytes of texts.
    fn holds(&self, rows: usize, bytes: usize) -> bool {
        let Waiting { accounts, sessions, marks, messages, requests, bytes: held, .. } = self;
        let most = [accounts.len(), sessions.len(), marks.len(), messages.len(), requests.len()].into_iter().max();
        most >= Some(rows) || *held >= bytes
    }

    /// Writes it all, within the open transaction.
    ///
    /// # Errors
    /// SQLite's own; the process must end.
    pub fn write(&self, state: &mut SqliteState<'_>) -> Result<()> {
        if let Some(numbers) = self.counters {
            state.set_counters(numbers)?;
        }
        self.accounts.values().try_for_each(|(account, password)| state.insert_account(account, password))?;
        for (token, session) in &self.sessions {
            // One that ended can be followed by another with its token.
            state.remove_session(token)?;
            session.iter().try_for_each(|session| state.insert_session(session))?;
        }
        state.set_all_marks(self.marks.iter().map(|(account, marks)| (*account, *marks)))?;
        state.insert_messages(&self.messages)?;
        state.requests().insert(self.requests.iter().map(|(place, record)| Entry::at(*place, record.clone())))
    }
}

impl WriteBack {
    /// Nothing is known, and nothing waits.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> io::Result<WriteBack> {
        let known = RefCell::new(Known::new()?);
        Ok(WriteBack { known, waiting: Waiting::default(), leaving: None, portion: PORTION })
    }

    /// Whether carrying this out changes nothing in the database yet. Everything else needs a transaction, which must write what waits, too.
    pub fn takes(command: &Command) -> bool {
        !matches!(command, Command::DeleteAccount { .. })
    }

    /// Whether so much waits that it should be written.
    pub fn is_full(&self) -> bool {
        self.waiting.holds(self.portion, BYTES)
    }

    /// Whether so much waits that nothing more should come before it is written.
    pub fn is_overfull(&self) -> bool {
        self.waiting.holds(2 * self.portion, 2 * BYTES)
    }

    /// Whether so little waits that no thread need be troubled with it.
    pub fn is_little(&self) -> bool {
        !self.waiting.holds(LITTLE, BYTES)
    }

    /// What is not in the database yet, the newest first.
    fn unwritten(&self) -> impl Iterator<Item = &Waiting> {
        std::iter::once(&self.waiting).chain(self.leaving.as_deref())
    }

    /// What is found in the database, and what comes of it: sessions that have ended are gone, and those that were opened and are wanted are there.
    fn overlaid(&self, mut found: Vec<Session>, wanted: impl Fn(&Session) -> bool) -> Vec<Session> {
        for unwritten in self.leaving.as_deref().into_iter().chain([&self.waiting]) {
            found.retain(|session| !unwritten.sessions.contains_key(&session.token));
            // Each login looks: nothing is copied that it does not want.
            found.extend(unwritten.sessions.values().flatten().filter(|session| wanted(session)).cloned());
        }
        found
    }

    /// The state, changed through this cache.
    pub fn over<'w>(&'w mut self, state: SqliteState<'w>) -> CachedState<'w> {
        CachedState { state, looking: Cell::new(false), cache: self }
    }

    /// Writes what waits, within the open transaction. Nothing else is being written.
    ///
    /// # Errors
    /// SQLite's own; the process must end, as some of it is written and forgotten here.
    pub fn write(&mut self, state: &mut SqliteState<'_>) -> Result<()> {
        let waiting = self.take();
        waiting.write(state)
    }

    /// What waits is to be written, by another thread perhaps. It is looked up here until it is [`landed`](Self::landed).
    pub fn hand_over(&mut self) -> Arc<Waiting> {
        let leaving = Arc::new(self.take());
        self.leaving = Some(leaving.clone());
        leaving
    }

    /// What was handed over is in the database, which took so long.
    pub fn landed(&mut self, took: Duration) {
        let Some(written) = self.leaving.take() else { return };
        if took > PORTION_TIME {
            self.portion = (self.portion / 2).max(SMALL_PORTION);
        } else if took < PORTION_TIME / 2 && written.holds(self.portion, BYTES) {
            self.portion = (self.portion * 2).min(PORTION);
        }
    }

    /// What is known of the database's requests is from now on what it will be.
    fn take(&mut self) -> Waiting {
        let waiting = std::mem::take(&mut self.waiting);
        let known = self.known.get_mut();
        known.gaps.fill(&waiting.requests);
        waiting
    }
}

/// The state as commands see and change it.
#[derive(Debug)]
pub(crate) struct CachedState<'w> {
    state: SqliteState<'w>,
    /// A transaction is open for looking at the database: SQLite takes a lock for each, and for each statement outside of one.
    looking: Cell<bool>,
    cache: &'w mut WriteBack,
}

impl<'w> CachedState<'w> {
    /// The database, for rows that are not here.
    pub(super) fn database(&self) -> Result<&SqliteState<'w>> {
        if self.state.connection.is_autocommit() {
            run(self.state.connection, "BEGIN")?;
            self.looking.set(true);
        }
        Ok(&self.state)
    }

    /// Before these are carried out one after the other: fetches from memory what they will look up, all of it at the same time.
    pub fn recall(&self, commands: &[Command]) {
        let recipients = commands.iter().filter_map(|command| match command {
            Command::Send { to, .. } => Some(to),
            _ => None,
        });
        self.cache.known.borrow().recall(recipients);
    }

    /// Looks no more.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn finish(self) -> Result<()> {
        if self.looking.get() { run(self.state.connection, "COMMIT") } else { Ok(()) }
    }

    pub(super) fn known(&mut self) -> &mut Known {
        self.cache.known.get_mut()
    }

    fn known_marks(&self, account: AccountId) -> Option<Marks> {
        self.cache.known.borrow().marks(account)
    }

    /// Keeps the marks of neighbours, unless that was done before: in the database those of one account cost half as much as those of all of them.
    ///
    /// # Errors
    /// SQLite's own.
    pub(super) fn learn_marks(&self, number: u64) -> Result<()> {
        let known = &mut *self.cache.known.borrow_mut();
        if !known.asks_first(number) {
            return Ok(());
        }
        let accounts = (number * NEIGHBOURS).max(1)..(number + 1) * NEIGHBOURS;
        self.database()?.each_with_marks(accounts.map(Ok), |account, marks| {
            // What is not written yet is newer.
            if !self.cache.unwritten().any(|unwritten| unwritten.marks.contains_key(&account)) {
                known.offer_marks(account, marks);
            }
        })
    }
}

impl Lookup for CachedState<'_> {
    type Error = rusqlite::Error;

    fn account(&self, id: AccountId) -> Result<Option<Account>> {
        let known = &mut *self.cache.known.borrow_mut();
        if let Some(account) = known.account(id) {
            return Ok(Some(account.clone()));
        }
        if let Some((account, _)) = self.cache.unwritten().find_map(|unwritten| unwritten.accounts.get(&id)) {
            return Ok(Some(account.clone()));
        }
        let found = self.database()?.account(id)?;
        Ok(found.inspect(|account| known.keep_account(account)))
    }

    fn account_by_name(&self, name: &Username) -> Result<Option<Account>> {
        if let Some(id) = self.cache.unwritten().find_map(|unwritten| unwritten.names.get(name)) {
            return self.account(*id);
        }
        self.database()?.account_by_name(name)
    }

    fn recipient(&self, name: &Username) -> Result<Option<AccountId>> {
        if let Some(id) = self.cache.known.borrow().recipient(name) {
            return Ok(Some(id));
        }
        let account = self.account_by_name(name)?.filter(|account| !account.deleted);
        Ok(account.map(|account| account.id).inspect(|id| self.cache.known.borrow_mut().keep_recipient(name, *id)))
    }

    fn name(&self, id: AccountId) -> Result<Option<Username>> {
        if let Some(name) = self.cache.known.borrow().name(id) {
            return Ok(Some(name.clone()));
        }
        let name = self.account(id)?.map(|account| account.name);
        Ok(name.inspect(|name| self.cache.known.borrow_mut().keep_name(id, name)))
    }

    fn session(&self, token: &TokenHash) -> Result<Option<Session>> {
        let known = &mut *self.cache.known.borrow_mut();
        if let Some(session) = known.session(token) {
            return Ok(Some(session.clone()));
        }
        if let Some(session) = self.cache.unwritten().find_map(|unwritten| unwritten.sessions.get(token)) {
            return Ok(session.clone());
        }
        let found = self.database()?.session(token)?;
        Ok(found.inspect(|session| known.keep_session(session)))
    }

    fn sessions_of(&self, account: AccountId) -> Result<Vec<Session>> {
        let found = self.database()?.sessions_of(account)?;
        let mut sessions = self.cache.overlaid(found, |session| session.account == account);
        sessions.sort_by_key(|session| session.number);
        Ok(sessions)
    }

    fn expired_sessions(&self, at: Timestamp, limit: usize) -> Result<Vec<Session>> {
        let unwritten: usize = self.cache.unwritten().map(|unwritten| unwritten.sessions.len()).sum();
        let found = self.database()?.expired_sessions(at, limit + unwritten)?;
        let mut sessions = self.cache.overlaid(found, |session| session.expires_at <= at);
        sessions.sort_by_key(|session| (session.expires_at, session.number));
        sessions.truncate(limit);
        Ok(sessions)
    }

    fn request(&self, key: &RequestKey, scope: Scope) -> Result<Option<RequestRecord>> {
        let place = requests::place(key, scope);
        if let Some(record) = self.cache.unwritten().find_map(|unwritten| unwritten.requests.get(&place)) {
            return Ok(Some(record.clone()));
        }
        let known = &mut *self.cache.known.borrow_mut();
        if known.gaps.have(place) {
            return Ok(None);
        }
        match self.database()?.requests().find(place)? {
            Found::Record(record) => Ok(Some(record)),
            Found::Nothing(gap) => {
                known.gaps.found(place, gap, self.cache.leaving.as_ref().map(|leaving| &leaving.requests));
                Ok(None)
            }
        }
    }

    fn marks(&self, account: AccountId) -> Result<Marks> {
        if let Some(marks) = self.known_marks(account) {
            return Ok(marks);
        }
        let unwritten = self.cache.unwritten().find_map(|unwritten| unwritten.marks.get(&account));
        let marks = match unwritten {
            Some(marks) => *marks,
            None => {
                self.learn_marks(account.0 / NEIGHBOURS)?;
                self.known_marks(account).map_or_else(|| self.database()?.marks(account), Ok)?
            }
        };
        self.cache.known.borrow_mut().keep_marks(account, marks);
        Ok(marks)
    }

    fn counters(&self) -> Result<Counters> {
        let known = &mut *self.cache.known.borrow_mut();
        match known.counters {
            Some(counters) => Ok(counters),
            None => Ok(*known.counters.insert(self.database()?.counters()?)),
        }
    }
}

impl Store for CachedState<'_> {
    fn set_counters(&mut self, counters: Counters) -> Result<()> {
        self.known().counters = Some(counters);
        self.cache.waiting.counters = Some(counters);
        Ok(())
    }

    fn insert_account(&mut self, account: &Account, password: &PasswordHash) -> Result<()> {
        self.known().keep_account(account);
        self.known().keep_recipient(&account.name, account.id);
        let waiting = &mut self.cache.waiting;
        waiting.names.insert(account.name.clone(), account.id);
        waiting.accounts.insert(account.id, (account.clone(), password.clone()));
        Ok(())
    }

    fn bury_account(&mut self, id: AccountId) -> Result<()> {
        // It may not be in the database yet.
        self.cache.write(&mut self.state)?;
        if let Some(account) = self.state.account(id)? {
            self.known().forget_account(&account);
        }
        self.state.bury_account(id)
    }

    fn insert_session(&mut self, session: &Session) -> Result<()> {
        self.known().keep_session(session);
        self.cache.waiting.sessions.insert(session.token, Some(session.clone()));
        Ok(())
    }

    fn remove_session(&mut self, token: &TokenHash) -> Result<()> {
        self.known().forget_session(token);
        self.cache.waiting.sessions.insert(*token, None);
        Ok(())
    }

    fn set_marks(&mut self, account: AccountId, marks: Marks) -> Result<()> {
        self.known().keep_marks(account, marks);
        self.cache.waiting.marks.insert(account, marks);
        Ok(())
    }

    fn insert_message(&mut self, message: &Arc<Message>) -> Result<()> {
        self.cache.waiting.bytes += message.text.as_str().len();
        self.cache.waiting.messages.push(message.clone());
        Ok(())
    }

    fn discard_after(&mut self, account: AccountId, seq: u64) -> Result<()> {
        // Some of them may not be in the database yet.
        self.cache.write(&mut self.state)?;
        self.state.discard_after(account, seq)
    }

    fn insert_request(&mut self, key: &RequestKey, scope: Scope, record: &RequestRecord) -> Result<()> {
        self.cache.waiting.requests.insert(requests::place(key, scope), record.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::{Answer, BodyHash};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Commands look for a request, and remember it if it is new. What was written, is being written or waits is found, and nothing else.
    #[test]
    fn a_request_is_known_wherever_it_is() {
        let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
        crate::storage::migrations::migrate(&mut connection).expect("made");
        let mut number = 1_u64;
        let mut below = |end: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) % end
        };
        for _ in 0..300 {
            connection.execute_batch("BEGIN").expect("begun");
            let (mut cache, mut expected) = (WriteBack::new().expect("there is memory"), BTreeMap::new());
            for _ in 0..200 {
                let leaving = cache.leaving.clone();
                match (below(12), leaving) {
                    (0, None) => drop(cache.hand_over()),
                    (0, Some(leaving)) => {
                        leaving.write(&mut SqliteState::new(&connection)).expect("written");
                        cache.landed(Duration::ZERO);
                    }
                    _ => {
                        let (key, scope) = (RequestKey([below(60) as u8; 16]), Scope::from_u64(below(2)));
                        let mut state = cache.over(SqliteState::new(&connection));
                        let found = state.request(&key, scope).expect("read");
                        assert_eq!(found.as_ref(), expected.get(&(key, scope)), "{key} {scope:?}");
                        if found.is_none() && below(2) == 0 {
                            let answer = Answer::Deleted { discarded: below(1000) };
                            let record = RequestRecord { body: BodyHash([7; 8]), answer };
                            state.insert_request(&key, scope, &record).expect("remembered");
                            expected.insert((key, scope), record);
                        }
                    }
                }
            }
            connection.execute_batch("ROLLBACK").expect("as before");
        }
    }

    /// Of one client's clock, nobody else notices anything.
    #[test]
    fn a_key_that_is_ahead_of_time_makes_no_others_ask_the_database() {
        let mut connection = rusqlite::Connection::open_in_memory().expect("a database");
        crate::storage::migrations::migrate(&mut connection).expect("made");
        let (looks, mut cache) = (Arc::new(AtomicU64::new(0)), WriteBack::new().expect("there is memory"));
        let counted = looks.clone();
        let step = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(1, Some(step)).expect("set");
        let record = RequestRecord { body: BodyHash([7; 8]), answer: Answer::Deleted { discarded: 1 } };
        for number in 0..5000_u32 {
            let ahead = if number % 100 == 0 { 9 } else { 0 };
            let mut key = [ahead; 16];
            key[1..5].copy_from_slice(&number.to_be_bytes());
            let mut state = cache.over(SqliteState::new(&connection));
            assert_eq!(state.request(&RequestKey(key), Scope::Service).expect("read"), None);
            state.insert_request(&RequestKey(key), Scope::Service, &record).expect("remembered");
            state.finish().expect("ended");
            if number % 500 == 499 {
                let before = looks.load(Ordering::Relaxed);
                cache.hand_over().write(&mut SqliteState::new(&connection)).expect("written");
                cache.landed(Duration::ZERO);
                looks.store(before, Ordering::Relaxed);
            }
        }
        let steps = looks.load(Ordering::Relaxed);
        assert!(steps < 1000, "{steps} steps of SQLite's for 5000 requests");
    }

    /// Something waits, in so many rows, and is written in so much time.
    fn written(cache: &mut WriteBack, rows: usize, took: Duration) {
        let marks = (0..rows as u64).map(|account| (AccountId(account), Marks::default()));
        cache.waiting.marks.extend(marks);
        cache.hand_over();
        cache.landed(took);
    }

    #[test]
    fn less_is_written_at_once_where_it_takes_long_and_more_again_where_it_does_not() {
        let (slow, fast) = (2 * PORTION_TIME, PORTION_TIME / 10);
        let mut cache = WriteBack::new().expect("there is memory");
        written(&mut cache, PORTION, slow);
        assert_eq!(cache.portion, PORTION / 2);
        for _ in 0..10 {
            written(&mut cache, PORTION, slow);
        }
        assert_eq!(cache.portion, SMALL_PORTION);
        written(&mut cache, SMALL_PORTION - 1, fast);
        assert_eq!(cache.portion, SMALL_PORTION, "few rows say nothing of many");
        written(&mut cache, SMALL_PORTION, PORTION_TIME * 2 / 3);
        assert_eq!(cache.portion, SMALL_PORTION, "twice as many might take too long");
        for _ in 0..10 {
            written(&mut cache, PORTION, fast);
        }
        assert_eq!(cache.portion, PORTION);
        cache.landed(slow);
        assert_eq!(cache.portion, PORTION, "nothing was handed over");
    }
}
