//! All checkers at once.

use std::fmt;

use crate::complaint::{Complaint, Property, Verdict};
use crate::history::History;
use crate::places::Places;
use crate::requests::Requests;

/// What all checkers say of one history. Displays as a few lines for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Report {
    /// How much there was to judge.
    pub judged: Judged,
    /// What each checker says, in the order of [`Property::ALL`].
    pub verdicts: Vec<(Property, Verdict)>,
}

/// How much there was to judge: a checker that finds nothing to look at does not complain either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Calls.
    pub calls: usize,
    /// Those of them whose outcome nobody was told.
    pub unknown: usize,
    /// Messages that streams handed to applications.
    pub deliveries: usize,
    /// Replicas in the final state.
    pub replicas: usize,
    /// Messages in it, of all replicas together.
    pub kept: usize,
}

impl Report {
    /// Nobody complains.
    pub fn is_good(&self) -> bool {
        self.complaints().next().is_none()
    }

    /// All complaints.
    pub fn complaints(&self) -> impl Iterator<Item = &Complaint> {
        self.verdicts.iter().filter_map(|(_, verdict)| verdict.as_ref().err()).flatten()
    }

    /// Ends a test that must not go on.
    ///
    /// # Panics
    /// With the whole report, if there is a complaint.
    pub fn assert_good(&self) {
        assert!(self.is_good(), "{self}");
    }
}

/// Lets every checker look. If the history itself is broken, the others are not asked.
pub fn check_all(history: &History) -> Report {
    let mut verdicts = Vec::new();
    let requests = Requests::of(history);
    let places = Places::of(history, &requests);
    for property in Property::ALL {
        let verdict = match property {
            Property::WellFormed => crate::well_formed::check(history),
            Property::Linearizable => crate::linearizable::judge(history, &requests, &places),
            Property::Acknowledged => crate::acknowledged::judge(history, &requests),
            Property::Replicas => crate::replicas::check(history),
            Property::Gapless => crate::gapless::check(history),
            Property::ClientOrder => crate::client_order::judge(history, &requests, &places),
            Property::Duplicates => crate::duplicates::judge(history, &requests, &places),
            Property::Deletion => crate::deletion::judge(history, &requests),
        };
        let broken = property == Property::WellFormed && verdict.is_err();
        verdicts.push((property, verdict));
        if broken {
            break;
        }
    }
    Report { judged: Judged::of(history), verdicts }
}

impl Judged {
    fn of(history: &History) -> Self {
        let unknown = history.calls.iter().filter(|call| call.outcome == crate::Outcome::Unknown).count();
        let kept = history.finals.iter().flat_map(|replica| &replica.mailboxes).map(|mailbox| mailbox.messages.len());
        Judged {
            calls: history.calls.len(),
            unknown,
            deliveries: history.deliveries.len(),
            replicas: history.finals.len(),
            kept: kept.sum(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judged { calls, unknown, deliveries, replicas, kept } = self.judged;
        write!(f, "judged {calls} calls ({unknown} of unknown outcome), {deliveries} deliveries, ")?;
        write!(f, "{kept} messages at {replicas} replicas")?;
        for (property, verdict) in &self.verdicts {
            match verdict {
                Ok(()) => write!(f, "\n  so: {property}")?,
                Err(complaints) => {
                    write!(f, "\n  NOT so: {property}: {} complaints", complaints.len())?;
                    complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))?;
                }
            }
        }
        Ok(())
    }
}
