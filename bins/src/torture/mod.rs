//! `chat-torture`: three replicas, each the real `chatd` on a real file system, to which everything happens that may happen to
//! replicas; clients that write, listen and read; and a judge of what they saw.
//!
//! ```text
//! plan          steps: what is done to whom; a seed decides
//! stage         carries them out, mends what they broke, and demands that somebody is answered then
//!   surroundings   a disk that can be full, clocks that can be wrong, file handles that run out
//! load          clients       ──▶ record    what they saw, as a history of chat-check
//!   pulse          when somebody was last answered
//! judge         brings a round to rest; looks into the three databases; asks the checkers
//! figures       the table
//! ```
//!
//! A run is made of rounds, each on a new cluster: so memory, disks and the time of a start stay bounded.

mod figures;
mod judge;
mod load;
mod plan;
mod pulse;
mod record;
mod stage;
mod surroundings;

use crate::demo::{Folder, interrupted};
use crate::processes::{Broken, Cluster, run_if_replica};
use crate::usage;
use chat_replica::failpoint;
use clap::{Parser, ValueEnum as _};
use figures::Figures;
use load::Load;
use plan::{Kind, Plan, Step};
use pulse::Pulse;
use stage::{ON_SMALL_DISK, Stage};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use surroundings::{Clocks, SmallDisk};
use tokio::time::interval;

/// A round ends after this, or after so many messages: so much is kept in memory.
const ROUND: Duration = Duration::from_secs(100);
const ROUND_MESSAGES: u64 = 120_000;
/// Between two lines on standard error.
const LINES: Duration = Duration::from_secs(5);
/// Instead of a step that cannot be taken.
const IDLE: Duration = Duration::from_millis(20);
/// How long a process that is to end at a point is waited for; on a tour it must.
const WAITING: Duration = Duration::from_secs(3);
const WAITING_ON_TOUR: Duration = Duration::from_secs(15);
/// How often a step is taken again on a tour, until its point was passed.
const ATTEMPTS: usize = 4;

/// Three replicas that are killed, stopped, starved and filled up while clients write; and a judge of what clients saw.
#[derive(Debug, Parser)]
#[command(name = "chat-torture", version, after_help = NOTES)]
struct Arguments {
    /// How long; the last round is brought to rest after that
    #[arg(long, value_name = "N", default_value_t = 1.0, conflicts_with = "tour", value_parser = minutes)]
    minutes: f64,
    /// Each fault once, every order of going down, and every named point, instead of by time
    #[arg(long)]
    tour: bool,
    /// Decides what happens to whom
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,…")]
    faults: Vec<Kind>,
    /// Messages in a second, about, while somebody is answered
    #[arg(long, value_name = "N", default_value_t = 1500)]
    rate: u32,
    /// Data and logs go there, and stay
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Figures as one JSON object
    #[arg(long)]
    json: bool,
}

/// More than none, and no more than a century.
fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if minutes > 0.0 && minutes < 5e7 { Ok(minutes) } else { Err("it must be more than 0".to_owned()) }
}

const NOTES: &str = "Exit codes: 0 every promise was kept, 1 one was not, or nothing could be judged, 2 usage, \
    130 interrupted: the rounds before were judged, the one that was under way was not.\n\
    A full disk needs the right to mount; clocks need libfaketime; named points need a build with --features failpoints. \
    What cannot be done is said to be skipped.";

/// Runs `chat-torture` with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(code) = run_if_replica() {
        return code;
    }
    let arguments: Arguments = match usage::parse("chat-torture", std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    surroundings::no_dumps();
    // Replicas are started by this thread, and end with it.
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chat-torture: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(&arguments));
    runtime.shutdown_background();
    code
}

