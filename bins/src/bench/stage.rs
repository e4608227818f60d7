//! What is measured: a cluster of one's own, or any other.

use super::fill::{self, Crowd, Order, Size};
use crate::processes::replica::Fault;
use crate::processes::{Broken, Cluster};
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Replicas of its own are so many.
const REPLICAS: u32 = 3;
/// Gigabytes are read, copied and caught up with.
const PATIENCE: Duration = Duration::from_secs(1800);
/// A fill of so many messages is used again. Smaller ones are made anew: they take seconds, and what is measured on them adds to them.
const KEPT_FROM: u64 = 100_000;
/// Whoever watches a fill hears of every so many commands.
const TOLD: u64 = 100_000;
/// Says of a filled folder what is in it: written when all of it is.
const RECORD: &str = "filled.json";

/// Replicas are quiet that together take less of a processor than this in a second, in seconds ...
const QUIET: f64 = 0.05;
/// ... and they are so after so many.
const QUIET_WITHIN: usize = 180;

/// One command line on its way.
pub(super) struct Stage {
    servers: Vec<String>,
    data: Option<PathBuf>,
    /// For everything that nobody is to find later.
    temporary: TempDir,
    /// Where a cluster is that starts empty, if it must.
    empty: Option<TempDir>,
    own: Option<Cluster>,
}

impl Stage {
    /// With `servers`, that cluster is measured; without, one of its own, in `data` or a temporary directory.
    pub fn new(servers: Vec<String>, data: Option<PathBuf>) -> Result<Stage, Broken> {
        let temporary = tempfile::Builder::new().prefix("chat-bench-").tempdir();
        let temporary = temporary.map_err(|error| Broken(format!("no temporary directory: {error}")))?;
        Ok(Stage { servers, data, temporary, empty: None, own: None })
    }

    /// The same, but nothing is in the cluster at first, whatever is in `data`, and nothing of it is left there but what was filled in.
    pub fn fresh(servers: Vec<String>, data: PathBuf) -> Result<Stage, Broken> {
        let stage = Stage::new(servers, Some(data))?;
        let unusable = |error: std::io::Error| Broken(format!("{} cannot be used: {error}", stage.kept().display()));
        std::fs::create_dir_all(stage.kept()).map_err(unusable)?;
        let empty = tempfile::Builder::new().prefix("empty-").tempdir_in(stage.kept()).map_err(unusable)?;
        Ok(Stage { empty: Some(empty), ..stage })
    }

    /// Another one, for a cluster beside this one's that is filled from the same folder.
    pub fn beside(&self) -> Result<Stage, Broken> {
        Stage::new(self.servers.clone(), self.data.clone())
    }

    /// Where a cluster is that was not filled.
    pub fn folder(&self) -> &Path {
        self.empty.as_ref().map_or_else(|| self.kept(), TempDir::path)
    }

    /// Where data is kept.
    fn kept(&self) -> &Path {
        self.data.as_deref().unwrap_or(self.temporary.path())
    }

    /// Starts three replicas, unless it is another cluster that is measured or they run already.
    pub async fn up(&mut self) -> Result<(), Broken> {
        if self.servers.is_empty() && self.own.is_none() {
            let folder = self.folder().to_path_buf();
            self.start_in(&folder).await?;
        }
        Ok(())
    }

    async fn start_in(&mut self, folder: &Path) -> Result<&mut Cluster, Broken> {
        let mut cluster = Cluster::new(folder, REPLICAS, &[], None)?;
        cluster.wait_for(PATIENCE);
        for id in cluster.ids() {
            let path = OsString::from(fill::socket(self.temporary.path(), id));
            cluster.replica(id)?.surround(vec![(fill::SOCKET.to_owned(), path)]);
        }
        cluster.up().await?;
        Ok(self.own.insert(cluster))
    }

