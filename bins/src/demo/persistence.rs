//! `chat-demo persistence`: every replica goes down, and comes back, in every order; what was acknowledged is there.

use super::conversation::Conversation;
use super::orders::orders;
use super::report::Report;
use crate::processes::Broken;
use crate::processes::cluster::list;
use crate::processes::cluster::{Cluster, describe, leader_of};
use crate::processes::replica::Fault;
use chat_client::Submitted;
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Messages that are on their way while the last replica goes down.
const BURST: usize = 3;

/// How all go down and come back.
#[derive(Clone, Debug)]
struct Cycle {
    down: Vec<u32>,
    /// All go down at one instant.
    at_once: bool,
    up: Vec<u32>,
    fault: Fault,
}

fn cycles(replicas: u32, fault: Fault, seed: u64) -> Vec<Cycle> {
    let mut cycles = Vec::new();
    for up in orders(replicas) {
        let one_by_one = orders(replicas).into_iter().map(|down| (down, false));
        let at_once = (replicas > 1).then(|| ((1..=replicas).collect(), true));
        cycles.extend(one_by_one.chain(at_once).map(|(down, at_once)| Cycle { down, at_once, up: up.clone(), fault }));
    }
    cycles.shuffle(&mut SmallRng::seed_from_u64(seed));
    cycles
}

/// Every cycle with this fault, on one cluster of so many replicas with its data in `folder`. Returns how many.
pub(super) async fn run(
    folder: &Path,
    replicas: u32,
    fault: Fault,
    seed: u64,
    report: &Report,
) -> Result<usize, Broken> {
    let mut cluster = Cluster::new(folder, replicas, &[], None)?;
    cluster.up().await?;
    let mut talk = Conversation::open(&cluster).await?;
    let cycles = cycles(replicas, fault, seed);
    for cycle in &cycles {
        let run = cycle.title();
        let went = Turn { cluster: &mut cluster, talk: &mut talk, report, run: &run, cycle }.take().await;
        went.map_err(|broken| broken.at(&format!("{run}; {}", folder.display())))?;
    }
    Ok(cycles.len())
}

impl Cycle {
    fn title(&self) -> String {
        let (how, down, up) = (self.fault.name(), list(&self.down), list(&self.up));
        format!("{how} {down}{}; back {up}", if self.at_once { " at once" } else { "" })
    }

    /// Those without which nobody may serve (rule 10). `None`: it cannot be told, because they left at one instant.
    fn needed(&self) -> Option<Vec<u32>> {
        match (self.at_once, self.fault) {
            (false, _) => Some(self.down[self.down.len() - 1..].to_vec()),
            (true, Fault::Kill) => Some(self.down.clone()),
            (true, Fault::Term) => None,
        }
    }
}

struct Turn<'a> {
    cluster: &'a mut Cluster,
    talk: &'a mut Conversation,
    report: &'a Report,
    run: &'a str,
    cycle: &'a Cycle,
}

impl Turn<'_> {
    async fn take(&mut self) -> Result<(), Broken> {
        self.talk.works().await.map_err(|broken| broken.at("all are up"))?;
        let held = self.down().await?;
        self.up(held).await?;
        self.cluster.whole().await?;
        self.talk.everything().await.map_err(|broken| broken.at("all are back"))?;
        self.talk.works().await.map_err(|broken| broken.at("all are back"))
    }

    /// All go down; as long as one is left, it works. Returns messages that were on their way when none was left.
    async fn down(&mut self) -> Result<Vec<Submitted>, Broken> {
        let fault = self.cycle.fault;
        let mut held = Vec::new();
        let singles = if self.cycle.at_once { &[][..] } else { &self.cycle.down[..self.cycle.down.len() - 1] };
        for id in singles {
            let step = format!("{id} goes down");
            let gap = self.talk.during(self.cluster.down(&[*id], fault)).await.map_err(|broken| broken.at(&step))?;
            self.talk.works().await.map_err(|broken| broken.at(&step))?;
            self.report.step(
                self.run,
                &step,
                &format!("{}: one of {} goes down", fault.name(), self.cycle.down.len()),
                gap,
            );
        }
        let rest = &self.cycle.down[singles.len()..];
        for _ in 0..BURST {
            held.push(self.talk.submit().await?);
        }
        self.cluster.down(rest, fault).await?;
        // This one cannot have been acknowledged by any of them.
        held.push(self.talk.submit().await?);
        Ok(held)
    }

    /// They come back. Nobody serves before those are there without whom something may be missing; then `held` is
    /// acknowledged, and everything goes on.
    async fn up(&mut self, held: Vec<Submitted>) -> Result<(), Broken> {
        let needed = self.cycle.needed();
        let mut missing = needed.clone().unwrap_or_default();
        let mut since = Instant::now();
        let mut held = Some(held);
        for id in &self.cycle.up {
            if !missing.is_empty() || needed.is_none() {
                since = Instant::now();
            }
            self.cluster.start(*id).await?;
            missing.retain(|needed| needed != id);
            if missing.is_empty() && needed.is_some() {
                if let Some(held) = held.take() {
                    self.goes_on(held, since).await?;
                }
            } else if let (true, Some(held)) = (needed.is_some(), &mut held) {
                self.nobody_serves(*id, &missing, held).await?;
            }
        }
        match held {
            Some(held) => self.goes_on(held, since).await,
            None => Ok(()),
        }
    }

    async fn goes_on(&mut self, held: Vec<Submitted>, since: Instant) -> Result<(), Broken> {
        let step = format!("{} back of {}", list(&self.cluster.running()), list(&self.cluster.ids()));
        for submitted in held {
            self.talk.settle(submitted).await.map_err(|broken| broken.at(&step))?;
        }
        self.cluster.check()?;
        let kind = format!("all {} down: whoever is needed is started", self.cluster.ids().len());
        self.report.step(self.run, &step, &kind, since.elapsed());
        Ok(())
    }

    /// Replica `id`, just started, says that it waits for `missing`, and nobody serves.
    async fn nobody_serves(&mut self, id: u32, missing: &[u32], held: &mut [Submitted]) -> Result<(), Broken> {
        let what = format!("replica {id} says that it waits for {}", list(missing));
        let says_so = self.cluster.until(&what, |states| {
            let own = states.iter().find(|state| state.id == Some(id));
            own.is_some_and(|state| missing.iter().all(|missing| state.waiting_for.contains(missing)))
        });
        let states = says_so.await?;
        let last = held.last_mut().map(|last| timeout(Duration::ZERO, last));
        let acknowledged = match last {
            Some(last) => last.await.is_ok(),
            None => false,
        };
        if acknowledged || leader_of(&states).is_some() {
            let (states, missing) = (describe(&states), list(missing));
            return Err(Broken(format!("somebody serves without {missing}, the last to go down: {states}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_going_with_every_order_of_coming() {
        assert_eq!([1, 2, 3].map(|replicas| cycles(replicas, Fault::Kill, 7).len()), [1, 6, 42]);
    }
}
