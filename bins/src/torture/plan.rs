//! What is done to the replicas, one step after the other: decided by a seed, and by nothing else.

use crate::demo::orders;
use chat_replica::failpoint::Point;
use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _, seq::SliceRandom as _};
use std::collections::VecDeque;
use std::time::Duration;

/// What can be done to replicas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum)]
pub(super) enum Kind {
    /// kill -9 of one, two or three, at once and in turn, and restarts in every order
    Kill,
    /// kill -9 at a named point
    Point,
    /// SIGSTOP for 0.1 to 60 s
    Pause,
    /// SIGTERM
    Term,
    /// Leadership is handed over
    Transfer,
    /// The disk is full, then has room again
    Full,
    /// A replica has no file handles left for a while
    Files,
    /// Wall clocks jump by an hour
    Clock,
}

/// In seconds.
const LONGEST_PAUSE: f64 = 60.0;

/// One thing that is done, and undone. Replicas are named by id.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    /// These are killed in this order, so far apart, and started in that order.
    Kill { down: Vec<u32>, apart: Duration, up: Vec<u32>, hurry: bool },
    /// These are started so that they end at the point when they passed it so many times; `lead`: as a primary.
    Point { ids: Vec<u32>, point: Point, passes: u32, lead: bool },
    /// These are stopped for so long.
    Pause { ids: Vec<u32>, time: Duration },
    /// It leaves, and is started again.
    Term { id: u32 },
    /// It shall lead.
    Transfer { id: u32 },
    /// Its disk is full. Started again `early`, it finds it still so.
    Full { early: bool },
    /// It gets so many file handles beyond those that it has open, and more connections than that.
    Files { id: u32, spare: u64 },
    /// The wall clocks of these are so far off from here on.
    Clock { ids: Vec<u32>, hours: i32 },
    /// A primary that nobody follows writes to its own disk only, and is replaced.
    Overtaken,
}

impl Step {
    /// The row of the table where it counts.
    pub fn title(&self) -> String {
        match self {
            Step::Kill { down, apart, .. } if down.len() > 1 => {
                let how = if apart.is_zero() { "at once" } else { "in turn" };
                format!("kill -9 of {} {how}", ["one", "two", "all three"][down.len() - 1])
            }
            Step::Kill { .. } => "kill -9 of one".to_owned(),
            Step::Point { lead: true, .. } => "kill -9 at a point, of the primary".to_owned(),
            Step::Point { ids, .. } => format!("kill -9 at a point, of {}", ["one", "two", "all three"][ids.len() - 1]),
            Step::Pause { ids, time } => {
                let long = if time.as_secs() >= 5 { "5 s and more" } else { "less than 5 s" };
                format!("SIGSTOP of {}, {long}", ["one", "two", "three"][ids.len() - 1])
            }
            Step::Term { .. } => "SIGTERM".to_owned(),
            Step::Transfer { .. } => "handing over".to_owned(),
            Step::Full { .. } => "disk full".to_owned(),
            Step::Files { .. } => "no file handles".to_owned(),
            Step::Clock { .. } => "wall clock jumps".to_owned(),
            Step::Overtaken => "overtaken primary".to_owned(),
        }
    }

    #[cfg(test)]
    fn kind(&self) -> Kind {
        match self {
            Step::Kill { .. } => Kind::Kill,
            Step::Point { .. } | Step::Overtaken => Kind::Point,
            Step::Pause { .. } => Kind::Pause,
            Step::Term { .. } => Kind::Term,
            Step::Transfer { .. } => Kind::Transfer,
            Step::Full { .. } => Kind::Full,
            Step::Files { .. } => Kind::Files,
            Step::Clock { .. } => Kind::Clock,
        }
    }
}

/// Steps without end: first every order of three going down with every order of coming back, among others, then by chance.
#[derive(Debug)]
pub(super) struct Plan {
    kinds: Vec<Kind>,
    random: SmallRng,
    /// Orders that have not come yet.
    orders: VecDeque<(Vec<u32>, Vec<u32>)>,
    /// Points in an order that goes round.
    points: VecDeque<Point>,
}