    /// Stops its own replicas, if there are any.
    pub async fn down(&mut self) -> Result<(), Broken> {
        let Some(mut cluster) = self.own.take() else { return Ok(()) };
        let running = cluster.running();
        cluster.down(&running, Fault::Kill).await
    }

    /// A crowd of so many accounts, new in its own cluster, which runs. `None`: it is another cluster that is measured.
    pub async fn crowd(&mut self, accounts: u64) -> Result<Option<Crowd>, Broken> {
        let Some(cluster) = &mut self.own else { return Ok(None) };
        let order = Order { crowd: Crowd::new(accounts), messages: 0 };
        fill::carry_out(cluster, self.temporary.path(), &order, |_| {}).await?;
        Ok(Some(order.crowd))
    }

    /// Its own replicas on a folder of their own that holds so much, filled now unless an earlier run has done it. What ran
    /// before is stopped.
    pub async fn filled(&mut self, size: &Size) -> Result<Crowd, Broken> {
        let (accounts, messages) = (size.accounts as u64, size.messages as u64);
        if !self.servers.is_empty() {
            return Err(Broken("only replicas that it started itself are filled: leave --servers out".into()));
        }
        self.down().await?;
        let folder = self.kept().join(format!("filled-{accounts}-{messages}"));
        let record = folder.join(RECORD);
        let unusable = |error: std::io::Error| Broken(format!("{} cannot be used: {error}", folder.display()));
        let order = match std::fs::read(&record) {
            Ok(text) if messages >= KEPT_FROM => {
                serde_json::from_slice(&text).map_err(|error| unusable(error.into()))?
            }
            _ => {
                // Too small, or a fill that did not come to its end: nobody knows what is in it.
                if folder.exists() {
                    std::fs::remove_dir_all(&folder).map_err(unusable)?;
                }
                let order = Order { crowd: Crowd::new(accounts), messages };
                self.fill(&folder, &order).await?;
                let text = serde_json::to_vec(&order).map_err(|error| unusable(error.into()))?;
                std::fs::write(&record, text).map_err(unusable)?;
                // What is measured has been started on what is there, as it is when that is used again.
                self.down().await?;
                order
            }
        };
        self.start_in(&folder).await?;
        self.quiet().await?;
        Ok(order.crowd)
    }

    async fn fill(&mut self, folder: &Path, order: &Order) -> Result<(), Broken> {
        let (sockets, talks) = (self.temporary.path().to_path_buf(), std::io::stderr().is_terminal());
        let cluster = self.start_in(folder).await?;
        let (all, mut told) = (order.commands(), 0);
        let progress = |done: u64| {
            if talks && done >= told + TOLD {
                told = done;
                eprintln!("filling: {done} of {all}");
            }
        };
        fill::carry_out(cluster, &sockets, order, progress).await
    }

    /// Waits until its own replicas have done what a start, or a fill, leaves to be done: that is no cost of what is measured.
    pub async fn quiet(&mut self) -> Result<(), Broken> {
        let Some(cluster) = &mut self.own else { return Ok(()) };
        for _ in 0..QUIET_WITHIN {
            let before = cluster.cpu_seconds();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if cluster.cpu_seconds() - before < QUIET {
                return cluster.check();
            }
        }
        Err(Broken(format!("{QUIET_WITHIN} s after their start, the replicas are still busy")))
    }

    /// The addresses of what is measured.
    pub fn servers(&self) -> Vec<String> {
        self.own.as_ref().map_or_else(|| self.servers.clone(), Cluster::servers)
    }

    /// Its own replicas, if they are what is measured and run.
    pub fn own(&self) -> Option<&Cluster> {
        self.own.as_ref()
    }

    /// Its own replicas, for what is only done to those; `what` says what that is.
    pub async fn only_own(&mut self, what: &str) -> Result<&mut Cluster, Broken> {
        self.up().await?;
        let refused = || Broken(format!("{what} only with replicas that it started itself: leave --servers out"));
        self.own.as_mut().ok_or_else(refused)
    }
}
