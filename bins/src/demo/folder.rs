//! Where a script, or a run of `chat-torture`, has its data and logs.

use crate::processes::Broken;
use std::path::{Path, PathBuf};

/// A folder that was empty when the script began.
pub(crate) enum Folder {
    /// The caller's: it stays.
    Given(PathBuf),
    /// Goes with the script, unless it is to be kept.
    Temporary(tempfile::TempDir),
}

impl Folder {
    /// The one given, or a temporary one whose name begins so.
    pub fn new(prefix: &str, given: Option<&Path>) -> Result<Self, Broken> {
        let Some(path) = given else {
            let made = tempfile::Builder::new().prefix(prefix).tempdir();
            return made.map(Self::Temporary).map_err(|error| Broken(format!("no temporary directory: {error}")));
        };
        let unusable = |error: std::io::Error| Broken(format!("{} cannot be used: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(unusable)?;
        if std::fs::read_dir(path).map_err(unusable)?.next().is_some() {
            return Err(Broken(format!("{} is not empty: a script founds clusters of its own", path.display())));
        }
        let path = path.canonicalize().map_err(unusable)?;
        Ok(Self::Given(path))
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// Where everything is left, if it is.
    pub fn conclude(self, keep: bool) -> Option<PathBuf> {
        match self {
            Self::Given(path) => Some(path),
            Self::Temporary(folder) if keep => Some(folder.keep()),
            Self::Temporary(_) => None,
        }
    }
}
