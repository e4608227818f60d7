//! What the search is worth: without a rule it finds what that rule prevents.

use super::bounds::{Budget, Start};
use super::model::{Limits, Search};
use super::searches::{NOTHING, narrow};
use chat_replica::protocol::{Rule, Rules};
use std::time::Duration;

/// A rule, and narrow bounds in which it is all that stands between the cluster and a loss.
/// `EXHAUSTIVE_SHOW=all` prints how.
const BITES: &[(Rule, Start, Budget)] = {
    use Start::*;
    &[
        (Rule::EveryMemberHolds, Three, Budget { crashes: 2, proposals: 1, ..NOTHING }),
        (Rule::OwnEntriesDurable, Alone, Budget { crashes: 1, torn: 1, restarts: 1, proposals: 1, ..NOTHING }),
        (Rule::MajorityForLive, PairAndLearner, Budget { crashes: 1, restarts: 1, ..NOTHING }),
        (Rule::HalfWithPrimary, PairWithoutThird, Budget { silences: 1, moments: 1, ..NOTHING }),
        (Rule::WaitForLeases, Three, Budget { cuts: 2, proposals: 1, ..NOTHING }),
        (Rule::LeaseBeforeRefusal, PairWithoutThird, Budget { silences: 1, crashes: 1, ..NOTHING }),
        (Rule::SuccessorsViewsNameMe, PairWithoutThird, Budget { silences: 1, crashes: 1, restarts: 1, ..NOTHING }),
        (Rule::GoodbyeForEver, PairWithoutThird, Budget { leaves: 1, crashes: 1, ..NOTHING }),
        (Rule::ImpairedHasNoVote, Alone, Budget { crashes: 1, restarts: 1, damages: 1, proposals: 1, ..NOTHING }),
    ]
};

/// The same, where it takes a longer search.
const SLOW_BITES: &[(Rule, Start, Budget)] = {
    use Start::*;
    &[
        (Rule::LeaseFromSending, PairWithoutThird, Budget { silences: 1, quanta: 1, pings: 1, crashes: 1, ..NOTHING }),
        (Rule::ReadUnderLeases, Three, Budget { cuts: 2, quanta: 1, proposals: 1, ..NOTHING }),
        (Rule::EveryViewInForce, PairAndLearner, Budget { crashes: 1, restarts: 1, ..NOTHING }),
    ]
};

#[test]
fn without_a_rule_the_search_finds_what_it_prevents() {
    super::only_tell_of_panics_elsewhere();
    let large = std::env::var("EXHAUSTIVE").is_ok_and(|size| size == "large");
    let slow = if large { SLOW_BITES } else { &[] };
    let shown = std::env::var("EXHAUSTIVE_SHOW").unwrap_or_default();
    let limits = Limits { transitions: 2_000_000, time: Duration::from_secs(600) };
    let mut missed = Vec::new();
    for (rule, start, budget) in BITES.iter().chain(slow) {
        let mut bounds = narrow("without a rule", *start, *budget);
        bounds.rules = Rules::without(&[*rule]);
        let found = Search::new(bounds, limits).run();
        match &found.violation {
            Some((name, way)) => {
                println!(
                    "without {rule:?}: not so: {name} ({} states, {:.1} s)",
                    found.states,
                    found.took.as_secs_f64()
                );
                if shown == "all" || shown == format!("{rule:?}") {
                    println!("{way}");
                }
            }
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "not noticed that these do not hold: {missed:?}");
}
