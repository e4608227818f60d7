//! One seed again, with all that it decides, and its trace.

use crate::summary;
use chat_testkit::simulation::Violation;
use chat_testkit::simulation::walk::Plan;
use std::process::ExitCode;

/// Which seed, and how much of it to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The seed.
    seed: u64,
    /// How many lines of the trace to show, its last ones, if a promise is broken.
    #[arg(long, default_value_t = 200)]
    lines: usize,
}

pub(crate) fn replay(flags: &Flags) -> ExitCode {
    let plan = Plan::of(flags.seed);
    say!("seed {}\n{plan:#?}", flags.seed);
    match show(plan, flags.lines) {
        Ok(()) => {
            say!("no promise was broken");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            say!("\n{violation}");
            ExitCode::FAILURE
        }
    }
}

/// Walks with a trace, and shows its end if a promise is broken.
pub(crate) fn show(mut plan: Plan, lines: usize) -> Result<(), Violation> {
    plan.settings.trace = true;
    let outcome = plan.walk(&mut |world| say!("{}\n\n{}", world.tail(lines), world.describe()))?;
    say!("{}", summary::text(&outcome, 1));
    say!("trace hash {:016x}", outcome.trace_hash);
    if outcome.excused {
        say!("excused: a disk that was damaged, wiped or rolled back is waited for, as it should be");
    }
    Ok(())
}
