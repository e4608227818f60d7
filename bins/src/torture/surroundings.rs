//! What a replica lives in: its disk, its wall clock, its file handles.

use crate::processes::Broken;
use crate::processes::replica::Replica;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A file system of its own, in memory. Goes with everything on it when dropped.
#[derive(Debug)]
pub(super) struct SmallDisk {
    path: PathBuf,
}

/// Enough for what a round writes.
const ROOMY: u64 = 2 << 30;
/// What is left when it is made full: some turns' worth.
const LEFT: u64 = 256 << 10;
/// How often what is used is measured again at most.
const MEASURED_AGAIN: usize = 20;

impl SmallDisk {
    /// Mounted at `path`, which is made. Or why it cannot be had here.
    pub fn mount(path: &Path) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let disk = SmallDisk { path: path.to_path_buf() };
        let path = path.display().to_string();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={ROOMY},mode=700"), "chat-torture", &path])?;
        Ok(disk)
    }

    /// Next to nothing more can be written to it.
    pub fn fill(&self) -> Result<(), Broken> {
        let fill = || self.resize(used(&self.path) + LEFT);
        // A replica may have written more meanwhile than it would hold, which is refused: then it is measured again.
        (0..MEASURED_AGAIN).fold(fill(), |filled, _| filled.or_else(|_| fill()))
    }

    /// There is room again.
    pub fn empty(&self) -> Result<(), Broken> {
        self.resize(ROOMY)
    }

    fn resize(&self, bytes: u64) -> Result<(), Broken> {
        let path = self.path.display().to_string();
        run("mount", &["-o", &format!("remount,size={bytes}"), &path]).map_err(Broken)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may still have a file open.
        if let Err(why) = run("umount", &["-l", &self.path.display().to_string()]) {
            eprintln!("chat-torture: {why}");
        }
    }
}

/// Bytes that the files in this directory take.
fn used(path: &Path) -> u64 {
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|data| data.blocks() * 512 + 4096).sum()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// Wall clocks that can be set, by libfaketime.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    library: PathBuf,
    folder: PathBuf,
}

const FAKETIME: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];

impl Clocks {
    /// Their settings are files in `folder`. Or why they cannot be had here.
    pub fn find(folder: &Path) -> Result<Clocks, String> {
        let library = FAKETIME.iter().map(PathBuf::from).find(|path| path.exists());
        let library = library.ok_or("libfaketime is not installed")?;
        Ok(Clocks { library, folder: folder.to_path_buf() })
    }

    fn file(&self, id: u32) -> PathBuf {
        self.folder.join(format!("clock-{id}"))
    }

    /// What makes a process live by the clock of replica `id`. The monotonic clock stays as it is: leases rest on it.
    pub fn environment(&self, id: u32) -> Vec<(String, OsString)> {
        let set = |name: &str, value: &str| (name.to_owned(), OsString::from(value));
        vec![
            ("LD_PRELOAD".to_owned(), self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), self.file(id).into()),
            set("FAKETIME_NO_CACHE", "1"),
            set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            set("DONT_FAKE_MONOTONIC", "1"),
        ]
    }

    /// From now on it is so many hours off.
    pub fn set(&self, id: u32, hours: i32) -> Result<(), Broken> {
        let (file, new) = (self.file(id), self.folder.join(format!("clock-{id}.new")));
        let failed = |error| Broken(format!("the clock of replica {id} cannot be set: {error}"));
        std::fs::write(&new, format!("{hours:+}h\n")).map_err(failed)?;
        std::fs::rename(&new, &file).map_err(failed)
    }
}

/// A replica that has hardly any file handle left, until this is let go.
#[derive(Debug)]
pub(super) struct Starved {
    pid: Pid,
    before: Rlimit,
    _connections: Vec<TcpStream>,
}

/// Connections beyond what it can accept.
const TOO_MANY: u64 = 40;
const DIAL: Duration = Duration::from_millis(200);

impl Starved {
    /// Leaves the process `spare` handles beyond those that are open, and opens more connections than that.
    pub fn begin(replica: &Replica, spare: u64) -> Result<Starved, Broken> {
        let failed = |why: &dyn std::fmt::Display| Broken(format!("file handles of replica {}: {why}", replica.id()));
        let pid = replica.pid().ok_or_else(|| failed(&"it does not run"))?;
        let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
        let open = std::fs::read_dir(folder).map_err(|error| failed(&error))?.count() as u64;
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(open + spare), maximum: before.maximum };
        let before = prlimit(Some(pid), Resource::Nofile, few).map_err(|error| failed(&error))?;
        let address: SocketAddr = replica.address();
        let connections = (0..spare + TOO_MANY).filter_map(|_| TcpStream::connect_timeout(&address, DIAL).ok());
        Ok(Starved { pid, before, _connections: connections.collect() })
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        // It may have ended; then nobody needs handles any more.
        let _ = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

/// A crash on purpose leaves no memory dump: there are thousands. Holds for this process and those that it starts.
pub(super) fn no_dumps() {
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}
