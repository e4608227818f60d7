//! What a cluster is to be filled with. Everybody's name and token follow from the order, so nothing else need be told or kept.

use crate::bench::send::text;
use chat_client::Key;
use chat_core::{
    AccountId, Command, DisplayName, MessageText, PasswordHash, Rejection, RequestKey, Timestamp, TokenHash, Username,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::ops::Range;

/// Of the password `a password for benchmarks`, as a replica hashes it.
const PASSWORD: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$8jouUg7U8u1JBRDLdJRsnQ$DiHGBWe1nIygrLez9jPvOclxl90CyebjNOAX30ah7M0";
/// Sessions must outlive the data directories that are kept for another day: ten years, in milliseconds.
const LIFETIME: i64 = 10 * 365 * 24 * 3600 * 1000;
/// One message of so many is part of the one long conversation, between the accounts 0 and 1.
pub(in crate::bench) const LONG_CONVERSATION: u64 = 10;
/// So many accounts are registered before their sessions are opened: few enough to do again, many enough that it does not show that
/// everything is waited for in between.
const TOGETHER: u64 = 16 * 1024;

/// A command, unless something in it is against the rules.
pub(super) type Planned = Result<Command, Rejection>;

/// So many accounts, each with a session, and so many messages among them.
///
/// Its commands have an order: [`TOGETHER`] accounts are registered, then their sessions are opened; and so on; then come the messages. The key of
/// each follows from its place, so whoever proposes it again doubles nothing, and whoever goes on need only know how many are done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::bench) struct Order {
    pub crowd: Crowd,
    pub messages: u64,
}

/// Accounts that were filled in, numbered from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::bench) struct Crowd {
    /// Part of every name, unique in its cluster: up to 16 letters and digits.
    pub tag: String,
    pub accounts: u64,
    /// When it was thought of, as keys begin with it. A fill that an earlier version has kept does not say.
    #[serde(default)]
    time: [u8; 6],
}

impl Crowd {
    /// With a tag that no other crowd has.
    pub fn new(accounts: u64) -> Crowd {
        // A key begins with the time, and ends at random.
        let [a, b, c, d, e, f, .., u, v, w, x, y, z] = *Key::generate().as_bytes();
        let tag = [u, v, w, x, y, z].iter().map(|byte| format!("{byte:02x}")).collect();
        Crowd { tag, accounts, time: [a, b, c, d, e, f] }
    }

    /// The name of one of them. Names begin with any letter, and come in no order.
    pub fn name(&self, number: u64) -> String {
        // Odd, so that no two numbers below 2^32 meet; about the golden ratio, so that neighbours are far apart.
        let scattered = (number as u32).wrapping_mul(0x9e37_79b1);
        let letter = char::from(b'a' + (scattered % 26) as u8);
        format!("{letter}{scattered:08x}-{}", self.tag)
    }

    /// The session token of one of them, as `Client::restore` wants it.
    pub fn token(&self, number: u64) -> String {
        self.token_bytes(number).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn token_bytes(&self, number: u64) -> [u8; 32] {
        *blake3::hash(format!("chat-bench {} {number}", self.tag).as_bytes()).as_bytes()
    }

    fn token_hash(&self, number: u64) -> TokenHash {
        TokenHash(Sha256::digest(self.token_bytes(number)).into())
    }

    /// The key of the command at a place of an order. Keys ascend with the places, since a replica is fastest with a key above all that it
    /// knows; and none is ahead of the time, since those that clients make later are to be above them.
    fn key(&self, place: u64) -> RequestKey {
        let tag = blake3::hash(self.tag.as_bytes());
        let mut key = [0; 16];
        key[..6].copy_from_slice(&self.time);
        key[6..11].copy_from_slice(&place.to_be_bytes()[3..]);
        key[11..].copy_from_slice(&tag.as_bytes()[..5]);
        RequestKey(key)
    }
}

impl Order {
    /// How many commands that is.
    pub fn commands(&self) -> u64 {
        self.first_message() + self.messages
    }

