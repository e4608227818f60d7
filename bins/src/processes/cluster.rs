//! A cluster of real replicas, each a process of its own.

use super::address;
use super::broken::Broken;
use super::replica::{Fault, Plan, Replica, Said};
use super::resources;
use chat_client::{Client, ReplicaStatus, Role};
use chat_proto::v1::{TransferRequest, admin_service_client::AdminServiceClient};
use rustix::process::Pid;
use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long anything that must come about may take before it counts as not happening.
const WAIT: Duration = Duration::from_secs(20);
/// Between two looks at what the replicas say of themselves.
const LOOK: Duration = Duration::from_millis(10);
/// Where the addresses of a cluster are kept, in its folder: the next run uses them again.
const BOOK: &str = "addresses";
/// Locked for as long as somebody runs the replicas of a folder.
const LOCK: &str = "lock";

/// Where a replica is to be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub address: SocketAddr,
    /// The network namespace, if it is not to run in this one.
    pub namespace: Option<String>,
}

/// Replicas 1 to n, running or not. Dropping it kills what runs.
pub(crate) struct Cluster {
    replicas: Vec<Replica>,
    /// For questions about status; it may be asked while nobody leads.
    admin: Client,
    patience: Duration,
    /// Keeps others from running these replicas.
    _lock: File,
}

impl Cluster {
    /// `n` replicas with their data in `folder`, none of them running. In the places given, or else on loopback
    /// addresses: those that the folder remembers, or free ones.
    pub fn new(
        folder: &Path,
        n: u32,
        places: &[Place],
        voice: Option<mpsc::UnboundedSender<Said>>,
    ) -> Result<Self, Broken> {
        let unusable = |error: std::io::Error| Broken(format!("{} cannot be used: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let lock = lock(folder)?;
        let places = if places.is_empty() { remembered(folder, n)? } else { places.to_vec() };
        let book: Vec<_> = (1..).zip(&places).map(|(id, place): (u32, _)| format!("{id}={}", place.address)).collect();
        let program = std::env::current_exe().map_err(unusable)?;
        let replica = |(id, place): (u32, &Place)| {
            let words = |name: &String| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
            Replica::new(Plan {
                program: program.clone(),
                through: place.namespace.as_ref().map(words).unwrap_or_default(),
                id,
                address: place.address,
                book: book.join(","),
                folder: folder.to_path_buf(),
                voice: voice.clone(),
            })
        };
        let replicas: Vec<_> = (1..).zip(&places).map(replica).collect();
        let admin = Client::builder().servers(places.iter().map(|place| place.address.to_string())).connect_lazy()?;
        Ok(Self { replicas, admin, patience: WAIT, _lock: lock })
    }

    /// How long anything may take before it counts as not happening: with large databases, longer than the 20 s that it is unless told.
    pub fn wait_for(&mut self, patience: Duration) {
        self.patience = patience;
        self.replicas.iter_mut().for_each(|replica| replica.wait_for(patience));
    }

    /// All of them started on what data they have, and one view.
    pub async fn up(&mut self) -> Result<(), Broken> {
        let ids = self.ids();
        for id in &ids {
            self.replica(*id)?.launch()?;
        }
        for id in &ids {
            self.replica(*id)?.ready().await?;
        }
        self.whole().await
    }

    pub fn ids(&self) -> Vec<u32> {
        self.replicas.iter().map(Replica::id).collect()
    }

    pub fn running(&self) -> Vec<u32> {
        self.replicas.iter().filter(|replica| replica.runs()).map(Replica::id).collect()
    }

    pub fn servers(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.address().to_string()).collect()
    }

    /// A client whose calls wait for `timeout` at most.
    pub fn client(&self, timeout: Duration) -> Result<Client, Broken> {
        Ok(Client::builder().servers(self.servers()).timeout(timeout).connect_lazy()?)
    }

    /// For asking for the status of all beside everything else.
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    pub fn replica(&mut self, id: u32) -> Result<&mut Replica, Broken> {
        let found = self.replicas.iter_mut().find(|replica| replica.id() == id);
        found.ok_or_else(|| Broken(format!("there is no replica {id}")))
    }

    pub async fn start(&mut self, id: u32) -> Result<(), Broken> {
        self.replica(id)?.start().await
    }

    /// Takes these down at one instant, and waits until they are gone.
    pub async fn down(&mut self, ids: &[u32], fault: Fault) -> Result<(), Broken> {
        for id in ids {
            self.replica(*id)?.strike(fault)?;
        }
        for id in ids {
            self.replica(*id)?.gone(fault).await?;
        }
        Ok(())
    }

    /// Processor time that the running replicas have used, together.
    pub fn cpu_seconds(&self) -> f64 {
        self.replicas.iter().filter_map(Replica::cpu_seconds).sum()
    }

    /// Bytes that were written to the device on which the replicas have their data, by anybody; 0 if it is no block device.
    pub fn written_bytes(&self) -> f64 {
        self.replicas.first().and_then(|replica| resources::device_written_bytes(&replica.data())).unwrap_or(0) as f64
    }

    /// Memory that the running replicas have resident, together, in KiB.
    pub fn resident_kib(&self) -> f64 {
        self.pids().filter_map(resources::resident_kib).sum::<u64>() as f64
    }

    /// The processes of the running replicas.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.replicas.iter().filter_map(Replica::pid)
    }

