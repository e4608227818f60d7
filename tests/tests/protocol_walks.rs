//! Random walks of the replication protocol through crashes, cuts, pauses, slow disks and slow networks.
//!
//! `WALKS=100000 SEED=1 cargo test --release -p chat-testkit --test protocol_walks` for a long run; a failure prints its
//! seed and the end of its trace, and `SEED=that WALKS=1` shows it again.

use chat_testkit::simulation::SECOND;
use chat_testkit::simulation::walk::{Outcome, walk};

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn random_walks_lose_nothing_and_end_well() {
    let first = from_environment("SEED").unwrap_or(1);
    let walks = from_environment("WALKS").unwrap_or(600);
    let lines = from_environment("LINES").unwrap_or(150) as usize;
    println!("SEED={first} WALKS={walks}");
    let keep_going = std::env::var("KEEP_GOING").is_ok();
    let (mut total, mut excused, mut failed) = (Outcome::default(), 0, 0);
    std::panic::set_hook(Box::new(|info| println!("{info}")));
    for seed in first..first + walks {
        let result = std::panic::catch_unwind(|| walk(seed, false, &mut |_| println!("FAILED: SEED={seed}")));
        let Ok(outcome) = result else {
            failed += 1;
            if keep_going {
                continue;
            }
            // Once more, the same, with a trace.
            walk(seed, true, &mut |world| println!("{}\n{}", world.tail(lines), world.describe()));
            panic!("seed {seed} fails only without a trace");
        };
        total.simulated += outcome.simulated;
        total.handled += outcome.handled;
        total.commits += outcome.commits;
        total.acknowledgements += outcome.acknowledgements;
        total.reads += outcome.reads;
        excused += u64::from(outcome.excused);
    }
    println!(
        "{walks} walks, {failed} failed, {excused} excused: {} simulated s, {} events, {} commits, {} acknowledged, {} reads",
        total.simulated / SECOND,
        total.handled,
        total.commits,
        total.acknowledgements,
        total.reads
    );
    assert_eq!(failed, 0, "walks failed");
}
