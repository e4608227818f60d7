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

/// Of the password `a password for benchmarks`, as a replica hashes it.
const PASSWORD: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$8jouUg7U8u1JBRDLdJRsnQ$DiHGBWe1nIygrLez9jPvOclxl90CyebjNOAX30ah7M0";
/// Sessions must outlive the data directories that are kept for another day: ten years, in milliseconds.
const LIFETIME: i64 = 10 * 365 * 24 * 3600 * 1000;
/// One message of so many is part of the one long conversation, between the accounts 0 and 1.
pub(in crate::bench) const LONG_CONVERSATION: u64 = 10;

/// So many accounts, each with a session, and so many messages among them.
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
}

impl Crowd {
    /// With a tag that no other crowd has.
    pub fn new(accounts: u64) -> Crowd {
        // The random end of a key; its beginning is the time.
        let tag = Key::generate().as_bytes().iter().skip(10).map(|byte| format!("{byte:02x}")).collect();
        Crowd { tag, accounts }
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

    /// What makes one of the accounts.
    pub fn register(&self, number: u64, at: Timestamp) -> Result<Command, Rejection> {
        let name = Username::parse(&self.name(number))?;
        let display_name = DisplayName::of(&name);
        // The constant is one, as a test checks.
        let password = PasswordHash::new(PASSWORD).map_err(|_| Rejection::PasswordInvalid { bytes: 0 })?;
        Ok(Command::Register { key: key(), name, display_name, password, at })
    }

    /// What opens the session of one of the accounts, which has been given this id.
    pub fn open_session(&self, number: u64, account: AccountId, at: Timestamp) -> Command {
        let expires_at = Timestamp(at.0.saturating_add(LIFETIME));
        Command::OpenSession { key: key(), account, token: self.token_hash(number), at, expires_at }
    }
}

impl Order {
    /// How many commands that is.
    pub fn commands(&self) -> u64 {
        2 * self.crowd.accounts + self.messages
    }

    /// The messages: mostly between any two, at random but the same each time; and one long conversation.
    pub fn sends(&self, at: impl Fn() -> Timestamp) -> impl Iterator<Item = Result<Command, Rejection>> {
        let mut random = SmallRng::seed_from_u64(1);
        let text = MessageText::new(text());
        let accounts = self.crowd.accounts.max(1);
        (0..self.messages).map(move |number| {
            let (from, to) = match number % (2 * LONG_CONVERSATION) {
                0 => (0, 1 % accounts),
                LONG_CONVERSATION => (1 % accounts, 0),
                _ => (random.random_range(0..accounts), random.random_range(0..accounts)),
            };
            let (session, to) = (self.crowd.token_hash(from), Username::parse(&self.crowd.name(to))?);
            Ok(Command::Send { key: key(), session, to, text: text.clone()?, at: at() })
        })
    }
}

fn key() -> RequestKey {
    RequestKey(*Key::generate().as_bytes())
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

    #[test]
    fn an_order_makes_accounts_sessions_and_messages_that_the_rules_accept() {
        let order = Order { crowd: Crowd::new(10), messages: 100 };
        let (mut store, at) = (MemoryStore::default(), Timestamp(1_000));
        let mut index = 0;
        let mut apply = |command: &Command| {
            index += 1;
            let applied = chat_core::apply(&mut store, Provenance { index, round: 1, replica: 1 }, command);
            applied.expect("memory does not fail").result.expect("the rules accept it")
        };
        for number in 0..10 {
            let Outcome::Registered { account, .. } = apply(&order.crowd.register(number, at).expect("it is valid"))
            else {
                panic!("nobody was registered");
            };
            apply(&order.crowd.open_session(number, account.id, at));
        }
        for command in order.sends(|| at) {
            apply(&command.expect("it is valid"));
        }
        let long = store.conversation(AccountId(1), AccountId(2), None, 1000).expect("memory does not fail");
        assert!(long.len() as u64 >= 100 / LONG_CONVERSATION);
        assert_eq!(store.counters().expect("memory does not fail").messages, 100);
    }
}
