//! What clients are told when something was not done: a gRPC code, a sentence, and a typed detail.

use super::passwords::PoolError;
use crate::handle::Declined;
use crate::protocol::{ReplicaId, Status as ReplicaStatus};
use chat_core::Rejection;
use chat_proto::v1::{self, Reason};
use tonic::{Code, Status};

/// Why a call fails.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fault {
    code: Code,
    message: String,
    /// Absent where clients can do nothing about it.
    detail: Option<Box<v1::ErrorDetail>>,
}

impl Fault {
    fn new(code: Code, reason: Reason, message: impl Into<String>) -> Fault {
        let detail = v1::ErrorDetail { reason: reason.into(), ..Default::default() };
        Fault { code, message: message.into(), detail: Some(Box::new(detail)) }
    }

    /// Nothing was done: too much is going on.
    pub fn overloaded(message: impl Into<String>) -> Fault {
        Fault::new(Code::ResourceExhausted, Reason::Overloaded, message)
    }

    /// It may or may not have been carried out.
    pub fn unknown() -> Fault {
        let message = "it is not known whether this was carried out: ask again with the same key";
        Fault::new(Code::Aborted, Reason::UnknownOutcome, message)
    }

    /// This replica cannot do what it should.
    pub fn internal(message: &'static str) -> Fault {
        Fault { code: Code::Internal, message: message.into(), detail: None }
    }

    /// What the driver, or the gate, said; `status` and `leader`, its address, say where to go instead.
    pub fn declined(why: Declined, status: &ReplicaStatus, leader: Option<v1::Peer>) -> Fault {
        match why {
            Declined::NotServing | Declined::HandingOver | Declined::Stopped => elsewhere(why, status, leader),
            Declined::TooFewCopies(_) => {
                Fault::new(Code::Unavailable, Reason::TooFewCopies, format!("{why}: nothing was done"))
            }
            Declined::Unknown => Fault::unknown(),
        }
    }

    /// Whether it says that the session does not count.
    pub fn is_session_invalid(&self) -> bool {
        self.detail.as_ref().is_some_and(|detail| detail.reason() == Reason::SessionInvalid)
    }

    /// As the result of one of many in a stream.
    pub fn into_failure(self) -> v1::Failure {
        v1::Failure { code: self.code as i32, message: self.message, detail: self.detail.map(|detail| *detail) }
    }
}

/// Where else to go.
fn elsewhere(why: Declined, status: &ReplicaStatus, leader: Option<v1::Peer>) -> Fault {
    let other = leader.filter(|leader| leader.id != status.me.id.0);
    let leads_itself = status.leader == Some(status.me.id);
    let (reason, message) = match &other {
        Some(leader) => (Reason::NotLeader, format!("{why}: replica {} leads, at {}", leader.id, leader.address)),
        None if leads_itself && status.waiting_for.is_empty() => {
            (Reason::NotLeader, format!("{why}: ask again in a moment"))
        }
        None if status.waiting_for.is_empty() => (Reason::NoLeader, "no replica leads at the moment".into()),
        None => (Reason::NoLeader, format!("no replica can lead: waiting for replica {}", list(&status.waiting_for))),
    };
    let detail = v1::ErrorDetail {
        reason: reason.into(),
        leader: other,
        epoch: Some(super::convert::epoch(status.epoch)),
        waiting_for: status.waiting_for.iter().map(|id| id.0).collect(),
        ..Default::default()
    };
    Fault { code: Code::Unavailable, message, detail: Some(Box::new(detail)) }
}

fn list(ids: &[ReplicaId]) -> String {
    ids.iter().map(ReplicaId::to_string).collect::<Vec<_>>().join(", ")
}

impl From<Rejection> for Fault {
    fn from(rejection: Rejection) -> Fault {
        let (code, reason) = kind(&rejection);
        let undelivered = match rejection {
            Rejection::UndeliveredMessages { count } => Some(count),
            _ => None,
        };
        let detail =
            v1::ErrorDetail { reason: reason.into(), limit: rejection.limit(), undelivered, ..Default::default() };
        Fault { code, message: rejection.to_string(), detail: Some(Box::new(detail)) }
    }
}

