//! Random walks of replicas and their clients through crashes, cuts, pauses, full and failing disks and slow networks.
//!
//! `chat-sim` runs more of them; a failure here prints its seed, the end of its trace, and how to run it again.

use chat_testkit::simulation::SECOND;
use chat_testkit::simulation::walk::{Outcome, Plan, walk};

/// The first seed of the range that is run each time, and how many.
const FIRST: u64 = 1_000_000;
const WALKS: u64 = 250;

/// Walks once, and says how to see a failure again.
fn run(seed: u64, why: &str) -> Outcome {
    walk(seed, false, &mut |_| {}).unwrap_or_else(|violation| {
        let mut plan = Plan::of(seed);
        plan.settings.trace = true;
        println!("seed {seed} {why}\n{plan:#?}");
        let again = plan.walk(&mut |world| println!("{}\n\n{}", world.tail(150), world.describe()));
        println!("again: cargo run --release -p chat-testkit --bin chat-sim -- replay {seed}");
        println!("keep it, in tests/seeds.txt: {seed}  # {:?}", violation.broken);
        assert_eq!(again.as_ref().err(), Some(&violation), "with a trace it is the same");
        panic!("{violation}");
    })
}

/// `SEED  # what it found`, without lines that are only comments.
fn kept_seeds() -> Vec<(u64, &'static str)> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let (seed, found) = line.split_once('#').unwrap_or_else(|| panic!("{line:?} does not say what it found"));
        (seed.trim().parse().unwrap_or_else(|error| panic!("{line:?}: {error}")), found.trim())
    });
    parsed.collect()
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    let seeds = kept_seeds();
    assert!(!seeds.is_empty(), "tests/seeds.txt is there to be run");
    for (seed, found) in seeds {
        run(seed, found);
    }
}

#[test]
fn random_walks_lose_nothing_and_end_well() {
    let (mut total, mut excused) = (Outcome::default(), 0);
    for seed in FIRST..FIRST + WALKS {
        let outcome = run(seed, "is new");
        excused += u64::from(outcome.excused);
        total.add(&outcome);
    }
    println!(
        "{WALKS} walks, {excused} excused: {} simulated s, {} events, {} commits, {} sends acknowledged, {} crashes",
        total.simulated / SECOND,
        total.handled,
        total.commits,
        total.acknowledged_sends,
        total.crashes
    );
    // Walks in which nothing happens would prove nothing.
    assert!(
        total.acknowledged_sends > 10 * WALKS && total.crashes > WALKS && total.reads_answered > WALKS,
        "{total:?}"
    );
    assert!(excused * 20 < WALKS, "{excused} of {WALKS} are excused from making progress");
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in FIRST..FIRST + 20 {
        let (first, again) = (run(seed, "once"), run(seed, "again"));
        assert_eq!(first, again, "seed {seed}");
    }
    let different = (FIRST..FIRST + 20).map(|seed| run(seed, "once more").trace_hash);
    let different: std::collections::BTreeSet<u64> = different.collect();
    assert_eq!(different.len(), 20, "different seeds do different things");
}
