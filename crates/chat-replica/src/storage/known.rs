//! What is known of the state without looking into the database: rows that commands look up again and again, within a bound.
//!
//! All of it is as commands see it, with what is not in the database yet: whoever changes a row changes it here, too, or has it forgotten. So a row that is
//! here needs no other look, and one that is not says nothing. What a send needs of its recipient is kept for a million accounts in some 32 bytes each,
//! because in a large service each recipient has a page of the database to itself, and another one for its marks.

use super::marks::NEIGHBOURS;
use super::requests::Gaps;
use chat_core::{Account, AccountId, Counters, Marks, Session, TokenHash, Username};
use lru::LruCache;
use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroUsize;

/// Sessions and accounts that are kept whole; of each, the one that was looked up first goes first.
const ROWS: NonZeroUsize = NonZeroUsize::new(16 * 1024).expect("not zero");
/// So many accounts have room, about; as many places there are for marks.
pub(super) const ROOM: usize = 1 << 20;
/// Places for names in a set, and sets. A name has its place in one of two sets, so nearly all of the places are used before one is given to another name.
const WAYS: usize = 8;
const SETS: usize = 140_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    /// The last numbers given out.
    pub counters: Option<Counters>,
    /// Where no requests are.
    pub gaps: Gaps,
    accounts: LruCache<AccountId, Account>,
    sessions: LruCache<TokenHash, Session>,
    names: Names,
    marks: MarksTable,
    /// Of which neighbours the marks have been looked up.
    asked: Vec<bool>,
    deleted: u64,
}

impl Known {
    /// Nothing yet.
    pub fn new() -> Known {
        Known::with_room(SETS, ROOM)
    }

    fn with_room(sets: usize, marks: usize) -> Known {
        Known {
            counters: None,
            gaps: Gaps::default(),
            accounts: LruCache::new(ROWS),
            sessions: LruCache::new(ROWS),
            names: Names::new(sets),
            marks: MarksTable::new(marks),
            asked: vec![false; marks.div_ceil(NEIGHBOURS as usize)],
            deleted: 0,
        }
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
        self.names.remove(&account.name);
        self.accounts.pop(&account.id);
    }

    /// How many were deleted since the start: what was read before the last of them may be of that one.
    pub fn deleted(&self) -> u64 {
        self.deleted
    }

    /// Whose name it is, if that account is not deleted.
    pub fn recipient(&self, name: &Username) -> Option<AccountId> {
        self.names.get(name)
    }

    /// That it is this account's, which is not deleted.
    pub fn keep_recipient(&mut self, name: &Username, id: AccountId) {
        self.names.put(name, id, true);
    }

    /// The same, if there is a place that nobody else has.
    pub fn offer_recipient(&mut self, name: &Username, id: AccountId) {
        self.names.put(name, id, false);
    }

    /// A session that is open, or expired.
    pub fn session(&self, token: &TokenHash) -> Option<&Session> {
        self.sessions.peek(token)
    }

    /// That it is open, or expired.
    pub fn keep_session(&mut self, session: &Session) {
        self.sessions.put(session.token, session.clone());
    }

    /// That it has ended.
    pub fn forget_session(&mut self, token: &TokenHash) {
        self.sessions.pop(token);
    }

    /// How far a mailbox has come.
    pub fn marks(&self, account: AccountId) -> Option<Marks> {
        self.marks.get(account)
    }

    /// Whether nobody has asked this before, of neighbours that can all be known at the same time.
    pub fn asks_first(&mut self, neighbours: u64) -> bool {
        let asked = usize::try_from(neighbours).ok().and_then(|number| self.asked.get_mut(number));
        asked.is_some_and(|asked| !std::mem::replace(asked, true))
    }

    /// That they are these.
    pub fn keep_marks(&mut self, account: AccountId, marks: Marks) {
        self.marks.put(account, marks);
    }

    /// The same, if there is a place that nobody else has. What is known of this account stands.
    pub fn offer_marks(&mut self, account: AccountId, marks: Marks) {
        if self.marks.is_free(account) {
            self.marks.put(account, marks);
        }
    }
}

/// Which accounts have which names: only of those that are not deleted. Names never change, and are not given to another account.
///
/// A name is known again by 96 bits of two keyed hashes. With a million names here, one that is not among them is taken for another once in 2^76 times,
/// and nobody who does not know this process' keys can do better than by chance.
#[derive(Debug)]
struct Names {
    /// 96 bits of a name, and an account; all 0 where there is none. A page of it is in memory once it is used.
    places: Vec<[u32; 4]>,
    keys: [RandomState; 2],
    /// Which place of a full set is given to another name next.
    next: usize,
}