    /// That no replica has ended by itself.
    pub fn check(&mut self) -> Result<(), Broken> {
        self.replicas.iter_mut().try_for_each(Replica::check)
    }

    /// Looks at the status of all replicas until it is so, and returns it. `what` is for saying that it does not happen.
    pub async fn until(
        &mut self,
        what: &str,
        is_so: impl Fn(&[ReplicaStatus]) -> bool,
    ) -> Result<Vec<ReplicaStatus>, Broken> {
        let begun = Instant::now();
        loop {
            self.check()?;
            let states = self.admin.status_of_all().await;
            if is_so(&states) {
                return Ok(states);
            }
            if begun.elapsed() > self.patience {
                let waited = self.patience;
                return Err(Broken(format!("after {waited:?} it is not so that {what}: {}", describe(&states))));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all replicas that run are one view, each of them says so, and each could prove the crash of any other.
    pub async fn whole(&mut self) -> Result<(), Broken> {
        let running = self.running();
        let one_view = |states: &[ReplicaStatus]| {
            let Some(leader) = leader_of(states) else { return false };
            let told: Vec<_> = states.iter().filter(|state| state.role != Role::Unreachable).collect();
            let ready = |state: &ReplicaStatus| {
                let lacks = |id: &&u32| Some(**id) != state.id && !state.leases_from.contains(id);
                state.in_view == running && state.leader == Some(leader) && !running.iter().any(|id| lacks(&id))
            };
            told.len() == running.len() && told.into_iter().all(ready)
        };
        self.until(&format!("{} are one view", list(&running)), one_view).await.map(drop)
    }

    /// Waits until every replica that runs has applied all that there is.
    pub async fn all_applied(&mut self) -> Result<(), Broken> {
        let applied = |states: &[ReplicaStatus]| {
            let mut told = states.iter().filter(|state| state.role != Role::Unreachable);
            let last = states.iter().map(|state| state.last).max();
            told.all(|state| Some(state.applied) == last)
        };
        self.until("all replicas have applied everything", applied).await.map(drop)
    }

    /// Waits until replica `id` is in the view of whoever leads.
    pub async fn in_view(&mut self, id: u32) -> Result<(), Broken> {
        let is_in = |states: &[ReplicaStatus]| {
            let leader = states.iter().find(|state| state.role == Role::Primary && state.waiting_for.is_empty());
            let follows = |state: &ReplicaStatus| state.id == Some(id) && state.role == Role::Backup;
            leader.is_some_and(|leader| leader.in_view.contains(&id)) && states.iter().any(follows)
        };
        self.until(&format!("replica {id} is in the view"), is_in).await.map(drop)
    }

    /// Who leads; waits until one does.
    pub async fn leader(&mut self) -> Result<u32, Broken> {
        let states = self.until("a replica leads", |states| leader_of(states).is_some()).await?;
        leader_of(&states).ok_or_else(|| Broken("nobody leads any more".to_owned()))
    }

    /// Makes replica `id` lead.
    pub async fn hand_to(&mut self, id: u32) -> Result<(), Broken> {
        while self.leader().await? != id {
            let leader = self.leader().await?;
            self.transfer(leader, id).await?;
        }
        self.whole().await
    }

    /// Tells `leader` to hand over to replica `id`, and waits until another one leads.
    pub async fn transfer(&mut self, leader: u32, id: u32) -> Result<(), Broken> {
        let address = self.replica(leader)?.address();
        let lost = |error: &dyn std::error::Error| Broken(format!("replica {leader} does not hand over: {error}"));
        let admin = AdminServiceClient::connect(format!("http://{address}")).await;
        let mut admin = admin.map_err(|error| lost(&error))?;
        admin.transfer(TransferRequest { id }).await.map_err(|status| lost(&status))?;
        let leads = |states: &[ReplicaStatus]| leader_of(states).is_some_and(|now| now != leader || now == id);
        self.until(&format!("replica {leader} hands over to replica {id}"), leads).await.map(drop)
    }
}

/// Who leads and can go on, by its own account.
pub(crate) fn leader_of(states: &[ReplicaStatus]) -> Option<u32> {
    let leads = |state: &&ReplicaStatus| state.role == Role::Primary && state.waiting_for.is_empty();
    states.iter().filter(leads).max_by_key(|state| state.epoch).and_then(|state| state.id)
}

/// The status of all in one line.
pub(crate) fn describe(states: &[ReplicaStatus]) -> String {
    let one = |state: &ReplicaStatus| {
        let id = state.id.map_or_else(|| state.address.clone(), |id| id.to_string());
        let mut line = format!("{id} {}", state.role);
        if state.role == Role::Unreachable {
            return line;
        }
        line += &format!(" in epoch {}, {}/{}", state.epoch, state.committed, state.last);
        line += &format!(", view {}", list(&state.in_view));
        if !state.waiting_for.is_empty() {
            line += &format!(", waits for {}", list(&state.waiting_for));
        }
        line
    };
    states.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Takes the folder for this process. Two that share it would start and kill each other's replicas.
fn lock(folder: &Path) -> Result<File, Broken> {
    let path = folder.join(LOCK);
    let unusable = |error: std::io::Error| Broken(format!("{} cannot be used: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Broken(format!("{} is in use by another run: name another folder with --data", folder.display())))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The addresses that the folder remembers, or free ones, which it then does.
fn remembered(folder: &Path, n: u32) -> Result<Vec<Place>, Broken> {
    let path = folder.join(BOOK);
    if let Ok(text) = std::fs::read_to_string(&path) {
        let addresses: Option<Vec<_>> = text.lines().map(|line| line.parse().ok()).collect();
        let known = addresses.filter(|addresses| addresses.len() == n as usize);
        let addresses = known.ok_or_else(|| Broken(format!("{} does not hold {n} addresses", path.display())))?;
        return Ok(addresses.into_iter().map(|address| Place { address, namespace: None }).collect());
    }
    let mut addresses: Vec<SocketAddr> = Vec::new();
    while addresses.len() < n as usize {
        let address = address::free()?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    std::fs::write(&path, text).map_err(|error| Broken(format!("{} cannot be written: {error}", path.display())))?;
    Ok(addresses.into_iter().map(|address| Place { address, namespace: None }).collect())
}

/// `1, 2, 3`, for people.
pub(crate) fn list(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_run_at_a_time() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let first = lock(folder.path()).expect("nobody else has it");
        let refused = lock(folder.path()).expect_err("the first has it");
        assert!(refused.to_string().contains("in use by another run"), "{refused}");
        drop(first);
        lock(folder.path()).expect("nobody has it any more");
    }
}
