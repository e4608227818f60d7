//! The history says what the other checkers rely on.

use crate::complaint::Verdict;
use crate::history::History;

/// The history says what the other checkers rely on.
pub fn check(_history: &History) -> Verdict {
    Ok(())
}