/// How often each comes, about.
fn weight(kind: Kind) -> u32 {
    match kind {
        Kind::Kill => 560,
        Kind::Point => 340,
        Kind::Pause => 40,
        Kind::Term => 30,
        Kind::Transfer => 30,
        Kind::Full => 5,
        Kind::Files => 8,
        Kind::Clock => 12,
    }
}

impl Plan {
    pub fn new(kinds: &[Kind], seed: u64) -> Plan {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut pairs: Vec<_> =
            orders(3).into_iter().flat_map(|down| orders(3).into_iter().map(move |up| (down.clone(), up))).collect();
        pairs.shuffle(&mut random);
        let mut points = Point::ALL.to_vec();
        points.shuffle(&mut random);
        Plan { kinds: kinds.to_vec(), random, orders: pairs.into(), points: points.into() }
    }

    /// Numbers for others that shall follow from the seed too.
    pub fn seed(&mut self) -> u64 {
        self.random.random()
    }

    /// The next step, when the run goes on for so long.
    pub fn step(&mut self, left: Duration) -> Step {
        let total: u32 = self.kinds.iter().map(|kind| weight(*kind)).sum();
        let mut at = self.random.random_range(0..total.max(1));
        let mut chosen = self.kinds[0];
        for kind in &self.kinds {
            if at < weight(*kind) {
                chosen = *kind;
                break;
            }
            at -= weight(*kind);
        }
        self.step_of(chosen, left)
    }

    fn step_of(&mut self, kind: Kind, left: Duration) -> Step {
        match kind {
            Kind::Kill => self.kill(),
            Kind::Point => self.point(),
            Kind::Pause => self.pause(left),
            Kind::Term => Step::Term { id: self.id() },
            Kind::Transfer => Step::Transfer { id: self.id() },
            Kind::Full => Step::Full { early: self.random.random() },
            Kind::Files => Step::Files { id: self.id(), spare: self.random.random_range(0..8) },
            Kind::Clock => {
                let many = self.random.random_range(1..=3);
                let hours = *[-1, 0, 1].choose(&mut self.random).unwrap_or(&1);
                Step::Clock { ids: self.ids(many), hours }
            }
        }
    }

    fn kill(&mut self) -> Step {
        let random = &mut self.random;
        let apart = Duration::from_millis(if random.random() { 0 } else { random.random_range(1..400) });
        // Every third until all have come, so that the first minutes are not made of nothing else.
        if random.random_range(0..3) == 0
            && let Some((down, up)) = self.orders.pop_front()
        {
            // One after the other, or it would be no order.
            let apart = apart.max(Duration::from_millis(1));
            return Step::Kill { down, apart, up, hurry: true };
        }
        let many = *[1, 1, 1, 2, 2, 3].choose(random).unwrap_or(&1);
        let hurry = random.random_range(0..4) == 0;
        let down = self.ids(many);
        let mut up = down.clone();
        up.shuffle(&mut self.random);
        Step::Kill { down, apart, up, hurry }
    }

    fn point(&mut self) -> Step {
        // All orders of going round are as good as each other: so each point comes as often as any.
        let point = self.points.pop_front().unwrap_or(Point::AfterCommit);
        self.points.push_back(point);
        if point == Point::CuttingBack {
            return Step::Overtaken;
        }
        let lead = self.random.random_range(0..3) == 0 && !at_start(point);
        let many = if lead { 1 } else { *[1, 1, 1, 2, 3].choose(&mut self.random).unwrap_or(&1) };
        let passes = if rare(point) { 0 } else { self.random.random_range(0..40) };
        Step::Point { ids: self.ids(many), point, passes, lead }
    }

    fn pause(&mut self, left: Duration) -> Step {
        let random = &mut self.random;
        let (from, to) = match random.random_range(0..100) {
            0..85 => (0.1, 2.0),
            85..98 => (2.0, 8.0),
            _ => (8.0, LONGEST_PAUSE),
        };
        // A fifth of what is left at most: there is more to do than to wait.
        let most = (left.as_secs_f64() / 5.0).clamp(0.2, LONGEST_PAUSE);
        let time = Duration::from_secs_f64(random.random_range(from..to).min(most));
        let many = *[1, 1, 1, 1, 2, 3].choose(random).unwrap_or(&1);
        Step::Pause { ids: self.ids(many), time }
    }

