//! How long nobody is answered after the leader dies.

use super::figures::{Times, ms};
use super::people::people;
use super::send::text;
use crate::processes::replica::Fault;
use crate::processes::{Broken, Cluster};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Acknowledgements that must have come after the leader's death before the gap counts as over.
const AFTER: usize = 200;
/// Longer than any gap should be.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn run(
    cluster: &mut Cluster,
    kills: usize,
    clients: usize,
    silent: bool,
    json: bool,
) -> Result<(), Broken> {
    let people = people(&cluster.servers(), clients).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for person in people {
        let (stop, sent, acknowledged) = (stop.clone(), sent.clone(), acknowledged.clone());
        writers.spawn(async move {
            let text = text();
            while !stop.load(Ordering::Relaxed) {
                person.session.send(&person.friend, &text).await?;
                sent.fetch_add(1, Ordering::Relaxed);
                let _ = acknowledged.send(Instant::now());
            }
            Ok::<_, Broken>(())
        });
    }
    let mut gaps = Vec::new();
    for round in 1..=kills {
        cluster.whole().await?;
        let leader = cluster.leader().await?;
        while acknowledgements.try_recv().is_ok() {}
        let struck = Instant::now();
        if silent {
            cluster.replica(leader)?.pause()?;
        } else {
            cluster.replica(leader)?.strike(Fault::Kill)?;
        }
        let gap = longest_gap(&mut acknowledgements, struck).await?;
        gaps.push(gap);
        if !json {
            println!("{round:>4}: replica {leader} {}: {:.1} ms", if silent { "stopped" } else { "killed" }, ms(gap));
        }
        if silent {
            cluster.replica(leader)?.resume()?;
        } else {
            cluster.replica(leader)?.gone(Fault::Kill).await?;
            cluster.start(leader).await?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.map_err(|error| Broken(error.to_string()))??;
    }
    report(Times::of(gaps), clients, silent, sent.load(Ordering::Relaxed), json);
    Ok(())
}

/// The longest time without an acknowledgement to anybody, from the instant of the strike on.
async fn longest_gap(
    acknowledgements: &mut mpsc::UnboundedReceiver<Instant>,
    struck: Instant,
) -> Result<Duration, Broken> {
    let (mut last, mut longest, mut after) = (struck, Duration::ZERO, 0);
    while after < AFTER {
        let next = tokio::time::timeout(PATIENCE, acknowledgements.recv()).await;
        let Ok(Some(at)) = next else {
            return Err(Broken(format!("nobody was answered for {PATIENCE:?} after the leader was gone")));
        };
        // What was answered before is on its way still.
        if at > last {
            longest = longest.max(at - last);
            last = at;
        }
        // The first few may be the dead leader's last answers: the gap comes after them.
        after += 1;
    }
    Ok(longest)
}

fn report(gaps: Times, clients: usize, silent: bool, sent: u64, json: bool) {
    let (median, p99, max) = (ms(gaps.at(0.5)), ms(gaps.at(0.99)), ms(gaps.at(1.0)));
    let (name, kills) = (if silent { "failover-silent" } else { "failover" }, gaps.count());
    if json {
        let line = serde_json::json!({
            "name": name, "clients": clients, "kills": kills, "acknowledged": sent,
            "p50_ms": median, "p99_ms": p99, "max_ms": max,
        });
        println!("{line}");
    } else {
        println!("{name}: {kills} times, {clients} clients writing, {sent} sends acknowledged");
        println!("longest gap between acknowledgements: median {median:.1} ms, maximum {max:.1} ms");
    }
}