async fn run(arguments: &Arguments) -> ExitCode {
    let seed = arguments.seed.unwrap_or_else(|| rand::random_range(0..1_000_000));
    eprintln!("chat-torture: --seed {seed}");
    let folder = match Folder::new("chat-torture-", arguments.keep.as_deref()) {
        Ok(folder) => folder,
        Err(broken) => {
            eprintln!("chat-torture: {broken}");
            return ExitCode::FAILURE;
        }
    };
    let mut run = Run::new(arguments, seed, folder.path());
    let figures = run.figures.clone();
    let ended = tokio::select! {
        ended = run.go_on() => Some(ended),
        () = interrupted() => None,
    };
    figures.lock().unwrap_or_else(PoisonError::into_inner).acknowledged = run.pulse.acknowledged();
    drop(run);
    let failed = matches!(ended, Some(Err(_)));
    let kept = folder.conclude(failed || arguments.keep.is_some());
    let judged = figures.lock().unwrap_or_else(PoisonError::into_inner).rounds > 0;
    let (verdict, why) = match &ended {
        Some(Ok(())) if !judged => ("NOTHING WAS JUDGED", "no round came to its end".to_owned()),
        Some(Ok(())) => ("PASS", "every promise was kept".to_owned()),
        Some(Err(broken)) => ("FAIL", broken.to_string()),
        None => ("ENDED", "interrupted; the round that was under way was not judged".to_owned()),
    };
    let kept = kept.map(|folder| folder.display().to_string());
    let figures = figures.lock().unwrap_or_else(PoisonError::into_inner);
    if arguments.json {
        let mut line = figures.json();
        (line["verdict"], line["why"], line["seed"], line["kept"]) =
            (verdict.into(), why.into(), seed.into(), kept.into());
        println!("{line}");
    } else {
        let kept = kept
            .map(|folder| format!("\ndata and logs, and the history of a round that failed, are kept in {folder}"))
            .unwrap_or_default();
        println!("{}\n{verdict}: {why} (--seed {seed}){kept}", figures.table());
    }
    match ended {
        Some(Ok(())) if judged => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::from(130),
    }
}

struct Run {
    folder: PathBuf,
    rate: u32,
    /// Some faults were asked for by name, and need a small disk or clocks.
    wants_special: bool,
    keep: bool,
    begun: Instant,
    /// `None` on a tour.
    until: Option<Instant>,
    plan: Plan,
    tour: VecDeque<Step>,
    pulse: Arc<Pulse>,
    figures: Arc<Mutex<Figures>>,
}

impl Run {
    fn new(arguments: &Arguments, seed: u64, folder: &Path) -> Run {
        let all = arguments.faults.is_empty();
        let mut kinds: Vec<Kind> =
            Kind::value_variants().iter().copied().filter(|kind| all || arguments.faults.contains(kind)).collect();
        let mut figures = Figures::default();
        if !failpoint::COMPILED {
            kinds.retain(|kind| *kind != Kind::Point);
            figures.skip("point", "this chatd was built without --features failpoints".to_owned());
        }
        let mut plan = Plan::new(&kinds, seed);
        let (tour, until) = if arguments.tour {
            (plan.tour(), None)
        } else {
            (VecDeque::new(), Some(Instant::now() + Duration::from_secs_f64(arguments.minutes * 60.0)))
        };
        Run {
            folder: folder.to_path_buf(),
            rate: arguments.rate,
            wants_special: arguments.faults.iter().any(|kind| matches!(kind, Kind::Full | Kind::Clock)),
            keep: arguments.keep.is_some(),
            begun: Instant::now(),
            until,
            plan,
            tour,
            pulse: Arc::new(Pulse::new()),
            figures: Arc::new(Mutex::new(figures)),
        }
    }

    fn left(&self) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn next(&mut self) -> Option<Step> {
        if self.until.is_none() {
            return self.tour.pop_front();
        }
        let left = self.left();
        (!left.is_zero()).then(|| self.plan.step(left))
    }

    /// Round after round.
    async fn go_on(&mut self) -> Result<(), Broken> {
        let (figures, pulse, begun) = (self.figures.clone(), self.pulse.clone(), self.begun);
        let mut lines = tokio::task::JoinSet::new();
        lines.spawn(async move {
            let mut pace = interval(LINES);
            loop {
                pace.tick().await;
                let line =
                    figures.lock().unwrap_or_else(PoisonError::into_inner).line(begun.elapsed(), pulse.acknowledged());
                eprintln!("{line}");
            }
        });
        let mut number = 0;
        while !self.left().is_zero() || !self.tour.is_empty() {
            number += 1;
            let folder = self.folder.join(format!("round-{number}"));
            let mut stage = self.raise(&folder).await.map_err(|broken| broken.at(&format!("round {number}")))?;
            if let Err(broken) = self.round(&mut stage, &folder).await {
                judge::save(&stage.load.record().open(), &folder);
                if stage.disk.is_some() {
                    // It is about to go.
                    let (from, to) = (folder.join(ON_SMALL_DISK.to_string()), folder.join("3-as-it-was"));
                    let _ = std::process::Command::new("cp").arg("-a").args([from, to]).status();
                }
                return Err(broken.at(&format!("round {number}")));
            }
            drop(stage);
            if !self.keep {
                let _ = std::fs::remove_dir_all(&folder);
            }
        }
        Ok(())
    }