    /// The place of the first message.
    fn first_message(&self) -> u64 {
        2 * self.crowd.accounts
    }

    /// The accounts that remain when so many commands are done, in parts to be carried out one after the other; and the place at which
    /// each part begins. What is done of the first of them comes again: only registrations, or their repetition, tell whose the sessions are.
    pub fn parts_after(&self, done: u64) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let accounts = self.crowd.accounts;
        // The last part can be smaller.
        let whole = if done < self.first_message() { done / (2 * TOGETHER) } else { accounts.div_ceil(TOGETHER) };
        (whole..accounts.div_ceil(TOGETHER)).map(move |part| {
            let first = part * TOGETHER;
            (2 * first, first..accounts.min(first + TOGETHER))
        })
    }

    /// What makes the accounts of a part.
    pub fn registrations(&self, part: Range<u64>, at: impl Fn() -> Timestamp) -> impl Iterator<Item = Planned> {
        let places = 2 * part.start..;
        part.zip(places).map(move |(number, place)| {
            let name = Username::parse(&self.crowd.name(number))?;
            let display_name = DisplayName::of(&name);
            // The constant is one, as a test checks.
            let password = PasswordHash::new(PASSWORD).map_err(|_| Rejection::PasswordInvalid { bytes: 0 })?;
            Ok(Command::Register { key: self.crowd.key(place), name, display_name, password, at: at() })
        })
    }

    /// What opens the sessions of a part, whose accounts have been given these ids.
    pub fn sessions(
        &self,
        part: Range<u64>,
        ids: Vec<AccountId>,
        at: impl Fn() -> Timestamp,
    ) -> impl Iterator<Item = Planned> {
        let places = part.start + part.end..;
        part.zip(ids).zip(places).map(move |((number, account), place)| {
            let at = at();
            let expires_at = Timestamp(at.0.saturating_add(LIFETIME));
            let (key, token) = (self.crowd.key(place), self.crowd.token_hash(number));
            Ok(Command::OpenSession { key, account, token, at, expires_at })
        })
    }

    /// The place from which messages remain when so many commands are done.
    pub fn messages_after(&self, done: u64) -> u64 {
        done.max(self.first_message())
    }

    /// The messages from a place on: mostly between any two, at random but the same each time; and one long conversation.
    pub fn sends(&self, from: u64, at: impl Fn() -> Timestamp) -> impl Iterator<Item = Planned> {
        let text = MessageText::new(text());
        (from..self.commands()).map(move |place| {
            let (from, to) = self.parties(place - self.first_message());
            let (session, to) = (self.crowd.token_hash(from), Username::parse(&self.crowd.name(to))?);
            Ok(Command::Send { key: self.crowd.key(place), session, to, text: text.clone()?, at: at() })
        })
    }

