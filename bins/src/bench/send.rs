//! Acknowledged sends per second, and how long they take.

use super::figures::{Times, ms};
use super::people::{Person, people};
use crate::processes::{Broken, Cluster};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Not counted: connections are made and caches filled.
const WARM_UP: Duration = Duration::from_millis(500);

/// What everybody sends.
pub(super) fn text() -> String {
    "0123456789abcdef".repeat(8)
}

pub(super) async fn run(
    servers: &[String],
    mut own: Option<&mut Cluster>,
    clients: &[usize],
    tasks: usize,
    time: Duration,
    json: bool,
) -> Result<(), Broken> {
    let most = clients.iter().copied().max().unwrap_or(1);
    let everybody = people(servers, most).await?;
    if !json {
        println!(
            "{:>8} {:>6} {:>10} {:>9} {:>9} {:>9} {:>14}",
            "clients", "tasks", "acks/s", "p50 ms", "p99 ms", "max ms", "cpu s/1000"
        );
    }
    for n in clients {
        measure(&everybody[..*n], tasks, WARM_UP).await?;
        let cpu_before = own.as_deref_mut().map(|cluster| cluster.cpu_seconds());
        let started = Instant::now();
        let times = measure(&everybody[..*n], tasks, time).await?;
        let took = started.elapsed();
        let cpu = own.as_deref_mut().zip(cpu_before).map(|(cluster, before)| cluster.cpu_seconds() - before);
        let per_second = times.count() as f64 / took.as_secs_f64();
        let per_1000 = cpu.map(|cpu| cpu / times.count().max(1) as f64 * 1000.0);
        let (p50, p99, max) = (ms(times.at(0.5)), ms(times.at(0.99)), ms(times.at(1.0)));
        if json {
            let line = serde_json::json!({
                "name": "send", "clients": n, "tasks": tasks, "acks_per_s": per_second.round(),
                "p50_ms": p50, "p99_ms": p99, "max_ms": max, "server_cpu_s_per_1000": per_1000,
            });
            println!("{line}");
        } else {
            let cpu = per_1000.map_or_else(|| "-".to_string(), |cpu| format!("{cpu:.3}"));
            println!("{n:>8} {tasks:>6} {per_second:>10.0} {p50:>9.2} {p99:>9.2} {max:>9.2} {cpu:>14}");
        }
    }
    Ok(())
}

/// A closed loop: each task sends when its last send was answered.
async fn measure(people: &[Person], tasks: usize, time: Duration) -> Result<Times, Broken> {
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for person in people {
        for _ in 0..tasks {
            let person = person.clone();
            running.spawn(async move {
                let (text, mut times) = (text(), Vec::new());
                while Instant::now() < end {
                    let started = Instant::now();
                    person.session.send(&person.friend, &text).await?;
                    times.push(started.elapsed());
                }
                Ok::<_, Broken>(times)
            });
        }
    }
    let mut all = Vec::new();
    while let Some(done) = running.join_next().await {
        all.extend(done.map_err(|error| Broken(error.to_string()))??);
    }
    Ok(Times::of(all))
}
