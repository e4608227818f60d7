//! The bounds that are searched.

use super::bounds::{Bounds, Budget, Start};
use super::model::*;

/// Nothing may happen but that messages arrive.
const CALM: Budget = Budget {
    crashes: 0,
    torn: 0,
    restarts: 0,
    proposals: 0,
    pings: 0,
    moments: 0,
    quanta: 0,
    silences: 0,
    sleeps: 0,
    losses: 0,
    doubles: 0,
    overtakes: 0,
    cuts: 0,
    heals: 0,
    leaves: 0,
    damages: 0,
};

/// For everybody's test run: they come to their end in seconds.
pub const SMALL: &[Bounds] = &[
    Bounds::new(
        "two crashes",
        Start::Three,
        Budget { crashes: 2, torn: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, PROVED, LEASED_READ],
    ),
    Bounds::new(
        "a crash in a network that loses, doubles and reorders",
        Start::Three,
        Budget { crashes: 1, torn: 1, proposals: 1, losses: 1, doubles: 1, overtakes: 1, ..CALM },
        &[],
    ),
    Bounds::new(
        "a pair that lost touch, and a crash",
        Start::PairWithoutThird,
        Budget { crashes: 1, torn: 1, silences: 1, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "a link cut one way, leases end, a crash",
        Start::Three,
        Budget { cuts: 1, quanta: 1, crashes: 1, ..CALM },
        &[VIEW_CHANGED, MAJORITY],
    ),
    Bounds::new(
        "one of a pair leaves, one crashes",
        Start::PairWithoutThird,
        Budget { leaves: 1, crashes: 1, torn: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "the last survivor is damaged and starts again",
        Start::Alone,
        Budget { crashes: 1, torn: 1, restarts: 1, damages: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, MAJORITY],
    ),
    Bounds::new(
        "a learner while the view changes",
        Start::PairAndLearner,
        Budget { crashes: 1, ..CALM },
        &[VIEW_CHANGED, LEARNER, PROVED],
    ),
];

/// For who has the time.
pub const LARGE: &[Bounds] = &[
    Bounds::new(
        "a pair that lost touch, a torn crash, an entry",
        Start::PairWithoutThird,
        Budget { crashes: 1, torn: 1, proposals: 1, silences: 1, moments: 1, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "a pair, a link cut one way, leases end",
        Start::PairWithoutThird,
        Budget { cuts: 1, quanta: 1, proposals: 1, ..CALM },
        &[],
    ),
    Bounds::new(
        "two torn crashes, two entries",
        Start::Three,
        Budget { crashes: 2, torn: 2, proposals: 2, moments: 1, ..CALM },
        &[VIEW_CHANGED, PROVED, LEASED_READ],
    ),
    Bounds::new(
        "a crash in a worse network",
        Start::Three,
        Budget { crashes: 1, torn: 1, proposals: 2, losses: 2, doubles: 1, overtakes: 1, ..CALM },
        &[],
    ),
    Bounds::new(
        "a pair that lost touch; a crash and a restart",
        Start::PairWithoutThird,
        Budget { crashes: 1, restarts: 1, silences: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, PROVED, LEARNER],
    ),
    Bounds::new(
        "a pair, slow answers to pings",
        Start::PairWithoutThird,
        Budget { crashes: 1, silences: 1, quanta: 1, pings: 1, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "both that were left out start again",
        Start::Alone,
        Budget { restarts: 2, ..CALM },
        &[VIEW_CHANGED, LEARNER],
    ),
    Bounds::new(
        "three, two links cut one way, leases end",
        Start::Three,
        Budget { cuts: 2, quanta: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, MAJORITY],
    ),
    Bounds::new(
        "three lose touch, two crash",
        Start::Three,
        Budget { silences: 1, pings: 1, crashes: 2, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "a torn crash and a restart",
        Start::Three,
        Budget { crashes: 1, torn: 1, restarts: 1, ..CALM },
        &[VIEW_CHANGED],
    ),
    Bounds::new(
        "two crashes, a restart, an entry",
        Start::Three,
        Budget { crashes: 2, restarts: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, PROVED],
    ),
    Bounds::new(
        "a learner while the view changes, a torn crash, an entry",
        Start::PairAndLearner,
        Budget { crashes: 1, torn: 1, proposals: 1, ..CALM },
        &[VIEW_CHANGED, LEARNER],
    ),
];

/// Bounds for one fault each, in which its remedy matters.
#[cfg(feature = "weakened")]
pub const fn narrow(name: &'static str, start: Start, budget: Budget) -> Bounds {
    Bounds::new(name, start, budget, &[])
}

#[cfg(feature = "weakened")]
pub const NOTHING: Budget = CALM;
