//! What is known of the state without looking into the database: rows that commands look up again and again, within a bound.
//!
//! All of it is as commands see it, with what is not in the database yet: whoever changes a row changes it here, too, or has it forgotten. So a row that is
//! here needs no other look, and one that is not says nothing. What a send needs of its recipient is kept for a million accounts in some 36 bytes each,
//! because in a large service each recipient has a page of the database to itself, and another one for its marks.

mod names;
mod numbered;
mod sessions;
mod table;

use super::marks::NEIGHBOURS;
use super::requests::Gaps;
use chat_core::{Account, AccountId, Counters, Marks, Session, TokenHash, Username};
use lru::LruCache;
use names::Names;
use numbered::{Called, MarksTable};
use sessions::Sessions;
use std::hint::black_box;
use std::io;
use std::num::NonZeroUsize;
use std::ops::BitXor;
use table::Table;

/// Accounts that are kept whole; the one that was looked up first goes first.
const ROWS: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("not zero");
/// Places for sessions, and for what those who send are called.
const SENDERS: usize = 32 * 1024;
/// So many accounts have room, about; as many places there are for marks.
pub(super) const ROOM: usize = 1 << 20;
/// Places for names in a set, and sets. A name has its place in one of two sets, so nearly all of the places are used before one is given to another name.
const WAYS: usize = 8;
const SETS: usize = 164_000;

/// So many accounts have names in every page of the table. How many there are is asked at a start.
pub(super) const MANY: u64 = 1 << 16;

/// Which of so many places a hash stands for: each as likely as any other.
fn place_of(hash: u32, places: usize) -> usize {
    ((u64::from(hash) * places as u64) >> 32) as usize
}

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    /// The last numbers given out.
    pub counters: Option<Counters>,
    /// Where no requests are.
    pub gaps: Gaps,
    accounts: LruCache<AccountId, Account>,
    sessions: Sessions,
    called: Called,
    recipients: Recipients,
    deleted: u64,
}

/// What is known of recipients, and the memory for it.
#[derive(Debug)]
pub(super) struct Recipients {
    names: Names,
    marks: MarksTable,
    /// Of which neighbours the marks have been looked up.
    asked: Vec<bool>,
}

impl Recipients {
    /// Nothing yet, where there are [`MANY`] accounts: whoever waited for the first use of each page of memory would do so for milliseconds.
    ///
    /// # Errors
    /// There is no memory.
    pub fn filled() -> io::Result<Recipients> {
        Ok(Recipients::within(Table::filled(SETS * WAYS)?, Table::filled(ROOM)?))
    }

    fn within(names: Table, marks: Table) -> Recipients {
        let asked = vec![false; marks.len().div_ceil(NEIGHBOURS as usize)];
        Recipients { names: Names::new(names), marks: MarksTable::new(marks), asked }
    }
}

