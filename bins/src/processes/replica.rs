//! A replica as a child process: started, killed, stopped, paused, and never left behind.

use super::broken::Broken;
use super::resources;
use crate::daemon::Beside;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The first argument with which such a program is a replica.
pub(super) const REPLICA: &str = "replica";
/// Where a replica's process finds whose child it is.
const PARENT: &str = "CHAT_DEMO_PARENT";
/// A start reads a small database; an end leaves the view first. Much longer than either takes.
const WAIT: Duration = Duration::from_secs(20);
/// Lines that are kept for saying how a replica ended.
const LAST_WORDS: usize = 5;

/// How a replica goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Fault {
    /// SIGKILL: a crash.
    Kill,
    /// SIGTERM: it leaves the view first.
    Term,
}

impl Fault {
    fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::KILL,
            Self::Term => Signal::TERM,
        }
    }

    /// As people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Term => "SIGTERM",
        }
    }
}

/// A line that a replica said on standard error, with its id.
pub type Said = (u32, String);

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// `chat-demo`, which runs as a replica when it is told to.
    pub program: PathBuf,
    /// A command in front of the program, which must become it (exec): such as `ip netns exec NAME`.
    pub through: Vec<String>,
    /// Its number.
    pub id: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// The `--cluster` list.
    pub book: String,
    /// Its data are in a folder of this one, named by its id; what it says goes to a file beside that.
    pub folder: PathBuf,
    /// Who else wants to hear what it says.
    pub voice: Option<mpsc::UnboundedSender<Said>>,
}

/// A replica, running or not. Dropping it kills its process.
#[derive(Debug)]
pub struct Replica {
    plan: Plan,
    /// What its next starts find in their environment.
    environment: Vec<(String, OsString)>,
    running: Option<Running>,
    patience: Duration,
}

/// How a process ended, by itself.
#[derive(Clone, Debug)]
pub struct Ended {
    /// As the operating system tells it; `None` if it does not.
    pub status: Option<ExitStatus>,
    /// The last lines that it said.
    pub words: String,
}

#[derive(Debug)]
struct Running {
    child: Child,
    pid: Pid,
    ready: watch::Receiver<bool>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Replica {
    /// Not running yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, environment: Vec::new(), running: None, patience: WAIT }
    }

    /// What its next starts find in their environment, beside what this process has: in place of what was said here before.
    pub fn surround(&mut self, environment: Vec<(String, OsString)>) {
        self.environment = environment;
    }

    /// How long a start or an end may take before it counts as not happening: with a large database, longer than the 20 s that it is
    /// unless told.
    pub fn wait_for(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.plan.id
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.plan.address
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.plan.folder.join(self.plan.id.to_string())
    }

