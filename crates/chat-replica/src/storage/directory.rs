//! The data directory: whose it is and who uses it. Found out before any file in it is changed.

use super::damage::is_unreadable;
use crate::failpoint::{Point, reach};
use crate::protocol::{ClusterId, DiskId, ReplicaId};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

/// The name of the database.
const DATABASE: &str = "replica.db";

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// It cannot be read or made.
    #[error("the data directory {path} cannot be used: {source}")]
    Unusable {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {path} is in use by a running chatd")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another replica.
    #[error("the data directory {path} belongs to replica {found}, not to replica {wanted}")]
    OtherReplica {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: ReplicaId,
        /// Who wanted it.
        wanted: ReplicaId,
    },
    /// What it says of itself cannot be understood.
    #[error("{path} does not say whose data directory this is")]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
}

/// What a data directory says of itself, in the file `identity`: for checks before anything is opened. What counts is in the
/// database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Whose it is.
    pub replica: ReplicaId,
    /// The disk's id.
    pub disk: DiskId,
    /// The cluster, once founded.
    pub cluster: Option<ClusterId>,
}

/// A data directory that this process has for itself, until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Set when a commit found the write-ahead log far beyond its bound: a moment without readers lets it start anew.
    pub(crate) crowded: watch::Sender<Option<Instant>>,
    /// What was found damaged, once something was: the process must end (rule 15).
    pub(crate) damaged: watch::Sender<Option<String>>,
    /// The database as a file. Closed with the directory, after every connection: closing any handle on it ends all POSIX locks that
    /// this process has on it, those of SQLite too; whoever opens and closes the database then takes the write-ahead log away.
    pages: OnceLock<Arc<File>>,
    _lock: File,
}

impl DataDirectory {
    /// What is in the directory at `path`: `None` if it is new or empty. Changes nothing.
    ///
    /// # Errors
    /// If it cannot be read, or is another replica's than `wanted`.
    pub fn inspect(path: &Path, wanted: ReplicaId) -> Result<Option<Identity>, DirectoryError> {
        let unusable = |path: &Path, source| DirectoryError::Unusable { path: path.to_path_buf(), source };
        match std::fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(path, error)),
            Ok(_) => {}
        }
        let file = path.join("identity");
        let text = match std::fs::read(&file) {
            // A damaged file need not be text; what stands in for its bytes then does not parse.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_unreadable(&error) && path.join(DATABASE).exists() => String::new(),
            Err(error) => return Err(unusable(&file, error)),
        };
        let Some(identity) = Identity::parse(&text) else {
            // The database says it too. Without one, this is perhaps not a data directory at all.
            if path.join(DATABASE).exists() {
                tracing::error!(file = %file.display(), "is damaged: it is written anew from the database");
                return Ok(None);
            }
            return Err(DirectoryError::Unreadable { path: file });
        };
        if identity.replica != wanted {
            let (path, found) = (path.to_path_buf(), identity.replica);
            return Err(DirectoryError::OtherReplica { path, found, wanted });
        }
        Ok(Some(identity))
    }

    /// Takes the directory for this process alone, and makes it if it is not there.
    ///
    /// # Errors
    /// As [`DataDirectory::inspect`], and if another process has it.
    pub fn take(path: &Path, wanted: ReplicaId) -> Result<DataDirectory, DirectoryError> {
        let unusable = |source| DirectoryError::Unusable { path: path.to_path_buf(), source };
        let is_known = DataDirectory::inspect(path, wanted)?.is_some();
        // What people write to each other is nobody else's business on this machine.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        if !is_known {
            sync_names_above(path).map_err(unusable)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {
                let (crowded, damaged) = (watch::Sender::new(None), watch::Sender::new(None));
                Ok(DataDirectory { path: path.to_path_buf(), crowded, damaged, pages: OnceLock::new(), _lock: lock })
            }
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// The database as a file, to be read only; the same one each time.
    pub(crate) fn pages(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.pages.get() {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.database())?);
        Ok(self.pages.get_or_init(|| file).clone())
    }

    /// A file beside the database, by what its name has more.
    pub(crate) fn beside(&self, end: &str) -> PathBuf {
        self.path.join(format!("{DATABASE}{end}"))
    }

    /// Makes the names of files durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Whether it says anything of itself: a replica ran here. Where somebody put a copy of a database, it does not yet.
    pub(crate) fn has_identity(&self) -> bool {
        self.path.join("identity").exists()
    }

    /// What it says of itself, where that can be read.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Identity::parse(&std::fs::read_to_string(self.path.join("identity")).ok()?)
    }

    /// The second witness of what was acknowledged, which every process run makes anew.
    pub(crate) fn mark(&self) -> PathBuf {
        self.path.join("replica.mark")
    }

    /// What was made durable and the database has not taken in yet, perhaps.
    pub(crate) fn redo(&self) -> PathBuf {
        self.path.join("replica.redo")
    }

    /// Says whose it is, atomically.
    pub(crate) fn identify(&self, identity: &Identity) -> io::Result<()> {
        let file = self.path.join("identity");
        let text = identity.to_string();
        if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return Ok(());
        }
        let new = self.path.join("identity.new");
        let mut out = File::create(&new)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        reach(Point::IdentityWritten);
        std::fs::rename(&new, &file)?;
        self.sync()
    }
}

