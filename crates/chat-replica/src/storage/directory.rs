//! The data directory: whose it is and who uses it. Found out before any file in it is changed.

use crate::failpoint::{Point, reach};
use crate::protocol::{ClusterId, DiskId, ReplicaId};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

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
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&file, error)),
        };
        let identity = Identity::parse(&text).ok_or(DirectoryError::Unreadable { path: file })?;
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
        DataDirectory::inspect(path, wanted)?;
        // What people write to each other is nobody else's business on this machine.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let lock = lock.map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDirectory { path: path.to_path_buf(), crowded: watch::Sender::new(None), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.path.join("replica.db")
    }

    /// The second witness of what was acknowledged.
    pub(crate) fn mark(&self) -> PathBuf {
        self.path.join("replica.mark")
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
        File::open(&self.path)?.sync_all()
    }
}

impl Identity {
    fn parse(text: &str) -> Option<Identity> {
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

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "replica = {}\ndisk = {:032x}", self.replica, u128::from_be_bytes(self.disk.0))?;
        self.cluster.map_or(Ok(()), |cluster| writeln!(f, "cluster = {cluster}"))
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
            assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
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
