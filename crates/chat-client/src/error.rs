//! Errors, by what the caller should do about them.

use std::fmt;

use chat_proto::v1;
use tonic::{Code, Status};

use crate::model::Key;

/// What went wrong, by what to do next. Holds no password and no session token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The service said no, and would say so again: change the request.
    Refused(Refusal),
    /// The deadline passed before a leader took the request, so nothing was changed: try again later.
    ///
    /// A read, an acknowledgement or a log-out that was under way when the deadline passed ends so as well:
    /// asking again is harmless for these.
    NoLeader {
        /// Ids of the replicas that the cluster said it waits for, ascending. Empty where nobody said.
        waiting_for: Vec<u32>,
        /// What was last heard from each address.
        tried: Vec<Attempt>,
    },
    /// The deadline passed, and the change may or may not have been carried out: ask again with the same key
    /// (`send_with_key` and its like), which returns the first outcome if there was one.
    Unknown {
        /// The key of the change.
        key: Key,
    },
    /// The call cannot be made as it is: an address that cannot be read, a malformed token. Nothing was sent.
    Usage(String),
}

/// Why one address did not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// `host:port`.
    pub address: String,
    /// One clause, for people.
    pub why: String,
}

/// The service's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people: one sentence.
    pub message: String,
    /// The limit that was passed, in the unit that the message names.
    pub limit: Option<u64>,
    /// With [`Reason::UndeliveredMessages`]: how many.
    pub undelivered: Option<u64>,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why the service refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// Something that this version of the library has no name for; the message says what.
            Other,
        }

        impl From<v1::Reason> for Reason {
            fn from(reason: v1::Reason) -> Self {
                match reason {
                    $(v1::Reason::$name => Self::$name,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

reasons! {
    /// Fewer replicas are in the view than `min_copies` asks for, and that did not change until the deadline.
    TooFewCopies,
    /// The service had too much to do until the deadline.
    Overloaded,
    /// Somebody has, or had, this name.
    NameTaken,
    /// Not a username: 2 to 32 bytes of `[a-z0-9._-]`, beginning and ending with a letter or digit.
    NameInvalid,
    /// Not a display name.
    DisplayNameInvalid,
    /// Not 8 to 256 bytes.
    PasswordInvalid,
    /// No such account, or another password: which of the two is not told.
    WrongCredentials,
    /// The session is unknown, expired or revoked: log in again.
    SessionInvalid,
    /// The account of this session was deleted.
    AccountDeleted,
    /// Nobody has this name.
    NoSuchRecipient,
    /// Nobody has this name.
    NoSuchAccount,
    /// Larger than [`Refusal::limit`] bytes.
    TextTooLarge,
    /// No text.
    TextEmpty,
    /// Not 16 bytes.
    KeyInvalid,
    /// The key was used before, for something else.
    KeyConflict,
    /// Not 32 bytes.
    TokenInvalid,
    /// Not a pattern.
    PatternInvalid,
    /// A page size out of range.
    LimitInvalid,
    /// Messages wait for the account ([`Refusal::undelivered`] of them), and the call asked to refuse then.
    UndeliveredMessages,
    /// A mark beyond the last message.
    MarkBeyondLast,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::NoLeader { waiting_for, tried } => {
                f.write_str("no leader within the deadline")?;
                if !waiting_for.is_empty() {
                    let ids: Vec<_> = waiting_for.iter().map(u32::to_string).collect();
                    write!(f, "; the cluster waits for replica {}", ids.join(", "))?;
                }
                for (place, attempt) in tried.iter().enumerate() {
                    let separator = if place == 0 { " (" } else { "; " };
                    write!(f, "{separator}{}: {}", attempt.address, attempt.why)?;
                }
                if tried.is_empty() { Ok(()) } else { f.write_str(")") }
            }
            Self::Unknown { key } => {
                write!(f, "no answer within the deadline: it may or may not have been done; ask again with key {key}")
            }
            Self::Usage(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    pub(crate) fn refused(reason: Reason, message: impl Into<String>, limit: Option<u64>) -> Self {
        Self::Refused(Refusal { reason, message: message.into(), limit, undelivered: None })
    }

    /// The reason of a refusal; `None` for every other error.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            _ => None,
        }
    }
}

/// Where a `NOT_LEADER` sends us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub address: String,
}

/// What a failed attempt tells about the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look for the leader and ask again. `done`: it may have been carried out.
    Elsewhere { hint: Option<Hint>, done: bool },
    /// The leader asks for patience; nothing was done.
    Later(Refusal),
    /// Final.
    Refused(Refusal),
}

/// What to make of a status, from a replica or from the transport.
pub(crate) fn judge(status: &Status) -> Verdict {
    match chat_proto::from_status(status) {
        Some(detail) => judge_detail(&detail, status.message()),
        None => judge_code(status.code(), status.message(), never_connected(status)),
    }
}

/// The same for a failure inside of a result frame.
pub(crate) fn judge_failure(failure: &v1::Failure) -> Verdict {
    match &failure.detail {
        Some(detail) => judge_detail(detail, &failure.message),
        None => judge_code(Code::from_i32(failure.code), &failure.message, false),
    }
}

fn judge_detail(detail: &v1::ErrorDetail, message: &str) -> Verdict {
    let hint = detail.leader.as_ref().map(|peer| Hint { address: peer.address.clone() });
    let refusal = || Refusal {
        reason: detail.reason().into(),
        message: message.to_owned(),
        limit: detail.limit,
        undelivered: detail.undelivered,
    };
    match detail.reason() {
        v1::Reason::NotLeader | v1::Reason::NoLeader => Verdict::Elsewhere { hint, done: false },
        v1::Reason::UnknownOutcome => Verdict::Elsewhere { hint, done: true },
        v1::Reason::TooFewCopies | v1::Reason::Overloaded => Verdict::Later(refusal()),
        _ => Verdict::Refused(refusal()),
    }
}

/// Without a typed detail it did not come from a handler of ours: it is the transport, or a stranger.
fn judge_code(code: Code, message: &str, never_connected: bool) -> Verdict {
    match code {
        Code::Unimplemented
        | Code::InvalidArgument
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => Verdict::Refused(Refusal {
            reason: Reason::Other,
            message: if message.is_empty() { code.description().to_owned() } else { message.to_owned() },
            limit: None,
            undelivered: None,
        }),
        _ => Verdict::Elsewhere { hint: None, done: !never_connected },
    }
}

fn never_connected(status: &Status) -> bool {
    sources(status).any(|source| source.is::<tonic::ConnectError>())
}

/// The system's error that is at the bottom of this one.
pub(crate) fn system_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    sources(error).find_map(|source| source.downcast_ref())
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

/// One clause for people on why a replica could not be asked.
pub(crate) fn explain(status: &Status) -> String {
    let io = system_error(status);
    match io.map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => "connection reset".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "no answer to the connection attempt".to_owned(),
        Some(_) => io.map(ToString::to_string).unwrap_or_default(),
        None if never_connected(status) => "cannot be connected to".to_owned(),
        None if status.message().is_empty() => status.code().description().to_lowercase(),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: v1::Reason, leader: Option<&str>) -> Status {
        let leader = leader.map(|address| v1::Peer { id: 2, address: address.into() });
        let detail = v1::ErrorDetail { reason: reason.into(), leader, limit: Some(7), ..Default::default() };
        chat_proto::to_status(Code::FailedPrecondition, "said so", &detail)
    }

    #[test]
    fn a_status_is_judged_by_its_detail() {
        let hint = Some(Hint { address: "a:1".into() });
        assert_eq!(judge(&status(v1::Reason::NotLeader, Some("a:1"))), Verdict::Elsewhere { hint, done: false });
        assert_eq!(judge(&status(v1::Reason::NoLeader, None)), Verdict::Elsewhere { hint: None, done: false });
        assert_eq!(judge(&status(v1::Reason::UnknownOutcome, None)), Verdict::Elsewhere { hint: None, done: true });
        assert!(matches!(judge(&status(v1::Reason::Overloaded, None)), Verdict::Later(_)));
        assert!(matches!(judge(&status(v1::Reason::TooFewCopies, None)), Verdict::Later(_)));
        let Verdict::Refused(refusal) = judge(&status(v1::Reason::TextTooLarge, None)) else { panic!("not refused") };
        assert_eq!((refusal.reason, refusal.limit), (Reason::TextTooLarge, Some(7)));
    }

    #[test]
    fn the_transport_is_retried_and_a_stranger_is_not() {
        for code in [Code::Unavailable, Code::Cancelled, Code::Unknown, Code::Internal, Code::DeadlineExceeded] {
            let verdict = judge(&Status::new(code, "Timeout expired"));
            assert_eq!(verdict, Verdict::Elsewhere { hint: None, done: true }, "{code:?}");
        }
        assert!(matches!(judge(&Status::unimplemented("what?")), Verdict::Refused(_)));
    }

    #[test]
    fn no_leader_reads_as_one_sentence() {
        let tried = vec![Attempt { address: "a:1".into(), why: "connection refused".into() }];
        let error = Error::NoLeader { waiting_for: vec![2, 3], tried };
        let expected = "no leader within the deadline; the cluster waits for replica 2, 3 (a:1: connection refused)";
        assert_eq!(error.to_string(), expected);
    }
}
