//! How long a replica takes until it is of use: to start on much data, and to rejoin after having been away.

use super::figures::Times;
use super::fill::Size;
use super::load::positive;
use super::pace::paced;
use super::people::{Person, some_of};
use super::report::{Line, Report};
use super::send::text;
use super::stage::Stage;
use crate::processes::replica::Fault;
use crate::processes::{Broken, Cluster};
use clap::Args;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So many send while a replica is away, and while it comes back.
const SENDERS: usize = 64;
/// They go on for so long after it was started.
const BACK: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    size: Size,
    /// A replica is away for so many seconds
    #[arg(long, default_value_t = 60, value_parser = positive, value_name = "S")]
    away: usize,
    /// While so many messages per second are sent
    #[arg(long, default_value_t = 5000, value_parser = positive, value_name = "X")]
    rate: usize,
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let crowd = stage.filled(&flags.size).await?;
    let people = some_of(stage, &crowd, SENDERS, true).await?;
    let cluster = stage.only_own("replicas are started").await?;
    let messages = flags.size.messages as f64;
    let started = async || Ok(start(cluster).await?.with("messages", messages));
    report.measure(started).await?;
    let rejoined = async || Ok(rejoin(cluster, &people, flags).await?.with("messages", messages));
    report.measure(rejoined).await.map(drop)
}

/// From the start of a process to its `ready`, of each replica, one after the other, after a crash of all.
async fn start(cluster: &mut Cluster) -> Result<Line, Broken> {
    let ids = cluster.ids();
    cluster.down(&ids, Fault::Kill).await?;
    let mut times = Vec::new();
    for id in ids {
        let begun = Instant::now();
        cluster.start(id).await?;
        times.push(begun.elapsed());
    }
    cluster.whole().await?;
    Ok(Line { name: "start", ..Line::default() }.timed(&Times::of(times)))
}

/// From the start of a process that was killed and has missed much, until it is in the view again; and how long a send took at most in the seconds
/// after that start.
async fn rejoin(cluster: &mut Cluster, people: &[Person], flags: &Flags) -> Result<Line, Broken> {
    let leader = cluster.leader().await?;
    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap_or(leader);
    cluster.down(&[away], Fault::Kill).await?;
    let (text, senders) = (text(), Arc::new(people.to_vec()));
    let friend = move |number: u64| senders[number as usize % senders.len()].friend();
    let message = move |number: u64, _: Instant| (friend(number), text.clone());
    let missed = paced(people, flags.rate, Duration::from_secs(flags.away as u64), message.clone()).await?;
    let begun = Instant::now();
    let back = async {
        cluster.start(away).await?;
        let ready = begun.elapsed();
        cluster.in_view(away).await?;
        Ok::<_, Broken>((ready, begun.elapsed()))
    };
    let ((ready, took), meanwhile) = tokio::try_join!(back, paced(people, flags.rate, BACK, message))?;
    cluster.whole().await?;
    let line = Line { name: "rejoin", ..Line::default() }.timed(&Times::of(vec![took]));
    let line = line.with("ready_ms", super::ms(ready)).with("longest_send_ms", super::ms(meanwhile.longest));
    let line = line.with("missed_messages", missed.acknowledged as f64).with("sent_per_s", missed.per_second());
    let line = if took < BACK { line } else { line.noted(format!("sent only in the first {} s", BACK.as_secs())) };
    let reached = missed.per_second() >= flags.rate as f64 * super::pace::REACHED;
    Ok(if reached { line } else { line.noted(format!("{} per second were not reached", flags.rate)) })
}
