//! Real replicas on machines whose power can be cut.

use super::power::{Disk, Model, Supply};
use super::talk::Told;
use chat_bins::processes::address;
use chat_bins::processes::replica::{Fault, Plan, Replica};
use chat_client::{Client, ReplicaStatus, Role};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything that must come about may take before it counts as not happening.
const WAIT: Duration = Duration::from_secs(20);

/// Replicas 1 to n, each on a machine of its own, all on one supply: machine m, from 0, has replica m + 1.
pub struct Rack {
    pub supply: Supply,
    pub disks: Vec<Disk>,
    pub replicas: Vec<Replica>,
    pub random: StdRng,
    folder: PathBuf,
    addresses: Vec<SocketAddr>,
}

impl Rack {
    /// None of them running, on empty disks; or why there can be none.
    pub fn new(name: &str, n: usize, seed: u64) -> Result<Rack, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let supply = Supply::new(&folder)?;
        let addresses = (0..n).map(|_| address::free().expect("a free address")).collect();
        let disks = (0..n).map(|machine| supply.disk(machine, folder.join(format!("machine-{machine}")))).collect();
        let random = StdRng::seed_from_u64(seed);
        let mut rack = Rack { supply, disks, replicas: Vec::new(), random, folder, addresses };
        rack.replicas = (0..n).map(|machine| rack.replica(machine, 0, false)).collect();
        Ok(rack)
    }

    fn replica(&mut self, machine: usize, writeback: u32, lies: bool) -> Replica {
        let book: Vec<_> = (1..).zip(&self.addresses).map(|(id, at): (u32, _)| format!("{id}={at}")).collect();
        let disk = &self.disks[machine];
        Replica::new(Plan {
            program: env!("CARGO_BIN_EXE_chat-demo").into(),
            through: disk.words(&self.supply, writeback, self.random.random(), lies),
            id: machine as u32 + 1,
            address: self.addresses[machine],
            book: book.join(","),
            folder: disk.root.clone(),
            voice: None,
        })
    }

    pub fn machines(&self) -> Vec<usize> {
        (0..self.disks.len()).collect()
    }

    pub fn servers(&self) -> Vec<String> {
        self.addresses.iter().map(SocketAddr::to_string).collect()
    }

    /// The data directory of this machine's replica.
    pub fn data(&self, machine: usize) -> PathBuf {
        self.replicas[machine].data()
    }

    /// Gives it power again, and starts its replica without waiting for anything. Of 1000 writes, `writeback` get to the disk at once.
    pub fn boot(&mut self, machine: usize, writeback: u32) {
        self.supply.switch_on(machine);
        self.replicas[machine] = self.replica(machine, writeback, false);
        self.replicas[machine].launch().expect("it starts");
    }

    /// Starts its replica again, after a crash of the process only: on a disk that now says that it has synced, and has not.
    pub fn launch_on_a_liar(&mut self, machine: usize) {
        self.replicas[machine] = self.replica(machine, 0, true);
        self.replicas[machine].launch().expect("it starts");
    }

    /// The power of these is gone: waits until their processes are, and makes of their disks what is left.
    pub async fn lose(&mut self, machines: &[usize], model: Model) -> Result<(), String> {
        for machine in machines {
            let replica = &mut self.replicas[*machine];
            if replica.runs() {
                replica.gone(Fault::Kill).await.map_err(|broken| broken.to_string())?;
            }
        }
        for machine in machines {
            self.disks[*machine].lose(model, self.random.random());
        }
        Ok(())
    }

    /// Looks at the status of all until it is so.
    pub async fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&[ReplicaStatus]) -> bool,
    ) -> Result<Vec<ReplicaStatus>, String> {
        let begun = Instant::now();
        let servers = self.servers();
        let client = Client::builder().servers(servers.iter().map(String::as_str)).connect_lazy().expect("addresses");
        loop {
            for replica in &mut self.replicas {
                replica.check().map_err(|broken| broken.to_string())?;
            }
            let states = client.status_of_all().await;
            if let Some(state) = states.iter().find(|state| !state.impaired.is_empty()) {
                return Err(format!("a disk that lost its power is taken for damaged: {state:?}"));
            }
            if is_so(&states) {
                return Ok(states);
            }
            if begun.elapsed() > WAIT {
                return Err(format!("after {WAIT:?} it is not so that {what}: {states:#?}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all are in one view, and each could prove the crash of any other.
    pub async fn whole(&mut self) -> Result<Vec<ReplicaStatus>, String> {
        let n = self.disks.len();
        let whole = |states: &[ReplicaStatus]| {
            let bound = |state: &ReplicaStatus| state.in_view.len() == n && state.leases_from.len() == n - 1;
            states.iter().filter(|state| bound(state)).count() == n
                && states.iter().any(|state| state.role == Role::Primary)
        };
        self.until("all are in the view and bound by leases", whole).await
    }

    /// That it holds all of this.
    pub async fn keeps(&self, told: &Told) -> Result<(), String> {
        told.is_kept(&self.servers()).await
    }

    /// Nothing needs to be kept.
    pub fn passed(self) {
        drop(self.replicas);
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    pub fn folder(&self) -> String {
        self.folder.display().to_string()
    }
}
