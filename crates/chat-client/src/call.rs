//! One call to the leader, whoever that is while it lasts: one deadline over discovery, connecting and retrying.

use std::{sync::Arc, time::Duration};

use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout_at};
use tonic::{Request, Response, Status};

use crate::{
    backoff,
    error::{Error, Reason, Refusal, Verdict, explain, judge},
    model::Key,
    owner::{Finder, Route, Rpc, Stale},
    token::Token,
};

/// A leader that says nothing for this long is suspected: the others are asked whether they have another.
pub(crate) const PATIENCE: Duration = Duration::from_millis(300);

/// Why a call may be repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Safety {
    /// A change, carried out once under its key.
    Keyed(Key),
    /// A read, or something that a repetition does not change.
    Idempotent,
}

/// How repeated attempts of one request ended so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// It may have been carried out.
    pub unsure: bool,
    /// The leader's last request for patience.
    pub patience: Option<Refusal>,
}

impl Tries {
    /// The deadline passed.
    pub(crate) fn expire(self, safety: Safety, finder: &Finder) -> Error {
        match (safety, self.patience) {
            (Safety::Keyed(key), _) if self.unsure => Error::Unknown { key },
            (_, Some(refusal)) => Error::Refused(refusal),
            (_, None) => finder.no_leader(),
        }
    }

    /// The service said no. After an attempt whose answer was lost, a refusal of the session says nothing about
    /// that attempt: the change itself may be what ended the session. Nor does a refusal without a reason that we know: it
    /// need not come from where the key is looked up.
    pub(crate) fn refuse(self, safety: Safety, refusal: Refusal) -> Error {
        match safety {
            Safety::Keyed(key)
                if self.unsure
                    && matches!(refusal.reason, Reason::SessionInvalid | Reason::AccountDeleted | Reason::Other) =>
            {
                Error::Unknown { key }
            }
            _ => Error::Refused(refusal),
        }
    }
}

/// A request with the session's token, where there is one.
pub(crate) fn request<M>(message: M, token: Option<&Token>) -> Request<M> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.bearer());
    }
    request
}

/// The pause before the next attempt after `failures` of them in a row: the first one costs nothing.
pub(crate) async fn pause(failures: u32, deadline: Instant) {
    if let Some(attempt) = failures.checked_sub(2) {
        let delay = backoff::delay(attempt, &mut SmallRng::from_rng(&mut rand::rng()));
        let _ = timeout_at(deadline, sleep(delay)).await;
    }
}

/// How a request to one leader ended.
pub(crate) enum Outcome<T> {
    Answer(Result<Response<T>, Status>),
    /// Another one leads now.
    Moved,
    /// The deadline passed.
    Expired,
}

impl Finder {
    /// Calls `method` on the leader until it answers or `deadline` passes. Dropped half way, it may have been
    /// carried out.
    pub(crate) async fn call<M, T, F, Fut>(
        &self,
        safety: Safety,
        token: Option<&Token>,
        deadline: Instant,
        message: M,
        method: F,
    ) -> Result<T, Error>
    where
        M: Clone,
        F: Fn(Rpc, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_on(safety, token, deadline, message, |route, request| method(route.rpc(), request)).await
    }

    /// The same with a method that makes what it needs of the route.
    pub(crate) async fn call_on<M, T, F, Fut>(
        &self,
        safety: Safety,
        token: Option<&Token>,
        deadline: Instant,
        message: M,
        method: F,
    ) -> Result<T, Error>
    where
        M: Clone,
        F: Fn(Arc<Route>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries::default();
        let mut stale = Stale::default();
        for failures in 0.. {
            pause(failures, deadline).await;
            let Some(route) = self.route(&stale, deadline).await else { break };
            let call = method(route.clone(), request(message.clone(), token));
            match self.attend(&route, deadline, call).await {
                Outcome::Answer(Ok(response)) => return Ok(response.into_inner()),
                Outcome::Answer(Err(status)) => match judge(&status) {
                    Verdict::Elsewhere { hint, done } => {
                        self.note(&route.address, explain(&status));
                        tries.unsure |= done;
                        tries.patience = None;
                        stale = Stale { generation: route.generation, hint };
                    }
                    Verdict::Later(refusal) => tries.patience = Some(refusal),
                    Verdict::Refused(refusal) => return Err(tries.refuse(safety, refusal)),
                },
                Outcome::Moved => {
                    tries.unsure = true;
                    stale = Stale { generation: route.generation, hint: None };
                }
                Outcome::Expired => {
                    tries.unsure = true;
                    break;
                }
            }
        }
        Err(tries.expire(safety, self))
    }

    /// Waits for `call`, but no longer than the route holds.
    pub(crate) async fn attend<T>(
        &self,
        route: &Route,
        deadline: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Outcome<T> {
        let mut silence = interval_at(Instant::now() + PATIENCE, PATIENCE);
        tokio::pin!(call);
        loop {
            tokio::select! {
                biased;
                answer = &mut call => return Outcome::Answer(answer),
                () = self.moved(route) => return Outcome::Moved,
                () = sleep_until(deadline) => return Outcome::Expired,
                _ = silence.tick() => self.suspect(route),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(unsure: bool, reason: Reason) -> Error {
        let refusal = Refusal { reason, message: "no".to_owned(), limit: None, undelivered: None };
        let tries = Tries { unsure, patience: None };
        tries.refuse(Safety::Keyed(Key::from_bytes([1; 16])), refusal)
    }

    #[test]
    fn a_no_that_does_not_look_at_the_key_leaves_a_lost_answer_unknown() {
        for reason in [Reason::SessionInvalid, Reason::AccountDeleted, Reason::Other] {
            assert_eq!(refused(true, reason), Error::Unknown { key: Key::from_bytes([1; 16]) });
            assert_eq!(refused(false, reason).reason(), Some(reason));
        }
        assert_eq!(refused(true, Reason::KeyConflict).reason(), Some(Reason::KeyConflict));
    }
}
