//! How a command ends, and what that is to the shell.

use std::{io, process::ExitCode};

use chat_client::{Error, Reason};

use super::output::one_line;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service, or the way to it.
    Client(Error),
    /// Asked wrongly. One sentence.
    Usage(String),
    /// This machine: standard input, a file. One sentence.
    Local(String),
    /// Said already.
    Told(u8),
    /// Whoever read the output has gone.
    Unread,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

/// For output: every other I/O has a sentence of its own.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Local(format!("the output cannot be written: {error}")),
        }
    }
}

/// The exit code for an error of the client library.
pub(super) fn code_of(error: &Error) -> u8 {
    match error {
        Error::Usage(_) => 2,
        Error::NoLeader { .. } | Error::Unknown { .. } => 3,
        // Refused, and whatever a later version of the library adds.
        _ => 1,
    }
}

/// Says on standard error why `program` failed, if there is something to say, and gives the exit code.
pub(super) fn conclude(program: &str, result: Result<(), Failure>) -> ExitCode {
    let (code, message) = match result {
        Ok(()) | Err(Failure::Unread) => return ExitCode::SUCCESS,
        Err(Failure::Told(code)) => return ExitCode::from(code),
        Err(Failure::Client(error)) if error.reason() == Some(Reason::SessionInvalid) => {
            (code_of(&error), format!("{error}; open a new session with `chat login`"))
        }
        Err(Failure::Client(error)) => (code_of(&error), error.to_string()),
        Err(Failure::Usage(message)) => (2, message),
        Err(Failure::Local(message)) => (1, message),
    };
    complain(program, &message);
    ExitCode::from(code)
}

/// One line on standard error. That nobody reads it is no reason to fail.
pub(super) fn complain(program: &str, message: &str) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "{program}: {}", one_line(message));
}