    /// From whom and to whom a message is.
    fn parties(&self, number: u64) -> (u64, u64) {
        let accounts = self.crowd.accounts.max(1);
        // Seeded for each, so that it can be begun anywhere.
        let mut random = SmallRng::seed_from_u64(number);
        match number % (2 * LONG_CONVERSATION) {
            0 => (0, 1 % accounts),
            LONG_CONVERSATION => (1 % accounts, 0),
            _ => (random.random_range(0..accounts), random.random_range(0..accounts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::{Lookup as _, MemoryStore, Outcome, Provenance, Read as _};
    use std::collections::HashSet;

    #[test]
    fn names_are_valid_and_none_comes_twice() {
        let crowd = Crowd::new(100_000);
        let names: HashSet<String> = (0..crowd.accounts).map(|number| crowd.name(number)).collect();
        assert_eq!(names.len(), 100_000);
        assert!(names.iter().all(|name| Username::parse(name).is_ok_and(|parsed| parsed.as_str() == name)));
        assert!(names.iter().filter(|name| name.starts_with('a')).count() > 2_000);
        assert_ne!(Crowd::new(1).tag, Crowd::new(1).tag);
    }

    /// Applies commands, each of which must be accepted, and returns the accounts of those that register.
    fn apply(store: &mut MemoryStore, commands: impl Iterator<Item = Planned>) -> Vec<AccountId> {
        let one = |command: Planned| {
            let (provenance, command) = (Provenance { index: 1, round: 1, replica: 1 }, command.expect("it is valid"));
            let applied = chat_core::apply(store, provenance, &command).expect("memory does not fail");
            match applied.result.expect("the rules accept it") {
                Outcome::Registered { account, .. } => Some(account.id),
                _ => None,
            }
        };
        commands.filter_map(one).collect()
    }

    /// Goes on after so many commands, to the end.
    fn go_on(store: &mut MemoryStore, order: &Order, done: u64) {
        let at = || Timestamp(1_000);
        for (_, part) in order.parts_after(done) {
            let ids = apply(store, order.registrations(part.clone(), at));
            apply(store, order.sessions(part, ids, at));
        }
        apply(store, order.sends(order.messages_after(done), at));
    }

    #[test]
    fn an_order_makes_accounts_sessions_and_messages_that_the_rules_accept() {
        let order = Order { crowd: Crowd::new(10), messages: 100 };
        let mut store = MemoryStore::default();
        go_on(&mut store, &order, 0);
        let long = store.conversation(AccountId(1), AccountId(2), None, 1000).expect("memory does not fail");
        assert!(long.len() as u64 >= 100 / LONG_CONVERSATION);
        let counters = store.counters().expect("memory does not fail");
        assert_eq!((counters.accounts, counters.sessions, counters.messages), (10, 10, 100));
    }

    #[test]
    fn whoever_goes_on_doubles_nothing_and_leaves_nothing_out() {
        let order = Order { crowd: Crowd::new(10), messages: 100 };
        let mut store = MemoryStore::default();
        go_on(&mut store, &order, 0);
        let whole = chat_core::state_hash(&store).expect("memory does not fail");
        for done in 0..=order.commands() {
            go_on(&mut store, &order, done);
            assert_eq!(chat_core::state_hash(&store).expect("memory does not fail"), whole, "after {done}");
        }
    }

    #[test]
    fn little_of_what_is_done_comes_again() {
        let order = Order { crowd: Crowd::new(TOGETHER + 10), messages: 100 };
        let (next, sessions) = (|done| order.parts_after(done).next(), order.first_message());
        assert_eq!(next(2 * TOGETHER - 1), Some((0, 0..TOGETHER)));
        assert_eq!(next(2 * TOGETHER), Some((2 * TOGETHER, TOGETHER..TOGETHER + 10)));
        assert_eq!(next(sessions - 1), Some((2 * TOGETHER, TOGETHER..TOGETHER + 10)));
        assert_eq!((next(sessions), order.messages_after(sessions)), (None, sessions));
        assert_eq!((next(sessions + 50), order.messages_after(sessions + 50)), (None, sessions + 50));
    }

    #[test]
    fn keys_ascend_and_none_is_ahead_of_the_time() {
        let order = Order { crowd: Crowd::new(TOGETHER + 10), messages: 10 };
        let at = || Timestamp(1_000);
        let accounts = order.parts_after(0).flat_map(|(_, part)| {
            let ids = part.clone().map(AccountId).collect();
            order.registrations(part.clone(), at).chain(order.sessions(part, ids, at)).collect::<Vec<_>>()
        });
        let all = accounts.chain(order.sends(order.messages_after(0), at));
        let keys: Vec<_> = all.map(|command| command.expect("it is valid").key().expect("it has one")).collect();
        assert_eq!(keys.len() as u64, order.commands());
        assert!(keys.is_sorted_by(|key, next| key < next));
        let began = RequestKey(*Key::generate().as_bytes());
        assert!(keys.iter().all(|key| key.0[..6] <= began.0[..6]));
        assert_ne!(Crowd::new(1).key(0), Crowd::new(1).key(0));
    }
}
