//! How long nobody is answered when the leader dies, falls silent, or hands over.

use super::figures::{Times, ms};
use super::load::{everybody, positive};
use super::people::{Person, people};
use super::report::{Line, Report};
use super::send::text;
use super::stage::Stage;
use crate::processes::replica::Fault;
use crate::processes::{Broken, Cluster};
use clap::Args;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Acknowledgements that must have come after the leader's end before the gap counts as over.
const AFTER: usize = 200;
/// Longer than any gap should be.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many times
    #[arg(long, default_value_t = 20, value_parser = positive, value_name = "N")]
    kills: usize,
    /// So many clients write meanwhile
    #[arg(long, default_value_t = 16, value_parser = positive, value_name = "N")]
    clients: usize,
    /// SIGSTOP instead of kill -9: the leader falls silent
    #[arg(long)]
    silent: bool,
    /// A planned change of the leader instead of kill -9: it is told to hand over
    #[arg(long, conflicts_with = "silent")]
    transfer: bool,
}

/// How a leader ceases to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Killed,
    Silent,
    Transfer,
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let end = match (flags.silent, flags.transfer) {
        (true, _) => End::Silent,
        (_, true) => End::Transfer,
        _ => End::Killed,
    };
    stage.only_own("leaders are taken down").await?;
    let people = people(stage, flags.clients, flags.clients).await?;
    let cluster = stage.only_own("leaders are taken down").await?;
    report.measure(async || measure(cluster, &people, flags.kills, end).await).await.map(drop)
}

async fn measure(cluster: &mut Cluster, people: &[Person], times: usize, end: End) -> Result<Line, Broken> {
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for person in people.iter().cloned() {
        let (stop, sent, acknowledged) = (stop.clone(), sent.clone(), acknowledged.clone());
        writers.spawn(async move {
            let text = text();
            while !stop.load(Ordering::Relaxed) {
                person.session.send(&person.friend(), &text).await?;
                sent.fetch_add(1, Ordering::Relaxed);
                let _ = acknowledged.send(Instant::now());
            }
            Ok::<_, Broken>(())
        });
    }
    let mut gaps = Vec::new();
    for _ in 0..times {
        cluster.whole().await?;
        while acknowledgements.try_recv().is_ok() {}
        gaps.push(gap(cluster, &mut acknowledgements, end).await?);
    }
    stop.store(true, Ordering::Relaxed);
    everybody(writers).await?;
    let name = match end {
        End::Killed => "failover",
        End::Silent => "failover-silent",
        End::Transfer => "failover-transfer",
    };
    let gaps = Times::of(gaps);
    let line = Line::new(name, people.len()).timed(&gaps);
    Ok(line.with("kills", gaps.count() as f64).with("acknowledged", sent.load(Ordering::Relaxed) as f64))
}

/// Ends one leadership, and returns the longest time in which nobody was answered. All replicas run when this returns.
async fn gap(
    cluster: &mut Cluster,
    acknowledgements: &mut mpsc::UnboundedReceiver<Instant>,
    end: End,
) -> Result<Duration, Broken> {
    let leader = cluster.leader().await?;
    let struck = Instant::now();
    match end {
        End::Killed => cluster.replica(leader)?.strike(Fault::Kill)?,
        End::Silent => cluster.replica(leader)?.pause()?,
        End::Transfer => {
            let heir = cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
            cluster.transfer(leader, heir).await?;
        }
    }
    // The old leader goes on answering until it has handed over; what it answers does not end the gap.
    let over = if end == End::Transfer { Instant::now() } else { struck };
    let gap = longest_gap(acknowledgements, struck, over).await?;
    match end {
        End::Killed => {
            cluster.replica(leader)?.gone(Fault::Kill).await?;
            cluster.start(leader).await?;
        }
        End::Silent => cluster.replica(leader)?.resume()?,
        End::Transfer => {}
    }
    Ok(gap)
}

/// The longest time without an acknowledgement to anybody, from `struck` on until enough have come after `over`.
async fn longest_gap(
    acknowledgements: &mut mpsc::UnboundedReceiver<Instant>,
    struck: Instant,
    over: Instant,
) -> Result<Duration, Broken> {
    let (mut last, mut longest, mut after) = (struck, Duration::ZERO, 0);
    while after < AFTER {
        let next = tokio::time::timeout(PATIENCE, acknowledgements.recv()).await;
        let Ok(Some(at)) = next else {
            let waited = ms(PATIENCE) / 1000.0;
            return Err(Broken(format!("nobody was answered for {waited} s after the leader was gone")));
        };
        // What was answered before is on its way still.
        if at > last {
            longest = longest.max(at - last);
            last = at;
        }
        // The first few may be the dead leader's last answers: the gap comes after them.
        after += usize::from(at >= over);
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gap_is_counted_from_the_strike_and_not_ended_by_the_old_leader() {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let struck = Instant::now();
        let at = |ms| struck + Duration::from_millis(ms);
        let old = (1..=AFTER as u64).map(|_| at(1));
        let new = (0..AFTER as u64).map(|later| at(31 + later));
        old.chain(new).for_each(|at| sender.send(at).expect("it is heard"));
        let gap = longest_gap(&mut receiver, struck, at(2)).await.expect("somebody was answered");
        assert_eq!(gap, Duration::from_millis(30));
    }
}
