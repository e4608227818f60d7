//! The wildcards of listings.

use crate::{Rejection, Username};

/// An anchored pattern over user names: `*` stands for any run of characters, `?` for one, everything else for
/// itself. Letters `A` to `Z` match as lower case, as names are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The longest pattern, in bytes. More than a name's length, for wildcards in between.
    pub const MAX_BYTES: usize = 128;

    /// The pattern that was typed; empty stands for `*`. [`Rejection::PatternInvalid`] if it is too long.
    pub fn parse(input: &str) -> Result<Self, Rejection> {
        match input.len() {
            0 => Ok(Pattern("*".into())),
            1..=Self::MAX_BYTES => Ok(Pattern(input.to_ascii_lowercase())),
            bytes => Err(Rejection::PatternInvalid { bytes: bytes as u64 }),
        }
    }

    /// What every match begins with: the part before the first wildcard.
    pub fn prefix(&self) -> &str {
        self.0.split(['*', '?']).next().unwrap_or("")
    }

    /// Whether the whole name matches.
    pub fn matches(&self, name: &Username) -> bool {
        // Names are ASCII, so bytes are characters. On a mismatch only the last star needs to take one more: an
        // earlier one could not make more of what follows possible.
        let (pattern, name) = (self.0.as_bytes(), name.as_str().as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p + 1, n));
                    p += 1;
                }
                Some(&wanted) if wanted == b'?' || wanted == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    let Some((after, taken)) = star else { return false };
                    star = Some((after, taken + 1));
                    p = after;
                    n = taken + 1;
                }
            }
        }
        pattern[p..].iter().all(|&rest| rest == b'*')
    }
}
