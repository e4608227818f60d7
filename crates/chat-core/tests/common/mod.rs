//! Random sequences of commands over a few names, keys and sessions, so that they get in each other's way. Also
//! included by the tests of other stores.

// Each test uses a part of it.
#![allow(dead_code)]

use chat_core::{
    AccountId, Command, DisplayName, MessageText, PasswordHash, Provenance, RequestKey, Timestamp, TokenHash, Username,
};
use proptest::prelude::*;

pub const NAMES: [&str; 6] = ["ann", "bob", "b0b", "cy.d", "dora-x", "z_9"];

pub fn name(index: usize) -> Username {
    Username::parse(NAMES[index % NAMES.len()]).unwrap()
}

pub fn key(number: u8) -> RequestKey {
    RequestKey([number; 16])
}

pub fn token(number: u8) -> TokenHash {
    TokenHash([number; 32])
}

pub fn password(salt: u8) -> PasswordHash {
    PasswordHash::new(&format!("$argon2id$salt{salt}$hash")).unwrap()
}

pub fn text(text: &str) -> MessageText {
    MessageText::new(text).unwrap()
}

/// The entry that carries the command at `position`: two commands to an entry, a new leader now and then.
pub fn provenance(position: usize) -> Provenance {
    let position = position as u64;
    Provenance { index: position / 2 + 1, round: position / 7, replica: (position % 3) as u32 }
}

pub fn register(key_number: u8, name_index: usize) -> Command {
    let name = name(name_index);
    let display_name = DisplayName::of(&name);
    Command::Register { key: key(key_number), name, display_name, password: password(0), at: Timestamp(1) }
}

pub fn open(key_number: u8, account: u64, token_number: u8, expires_at: i64) -> Command {
    let (key, account, token) = (key(key_number), AccountId(account), token(token_number));
    Command::OpenSession { key, account, token, at: Timestamp(2), expires_at: Timestamp(expires_at) }
}

fn keys() -> impl Strategy<Value = RequestKey> {
    (0_u8..=255).prop_map(key)
}

fn tokens() -> impl Strategy<Value = TokenHash> {
    (0_u8..7).prop_map(token)
}

fn names() -> impl Strategy<Value = Username> {
    (0..NAMES.len()).prop_map(name)
}

fn times() -> impl Strategy<Value = Timestamp> {
    (0_i64..1000).prop_map(Timestamp)
}

fn mark() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 8 => (0_u64..6).prop_map(Some), 1 => Just(Some(u64::MAX))]
}

fn command() -> impl Strategy<Value = Command> {
    let texts = prop_oneof![Just(text("a")), Just(text("b\0\u{1f600}")), "\\PC{1,20}".prop_map(|it| text(&it))];
    let displays = prop_oneof![Just("Ann"), Just("Bób")].prop_map(|it| DisplayName::parse(it).unwrap());
    prop_oneof![
        2 => (keys(), names(), displays, 0_u8..3, times()).prop_map(|(key, name, display_name, salt, at)| {
            Command::Register { key, name, display_name, password: password(salt), at }
        }),
        4 => (keys(), 0_u64..6, tokens(), times(), 300_i64..2000).prop_map(|(key, account, token, at, expires)| {
            Command::OpenSession { key, account: AccountId(account), token, at, expires_at: Timestamp(expires) }
        }),
        1 => (tokens(), times()).prop_map(|(token, at)| Command::CloseSession { token, at }),
        12 => (keys(), tokens(), names(), texts, times()).prop_map(|(key, session, to, text, at)| {
            Command::Send { key, session, to, text, at }
        }),
        5 => (tokens(), mark(), mark(), times()).prop_map(|(session, delivered, read, at)| {
            Command::Acknowledge { session, delivered, read, at }
        }),
        2 => (keys(), tokens(), any::<bool>(), times()).prop_map(|(key, session, refuse_if_undelivered, at)| {
            Command::DeleteAccount { key, session, refuse_if_undelivered, at }
        }),
    ]
}

/// The same request made later: the primary takes it at another time, and hashes the password with another salt.
pub fn again(command: &Command, later: Timestamp) -> Command {
    let mut command = command.clone();
    match &mut command {
        Command::Register { password: hash, at, .. } => (*hash, *at) = (password(9), later),
        Command::OpenSession { at, .. }
        | Command::CloseSession { at, .. }
        | Command::Send { at, .. }
        | Command::Acknowledge { at, .. }
        | Command::DeleteAccount { at, .. } => *at = later,
    }
    command
}

#[derive(Clone, Debug)]
enum Step {
    New(Command),
    Again(prop::sample::Index, Timestamp),
}

/// Up to `most` commands; some are earlier ones again. Mostly after three accounts have logged in.
pub fn commands(most: usize) -> impl Strategy<Value = Vec<Command>> {
    let step = prop_oneof![
        5 => command().prop_map(Step::New),
        1 => (any::<prop::sample::Index>(), times()).prop_map(|(which, at)| Step::Again(which, at)),
    ];
    (prop::bool::weighted(0.9), prop::collection::vec(step, 0..most)).prop_map(|(set_up, steps)| {
        let mut commands = Vec::new();
        if set_up {
            commands.extend([register(250, 0), register(251, 1), register(252, 2)]);
            commands.extend([open(253, 1, 0, 5000), open(254, 2, 1, 5000), open(255, 3, 2, 900)]);
        }
        for step in steps {
            match step {
                Step::New(command) => commands.push(command),
                Step::Again(_, _) if commands.is_empty() => {}
                Step::Again(which, at) => commands.push(again(which.get(&commands), at)),
            }
        }
        commands
    })
}
