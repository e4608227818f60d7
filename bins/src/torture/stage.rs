//! The replicas of a round, their clients, and the steps that are carried out on them.

use super::figures::Figures;
use super::load::Load;
use super::plan::Step;
use super::pulse::Pulse;
use super::surroundings::{Clocks, SmallDisk, Starved};
use crate::processes::cluster::{Cluster, describe, leader_of};
use crate::processes::replica::{Ended, Fault};
use crate::processes::{Broken, list};
use chat_proto::v1::{TransferRequest, admin_service_client::AdminServiceClient};
use chat_replica::failpoint::Point;
use rustix::process::Signal;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Within this after everything was mended, and where one survivor is promised to be enough, somebody must be answered.
pub(super) const PROGRESS: Duration = Duration::from_secs(10);
/// Within this the last of three goes on alone, or says that it does not.
const SURVIVES: Duration = Duration::from_secs(3);
/// How often a primary is overtaken until it has something to cut back.
const ATTEMPTS: u32 = 4;
/// Of three, two go on without a silent one; the lease is one second.
const LONG_SILENCE: Duration = Duration::from_secs(5);
/// For an operator's order.
const ORDER: Duration = Duration::from_millis(500);
/// A disk that is full is noticed, by then.
const FULL: Duration = Duration::from_secs(20);
/// How long a replica has no file handles.
const STARVED: Duration = Duration::from_millis(1500);
/// As SQLite and as the operating system say it.
const NO_ROOM: [&str; 2] = ["full", "No space left"];
/// The replica whose disk can be made full.
pub(super) const ON_SMALL_DISK: u32 = 3;

/// A round under way. Dropped, it leaves no process and no mount behind.
pub(super) struct Stage {
    pub load: Load,
    pub cluster: Cluster,
    /// After the cluster: its processes go first.
    pub disk: Option<SmallDisk>,
    pub clocks: Option<Clocks>,
    pub pulse: Arc<Pulse>,
    pub figures: Arc<Mutex<Figures>>,
    /// How long a process that is to end at a point is waited for.
    pub waiting: Duration,
}

impl Stage {
    pub fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this step can be taken in this round.
    pub fn can(&self, step: &Step) -> bool {
        match step {
            Step::Full { .. } => self.disk.is_some(),
            Step::Clock { .. } => self.clocks.is_some(),
            _ => true,
        }
    }

    /// Carries the step out and mends what it broke; then somebody must be answered.
    pub async fn take(&mut self, step: &Step) -> Result<(), Broken> {
        if needs_whole(step) {
            self.cluster.whole().await?;
        }
        self.pulse.measure();
        let mended = match step {
            Step::Kill { down, apart, up, hurry } => self.kill(down, *apart, up, *hurry).await,
            Step::Point { ids, point, passes, lead } => self.point(ids, *point, *passes, *lead).await,
            Step::Pause { ids, time } => self.pause(ids, *time).await,
            Step::Term { id } => self.term(*id).await,
            Step::Transfer { id } => Ok(self.transfer(*id).await),
            Step::Full { early } => self.full(*early).await,
            Step::Files { id, spare } => self.files(*id, *spare).await,
            Step::Clock { ids, hours } => self.clock(ids, *hours).await,
            Step::Overtaken => self.overtaken().await,
        }?;
        self.goes_on(mended, "everything was mended").await?;
        self.cluster.check()?;
        self.load.check()?;
        let (gap, back) = (self.pulse.longest(), mended.elapsed());
        self.figures().step(step.title(), gap, back);
        Ok(())
    }

