//! Many seeds, on all cores.

use crate::{replay, summary};
use chat_testkit::simulation::walk::{Outcome, Plan, walk};
use chat_testkit::simulation::{Broken, Violation};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Which seeds, or for how long.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("extent").required(true)))]
pub(crate) struct Flags {
    /// How many seeds.
    #[arg(long, value_name = "N", group = "extent", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// For how many minutes of real time.
    #[arg(long, value_name = "M", group = "extent", value_parser = minutes)]
    minutes: Option<f64>,
    /// The first seed; the others follow it.
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u64,
    /// Run each seed twice, and compare all that happened: nothing but the seed may decide anything.
    #[arg(long)]
    twice: bool,
    /// End with one line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// More than none, and no more than a century.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if minutes > 0.0 && minutes < 5e7 { Ok(minutes) } else { Err("it must be more than 0".to_owned()) }
}

/// What the workers share.
struct Shared {
    next: AtomicU64,
    end: u64,
    stop: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    runs: u64,
    excused: u64,
    total: Outcome,
    violation: Option<Violation>,
}

pub(crate) fn run(flags: &Flags) -> ExitCode {
    let began = Instant::now();
    let deadline = flags.minutes.map(|minutes| began + Duration::from_secs_f64(minutes * 60.0));
    let end = flags.seeds.map_or(u64::MAX, |seeds| flags.from.saturating_add(seeds));
    let (stop, interrupted): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
    stop_at_interrupt(stop.clone(), interrupted.clone());
    let shared = Shared { next: AtomicU64::new(flags.from), end, stop, interrupted, found: Mutex::default() };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(|| work(&shared, flags.twice))).collect();
        watch(&shared, deadline, began, || workers.iter().all(|worker| worker.is_finished()));
    });
    let interrupted = shared.interrupted.load(Ordering::Relaxed);
    let Found { runs, excused, total, violation } = shared.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(violation) = &violation {
        fail(violation, flags);
    }
    let (seconds, broken) = (began.elapsed().as_secs_f64(), violation.is_some());
    if flags.json {
        let mut line = summary::json(&total, runs, seconds, violation.map(|found| found.to_string()).as_deref());
        (line["excused"], line["interrupted"]) = (excused.into(), interrupted.into());
        say!("{line}");
    } else {
        let rate = runs as f64 / seconds;
        say!("{}", summary::text(&total, runs));
        say!("{seconds:.1} s on {cores} cores, {rate:.0} runs/s");
        say!("excused: {excused} (a disk that was damaged, wiped or rolled back is waited for, as it should be)");
        let early = if interrupted { "; interrupted" } else { "" };
        say!("{}{early}", if broken { "A PROMISE WAS BROKEN" } else { "no promise was broken" });
    }
    match (broken, interrupted) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(130),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// Ctrl-C ends the runs, with the summary so far.
fn stop_at_interrupt(stop: Arc<AtomicBool>, interrupted: Arc<AtomicBool>) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // Without it, Ctrl-C ends the process, as always.
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            interrupted.store(true, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
        }
    });
}

fn work(shared: &Shared, twice: bool) {
    while !shared.stop.load(Ordering::Relaxed) {
        let taken = shared.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            next.checked_add(1).filter(|_| next < shared.end)
        });
        let Ok(seed) = taken else { return };
        let result = once_or_twice(seed, twice);
        let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(outcome) => {
                found.runs += 1;
                found.excused += u64::from(outcome.excused);
                found.total.add(&outcome);
            }
            Err(violation) => {
                // Of those that were under way, the lowest seed: so that it is the same one each time, mostly.
                if found.violation.as_ref().is_none_or(|known| known.seed > violation.seed) {
                    found.violation = Some(violation);
                }
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn once_or_twice(seed: u64, twice: bool) -> Result<Outcome, Violation> {
    let outcome = walk(seed, false, &mut |_| {})?;
    if twice {
        let again = walk(seed, false, &mut |_| {})?;
        if again != outcome {
            let what = format!("{outcome:?}\nand then\n{again:?}");
            return Err(Violation { seed, at: 0, broken: Broken::Determinism, place: "the simulation".into(), what });
        }
    }
    Ok(outcome)
}

/// Shows how far the runs are, and ends them at the deadline.
fn watch(shared: &Shared, deadline: Option<Instant>, began: Instant, done: impl Fn() -> bool) {
    let live = std::io::stderr().is_terminal();
    let mut shown = began;
    while !done() {
        thread::sleep(Duration::from_millis(50));
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            shared.stop.store(true, Ordering::Relaxed);
        }
        let every = Duration::from_secs(if live { 1 } else { 30 });
        if shown.elapsed() >= every {
            shown = Instant::now();
            let found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
            let (runs, seconds) = (found.runs, began.elapsed().as_secs_f64());
            let line = format!(
                "{runs} runs, {:.0}/s, {} sends acknowledged",
                runs as f64 / seconds,
                found.total.acknowledged_sends
            );
            drop(found);
            let _ =
                if live { write!(std::io::stderr(), "\r{line}\x1b[K") } else { writeln!(std::io::stderr(), "{line}") };
        }
    }
    if live {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

/// The seed, all that it decides, its trace, and what to do with it.
fn fail(violation: &Violation, flags: &Flags) {
    let seed = violation.seed;
    if flags.json {
        eprintln!("{violation}");
    } else {
        let plan = Plan::of(seed);
        say!("{violation}\n\nseed {seed}\n{plan:#?}\n");
        if let Err(again) = replay::show(plan, 100) {
            say!("\n{again}\n");
        }
    }
    let again = match violation.broken {
        Broken::Determinism => format!("run --twice --seeds 1 --from {seed}"),
        _ => format!("replay {seed}"),
    };
    eprintln!("again: cargo run --release -p chat-testkit --bin chat-sim -- {again}");
    eprintln!("keep it, in tests/seeds.txt: {seed}  # {:?}", violation.broken);
}
