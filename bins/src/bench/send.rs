//! Acknowledged sends per second, how long they take, and what they cost.

use super::load::{Loaded, closed_loop, positive, tasks_each};
use super::people::{Person, people};
use super::report::{Line, Report};
use super::stage::Stage;
use crate::processes::{Broken, Cluster};
use clap::Args;
use std::time::Duration;

/// Not counted: connections are made and caches filled.
pub(super) const WARM_UP: Duration = Duration::from_millis(500);
/// Bytes of every message.
pub(super) const PAYLOAD: usize = 128;

/// What everybody sends.
pub(super) fn text() -> String {
    "0123456789abcdef".repeat(PAYLOAD / 16)
}

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// So many callers at the same time, one send at a time each
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256", value_parser = positive, value_name = "N,…")]
    clients: Vec<usize>,
    /// They share so many clients, with a connection and a session each. Must divide every number of callers. Default: a client each
    #[arg(long, value_parser = positive, value_name = "H")]
    handles: Option<usize>,
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

impl Flags {
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        self.clients.iter().try_for_each(|clients| tasks_each(*clients, self.handles).map(drop))
    }
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    stage.up().await?;
    let most = flags.clients.iter().map(|clients| flags.handles.unwrap_or(*clients)).max().unwrap_or(1);
    let everybody = people(stage, most, most).await?;
    for clients in &flags.clients {
        let (handles, tasks) = tasks_each(*clients, flags.handles).map_err(Broken)?;
        let people = &everybody[..handles];
        load(people, tasks, WARM_UP).await?;
        report.measure(async || once(stage, "send", people, tasks, flags.secs).await).await?;
    }
    Ok(())
}

/// The load of `tasks` callers on the session of each of these people, and what it costs.
pub(super) async fn once(
    stage: &Stage,
    name: &'static str,
    people: &[Person],
    tasks: usize,
    secs: usize,
) -> Result<Line, Broken> {
    let own = stage.own();
    let before = own.map(Used::by);
    let loaded = load(people, tasks, Duration::from_secs(secs as u64)).await?;
    let used = own.zip(before).map(|(cluster, before)| Used::by(cluster).since(before));
    let mut line = Line::new(name, people.len() * tasks).timed(&loaded.times).with("handles", people.len() as f64);
    line.per_second = Some(loaded.per_second());
    if let Some(used) = used {
        let acknowledged = loaded.times.count().max(1) as f64;
        line.cpu_per_1000 = Some(used.cpu_seconds / acknowledged * 1000.0);
        line = line.with("disk_bytes_per_message", used.written / acknowledged / used.replicas);
        line = line.with("resident_mib", own.map_or(0.0, |cluster| cluster.resident_kib() / 1024.0 / used.replicas));
    }
    Ok(line)
}

/// A closed loop of sends.
pub(super) async fn load(people: &[Person], tasks: usize, time: Duration) -> Result<Loaded, Broken> {
    let text = text();
    let callers = people.iter().flat_map(|person| std::iter::repeat_n(person, tasks)).map(|person| {
        let (person, text) = (person.clone(), text.clone());
        move || {
            let (session, text) = (person.session.clone(), text.clone());
            let friend = person.friend();
            async move { Ok(session.send(&friend, &text).await.map(drop)?) }
        }
    });
    closed_loop(callers, time).await
}

/// What the replicas have used, together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub cpu_seconds: f64,
    /// Bytes, as [`crate::processes::resources::device_written_bytes`] counts them.
    pub written: f64,
    pub replicas: f64,
}

impl Used {
    pub fn by(cluster: &Cluster) -> Used {
        let replicas = cluster.running().len().max(1) as f64;
        Used { cpu_seconds: cluster.cpu_seconds(), written: cluster.written_bytes(), replicas }
    }

    pub fn since(self, before: Used) -> Used {
        let (cpu_seconds, written) = (self.cpu_seconds - before.cpu_seconds, self.written - before.written);
        Used { cpu_seconds, written, ..self }
    }
}