    /// Waits until something that was sent after `since` is answered.
    async fn goes_on(&mut self, since: Instant, what: &str) -> Result<(), Broken> {
        let begun = Instant::now();
        while !self.pulse.beats_since(since) {
            self.load.check()?;
            if begun.elapsed() > PROGRESS {
                let states = describe(&self.cluster.admin().status_of_all().await);
                return Err(Broken(format!("{PROGRESS:?} after {what} nobody is answered: {states}")));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// One is left, and goes on if its leases from the two still ran when it was refused (rule 8). On a machine that is too busy to renew
    /// them in time it may rightly wait, and must then say so: that is counted.
    async fn survives(&mut self, dead: &[u32]) -> Result<(), Broken> {
        let since = Instant::now();
        if let Ok(goes_on) = timeout(SURVIVES, self.goes_on(since, "two of three were killed")).await {
            return goes_on;
        }
        let states = self.cluster.admin().status_of_all().await;
        if states.iter().any(|state| state.waiting_for.iter().any(|id| dead.contains(id))) {
            self.figures().waited += 1;
            return Ok(());
        }
        let states = describe(&states);
        Err(Broken(format!(
            "{SURVIVES:?} after {} were killed nobody is answered, and nobody says why: {states}",
            list(dead)
        )))
    }

    async fn strike(&mut self, ids: &[u32], apart: Duration) -> Result<(), Broken> {
        for (place, id) in ids.iter().enumerate() {
            if place > 0 && !apart.is_zero() {
                sleep(apart).await;
            }
            self.cluster.replica(*id)?.strike(Fault::Kill)?;
            self.figures().kills += 1;
        }
        for id in ids {
            self.cluster.replica(*id)?.gone(Fault::Kill).await?;
        }
        Ok(())
    }

    async fn start(&mut self, ids: &[u32]) -> Result<(), Broken> {
        for id in ids {
            self.cluster.start(*id).await?;
            self.figures().starts += 1;
        }
        Ok(())
    }

    async fn kill(&mut self, down: &[u32], apart: Duration, up: &[u32], hurry: bool) -> Result<Instant, Broken> {
        self.strike(down, apart).await?;
        match down.len() {
            _ if hurry => {}
            1 => self.goes_on(Instant::now(), &format!("replica {} of three was killed", list(down))).await?,
            2 => self.survives(down).await?,
            _ => {}
        }
        self.start(up).await?;
        Ok(Instant::now())
    }

    async fn point(&mut self, ids: &[u32], point: Point, passes: u32, lead: bool) -> Result<Instant, Broken> {
        let running: Vec<u32> = ids.iter().copied().filter(|id| self.cluster.running().contains(id)).collect();
        self.strike(&running, Duration::ZERO).await?;
        let large = matches!(point, Point::Checkpoint | Point::AfterCheckpoint);
        self.load.write_large(large);
        for id in ids {
            self.arm(*id, point, passes, lead)?;
            if point == Point::IdentityWritten {
                // It is there for checks only, and made again from the database.
                let _ = std::fs::remove_file(self.cluster.replica(*id)?.data().join("identity"));
            }
            self.cluster.replica(*id)?.launch()?;
            self.figures().starts += 1;
        }
        let until = Instant::now() + self.waiting;
        for id in ids {
            self.ends_at(*id, point, until, lead || point == Point::Serving).await?;
        }
        self.load.write_large(false);
        self.start(ids).await?;
        Ok(Instant::now())
    }

    /// The next start of this replica is told to end at the point.
    fn arm(&mut self, id: u32, point: Point, passes: u32, lead: bool) -> Result<(), Broken> {
        let mut environment = self.environment(id);
        let order = if passes == 0 { "return".to_owned() } else { format!("{passes}*off->return") };
        environment.push(("FAILPOINTS".to_owned(), format!("{}={order}", point.name()).into()));
        if lead {
            environment.push(("FAILPOINTS_AFTER".to_owned(), Point::Serving.name().into()));
        }
        self.cluster.replica(id)?.surround(environment);
        Ok(())
    }

    fn environment(&self, id: u32) -> Vec<(String, std::ffi::OsString)> {
        self.clocks.as_ref().map(|clocks| clocks.environment(id)).unwrap_or_default()
    }

    /// Waits until the replica has ended at this point, and nowhere else; if it does not come there, it is killed. It is told to lead.
    async fn ends_at(&mut self, id: u32, point: Point, until: Instant, lead: bool) -> Result<bool, Broken> {
        let mut ended = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let pace = if lead { left.min(Duration::from_millis(100)) } else { left };
            ended = ended.or(self.cluster.replica(id)?.ends_within(pace).await);
            if ended.is_some() || Instant::now() >= until {
                break;
            }
            self.transfer(id).await;
        }
        let environment = self.environment(id);
        self.cluster.replica(id)?.surround(environment);
        self.figures().point(point.name(), ended.is_some());
        match ended {
            Some(ended) => as_told(id, point, &ended).map(|()| true),
            None => self.strike(&[id], Duration::ZERO).await.map(|()| false),
        }
    }

    async fn pause(&mut self, ids: &[u32], time: Duration) -> Result<Instant, Broken> {
        let paused = Instant::now();
        for id in ids {
            self.cluster.replica(*id)?.pause()?;
            self.figures().pauses += 1;
        }
        let waited = if ids.len() == 1 && time >= LONG_SILENCE {
            let goes_on = timeout(time, self.goes_on(paused, "one of three fell silent")).await;
            let silent = || Broken(format!("{time:?} after replica {} fell silent nobody is answered", list(ids)));
            goes_on.unwrap_or_else(|_| Err(silent()))
        } else {
            Ok(())
        };
        sleep(time.saturating_sub(paused.elapsed())).await;
        for id in ids {
            self.cluster.replica(*id)?.resume()?;
        }
        waited.map(|()| Instant::now())
    }

    async fn term(&mut self, id: u32) -> Result<Instant, Broken> {
        let told = Instant::now();
        self.cluster.down(&[id], Fault::Term).await?;
        self.goes_on(told, &format!("replica {id} left")).await?;
        self.start(&[id]).await?;
        Ok(Instant::now())
    }

    /// Asks for it; whether it is possible at the moment is the replicas' to say.
    async fn transfer(&mut self, id: u32) -> Instant {
        let ask = async {
            let states = self.cluster.admin().status_of_all().await;
            let leader = leader_of(&states).filter(|leader| *leader != id)?;
            let address = states.iter().find(|state| state.id == Some(leader)).map(|state| state.address.clone())?;
            let mut admin = AdminServiceClient::connect(format!("http://{address}")).await.ok()?;
            admin.transfer(TransferRequest { id }).await.ok()
        };
        let _ = timeout(ORDER, ask).await;
        Instant::now()
    }

    /// The replica on the small disk says that it is full, and ends; the others go on; with room again it comes back.
    async fn full(&mut self, early: bool) -> Result<Instant, Broken> {
        let id = ON_SMALL_DISK;
        let Some(disk) = &self.disk else { return Ok(Instant::now()) };
        disk.fill()?;
        self.load.write_large(true);
        let ended = self.cluster.replica(id)?.ends_within(FULL).await;
        self.load.write_large(false);
        let ended = ended.ok_or_else(|| Broken(format!("replica {id} does not notice that its disk is full")))?;
        says(id, &ended, &NO_ROOM)?;
        self.goes_on(Instant::now(), "a full disk ended one of three").await?;
        if early {
            self.cluster.replica(id)?.launch()?;
            self.figures().starts += 1;
            if let Some(ended) = self.cluster.replica(id)?.ends_within(Duration::from_secs(1)).await {
                says(id, &ended, &NO_ROOM)?;
            }
        }
        if let Some(disk) = &self.disk {
            disk.empty()?;
        }
        if self.cluster.running().contains(&id) {
            // It found room enough to start; or it noticed at the last moment.
            if let Some(ended) = self.cluster.replica(id)?.ends_within(Duration::from_millis(100)).await {
                says(id, &ended, &NO_ROOM)?;
            }
        }
        if !self.cluster.running().contains(&id) {
            self.start(&[id]).await?;
        }
        Ok(Instant::now())
    }

    /// A replica without file handles goes on, or ends with a word on why.
    async fn files(&mut self, id: u32, spare: u64) -> Result<Instant, Broken> {
        let refusals = |said: &str| said.matches("cannot accept connections").count();
        let log = self.cluster.replica(id)?.log();
        let before = std::fs::read_to_string(&log).map_or(0, |said| refusals(&said));
        let starved = Starved::begin(self.cluster.replica(id)?, spare)?;
        let ended = self.cluster.replica(id)?.ends_within(STARVED).await;
        drop(starved);
        if ended.is_none() && std::fs::read_to_string(&log).map_or(0, |said| refusals(&said)) == before {
            return Err(Broken(format!("replica {id} had file handles for everybody")));
        }
        if let Some(ended) = ended {
            says(id, &ended, &[""])?;
            self.start(&[id]).await?;
        }
        Ok(Instant::now())
    }

    /// Clocks jump. If one of them is the primary's, its messages bear the new time.
    async fn clock(&mut self, ids: &[u32], hours: i32) -> Result<Instant, Broken> {
        let Some(clocks) = &self.clocks else { return Ok(Instant::now()) };
        ids.iter().try_for_each(|id| clocks.set(*id, hours))?;
        let set = Instant::now();
        let leader = self.cluster.leader().await?;
        self.goes_on(set, "wall clocks jumped").await?;
        let (off, wanted) = (self.pulse.off(), 3600 * i64::from(hours));
        // Whoever took over meanwhile may live by another clock.
        let same = leader_of(&self.cluster.admin().status_of_all().await) == Some(leader);
        if ids.contains(&leader) && same && (off - wanted).abs() > 60 {
            return Err(Broken(format!("the clock of replica {leader} is {off} s off, and should be {wanted} s")));
        }
        Ok(set)
    }

    /// The backups are stopped; what the primary writes meanwhile is more than the network holds for them. It is killed, they
    /// go on without that, and it must cut its log back: there it is killed again.
    /// What the sockets hold when the primary dies arrives after all, so it can happen that nothing is left to cut back.
    async fn overtaken(&mut self) -> Result<Instant, Broken> {
        for _ in 0..ATTEMPTS {
            if self.overtake().await? {
                break;
            }
            self.cluster.whole().await?;
        }
        Ok(Instant::now())
    }

    async fn overtake(&mut self) -> Result<bool, Broken> {
        let leader = self.cluster.leader().await?;
        let others: Vec<u32> = self.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        for id in &others {
            self.cluster.replica(*id)?.pause()?;
            self.figures().pauses += 1;
        }
        // Only now: sockets through which much has passed take more.
        self.load.write_large(true);
        sleep(Duration::from_millis(800)).await;
        self.load.write_large(false);
        self.strike(&[leader], Duration::ZERO).await?;
        for id in &others {
            self.cluster.replica(*id)?.resume()?;
        }
        self.goes_on(Instant::now(), "the primary was killed, which two had not heard for a while").await?;
        self.arm(leader, Point::CuttingBack, 0, false)?;
        self.cluster.replica(leader)?.launch()?;
        self.figures().starts += 1;
        let cut_back = self.ends_at(leader, Point::CuttingBack, Instant::now() + self.waiting, false).await?;
        self.start(&[leader]).await?;
        Ok(cut_back)
    }
}

/// Whether the step is only what it should be if all three are one view, with leases all around, when it begins.
fn needs_whole(step: &Step) -> bool {
    match step {
        Step::Kill { down, hurry, .. } => down.len() < 3 && !hurry,
        Step::Pause { ids, time } => ids.len() == 1 && *time >= LONG_SILENCE,
        Step::Term { .. } | Step::Full { .. } | Step::Overtaken => true,
        Step::Point { .. } | Step::Transfer { .. } | Step::Files { .. } | Step::Clock { .. } => false,
    }
}

/// That it ended where it was told to.
fn as_told(id: u32, point: Point, ended: &Ended) -> Result<(), Broken> {
    let aborted = ended.status.is_some_and(|status| status.signal() == Some(Signal::ABORT.as_raw()));
    if aborted && ended.words.contains(&format!("failpoint {}", point.name())) {
        return Ok(());
    }
    let Ended { status, words } = ended;
    Err(Broken(format!("replica {id} was to end at {} and ended otherwise ({status:?}); {words}", point.name())))
}

/// That it ended in order, with a word on why.
fn says(id: u32, ended: &Ended, any: &[&str]) -> Result<(), Broken> {
    let clear = ended.status.is_some_and(|status| status.code() == Some(1));
    if clear && ended.words.contains("chatd: ") && any.iter().any(|word| ended.words.contains(word)) {
        return Ok(());
    }
    let Ended { status, words } = ended;
    Err(Broken(format!("replica {id} ended without saying {any:?} ({status:?}); {words}")))
}
