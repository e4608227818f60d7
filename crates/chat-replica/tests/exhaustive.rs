//! Every behaviour of three production replicas, within bounds: which are in `searches`, what may happen in `cluster`, what must
//! hold in `model`.
//!
//! `EXHAUSTIVE=large cargo test --release -p chat-replica --test exhaustive -- --nocapture` takes wider bounds, up to
//! `EXHAUSTIVE_SECONDS` (300) each, and `EXHAUSTIVE_ONLY=words` those of whose names these are part. A violation prints a shortest way to it.
//!
//! What is left out: two inputs in one turn and a damaged disk of a living process (the random walks have both), and a
//! fork that hides behind two states of one 64-bit fingerprint.

#[path = "exhaustive/bounds.rs"]
mod bounds;
#[path = "exhaustive/cluster.rs"]
mod cluster;
#[path = "exhaustive/disk.rs"]
mod disk;
#[path = "exhaustive/host.rs"]
mod host;
#[path = "exhaustive/model.rs"]
mod model;
#[path = "exhaustive/network.rs"]
mod network;
#[path = "exhaustive/searches.rs"]
mod searches;
#[path = "exhaustive/shared.rs"]
mod shared;
#[cfg(feature = "weakened")]
#[path = "exhaustive/teeth.rs"]
mod teeth;
#[path = "exhaustive/truth.rs"]
mod truth;
#[path = "exhaustive/words.rs"]
mod words;

use model::{Limits, Search};
use std::time::Duration;

/// Panics of the code under search are found and told as violations.
fn only_tell_of_panics_elsewhere() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !std::thread::current().name().is_some_and(|name| name.starts_with("checker-")) {
                usual(info);
            }
        }));
    });
}

#[test]
fn nothing_is_lost_whatever_happens_within_these_bounds() {
    only_tell_of_panics_elsewhere();
    let large = std::env::var("EXHAUSTIVE").is_ok_and(|size| size == "large");
    let only = std::env::var("EXHAUSTIVE_ONLY").unwrap_or_default();
    let seconds = std::env::var("EXHAUSTIVE_SECONDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    // The small ones are known to end; there the limit only keeps a change that makes one endless from filling the memory.
    let limits = Limits { transitions: if large { usize::MAX } else { 2_000_000 }, time: Duration::from_secs(seconds) };
    let searches = if large { searches::LARGE } else { searches::SMALL };
    println!(
        "| search | bounds | states | transitions | depth | seen | seconds |\n| --- | --- | ---: | ---: | ---: | --- | ---: |"
    );
    for bounds in searches.iter().filter(|bounds| bounds.name.contains(&only)) {
        let found = Search::new(*bounds, limits).run();
        println!("{}", found.line());
        if let Some((name, way)) = &found.violation {
            panic!("{}: NOT SO: {name}\n{way}", bounds.name);
        }
        assert!(large || found.exhausted, "{} did not come to its end", bounds.name);
        let unseen = found.unseen();
        assert!(large && !found.exhausted || unseen.is_empty(), "{} never saw {unseen:?}", bounds.name);
    }
}
