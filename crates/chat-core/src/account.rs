//! Who can send and receive: names, display names, password hashes.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::rejection::{DisplayNameFault, NameFault};
use crate::text;
use crate::{AccountId, Rejection, Timestamp};

/// The shortest password, in bytes.
pub const PASSWORD_MIN_BYTES: usize = 8;
/// The longest password, in bytes.
pub const PASSWORD_MAX_BYTES: usize = 256;

/// An account as others see it. Immutable, but for its deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The immutable identity behind the name.
    pub id: AccountId,
    /// Unique among all accounts that ever were.
    pub name: Username,
    /// What people call themselves; not unique.
    pub display_name: DisplayName,
    /// When it was registered.
    pub created_at: Timestamp,
    /// A tombstone: nobody can log in or be written to, and the name is not given out again.
    pub deleted: bool,
}

/// A user name: `[a-z0-9]([a-z0-9._-]{0,30}[a-z0-9])`, 2 to 32 bytes.
// In place and not on the heap: it is short, and copied with every message. What follows the name is 0, which no name contains, so
// the order is that of the names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Username {
    bytes: [u8; Username::MAX_BYTES],
    len: u8,
}

impl Username {
    /// The shortest name, in bytes.
    pub const MIN_BYTES: usize = 2;
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 32;

    /// The name that was typed, with `A` to `Z` lower-cased; [`Rejection::NameInvalid`] says what is wrong with it.
    pub fn parse(input: &str) -> Result<Self, Rejection> {
        let len = input.len();
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&len) {
            return Err(Rejection::NameInvalid(NameFault::Length { bytes: len as u64 }));
        }
        let mut bytes = [0; Self::MAX_BYTES];
        bytes[..len].copy_from_slice(input.as_bytes());
        bytes.make_ascii_lowercase();
        let name = Username { bytes, len: len as u8 };
        match name_fault(name.as_str()) {
            Some(fault) => Err(Rejection::NameInvalid(fault)),
            None => Ok(name),
        }
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        // It was copied from a `str`.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

fn name_fault(name: &str) -> Option<NameFault> {
    let edge = |found: char| !found.is_ascii_lowercase() && !found.is_ascii_digit();
    if let Some(found) = name.chars().find(|&found| edge(found) && !matches!(found, '.' | '_' | '-')) {
        return Some(NameFault::Character { found });
    }
    let ends = [name.chars().next(), name.chars().next_back()];
    ends.into_iter().flatten().find(|&found| edge(found)).map(|found| NameFault::Edge { found })
}

impl<'de> Deserialize<'de> for Username {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parsed(deserializer, Username::parse)
    }
}

impl Serialize for Username {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// What people call themselves: 1 to 64 characters of Unicode, without white space at the ends, without control
/// characters and those that reorder or break lines, which would let one name pass for another text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DisplayName(Arc<str>);

impl DisplayName {
    /// The longest display name, in characters (Unicode scalar values).
    pub const MAX_CHARS: usize = 64;

    /// The display name that was typed, trimmed; [`Rejection::DisplayNameInvalid`] says what is wrong with it.
    pub fn parse(input: &str) -> Result<Self, Rejection> {
        let name = input.trim();
        if name.is_empty() {
            return Err(Rejection::DisplayNameInvalid(DisplayNameFault::Empty));
        }
        let chars = name.chars().count();
        if chars > Self::MAX_CHARS {
            return Err(Rejection::DisplayNameInvalid(DisplayNameFault::Length { chars: chars as u64 }));
        }
        if let Some(found) = name.chars().find(|&found| misleads(found)) {
            return Err(Rejection::DisplayNameInvalid(DisplayNameFault::Character { found }));
        }
        Ok(DisplayName(name.into()))
    }

    /// What an account is called that chose nothing: its name.
    pub fn of(name: &Username) -> Self {
        DisplayName(name.as_str().into())
    }

    /// The display name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn misleads(found: char) -> bool {
    found.is_control()
        || matches!(found, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
        || matches!(found, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<'de> Deserialize<'de> for DisplayName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parsed(deserializer, DisplayName::parse)
    }
}

impl Serialize for DisplayName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Refuses a password that is shorter or longer than allowed, in bytes, before it is hashed.
pub fn check_password(password: &str) -> Result<(), Rejection> {
    match password.len() {
        PASSWORD_MIN_BYTES..=PASSWORD_MAX_BYTES => Ok(()),
        bytes => Err(Rejection::PasswordInvalid { bytes: bytes as u64 }),
    }
}

/// A salted password hash as a PHC string (`$argon2id$...`), made by the primary. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

/// The string is not in the shape of a password hash. Says nothing of what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a password hash is a PHC string: `$`, then at most 511 more printable ASCII characters")]
pub struct PasswordHashInvalid;

impl PasswordHash {
    /// The longest PHC string, in bytes.
    pub const MAX_BYTES: usize = 512;

    /// Takes a PHC string: `$` and then printable ASCII, at most 512 bytes. Whether it can be verified is for its
    /// maker to know; this only keeps a password in clear from being taken for a hash by mistake.
    pub fn new(phc: &str) -> Result<Self, PasswordHashInvalid> {
        let shaped = phc.starts_with('$') && phc.len() <= Self::MAX_BYTES && phc.bytes().all(|b| b.is_ascii_graphic());
        if shaped { Ok(PasswordHash(phc.into())) } else { Err(PasswordHashInvalid) }
    }

    /// The PHC string, for verification and storage only.
    pub fn as_phc(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PasswordHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parsed(deserializer, PasswordHash::new)
    }
}

impl Serialize for PasswordHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}