    fn id(&mut self) -> u32 {
        self.random.random_range(1..=3)
    }

    fn ids(&mut self, many: usize) -> Vec<u32> {
        let mut ids = vec![1, 2, 3];
        ids.shuffle(&mut self.random);
        ids.truncate(many);
        ids
    }

    /// Each thing once: all orders of going down, every point, and one of each other kind.
    pub fn tour(&mut self) -> VecDeque<Step> {
        let mut steps = Vec::new();
        for kind in self.kinds.clone() {
            match kind {
                Kind::Kill => {
                    for down in orders(3) {
                        let mut up = down.clone();
                        up.shuffle(&mut self.random);
                        let apart = Duration::from_millis(20);
                        steps.push(Step::Kill { down, apart, up, hurry: true });
                    }
                    let down = self.ids(2);
                    steps.push(Step::Kill { up: down.clone(), down, apart: Duration::ZERO, hurry: false });
                }
                Kind::Point => {
                    for point in Point::ALL.iter().filter(|point| **point != Point::CuttingBack) {
                        let passes = if rare(*point) { 0 } else { self.random.random_range(0..4) };
                        let lead = !rare(*point) && self.random.random();
                        steps.push(Step::Point { ids: vec![self.id()], point: *point, passes, lead });
                    }
                    steps.push(Step::Overtaken);
                }
                Kind::Pause => steps.push(Step::Pause { ids: vec![self.id()], time: Duration::from_millis(1200) }),
                Kind::Clock => {
                    steps.push(Step::Clock { ids: vec![self.id()], hours: 1 });
                    steps.push(Step::Clock { ids: vec![1, 2, 3], hours: -1 });
                }
                Kind::Full => steps.push(Step::Full { early: true }),
                Kind::Files => steps.push(Step::Files { id: self.id(), spare: 2 }),
                other => steps.push(self.step_of(other, Duration::ZERO)),
            }
        }
        steps.shuffle(&mut self.random);
        steps.into()
    }
}

/// Points that a process passes before it can do anything else.
fn at_start(point: Point) -> bool {
    use Point::*;
    matches!(point, StartVerify | StartVerified | StartBegun | StartDurable | StartIdentified | IdentityWritten)
}

/// Points that a process passes once, or now and then.
fn rare(point: Point) -> bool {
    use Point::*;
    at_start(point) || matches!(point, CuttingBack | Checkpoint | AfterCheckpoint | ViewCommitted | Serving)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_seed_says_everything() {
        let steps = |seed| {
            let mut plan = Plan::new(Kind::value_variants(), seed);
            (0..500).map(|_| plan.step(LONG)).collect::<Vec<_>>()
        };
        assert_eq!(steps(5), steps(5));
        assert_ne!(steps(5), steps(6));
    }

    #[test]
    fn all_orders_of_going_come_with_all_orders_of_coming() {
        let mut plan = Plan::new(&[Kind::Kill], 1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..300 {
            if let Step::Kill { down, apart, up, .. } = plan.step(LONG)
                && down.len() == 3
                && !apart.is_zero()
            {
                seen.insert((down, up));
            }
        }
        assert_eq!(seen.len(), 36);
    }

    #[test]
    fn every_kind_and_every_point_comes() {
        let mut plan = Plan::new(Kind::value_variants(), 1);
        let steps: Vec<_> = (0..3000).map(|_| plan.step(LONG)).collect();
        for kind in Kind::value_variants() {
            assert!(steps.iter().any(|step| step.kind() == *kind), "{kind:?}");
        }
        let reached =
            |point: &Point| steps.iter().any(|step| matches!(step, Step::Point { point: p, .. } if p == point));
        let missing: Vec<_> = Point::ALL.iter().filter(|point| !reached(point)).collect();
        assert_eq!(missing, [&Point::CuttingBack], "which is reached by another step");
    }

    #[test]
    fn a_tour_has_each_thing() {
        let tour = Plan::new(Kind::value_variants(), 1).tour();
        let points = tour.iter().filter(|step| step.kind() == Kind::Point).count();
        assert_eq!(points, Point::ALL.len());
        let threes = tour.iter().filter(|step| matches!(step, Step::Kill { down, .. } if down.len() == 3)).count();
        assert_eq!(threes, 6);
    }
}