fn kind(rejection: &Rejection) -> (Code, Reason) {
    match rejection {
        Rejection::NameTaken { .. } => (Code::AlreadyExists, Reason::NameTaken),
        Rejection::NameInvalid(_) => (Code::InvalidArgument, Reason::NameInvalid),
        Rejection::DisplayNameInvalid(_) => (Code::InvalidArgument, Reason::DisplayNameInvalid),
        Rejection::PasswordInvalid { .. } => (Code::InvalidArgument, Reason::PasswordInvalid),
        Rejection::WrongCredentials => (Code::Unauthenticated, Reason::WrongCredentials),
        Rejection::SessionInvalid => (Code::Unauthenticated, Reason::SessionInvalid),
        Rejection::AccountDeleted => (Code::Unauthenticated, Reason::AccountDeleted),
        Rejection::NoSuchRecipient { .. } => (Code::NotFound, Reason::NoSuchRecipient),
        Rejection::NoSuchAccount { .. } => (Code::NotFound, Reason::NoSuchAccount),
        Rejection::TextTooLarge { .. } => (Code::InvalidArgument, Reason::TextTooLarge),
        Rejection::TextEmpty => (Code::InvalidArgument, Reason::TextEmpty),
        Rejection::KeyInvalid { .. } => (Code::InvalidArgument, Reason::KeyInvalid),
        Rejection::KeyConflict => (Code::FailedPrecondition, Reason::KeyConflict),
        Rejection::TokenInvalid => (Code::InvalidArgument, Reason::TokenInvalid),
        Rejection::PatternInvalid { .. } => (Code::InvalidArgument, Reason::PatternInvalid),
        Rejection::LimitInvalid { .. } => (Code::InvalidArgument, Reason::LimitInvalid),
        Rejection::UndeliveredMessages { .. } => (Code::FailedPrecondition, Reason::UndeliveredMessages),
        Rejection::MarkBeyondLast { .. } => (Code::OutOfRange, Reason::MarkBeyondLast),
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Fault {
        match error {
            PoolError::Busy => Fault::overloaded(error.to_string()),
            PoolError::Failed => Fault::internal("the password could not be processed"),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        tracing::error!(%error, "the database cannot be read");
        // Others can read theirs.
        Fault { code: Code::Unavailable, message: "this replica cannot read its database".into(), detail: None }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Status {
        match fault.detail {
            Some(detail) => chat_proto::to_status(fault.code, fault.message, &detail),
            None => Status::new(fault.code, fault.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{DiskId, Epoch, Incarnation, Member, Standing};

    fn status(leader: Option<u32>, waiting_for: &[u32]) -> ReplicaStatus {
        let incarnation = Incarnation { count: 1, nonce: 1 };
        ReplicaStatus {
            me: Member { id: ReplicaId(1), disk: DiskId([0; 16]), incarnation },
            standing: Standing::Waiting,
            serving: false,
            epoch: Epoch { round: 5, replica: ReplicaId(2) },
            leader: leader.map(ReplicaId),
            committed: 0,
            last: 0,
            view: None,
            waiting_for: waiting_for.iter().copied().map(ReplicaId).collect(),
            cluster: None,
            impaired_until: None,
            leases_from: Vec::new(),
        }
    }

    fn peer(id: u32) -> v1::Peer {
        v1::Peer { id, address: format!("host:{id}") }
    }

    fn told(fault: Fault) -> (Code, String, v1::ErrorDetail) {
        let status = Status::from(fault);
        (status.code(), status.message().to_owned(), chat_proto::from_status(&status).unwrap())
    }

    #[test]
    fn a_backup_says_where_the_leader_is() {
        let fault = Fault::declined(Declined::NotServing, &status(Some(2), &[]), Some(peer(2)));
        let (code, message, detail) = told(fault);
        assert_eq!((code, detail.reason()), (Code::Unavailable, Reason::NotLeader));
        assert_eq!(detail.leader, Some(peer(2)));
        assert_eq!(detail.epoch, Some(v1::Epoch { round: 5, replica: 2 }));
        assert_eq!(message, "this replica does not lead: replica 2 leads, at host:2");
    }

    #[test]
    fn without_a_leader_it_says_whom_it_waits_for() {
        let fault = Fault::declined(Declined::NotServing, &status(None, &[2, 3]), None);
        let (_, message, detail) = told(fault);
        assert_eq!((detail.reason(), &detail.waiting_for[..]), (Reason::NoLeader, &[2, 3][..]));
        assert_eq!(message, "no replica can lead: waiting for replica 2, 3");
    }

    #[test]
    fn nobody_is_sent_back_to_who_declined() {
        let fault = Fault::declined(Declined::HandingOver, &status(Some(1), &[]), Some(peer(1)));
        let (_, _, detail) = told(fault);
        assert_eq!((detail.reason(), detail.leader), (Reason::NotLeader, None));
    }

    #[test]
    fn other_declines_have_reasons_of_their_own() {
        let (_, message, detail) = told(Fault::declined(Declined::TooFewCopies(1), &status(Some(1), &[]), None));
        assert_eq!(detail.reason(), Reason::TooFewCopies);
        assert!(message.ends_with("nothing was done"), "{message}");
        let (code, _, detail) = told(Fault::declined(Declined::Unknown, &status(Some(1), &[]), None));
        assert_eq!((code, detail.reason()), (Code::Aborted, Reason::UnknownOutcome));
    }

    #[test]
    fn a_rejection_carries_its_numbers() {
        let (code, _, detail) = told(Rejection::TextTooLarge { bytes: 70_000 }.into());
        assert_eq!((code, detail.reason(), detail.limit), (Code::InvalidArgument, Reason::TextTooLarge, Some(65_536)));
        let (code, _, detail) = told(Rejection::UndeliveredMessages { count: 4 }.into());
        assert_eq!((code, detail.undelivered), (Code::FailedPrecondition, Some(4)));
        assert!(Fault::from(Rejection::SessionInvalid).is_session_invalid());
    }

    #[test]
    fn a_failure_in_a_stream_is_the_same_as_a_status() {
        let failure = Fault::from(Rejection::KeyConflict).into_failure();
        let (code, message, detail) = told(Rejection::KeyConflict.into());
        assert_eq!((failure.code, failure.message, failure.detail), (code as i32, message, Some(detail)));
    }
}
