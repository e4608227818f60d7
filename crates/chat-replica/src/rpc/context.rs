//! What all calls share: asking the driver and reading, each within a deadline.

use super::auth::Sessions;
use super::errors::Fault;
use super::leadership::{Leadership, Term};
use super::passwords::Passwords;
use crate::clock;
use crate::handle::{Declined, Done, Handle};
use crate::protocol::{ReplicaId, Status};
use crate::storage::Readers;
use crate::storage::state::SqliteState;
use crate::subscribers::Subscribers;
use chat_core::{AccountId, Command, Lookup as _, Outcome, Rejection, Session, Timestamp, TokenHash};
use chat_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a read waits for leave to read, and then for the database.
const READING: Duration = Duration::from_secs(5);
/// How long a read on a backup waits until that has seen what the caller has seen.
const CATCHING_UP: Duration = Duration::from_secs(1);
/// How long a change waits for a place in the driver's line.
const LINING_UP: Duration = Duration::from_secs(2);
/// How long anything else is waited for.
const CEILING: Duration = Duration::from_secs(10);

/// What all calls share. One per replica.
#[derive(Debug)]
pub struct RpcContext {
    pub(super) handle: Handle,
    pub(super) subscribers: Arc<Subscribers>,
    pub(super) passwords: Passwords,
    pub(super) sessions: Sessions,
    readers: Readers,
    leadership: Leadership,
    me: ReplicaId,
    replicas: Vec<(ReplicaId, String)>,
    session_lifetime: Duration,
    shutdown: CancellationToken,
}

/// What a look at the state came to: the inner error is for who asked, the outer one is the database's.
pub(super) type Looked<T> = rusqlite::Result<Result<T, Rejection>>;

/// Something that was read, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen<T> {
    pub value: T,
    /// The state held everything up to this log index, and nothing after.
    pub applied: u64,
}

impl RpcContext {
    /// For the replica `me`, on the current tokio runtime. `replicas` has every replica's address, its own among them. All calls end
    /// when `shutdown` is cancelled.
    pub fn new(
        handle: Handle,
        readers: Readers,
        subscribers: Arc<Subscribers>,
        me: ReplicaId,
        replicas: Vec<(ReplicaId, String)>,
        session_lifetime: Duration,
        shutdown: CancellationToken,
    ) -> RpcContext {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let leadership = Leadership::watch(handle.gate());
        let (passwords, sessions) = (Passwords::new(cores), Sessions::new());
        RpcContext {
            handle,
            subscribers,
            passwords,
            sessions,
            readers,
            leadership,
            me,
            replicas,
            session_lifetime,
            shutdown,
        }
    }

    /// This replica.
    pub(super) fn me(&self) -> ReplicaId {
        self.me
    }

    /// The replica's state, as last published.
    pub(super) fn status(&self) -> Status {
        self.handle.status.borrow().clone()
    }

    /// A replica and its address; `None` for one that nobody told us about.
    pub(super) fn peer(&self, id: ReplicaId) -> Option<v1::Peer> {
        let (_, address) = self.replicas.iter().find(|(other, _)| *other == id)?;
        Some(v1::Peer { id: id.0, address: address.clone() })
    }

    /// Every replica.
    pub(super) fn peers(&self) -> Vec<v1::Peer> {
        self.replicas.iter().map(|(id, address)| v1::Peer { id: id.0, address: address.clone() }).collect()
    }

    /// What to tell who asked for something that the driver declined.
    pub(super) fn declined(&self, why: Declined) -> Fault {
        let status = self.status();
        let leader = status.leader.and_then(|leader| self.peer(leader));
        Fault::declined(why, &status, leader)
    }

    /// When a session that is opened at `at` expires.
    pub(super) fn expiry(&self, at: Timestamp) -> Timestamp {
        let lifetime = i64::try_from(self.session_lifetime.as_millis()).unwrap_or(i64::MAX);
        Timestamp(at.0.saturating_add(lifetime))
    }

