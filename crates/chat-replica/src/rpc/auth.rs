//! Whose call it is.

use crate::clock;
use chat_core::{AccountId, Rejection, Session, Timestamp, TokenHash};
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

/// How many sessions are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// The session that a call names in its metadata: `authorization: Bearer <64 hexadecimal digits>`.
///
/// Anything else is [`Rejection::SessionInvalid`].
pub(super) fn bearer(metadata: &MetadataMap) -> Result<TokenHash, Rejection> {
    let value = metadata.get("authorization").ok_or(Rejection::SessionInvalid)?;
    let (scheme, token) = value.as_bytes().split_at_checked(7).ok_or(Rejection::SessionInvalid)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") || token.len() != 64 {
        return Err(Rejection::SessionInvalid);
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, digits) in bytes.iter_mut().zip(token.chunks_exact(2)) {
        *byte = nibble(digits[0])? << 4 | nibble(digits[1])?;
    }
    Ok(hash(&bytes))
}

fn nibble(digit: u8) -> Result<u8, Rejection> {
    let value = char::from(digit).to_digit(16).ok_or(Rejection::SessionInvalid)?;
    Ok(value as u8)
}

/// What is kept of the token that a client made; [`Rejection::TokenInvalid`] unless it has 32 bytes.
pub(super) fn token_hash(token: &[u8]) -> Result<TokenHash, Rejection> {
    token.try_into().map(hash).map_err(|_| Rejection::TokenInvalid)
}

fn hash(token: &[u8; 32]) -> TokenHash {
    TokenHash(Sha256::digest(token).into())
}

/// Sessions that were valid when they were last looked up: keeps strangers away from the log at no cost for those who send a lot.
///
/// One can have been revoked since. That is no harm where it is used: what rests on it is a command, and applying that
/// looks again. What is only read looks into the database itself.
#[derive(Debug)]
pub(super) struct Sessions {
    remembered: Mutex<LruCache<TokenHash, (AccountId, Timestamp)>>,
}

impl Sessions {
    /// None yet.
    pub fn new() -> Sessions {
        Sessions { remembered: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    /// Whose session it was, unless it has expired.
    pub fn get(&self, token: &TokenHash) -> Option<AccountId> {
        let (account, expires_at) = self.lock().get(token).copied()?;
        (clock::wall() < expires_at).then_some(account)
    }

    /// Remembers a valid one.
    pub fn remember(&self, session: &Session) {
        self.lock().put(session.token, (session.account, session.expires_at));
    }

    /// Forgets one that is not valid any more.
    pub fn forget(&self, token: &TokenHash) {
        self.lock().pop(token);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<TokenHash, (AccountId, Timestamp)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(value: &str) -> Result<TokenHash, Rejection> {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().unwrap());
        bearer(&metadata)
    }

    #[test]
    fn a_call_names_the_session_whose_token_it_holds() {
        let token: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(named(&format!("Bearer {hex}")), token_hash(&token));
        assert_eq!(named(&format!("bearer {}", hex.to_uppercase())), token_hash(&token));
        assert_ne!(token_hash(&token).unwrap().0, token, "only the hash is kept");
    }

    #[test]
    fn anything_else_names_no_session() {
        assert_eq!(bearer(&MetadataMap::new()), Err(Rejection::SessionInvalid));
        let short = "0".repeat(63);
        for value in ["", "Bearer", "Bearer ", &short, &format!("Bearer {short}"), &format!("Bearer {short}g")] {
            assert_eq!(named(value), Err(Rejection::SessionInvalid), "{value}");
        }
        assert_eq!(named(&format!("Bearer {short}00")), Err(Rejection::SessionInvalid));
        assert_eq!(token_hash(&[0; 31]), Err(Rejection::TokenInvalid));
    }

    #[test]
    fn an_expired_session_is_not_remembered() {
        let sessions = Sessions::new();
        let token = TokenHash([1; 32]);
        let session =
            |expires_at| Session { token, account: AccountId(4), number: 1, opened_at: Timestamp(0), expires_at };
        sessions.remember(&session(Timestamp(clock::wall().0 - 1)));
        assert_eq!(sessions.get(&token), None);
        sessions.remember(&session(Timestamp(clock::wall().0 + 60_000)));
        assert_eq!(sessions.get(&token), Some(AccountId(4)));
        sessions.forget(&token);
        assert_eq!(sessions.get(&token), None);
    }
}