    /// A new cluster with its clients, in surroundings as this round has them.
    async fn raise(&mut self, folder: &Path) -> Result<Stage, Broken> {
        let figures = self.figures.clone();
        let skip = |what: &str, why| figures.lock().unwrap_or_else(PoisonError::into_inner).skip(what, why);
        // Else they would not live through more than the first start on it; and half of the rounds are on real disks only.
        let seed = self.plan.seed();
        let special = self.until.is_none() || self.wants_special || seed.is_multiple_of(2);
        let mut cluster = Cluster::new(folder, 3, &[], None)?;
        let small = folder.join(ON_SMALL_DISK.to_string());
        let disk = if special { SmallDisk::mount(&small).map_err(|why| skip("full", why)).ok() } else { None };
        let clocks = if special { Clocks::find(folder).map_err(|why| skip("clock", why)).ok() } else { None };
        if let Some(clocks) = &clocks {
            for id in cluster.ids() {
                clocks.set(id, 0)?;
                cluster.replica(id)?.surround(clocks.environment(id));
            }
        }
        cluster.up().await?;
        let load = Load::begin(&cluster.servers(), seed, self.rate, self.pulse.clone()).await?;
        let waiting = if self.until.is_none() { WAITING_ON_TOUR } else { WAITING };
        Ok(Stage { load, cluster, disk, clocks, pulse: self.pulse.clone(), figures: self.figures.clone(), waiting })
    }

    /// Steps until it is time; then everything comes to rest and is judged.
    async fn round(&mut self, stage: &mut Stage, folder: &Path) -> Result<(), Broken> {
        let (begun, before) = (Instant::now(), self.pulse.acknowledged());
        let mut trace = Trace::open(folder);
        let most = ROUND_MESSAGES + before;
        while self.until.is_none() || (begun.elapsed() < ROUND && self.pulse.acknowledged() < most) {
            let Some(step) = self.next() else { break };
            if stage.can(&step) {
                trace.say(&step);
                self.take(stage, &step).await.map_err(|broken| broken.at(&format!("{step:?}")))?;
            } else {
                // Perhaps none can be taken here: then the clients have it to themselves.
                tokio::time::sleep(IDLE).await;
            }
        }
        judge::rest(&mut stage.cluster, &mut stage.load).await.map_err(|broken| broken.at("coming to rest"))?;
        let report = judge::judge(&stage.load, folder.to_path_buf()).await?;
        let mut figures = stage.figures();
        figures.rounds += 1;
        figures.judged(&report);
        if report.is_good() { Ok(()) } else { Err(Broken(report.to_string())) }
    }

    /// One step. On a tour it is taken until its point was passed.
    async fn take(&self, stage: &mut Stage, step: &Step) -> Result<(), Broken> {
        let point = match step {
            Step::Point { point, .. } if self.until.is_none() => *point,
            Step::Overtaken if self.until.is_none() => failpoint::Point::CuttingBack,
            _ => return stage.take(step).await,
        };
        for _ in 0..ATTEMPTS {
            stage.take(step).await?;
            if stage.figures().hits(point.name()) > 0 {
                return Ok(());
            }
        }
        Err(Broken(format!("no process came to the point {}", point.name())))
    }
}

/// What is done, in the round's folder: for whoever wants to know why it failed.
struct Trace(Option<std::fs::File>);

impl Trace {
    fn open(folder: &Path) -> Trace {
        Trace(std::fs::File::create(folder.join("steps.log")).ok())
    }

    fn say(&mut self, step: &Step) {
        use std::io::Write as _;
        if let Some(file) = &mut self.0 {
            let _ = writeln!(file, "{} {step:?}", jiff::Timestamp::now());
        }
    }
}
