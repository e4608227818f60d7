//! Where the database has no record of a request, as far as looks have shown it: most new requests need none.
//!
//! Keys begin with the time, so new ones are above all others: one range without an end. Where a client's clock is ahead, there is another one, between
//! the newest of all others and the oldest of its.

use super::Place;
use std::collections::BTreeMap;

/// So many are remembered. Those between records of the past, where somebody's clock is late, come and go; those that are used stay.
const GAPS: usize = 8;

/// Nothing is between these two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Gap {
    pub after: Place,
    /// `None`: there is no end.
    pub before: Option<Place>,
}

impl Gap {
    fn has(&self, place: Place) -> bool {
        self.after < place && self.before.is_none_or(|before| place < before)
    }
}

/// The last used first.
#[derive(Debug, Default)]
pub(in crate::storage) struct Gaps(Vec<Gap>);

impl Gaps {
    /// Whether the database is known to have no record there.
    pub fn have(&mut self, place: Place) -> bool {
        let Some(at) = self.0.iter().position(|gap| gap.has(place)) else { return false };
        self.0[..=at].rotate_right(1);
        true
    }

    /// A look has found this one around a place. The database will have what is `leaving` for it, if it does not yet.
    pub fn found<T>(&mut self, place: Place, mut gap: Gap, leaving: Option<&BTreeMap<Place, T>>) {
        if let Some(leaving) = leaving {
            let (below, above) = (leaving.range(..place).next_back(), leaving.range(place..).next());
            gap.after = below.map_or(gap.after, |(below, _)| gap.after.max(*below));
            gap.before = gap.before.into_iter().chain(above.map(|(above, _)| *above)).min();
        }
        self.0.truncate(GAPS - 1);
        self.0.insert(0, gap);
    }

    /// The database will have these records. What is left of each is above them: new keys are higher than the ones before.
    pub fn fill<T>(&mut self, records: &BTreeMap<Place, T>) {
        for gap in &mut self.0 {
            let highest = match gap.before {
                Some(before) => records.range(..before).next_back(),
                None => records.last_key_value(),
            };
            gap.after = highest.map_or(gap.after, |(highest, _)| gap.after.max(*highest));
        }
    }
}