impl Known {
    /// Nothing yet.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new() -> io::Result<Known> {
        Ok(Known::with(Recipients::within(Table::new(SETS * WAYS)?, Table::new(ROOM)?)))
    }

    fn with(recipients: Recipients) -> Known {
        Known {
            counters: None,
            gaps: Gaps::default(),
            accounts: LruCache::new(ROWS),
            sessions: Sessions::new(SENDERS),
            called: Called::new(SENDERS),
            recipients,
            deleted: 0,
        }
    }

    /// Of recipients, this is known from now on.
    pub fn move_to(&mut self, recipients: Recipients) {
        self.recipients = recipients;
    }

    /// An account or tombstone.
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.peek(&id)
    }

    /// That it is so.
    pub fn keep_account(&mut self, account: &Account) {
        self.accounts.put(account.id, account.clone());
    }

    /// That it is not so any more.
    pub fn forget_account(&mut self, account: &Account) {
        self.deleted += 1;
        self.recipients.names.remove(&account.name);
        self.accounts.pop(&account.id);
    }

    /// How many were deleted since the start: what was read before the last of them may be of that one.
    pub fn deleted(&self) -> u64 {
        self.deleted
    }

    /// What an account or tombstone is called.
    pub fn name(&self, id: AccountId) -> Option<&Username> {
        self.called.get(id)
    }

    /// That it is called so: names never change.
    pub fn keep_name(&mut self, id: AccountId, name: &Username) {
        self.called.put(id, name);
    }

    /// Whose name it is, if that account is not deleted.
    pub fn recipient(&self, name: &Username) -> Option<AccountId> {
        self.recipients.names.get(name)
    }

    /// Brings what is known of these recipients into the processor's cache: each of them is somewhere else in memory, and who looks them up one after the
    /// other waits for that twice with each, some 0.1 us every time.
    pub fn recall<'a>(&self, recipients: impl Iterator<Item = &'a Username>) {
        let prints: Vec<_> = recipients.map(|name| self.recipients.names.print(name)).collect();
        let names = prints.iter().map(|print| self.recipients.names.touch(print));
        black_box(names.fold(0, BitXor::bitxor));
        let marks = prints
            .iter()
            .filter_map(|print| self.recipients.names.known_as(print))
            .map(|id| self.recipients.marks.touch(id));
        black_box(marks.fold(0, BitXor::bitxor));
    }

    /// That it is this account's, which is not deleted.
    pub fn keep_recipient(&mut self, name: &Username, id: AccountId) {
        self.recipients.names.put(name, id, true);
    }

    /// The same, if there is a place that nobody else has.
    pub fn offer_recipient(&mut self, name: &Username, id: AccountId) {
        self.recipients.names.put(name, id, false);
    }

    /// A session that is open, or expired.
    pub fn session(&self, token: &TokenHash) -> Option<&Session> {
        self.sessions.get(token)
    }

    /// That it is open, or expired.
    pub fn keep_session(&mut self, session: &Session) {
        self.sessions.put(session);
    }

    /// That it has ended.
    pub fn forget_session(&mut self, token: &TokenHash) {
        self.sessions.remove(token);
    }

    /// How far a mailbox has come.
    pub fn marks(&self, account: AccountId) -> Option<Marks> {
        self.recipients.marks.get(account)
    }

    /// Whether nobody has asked this before, of neighbours that can all be known at the same time.
    pub fn asks_first(&mut self, neighbours: u64) -> bool {
        let asked = usize::try_from(neighbours).ok().and_then(|number| self.recipients.asked.get_mut(number));
        asked.is_some_and(|asked| !std::mem::replace(asked, true))
    }

    /// That they are these.
    pub fn keep_marks(&mut self, account: AccountId, marks: Marks) {
        self.recipients.marks.put(account, marks);
    }

    /// The same, if there is a place that nobody else has. What is known of this account stands.
    pub fn offer_marks(&mut self, account: AccountId, marks: Marks) {
        if self.recipients.marks.is_free(account) {
            self.recipients.marks.put(account, marks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::{DisplayName, Timestamp};

    fn name(number: u64) -> Username {
        Username::parse(&format!("user-{number}")).expect("a name")
    }

    fn account(number: u64) -> Account {
        let name = name(number);
        let display_name = DisplayName::of(&name);
        Account { id: AccountId(number), name, display_name, created_at: Timestamp(0), deleted: false }
    }

    const FEW: usize = 500;

    fn small() -> Known {
        let table = |rows| Table::new(rows).expect("there is memory");
        Known::with(Recipients::within(table(FEW * WAYS), table(FEW)))
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for_and_no_other_is_taken_for_one_of_them() {
        let mut known = small();
        // As full as the whole is with a million.
        let all = 1..=(FEW * WAYS * 1_000_000 / (SETS * WAYS)) as u64;
        all.clone().for_each(|number| known.offer_recipient(&name(number), AccountId(number)));
        let missing = all.clone().filter(|number| {
            let found = known.recipient(&name(*number));
            assert!(found.is_none_or(|found| found == AccountId(*number)), "{number}: {found:?}");
            found.is_none()
        });
        let missing = missing.count();
        assert!(missing * 50 < FEW * WAYS, "{missing}");
        assert!((all.end() + 1..20_000).all(|number| known.recipient(&name(number)).is_none()));
    }

    #[test]
    fn what_was_used_last_is_kept_where_there_is_no_place_for_all() {
        let mut known = small();
        let twice = 2 * (FEW * WAYS) as u64;
        for number in 1..=twice {
            known.keep_recipient(&name(number), AccountId(number));
            assert_eq!(known.recipient(&name(number)), Some(AccountId(number)));
        }
        let kept = (1..=twice).filter(|number| known.recipient(&name(*number)).is_some()).count();
        assert!(kept > FEW * WAYS * 99 / 100, "{kept}");
        known.offer_recipient(&name(twice + 1), AccountId(twice + 1));
        assert_eq!(known.recipient(&name(twice + 1)), None, "for what nobody has asked for, no other goes");
    }

    #[test]
    fn accounts_that_are_kept_whole_are_bounded() {
        let mut known = small();
        let more = ROWS.get() as u64 + 1;
        (1..=more).for_each(|number| known.keep_account(&account(number)));
        assert!(known.account(AccountId(more)).is_some() && known.account(AccountId(1)).is_none());
    }

    #[test]
    fn what_is_forgotten_is_not_known() {
        let mut known = small();
        for number in 1..1000 {
            known.keep_account(&account(number));
            known.keep_recipient(&name(number), AccountId(number));
        }
        known.forget_account(&account(7));
        assert_eq!((known.recipient(&name(7)), known.account(AccountId(7))), (None, None));
        assert_eq!(known.recipient(&name(8)), Some(AccountId(8)));
        known.keep_recipient(&name(5000), AccountId(1 << 32));
        assert_eq!(known.recipient(&name(5000)), None, "an id that does not fit is not kept, and not shortened");
    }

    #[test]
    fn marks_are_of_their_account_or_not_known() {
        let mut known = small();
        let marks = |last| Marks { read: 1, delivered: 2, last };
        let (one, other) = (AccountId(5), AccountId(5 + FEW as u64));
        assert_eq!(known.marks(AccountId(0)), None);
        known.keep_marks(one, marks(3));
        assert_eq!((known.marks(one), known.marks(other)), (Some(marks(3)), None));
        known.offer_marks(other, marks(9));
        known.offer_marks(one, marks(9));
        assert_eq!((known.marks(one), known.marks(other)), (Some(marks(3)), None), "what is known stands");
        known.keep_marks(other, marks(4));
        assert_eq!((known.marks(one), known.marks(other)), (None, Some(marks(4))));
        known.keep_marks(other, marks(1 << 32));
        assert_eq!(known.marks(other), None, "neither what does not fit nor what was before");
    }
}
