//! What is measured: a cluster of one's own, or any other; and where results go.

use super::report::Report;
use crate::processes::{Broken, Cluster};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Replicas of its own are so many.
const REPLICAS: u32 = 3;

/// One command line on its way.
pub(super) struct Stage {
    servers: Vec<String>,
    data: Option<PathBuf>,
    /// For everything that nobody is to find later.
    temporary: TempDir,
    own: Option<Cluster>,
    pub report: Report,
}

impl Stage {
    /// With `servers`, that cluster is measured; without, one of its own, in `data` or a temporary directory.
    pub fn new(servers: Vec<String>, data: Option<PathBuf>, report: Report) -> Result<Stage, Broken> {
        let temporary = tempfile::Builder::new().prefix("chat-bench-").tempdir();
        let temporary = temporary.map_err(|error| Broken(format!("no temporary directory: {error}")))?;
        Ok(Stage { servers, data, temporary, own: None, report })
    }

    /// Where data is kept.
    pub fn folder(&self) -> &Path {
        self.data.as_deref().unwrap_or(self.temporary.path())
    }

    /// Starts three replicas, unless it is another cluster that is measured or they run already.
    pub async fn up(&mut self) -> Result<(), Broken> {
        if self.servers.is_empty() && self.own.is_none() {
            let mut cluster = Cluster::new(self.folder(), REPLICAS, &[], None)?;
            cluster.up().await?;
            self.own = Some(cluster);
        }
        Ok(())
    }

    /// The addresses of what is measured.
    pub fn servers(&self) -> Vec<String> {
        self.own.as_ref().map_or_else(|| self.servers.clone(), Cluster::servers)
    }

    /// Where results go, and its own replicas, if they are what is measured.
    pub fn parts(&mut self) -> (&mut Report, Option<&mut Cluster>) {
        (&mut self.report, self.own.as_mut())
    }

    /// Its own replicas, for what is only done to those; `what` says what that is.
    pub async fn only_own(&mut self, what: &str) -> Result<&mut Cluster, Broken> {
        self.up().await?;
        let refused = || Broken(format!("{what} only with replicas that it started itself: leave --servers out"));
        self.own.as_mut().ok_or_else(refused)
    }
}
