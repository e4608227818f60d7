//! Hashing passwords: dear on purpose, so only so many at a time, and only so many in line.

use argon2::password_hash::phc::PasswordHash as Phc;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use chat_core::PasswordHash;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// How many wait for each core at most. One takes some 25 ms, so nobody waits for much more than a second.
const LINE: usize = 32;
/// KiB of memory, passes over it, lanes.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// The hash of nobody's password, at the same cost: verifying against it takes as long as against a real one.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Why a password was not looked at. Nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum PoolError {
    /// Too many are in line.
    #[error("too many logins and registrations at the moment: try again in a second")]
    Busy,
    /// The hasher's own error, or a stored hash that it cannot read.
    #[error("the password could not be processed")]
    Failed,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Passwords {
    line: Semaphore,
    cores: Arc<Semaphore>,
}

impl Passwords {
    /// A pool for as many at the same time as there are cores.
    pub fn new(cores: usize) -> Passwords {
        let cores = cores.max(1);
        Passwords { line: Semaphore::new(cores * (LINE + 1)), cores: Arc::new(Semaphore::new(cores)) }
    }

    /// A salted hash. Cancel safe.
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<PasswordHash, PoolError> {
        self.run(move || {
            let phc = hasher()?.hash_password(password.as_bytes()).map_err(|_| PoolError::Failed)?;
            PasswordHash::new(&phc.to_string()).map_err(|_| PoolError::Failed)
        })
        .await
    }

    /// Whether it is the password that was hashed; `false`, after as much work, where there is none. Cancel safe.
    pub async fn verify(&self, password: Zeroizing<String>, hash: Option<PasswordHash>) -> Result<bool, PoolError> {
        self.run(move || {
            let phc = hash.as_ref().map_or(NOBODY, PasswordHash::as_phc);
            let phc = Phc::new(phc).map_err(|_| PoolError::Failed)?;
            let same = hasher()?.verify_password(password.as_bytes(), &phc).is_ok();
            Ok(same && hash.is_some())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, PoolError> {
        let _place = self.line.try_acquire().map_err(|_| PoolError::Busy)?;
        let core = self.cores.clone().acquire_owned().await.map_err(|_| PoolError::Busy)?;
        let work = move || {
            // Until the work ends, even if nobody waits for it any more.
            let _core = core;
            work()
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(PoolError::Failed))
    }
}

fn hasher() -> Result<Argon2<'static>, PoolError> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).map_err(|_| PoolError::Failed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_hash_knows_its_password_and_no_other() {
        let pool = Passwords::new(2);
        let hash = pool.hash(password("correct horse")).await.unwrap();
        let (memory, passes, lanes) = COST;
        assert!(hash.as_phc().starts_with(&format!("$argon2id$v=19$m={memory},t={passes},p={lanes}$")));
        assert_eq!(pool.verify(password("correct horse"), Some(hash.clone())).await, Ok(true));
        assert_eq!(pool.verify(password("battery staple"), Some(hash.clone())).await, Ok(false));
        assert_ne!(pool.hash(password("correct horse")).await.unwrap(), hash, "salted");
    }

    #[tokio::test]
    async fn nobody_has_no_password_and_costs_as_much() {
        let pool = Passwords::new(1);
        assert_eq!(pool.verify(password("correct horse"), None).await, Ok(false));
        let nobody = Phc::new(NOBODY).unwrap();
        let real = hasher().unwrap().hash_password(b"correct horse").unwrap();
        assert_eq!(nobody.params, real.params);
        assert_eq!(nobody.hash.unwrap().len(), real.hash.unwrap().len());
    }

    #[tokio::test]
    async fn a_full_line_is_refused_at_once() {
        let pool = Passwords::new(1);
        let _all = pool.line.try_acquire_many(LINE as u32 + 1).unwrap();
        assert_eq!(pool.hash(password("correct horse")).await, Err(PoolError::Busy));
    }
}