    /// The file with what it says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.plan.folder.join(format!("replica-{}.log", self.plan.id))
    }

    /// Its process id, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// Whether there is a process.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Processor time that its process has used, user and system; `None` if there is none, or /proc does not say.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        resources::cpu_seconds(self.pid()?)
    }

    /// Starts the process, without waiting until it is ready.
    ///
    /// # Errors
    /// If it runs already, or the operating system will not.
    pub fn launch(&mut self) -> Result<(), Broken> {
        if self.runs() {
            return Err(Broken(format!("replica {} runs already", self.plan.id)));
        }
        let failed = |error| Broken(format!("replica {} cannot be started: {error}", self.plan.id));
        let mut child = self.command().spawn().map_err(failed)?;
        let raw = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (Some(pid), Some(stderr)) = (raw, child.stderr.take()) else {
            return Err(Broken(format!("replica {} has no process id or no standard error", self.plan.id)));
        };
        let (sender, ready) = watch::channel(false);
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let log = self.log();
        let listener = Listener { plan: self.plan.clone(), log, ready: sender, last_words: last_words.clone() };
        tokio::spawn(listener.listen(stderr));
        self.running = Some(Running { child, pid, ready, last_words });
        Ok(())
    }

    fn command(&self) -> Command {
        let plan = &self.plan;
        let mut words = plan.through.iter().map(OsString::from).chain([OsString::from(&plan.program)]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg(REPLICA);
        command.args(["--id", &plan.id.to_string(), "--cluster", &plan.book]).arg("--data").arg(self.data());
        // What surrounds the demonstration must not configure it, but for the log.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CHATD_") && name != "CHATD_LOG" {
                command.env_remove(name);
            }
        }
        command
            .env_remove("FAILPOINTS")
            .env_remove("FAILPOINTS_AFTER")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        let (name, value) = tie();
        command.env(name, value);
        // In a process group of its own, so that Ctrl-C reaches the demonstration only, which then stops it in order.
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// If it ends before, or takes too long.
    pub async fn ready(&mut self) -> Result<(), Broken> {
        let id = self.plan.id;
        let Some(running) = &mut self.running else { return Err(Broken(format!("replica {id} was not started"))) };
        let mut ready = running.ready.clone();
        match timeout(self.patience, ready.wait_for(|ready| *ready)).await.map(|said| said.map(drop)) {
            Ok(Ok(_)) => Ok(()),
            // Its standard error is closed: it ends.
            Ok(Err(_)) => {
                let status = running.child.wait().await.ok();
                Err(self.ended_by_itself(status))
            }
            Err(_) => Err(Broken(format!("replica {id} was not ready after {:?}; {}", self.patience, running.words()))),
        }
    }

    /// [`launch`](Self::launch), then [`ready`](Self::ready).
    ///
    /// # Errors
    /// As those.
    pub async fn start(&mut self) -> Result<(), Broken> {
        self.launch()?;
        self.ready().await
    }

    /// Gives the signal, without waiting for what it does.
    ///
    /// # Errors
    /// If it does not run.
    pub fn strike(&mut self, fault: Fault) -> Result<(), Broken> {
        self.signal(fault.signal())
    }

    /// Waits for the end that [`strike`](Self::strike) brings.
    ///
    /// # Errors
    /// If it ends otherwise, or not in time.
    pub async fn gone(&mut self, fault: Fault) -> Result<(), Broken> {
        let id = self.plan.id;
        let Some(running) = &mut self.running else { return Err(Broken(format!("replica {id} does not run"))) };
        let Ok(ended) = timeout(self.patience, running.child.wait()).await else {
            let waited = self.patience;
            return Err(Broken(format!("replica {id} was still there {waited:?} after {}", fault.name())));
        };
        let status = ended.ok();
        let as_told = status.is_some_and(|status| match fault {
            Fault::Kill => status.signal() == Some(Signal::KILL.as_raw()),
            Fault::Term => status.success(),
        });
        if !as_told {
            return Err(self.ended_by_itself(status));
        }
        self.running = None;
        Ok(())
    }

    /// [`strike`](Self::strike), then [`gone`](Self::gone).
    ///
    /// # Errors
    /// As those.
    pub async fn down(&mut self, fault: Fault) -> Result<(), Broken> {
        self.strike(fault)?;
        self.gone(fault).await
    }

    /// Waits until it ends by itself, and takes note of that. `None`: it still runs after this time, or was not started.
    pub async fn ends_within(&mut self, time: Duration) -> Option<Ended> {
        let running = self.running.as_mut()?;
        let status = timeout(time, running.child.wait()).await.ok()?.ok();
        // What it said last is heard when its standard error has closed.
        let mut ready = running.ready.clone();
        let _ = timeout(WAIT, ready.wait_for(|_| false)).await;
        let words = self.running.take().map(|running| running.words()).unwrap_or_default();
        Some(Ended { status, words })
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&mut self) -> Result<(), Broken> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&mut self) -> Result<(), Broken> {
        self.signal(Signal::CONT)
    }

    /// That it still runs, if it was started.
    ///
    /// # Errors
    /// If it has ended by itself, with its last words.
    pub fn check(&mut self) -> Result<(), Broken> {
        let ended = self.running.as_mut().and_then(|running| running.child.try_wait().ok().flatten());
        match ended {
            Some(status) => Err(self.ended_by_itself(Some(status))),
            None => Ok(()),
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<(), Broken> {
        self.check()?;
        let id = self.plan.id;
        let Some(running) = &self.running else { return Err(Broken(format!("replica {id} does not run"))) };
        // Not reaped yet, or `check` had found its end: this process id is still its own.
        kill_process(running.pid, signal).map_err(|error| Broken(format!("replica {id} takes no signal: {error}")))
    }

    fn ended_by_itself(&mut self, status: Option<ExitStatus>) -> Broken {
        let how = status.map_or_else(|| "somehow".to_owned(), |status| status.to_string());
        let words = self.running.take().map(|running| running.words()).unwrap_or_default();
        Broken(format!("replica {} ended by itself ({how}); {words}", self.plan.id))
    }
}

impl Running {
    fn words(&self) -> String {
        let words = self.last_words.lock().map(|words| words.iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        if words.is_empty() { "it said nothing".to_owned() } else { format!("its last words: {}", words.join(" / ")) }
    }
}

/// Reads what a replica says, until it ends.
struct Listener {
    plan: Plan,
    log: PathBuf,
    ready: watch::Sender<bool>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

impl Listener {
    async fn listen(self, stderr: ChildStderr) {
        let mut log = append(&self.log);
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(log) = &mut log {
                // A log that cannot be written is no reason to stop listening.
                let _ = writeln!(log, "{} {line}", jiff::Timestamp::now());
            }
            if let Ok(mut words) = self.last_words.lock() {
                words.push_back(line.clone());
                if words.len() > LAST_WORDS {
                    words.pop_front();
                }
            }
            if line.starts_with("chatd: ready") {
                self.ready.send_replace(true);
            }
            if let Some(voice) = &self.plan.voice {
                let _ = voice.send((self.plan.id, line));
            }
        }
    }
}

fn append(path: &Path) -> Option<File> {
    File::options().create(true).append(true).open(path).ok()
}

/// Runs this process as a replica: `chatd` with these arguments, and something beside it, which dies with whoever started it.
pub(crate) fn main(arguments: impl Iterator<Item = OsString>, beside: Beside) -> ExitCode {
    if !tie_to_parent() {
        return ExitCode::FAILURE;
    }
    crate::daemon::main_beside([OsString::from("chatd")].into_iter().chain(arguments), beside)
}

/// What a child process finds in its environment so that [`tie_to_parent`] knows whose it is.
pub(crate) fn tie() -> (&'static str, String) {
    (PARENT, std::process::id().to_string())
}

/// Makes this process die with the one that started it, if that wants it. False: it is gone already.
pub(crate) fn tie_to_parent() -> bool {
    let parent = std::env::var(PARENT).ok().and_then(|parent| parent.parse().ok()).and_then(Pid::from_raw);
    let Some(parent) = parent else { return true };
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have died before that: then nobody would give the signal any more.
    tied.is_ok() && rustix::process::getppid() == Some(parent)
}
