//! Live streams by the thousand: what they take of the leader's memory, and how long until all are live again when it dies.

use super::figures::Times;
use super::load::positive;
use super::people::{Person, people};
use super::report::{Line, Report};
use super::stage::Stage;
use crate::processes::replica::Fault;
use crate::processes::{Broken, Cluster, resources};
use clap::Args;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// As many as a replica allows an account.
const PER_ACCOUNT: usize = chat_replica::subscribers::MAX_PER_ACCOUNT;
/// A replica allows a connection 4096 streams. Fewer, so that one connection's task is not what is measured.
const PER_CLIENT: usize = 1000;
/// Longer than all of them should take.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what has just started, or been opened, to come to rest.
const REST: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many live streams on the leader
    #[arg(long, default_value_t = 10_000, value_parser = positive, value_name = "N")]
    streams: usize,
    /// Of so many accounts, which share them evenly
    #[arg(long, default_value_t = 1000, value_parser = positive, value_name = "N")]
    accounts: usize,
}

impl Flags {
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        if self.streams > self.accounts * PER_ACCOUNT {
            return Err(format!("an account can have at most {PER_ACCOUNT} streams: name more --accounts"));
        }
        if self.streams < self.accounts {
            return Err("there are fewer --streams than --accounts".to_owned());
        }
        Ok(())
    }
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let once = async || {
        // Memory that was once used is not given back: each time with new processes.
        stage.down().await?;
        stage.only_own("leaders are taken down").await?;
        let people = people(stage, flags.accounts, flags.streams.div_ceil(PER_CLIENT)).await?;
        let cluster = stage.only_own("leaders are taken down").await?;
        measure(cluster, &people, flags.streams).await
    };
    report.measure(once).await.map(drop)
}

async fn measure(cluster: &mut Cluster, people: &[Person], streams: usize) -> Result<Line, Broken> {
    cluster.whole().await?;
    tokio::time::sleep(REST).await;
    let leader = cluster.leader().await?;
    let before = resident(cluster, leader)?;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for person in people.iter().cycle().take(streams) {
        let (mut inbox, arrived) = (person.session.inbox(), arrived.clone());
        tasks.spawn(async move {
            loop {
                let next = inbox.next().await.map(|_| Instant::now());
                let over = next.is_err();
                if arrived.send(next).is_err() || over {
                    return;
                }
            }
        });
    }
    let opening = Instant::now();
    one_to_each(people).await?;
    let opened = all(&mut arrivals, streams, opening).await?;
    tokio::time::sleep(REST).await;
    let after = resident(cluster, leader)?;
    let struck = Instant::now();
    cluster.replica(leader)?.strike(Fault::Kill)?;
    one_to_each(people).await?;
    let again = all(&mut arrivals, streams, struck).await?;
    cluster.replica(leader)?.gone(Fault::Kill).await?;
    let line = Line { name: "streams", ..Line::default() }.timed(&again).with("streams", streams as f64);
    let line = line.with("accounts", people.len() as f64).with("opened_ms", super::ms(opened.at(1.0)));
    let line = line.with("leader_mib_before", before / 1024.0).with("leader_mib_after", after / 1024.0);
    Ok(line.with("kib_per_stream", (after - before) / streams as f64))
}

fn resident(cluster: &mut Cluster, id: u32) -> Result<f64, Broken> {
    let kib = cluster.replica(id)?.pid().and_then(resources::resident_kib);
    kib.map(|kib| kib as f64).ok_or_else(|| Broken(format!("/proc does not say how much memory replica {id} has")))
}

/// One message to each account, from the first of them. A stream that brings it is live.
async fn one_to_each(people: &[Person]) -> Result<(), Broken> {
    let Some(sender) = people.first() else { return Ok(()) };
    let mut submitted = Vec::new();
    for person in people {
        submitted.push(sender.session.submit(&person.name, "Are you there?").await?);
    }
    for answer in submitted {
        answer.await?;
    }
    Ok(())
}

/// Waits for a message on each stream, and returns how long they took from `begun` on.
async fn all(
    arrivals: &mut mpsc::UnboundedReceiver<Result<Instant, chat_client::Error>>,
    streams: usize,
    begun: Instant,
) -> Result<Times, Broken> {
    let mut times = Vec::new();
    while times.len() < streams {
        let Ok(Some(at)) = tokio::time::timeout(PATIENCE, arrivals.recv()).await else {
            return Err(Broken(format!("{} of {streams} streams are not live", streams - times.len())));
        };
        times.push(at?.saturating_duration_since(begun));
    }
    Ok(Times::of(times))
}
