//! The search: what must always hold, and what must be seen at least once.

use super::bounds::Bounds;
use super::cluster::{Action, Run, State, What};
use super::host::N;
use super::truth::Broken;
use super::words;
use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How much a search may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub transitions: usize,
    pub time: Duration,
}

/// What a search is made of.
#[derive(Clone)]
pub struct Search {
    pub bounds: Bounds,
    start: State,
    limits: Limits,
    began: Instant,
    transitions: Arc<AtomicUsize>,
    cut_short: Arc<AtomicBool>,
}

/// What came of it.
pub struct Found {
    pub bounds: Bounds,
    pub states: usize,
    pub transitions: usize,
    pub depth: usize,
    /// Whether there is no state within the bounds that was not seen.
    pub exhausted: bool,
    pub took: Duration,
    /// What must never be, and how it came about, in words.
    pub violation: Option<(&'static str, String)>,
    /// What was to be seen, and was.
    pub reached: BTreeSet<&'static str>,
}

pub const VIEW_CHANGED: &str = "a view change commits";
pub const VIEW_UNDONE: &str = "a view is proposed that never commits";
pub const PROVED: &str = "a takeover on the proof of a refusal";
pub const MAJORITY: &str = "a takeover by majority";
pub const LEARNER: &str = "a learner is taken in";
pub const LEASED_READ: &str = "a read under leases after a change of the view";

const ONE_HISTORY: &str = "no two replicas commit different entries at one index";
const NOTHING_LOST: &str = "what was committed is in every later primary's log";
const ONE_PRIMARY: &str = "no two primaries commit in one epoch";
const NO_STALE_READ: &str = "a replica that may read has all that was acknowledged";
const NO_FALSE_PROOF: &str = "nobody who is alive is proven crashed";
const CONSISTENT: &str = "no replica and no disk finds what it must not";

impl Model for Search {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.truth.broken.is_some() {
            return;
        }
        let mut all = Vec::new();
        state.possible(&mut all);
        for what in all {
            actions.push(Action { what, crash: None });
            // Crashes in the middle. After its last effect a process may as well crash at rest.
            if state.left.crashes.min(state.left.torn) == 0 || matches!(what, What::Crash { .. }) {
                continue;
            }
            let effects = Run::effects(&self.bounds, state, what);
            for (at, effects) in effects.into_iter().enumerate() {
                actions.extend((1..effects).map(|after| Action { what, crash: Some((at, after)) }));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        Run::next(&self.bounds, state, action)
    }

    fn format_action(&self, action: &Action) -> String {
        words::action(&self.start, action)
    }

    fn properties(&self) -> Vec<Property<Search>> {
        fn broken(state: &State) -> Option<&Broken> {
            state.truth.broken.as_ref()
        }
        vec![
            Property::always(ONE_HISTORY, |_, state| !matches!(broken(state), Some(Broken::Fork(_)))),
            Property::always(ONE_PRIMARY, |_, state| !matches!(broken(state), Some(Broken::TwoPrimaries(_)))),
            Property::always(CONSISTENT, |_, state| !matches!(broken(state), Some(Broken::Fatal(_)))),
            Property::always(NO_FALSE_PROOF, |_, state| !matches!(broken(state), Some(Broken::FalseProof(_)))),
            Property::always(NOTHING_LOST, |_, state| nothing_lost(state)),
            Property::always(NO_STALE_READ, |search, state| no_stale_read(&search.bounds, state)),
            Property::sometimes(VIEW_CHANGED, |_, state: &State| state.truth.view_changed),
            Property::sometimes(VIEW_UNDONE, |_, state: &State| state.truth.view_undone),
            Property::sometimes(LEARNER, |_, state: &State| state.truth.learner_taken_in),
            Property::sometimes(PROVED, |_, state: &State| state.truth.takeover_on_proof),
            Property::sometimes(MAJORITY, |_, state: &State| state.truth.takeover_by_majority),
            Property::sometimes(LEASED_READ, |search, state: &State| {
                state.truth.view_changed && (0..N).any(|at| may_read(&search.bounds, state, at))
            }),
        ]
    }

    fn within_boundary(&self, _: &State) -> bool {
        let so_far = self.transitions.fetch_add(1, Ordering::Relaxed);
        if so_far >= self.limits.transitions || so_far.is_multiple_of(256) && self.began.elapsed() >= self.limits.time {
            self.cut_short.store(true, Ordering::Relaxed);
        }
        !self.cut_short.load(Ordering::Relaxed)
    }
}

/// Every primary that serves has in its log what primaries of earlier epochs have committed.
fn nothing_lost(state: &State) -> bool {
    state.hosts.iter().all(|host| {
        let serving = host.process.as_ref().and_then(|process| process.replica.serving());
        serving.is_none_or(|epoch| state.truth.is_in(&host.disk.log, epoch))
    })
}

/// Rule 11, by a clock that is read now.
fn may_read(bounds: &Bounds, state: &State, at: usize) -> bool {
    let until = state.process(at).and_then(|process| process.replica.lease_until());
    until.is_some_and(|until| until > state.clock(bounds, at))
}

fn no_stale_read(bounds: &Bounds, state: &State) -> bool {
    (0..N)
        .filter(|at| may_read(bounds, state, *at))
        .all(|at| state.process(at).is_some_and(|process| process.replica.committed() >= state.truth.acknowledged))
}

impl Search {
    pub fn new(bounds: Bounds, limits: Limits) -> Search {
        Search {
            start: State::start(&bounds),
            bounds,
            limits,
            began: Instant::now(),
            transitions: Arc::default(),
            cut_short: Arc::default(),
        }
    }

    /// Breadth first, so what goes wrong is shown by a shortest trace.
    pub fn run(self) -> Found {
        let (bounds, began, cut_short) = (self.bounds, self.began, self.cut_short.clone());
        let threads = std::env::var("EXHAUSTIVE_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        let checker = self.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let discoveries = checker.discoveries();
        let failed = checker.model().properties().into_iter().filter(|p| p.expectation.discovery_is_failure());
        let failed: Vec<&'static str> = failed.map(|p| p.name).filter(|name| discoveries.contains_key(name)).collect();
        let shortest = failed.iter().min_by_key(|name| discoveries[*name].clone().into_actions().len()).copied();
        let violation = shortest.map(|name| (name, words::path(checker.model(), discoveries[name].clone())));
        let reached = discoveries.keys().copied().filter(|name| !failed.contains(name)).collect();
        Found {
            bounds,
            states: checker.unique_state_count(),
            transitions: checker.state_count(),
            depth: checker.max_depth().saturating_sub(1),
            exhausted: violation.is_none() && !cut_short.load(Ordering::Relaxed),
            took: began.elapsed(),
            violation,
            reached,
        }
    }
}

pub type Way = Path<State, Action>;

impl Found {
    pub fn line(&self) -> String {
        let end = match (&self.violation, self.exhausted) {
            (Some((name, _)), _) => format!("VIOLATED: {name}"),
            (None, true) => "all".to_owned(),
            (None, false) => "cut short".to_owned(),
        };
        format!(
            "| {} | {:?}: {} | {} | {} | {} | {end} | {:.1} |",
            self.bounds.name,
            self.bounds.start,
            self.bounds.budget.words(),
            self.states,
            self.transitions,
            self.depth,
            self.took.as_secs_f64()
        )
    }

    /// What the bounds should have let it see, and did not.
    pub fn unseen(&self) -> Vec<&'static str> {
        self.bounds.reaches.iter().copied().filter(|name| !self.reached.contains(name)).collect()
    }
}