/// Makes the names durable that lead to this directory: a power cut would take all that is in it with a name that its parent
/// was not synced with. Those who made them may have been killed before they could; the file `identity` comes after.
fn sync_names_above(path: &Path) -> io::Result<()> {
    for parent in path.canonicalize()?.ancestors().skip(1) {
        match File::open(parent) {
            Ok(parent) => parent.sync_all()?,
            // Somebody else's, who made it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Identity {
    /// `None` for a text that is not exactly what was written, now or by an earlier version, which had no checksum.
    fn parse(text: &str) -> Option<Identity> {
        let identity = Identity::values(text)?;
        (text == identity.to_string() || text == identity.unchecked()).then_some(identity)
    }

    fn values(text: &str) -> Option<Identity> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        let bytes = |text: &str| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes);
        Some(Identity {
            replica: ReplicaId(value("replica")?.parse().ok()?),
            disk: DiskId(bytes(value("disk")?)?),
            cluster: match value("cluster") {
                Some(text) => Some(ClusterId(bytes(text)?)),
                None => None,
            },
        })
    }
}

impl Identity {
    fn unchecked(&self) -> String {
        let cluster = self.cluster.map(|cluster| format!("cluster = {cluster}\n")).unwrap_or_default();
        format!("replica = {}\ndisk = {:032x}\n{cluster}", self.replica, u128::from_be_bytes(self.disk.0))
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.unchecked();
        let check = blake3::hash(text.as_bytes()).to_hex();
        writeln!(f, "{text}check = {}", &check[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_identity_reads_as_it_was_written() {
        for cluster in [None, Some(ClusterId([0xab; 16]))] {
            let identity = Identity { replica: ReplicaId(2), disk: DiskId([1; 16]), cluster };
            assert_eq!(Identity::parse(&identity.to_string()).as_ref(), Some(&identity));
            assert_eq!(
                Identity::parse(&identity.unchecked()).as_ref(),
                Some(&identity),
                "as earlier versions wrote it"
            );
            let sound = identity.to_string().into_bytes();
            for bit in 0..sound.len() * 8 {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = String::from_utf8(bytes).ok().and_then(|text| Identity::parse(&text));
                assert_eq!(read, None, "bit {bit}");
            }
        }
        assert_eq!(Identity::parse("replica = x"), None);
    }

    #[test]
    fn a_directory_is_for_one_process_and_one_replica() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data");
        assert!(DataDirectory::inspect(&path, ReplicaId(1)).expect("new").is_none());
        assert!(!path.exists(), "looking makes nothing");
        let taken = DataDirectory::take(&path, ReplicaId(1)).expect("free");
        let mode = std::fs::metadata(&path).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "for its owner only");
        let identity = Identity { replica: ReplicaId(1), disk: DiskId([1; 16]), cluster: None };
        taken.identify(&identity).expect("written");
        assert!(matches!(DataDirectory::take(&path, ReplicaId(1)), Err(DirectoryError::InUse { .. })));
        assert!(matches!(DataDirectory::take(&path, ReplicaId(2)), Err(DirectoryError::OtherReplica { .. })));
        drop(taken);
        DataDirectory::take(&path, ReplicaId(1)).expect("free again");
    }
}