    /// Waits for the end of this replica's service.
    pub(super) async fn shutdown(&self) {
        self.shutdown.cancelled().await;
    }

    /// Bounds a wait by `limit` and by the end of service; `None` if it took longer.
    pub(super) async fn within<F: Future>(&self, limit: Duration, wait: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = wait => Some(output),
            () = self.shutdown.cancelled() => None,
            () = tokio::time::sleep(limit) => None,
        }
    }

    /// The leadership that has begun and not ended here, for a stream to be bound to.
    pub(super) async fn term(&self) -> Result<Term, Fault> {
        let serving = self.handle.gate.borrow().serving;
        let term = match serving {
            Some(epoch) => self.leadership.term(epoch).await,
            None => None,
        };
        term.ok_or_else(|| self.declined(Declined::NotServing))
    }

    /// ③ Carries a change out, or says why not. Dropped, the change may still be carried out.
    pub(super) async fn carry_out(&self, command: Command) -> Result<(Outcome, usize), Fault> {
        let submitted = self.within(LINING_UP, self.handle.submit(command, None)).await;
        let submitted =
            submitted.ok_or_else(|| Fault::overloaded("too much is waiting to be written: nothing was done"))?;
        let answer = submitted.map_err(|why| self.declined(why))?;
        let Some(Ok(answer)) = self.within(CEILING, answer).await else { return Err(Fault::unknown()) };
        let Done { result, copies } = answer.map_err(|why| self.declined(why))?;
        Ok((result?, copies))
    }

    /// The same for a change under a session, which the cache then forgets if it was not valid any more.
    pub(super) async fn carry_out_as(&self, token: &TokenHash, command: Command) -> Result<(Outcome, usize), Fault> {
        let result = self.carry_out(command).await;
        if result.as_ref().is_err_and(Fault::is_session_invalid) {
            self.sessions.forget(token);
        }
        result
    }

    /// Hashing and verifying, which wait for a core.
    pub(super) async fn on_pool<T>(
        &self,
        work: impl Future<Output = Result<T, super::passwords::PoolError>>,
    ) -> Result<T, Fault> {
        let done = self.within(CEILING, work).await;
        let done =
            done.ok_or_else(|| Fault::overloaded("too many logins and registrations at the moment: nothing was done"))?;
        Ok(done?)
    }

    /// Rule 11: looks at a state that holds all that was acknowledged before this call, on the leader. `look` is repeated if leadership
    /// was in doubt meanwhile.
    pub(super) async fn read_as_leader<T, F>(&self, look: F) -> Result<Seen<T>, Fault>
    where
        F: Fn(&SqliteState<'_>) -> Looked<T> + Clone + Send + 'static,
        T: Send + 'static,
    {
        let read = async {
            loop {
                let permit = self.handle.read_permit().await.map_err(|why| self.declined(why))?;
                let (looked, applied) = self.readers.read(dated(look.clone())).await?;
                if self.handle.still_holds(&permit) {
                    return Ok(Seen { value: looked?, applied });
                }
            }
        };
        // While leases cannot be renewed, nobody can say whether this replica still leads.
        self.within(READING, read).await.unwrap_or_else(|| Err(self.declined(Declined::NotServing)))
    }

    /// The same, or, with `min_index`, on any replica as soon as it has applied so much.
    pub(super) async fn read<T, F>(&self, min_index: Option<u64>, look: F) -> Result<Seen<T>, Fault>
    where
        F: Fn(&SqliteState<'_>) -> Looked<T> + Clone + Send + 'static,
        T: Send + 'static,
    {
        let Some(index) = min_index else { return self.read_as_leader(look).await };
        let elsewhere = || self.declined(Declined::NotServing);
        let visible = self.within(CATCHING_UP, self.handle.wait_visible(index)).await.ok_or_else(elsewhere)?;
        visible.map_err(|why| self.declined(why))?;
        let looked = self.within(READING, self.readers.read(dated(look.clone()))).await.ok_or_else(elsewhere)?;
        let (looked, applied) = looked?;
        match looked {
            // A login that has not come here yet looks the same: only the leader knows, when it sees all that is committed.
            Err(Rejection::SessionInvalid) => self.read_as_leader(look).await,
            value => Ok(Seen { value: value?, applied }),
        }
    }

    /// Whose session it is, at the price of a read only where it is not known. Good for commands, which look again when they are applied.
    pub(super) async fn authenticate(&self, token: TokenHash) -> Result<AccountId, Fault> {
        if let Some(account) = self.sessions.get(&token) {
            return Ok(account);
        }
        let session = self.read_as_leader(move |state| valid_session(state, &token)).await?.value;
        self.sessions.remember(&session);
        Ok(session.account)
    }
}

/// The session, if it is valid now.
pub(super) fn valid_session(state: &SqliteState<'_>, token: &TokenHash) -> Looked<Session> {
    let session = state.session(token)?.filter(|session| session.valid_at(clock::wall()));
    Ok(session.ok_or(Rejection::SessionInvalid))
}

/// Goes on in a look with what a look within it found; ends it with its rejection.
macro_rules! found {
    ($looked:expr) => {
        match $looked {
            Ok(found) => found,
            Err(rejection) => return Ok(Err(rejection)),
        }
    };
}
pub(super) use found;

/// A look, and up to which log index the state that it saw was applied.
fn dated<T>(
    look: impl Fn(&SqliteState<'_>) -> Looked<T>,
) -> impl Fn(&SqliteState<'_>) -> rusqlite::Result<(Result<T, Rejection>, u64)> {
    move |state| Ok((look(state)?, state.applied()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::handle::{Control, Gate};
    use crate::node::Node;
    use crate::protocol::{self, ClusterId, Epoch, Replica};
    use crate::storage::{DataDirectory, SqliteDisk};
    use std::sync::atomic::AtomicU64;
    use tokio::sync::{mpsc, watch};

    /// A new leader serves before it sees the logins that were committed when that began.
    #[tokio::test]
    async fn a_session_is_invalid_once_the_leader_has_looked_at_all_that_was_committed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let id = ReplicaId(1);
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), id).expect("free"));
        let (disk, me, recovered) = SqliteDisk::open(directory.clone(), id).expect("a new disk");
        let clock = Clock::start();
        let config = protocol::Config::new(me, Vec::new(), ClusterId([7; 16]), 1);
        let status = Node::new(Replica::new(config, recovered, clock.now()), disk).replica().status();
        let epoch = Epoch { round: 2, replica: id };
        let lease = clock.now().after(Duration::from_secs(60));
        let (seen, gate) =
            watch::channel(Gate { serving: Some(epoch), committed: 7, lease_until: Some(lease), visible: 5 });
        let (proposals, _proposed) = mpsc::channel(1);
        let (control, mut asked) = mpsc::channel(1);
        let handle = Handle {
            proposals,
            line_bytes: Arc::default(),
            control,
            gate,
            status: watch::channel(status.clone()).1,
            news: watch::channel(status).1,
            answered: Arc::new(AtomicU64::new(5)),
            clock,
        };
        let (readers, subscribers) = (Readers::new(directory), Arc::new(Subscribers::new()));
        let lifetime = Duration::from_secs(60);
        let context = RpcContext::new(handle, readers, subscribers, id, Vec::new(), lifetime, CancellationToken::new());
        let read =
            tokio::spawn(async move { context.read(Some(1), |state| valid_session(state, &TokenHash([1; 32]))).await });
        assert!(matches!(asked.recv().await, Some(Control::Show(7))), "it waits for what was committed");
        seen.send_modify(|gate| gate.visible = 7);
        let fault = read.await.expect("no panic").expect_err("there is no such session");
        assert!(fault.is_session_invalid());
    }
}