/// Where a name can be, and how it is known there.
struct Print {
    sets: [usize; 2],
    bits: [u32; 3],
}

impl Names {
    fn new(sets: usize) -> Names {
        Names { places: vec![[0; 4]; sets * WAYS], keys: [RandomState::new(), RandomState::new()], next: 0 }
    }

    fn print(&self, name: &Username) -> Print {
        let [first, second] = [&self.keys[0], &self.keys[1]].map(|key| key.hash_one(name.as_str()));
        let halves = |hash: u64| [(hash >> 32) as u32, hash as u32];
        let ([a, b], [c, d]) = (halves(first), halves(second));
        let sets = self.places.len() / WAYS;
        let set = |half: u32| ((u64::from(half) * sets as u64) >> 32) as usize;
        Print { sets: [set(a), set(b)], bits: [b, c, d] }
    }

    fn set(&self, set: usize) -> impl Iterator<Item = (usize, &[u32; 4])> {
        let first = set * WAYS;
        self.places[first..first + WAYS].iter().enumerate().map(move |(way, place)| (first + way, place))
    }

    /// The place of a name.
    fn find(&self, print: &Print) -> Option<usize> {
        let [x, y, z] = print.bits;
        let is_it = |place: &[u32; 4]| place[..3] == [x, y, z] && place[3] != 0;
        print.sets.iter().find_map(|set| self.set(*set).find(|(_, place)| is_it(place))).map(|(at, _)| at)
    }

    fn get(&self, name: &Username) -> Option<AccountId> {
        self.find(&self.print(name)).map(|at| AccountId(u64::from(self.places[at][3])))
    }

    /// In the emptier one of its sets, so that both fill evenly. Where both are full, it gets the place of another one, or none.
    fn put(&mut self, name: &Username, id: AccountId, instead: bool) {
        let print = self.print(name);
        let Some(id) = u32::try_from(id.0).ok().filter(|id| *id != 0) else { return };
        let mut best = (0, None);
        for set in print.sets {
            let mut free = (0, None);
            for (at, place) in self.set(set) {
                if place[3] == 0 {
                    free = (free.0 + 1, Some(at));
                } else if place[..3] == print.bits {
                    return;
                }
            }
            if free.0 > best.0 {
                best = free;
            }
        }
        self.next = (self.next + 1) % WAYS;
        let Some(place) = best.1.or_else(|| instead.then_some(print.sets[0] * WAYS + self.next)) else { return };
        let [x, y, z] = print.bits;
        self.places[place] = [x, y, z, id];
    }

    fn remove(&mut self, name: &Username) {
        if let Some(at) = self.find(&self.print(name)) {
            self.places[at] = [0; 4];
        }
    }
}

/// Ids are given out one after the other, so as many accounts as there are places have one each; with more, the last that was used has it.
#[derive(Debug)]
struct MarksTable {
    /// An account, and its marks in the order in which [`Marks`] has them; all 0 where there is none. A page of it is in memory once it is used.
    places: Vec<[u32; 4]>,
}

impl MarksTable {
    fn new(room: usize) -> MarksTable {
        MarksTable { places: vec![[0; 4]; room] }
    }

    fn place(&self, account: AccountId) -> usize {
        (account.0 % self.places.len() as u64) as usize
    }

    fn is_free(&self, account: AccountId) -> bool {
        self.places[self.place(account)][0] == 0
    }

    fn get(&self, account: AccountId) -> Option<Marks> {
        let [id, read, delivered, last] = self.places[self.place(account)].map(u64::from);
        (id == account.0 && id != 0).then_some(Marks { read, delivered, last })
    }

    fn put(&mut self, account: AccountId, Marks { read, delivered, last }: Marks) {
        let narrow = |number: u64| u32::try_from(number).ok();
        let row = [account.0, read, delivered, last].map(narrow);
        let place = self.place(account);
        // What does not fit is not kept, nor what was there before.
        self.places[place] = if let [Some(id), Some(read), Some(delivered), Some(last)] = row {
            [id, read, delivered, last]
        } else {
            [0; 4]
        };
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
        Known::with_room(FEW, FEW)
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
