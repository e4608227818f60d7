//! What three replicas cost while nobody asks for anything.

use super::load::positive;
use super::report::{Line, Report};
use super::stage::Stage;
use crate::processes::{Broken, Cluster, resources};
use clap::Args;
use std::time::{Duration, Instant};

/// Not counted: what a start leaves to be done.
const SETTLING: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// For so many seconds
    #[arg(long, default_value_t = 10, value_parser = positive, value_name = "S")]
    secs: usize,
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let cluster = stage.only_own("idle replicas are measured").await?;
    tokio::time::sleep(SETTLING).await;
    let once = async || {
        let (began, before) = (Instant::now(), Used::by(cluster));
        tokio::time::sleep(Duration::from_secs(flags.secs as u64)).await;
        let (after, took) = (Used::by(cluster), began.elapsed().as_secs_f64());
        cluster.check()?;
        let line = Line { name: "idle", ..Line::default() };
        let line = line.with("cpu_percent", (after.cpu_seconds - before.cpu_seconds) / took * 100.0);
        let line = line.with("disk_bytes_per_s", (after.written - before.written) / took);
        Ok(line.with("context_switches_per_s", (after.switches - before.switches) / took))
    };
    report.measure(once).await.map(drop)
}

/// What all replicas have used, together.
struct Used {
    cpu_seconds: f64,
    written: f64,
    switches: f64,
}

impl Used {
    fn by(cluster: &Cluster) -> Used {
        let switches = cluster.pids().filter_map(resources::context_switches).sum::<u64>() as f64;
        Used { cpu_seconds: cluster.cpu_seconds(), written: cluster.written_bytes(), switches }
    }
}
