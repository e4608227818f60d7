//! Every behaviour of three production replicas within bounds.
#[path = "exhaustive/bounds.rs"]
mod bounds;
#[path = "exhaustive/cluster.rs"]
mod cluster;
#[path = "exhaustive/host.rs"]
mod host;
#[path = "exhaustive/model.rs"]
mod model;
#[path = "exhaustive/network.rs"]
mod network;
#[path = "exhaustive/shared.rs"]
mod shared;
#[path = "exhaustive/truth.rs"]
mod truth;
#[path = "exhaustive/words.rs"]
mod words;

use bounds::{Bounds, Start};
use model::*;
use std::time::Duration;

#[test]
fn probe() {
    let get = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u8>().ok()).unwrap_or(0);
    let budget = bounds::Budget {
        crashes: get("CRASHES"),
        restarts: get("RESTARTS"),
        proposals: get("PROPOSALS"),
        pings: get("PINGS"),
        moments: get("MOMENTS"),
        quanta: get("QUANTA"),
        silences: get("SILENCES"),
        sleeps: get("SLEEPS"),
        losses: get("LOSSES"),
        doubles: get("DOUBLES"),
        overtakes: get("OVERTAKES"),
        cuts: get("CUTS"),
        heals: get("HEALS"),
        leaves: get("LEAVES"),
        damages: get("DAMAGES"),
    };
    let start = [Start::Three, Start::PairWithoutThird, Start::PairAndLearner, Start::Alone][get("START") as usize];
    let secs = std::env::var("SECS").ok().and_then(|v| v.parse().ok()).unwrap_or(30);
    let found = Search::new(
        Bounds::new("probe", start, budget, &[]),
        Limits { transitions: usize::MAX, time: Duration::from_secs(secs) },
    )
    .run();
    println!("{}\n{:?}", found.line(), found.reached);
    if let Some((_, path)) = &found.violation {
        println!("{path}");
    }
}
