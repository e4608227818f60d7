//! `chat-demo two-faults`: three replicas survive the crash of any two, one after the other or at once, and take them
//! back.

use super::conversation::Conversation;
use super::orders::orders;
use super::report::Report;
use crate::processes::Broken;
use crate::processes::cluster::list;
use crate::processes::cluster::{Cluster, Place};
use crate::processes::replica::Fault;
use rand::{SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// A, B and C, by their order in the story, and who leads when it begins.
#[derive(Clone, Debug)]
struct Story {
    order: Vec<u32>,
    lead: u32,
    fault: Fault,
    /// A and B go down at one instant.
    at_once: bool,
}

/// Every story with this fault: all orders, led by the first to go down and by the last; then every pair at once, with
/// the leader among them and not. In an order that `seed` decides.
fn stories(fault: Fault, seed: u64) -> Vec<Story> {
    let mut stories = Vec::new();
    for order in orders(3) {
        for lead in [order[0], order[2]] {
            stories.push(Story { order: order.clone(), lead, fault, at_once: false });
            if order[0] < order[1] {
                stories.push(Story { order: order.clone(), lead, fault, at_once: true });
            }
        }
    }
    stories.shuffle(&mut SmallRng::seed_from_u64(seed));
    stories
}

/// Tells every story with this fault, on one cluster with its data in `folder`. Returns how many.
pub(super) async fn run(
    folder: &Path,
    fault: Fault,
    seed: u64,
    places: &[Place],
    report: &Report,
) -> Result<usize, Broken> {
    let mut cluster = Cluster::new(folder, 3, places, None)?;
    cluster.up().await?;
    let mut talk = Conversation::open(&cluster).await?;
    let stories = stories(fault, seed);
    for story in &stories {
        let run = format!("{} {}, {} leads", fault.name(), story.title(), story.lead);
        let told = Telling { cluster: &mut cluster, talk: &mut talk, report, run: &run, story }.tell().await;
        told.map_err(|broken| broken.at(&format!("{run}; {}", folder.display())))?;
    }
    Ok(stories.len())
}

impl Story {
    fn title(&self) -> String {
        let [a, b, c] = [0, 1, 2].map(|place| self.order[place]);
        if self.at_once { format!("{a} and {b}, then {c}") } else { format!("{a}, then {b}, then {c}") }
    }
}

struct Telling<'a> {
    cluster: &'a mut Cluster,
    talk: &'a mut Conversation,
    report: &'a Report,
    run: &'a str,
    story: &'a Story,
}

impl Telling<'_> {
    async fn tell(&mut self) -> Result<(), Broken> {
        let [a, b, c] = [0, 1, 2].map(|place| self.story.order[place]);
        self.cluster.hand_to(self.story.lead).await?;
        self.talk.works().await.map_err(|broken| broken.at("all three are up"))?;
        if self.story.at_once {
            self.down(&[a, b]).await?;
        } else {
            self.down(&[a]).await?;
            self.down(&[b]).await?;
        }
        self.restore(a).await?;
        self.restore(b).await?;
        self.down(&[c]).await?;
        self.restore(c).await?;
        self.cluster.whole().await?;
        self.talk.everything().await
    }

    /// These go down; the rest works.
    async fn down(&mut self, ids: &[u32]) -> Result<(), Broken> {
        let leader = self.cluster.leader().await?;
        let what = if ids.contains(&leader) { "the leader" } else { "no leader" };
        let step = format!("{} of {} goes down ({what})", list(ids), list(&self.cluster.running()));
        let gap = self.fault(ids).await.map_err(|broken| broken.at(&step))?;
        let count = if ids.len() > 1 { "two at once" } else { "one" };
        self.report.step(self.run, &step, &format!("{}: {count}, {what} among them", self.story.fault.name()), gap);
        Ok(())
    }

    async fn fault(&mut self, ids: &[u32]) -> Result<Duration, Broken> {
        let gap = self.talk.during(self.cluster.down(ids, self.story.fault)).await?;
        self.talk.works().await?;
        self.cluster.check()?;
        Ok(gap)
    }

    /// It starts again and is taken into the view, while the others work.
    async fn restore(&mut self, id: u32) -> Result<(), Broken> {
        let begun = Instant::now();
        let cluster = &mut *self.cluster;
        let back = async {
            cluster.start(id).await?;
            cluster.in_view(id).await
        };
        let gap = self.talk.during(back).await;
        let gap = gap.map_err(|broken| broken.at(&format!("{id} comes back")))?;
        let step = format!("{id} comes back, in the view in {} ms", begun.elapsed().as_millis());
        self.talk.works().await.map_err(|broken| broken.at(&step))?;
        self.report.step(self.run, &step, "one comes back", gap);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_orders_with_the_leader_first_and_last_and_every_pair() {
        let stories = stories(Fault::Kill, 7);
        let mut told: Vec<_> = stories.iter().map(|story| (&story.order, story.lead, story.at_once)).collect();
        told.sort_unstable();
        told.dedup();
        assert_eq!((told.len(), stories.len()), (18, 18));
        assert_eq!(told.iter().filter(|(_, _, at_once)| *at_once).count(), 6);
    }
}
