//! Where `chat login` keeps session tokens: one file, readable by its owner only, per account and list of servers.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// The sessions for one list of servers.
#[derive(Debug)]
pub(super) struct Sessions {
    folder: PathBuf,
    servers: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    servers: String,
    token: String,
}

impl Sessions {
    /// In `CHAT_STATE_DIR`, else where XDG has state. `servers` in an order that does not depend on how they were
    /// given.
    pub(super) fn of(servers: &[String]) -> Result<Self, Failure> {
        let named = |name, below: &str| {
            env::var_os(name).filter(|path| !path.is_empty()).map(|path| Path::new(&path).join(below))
        };
        let folder = named("CHAT_STATE_DIR", "")
            .or_else(|| named("XDG_STATE_HOME", "chat"))
            .or_else(|| named("HOME", ".local/state/chat"))
            .ok_or_else(|| Failure::Usage("no place for sessions: set CHAT_STATE_DIR or HOME".to_owned()))?;
        Ok(Self { folder, servers: servers.join(",") })
    }

    fn path(&self, name: &str) -> PathBuf {
        // Hashed, because a list of addresses may be longer than a file name can be.
        let hash = blake3::hash(format!("{name}\n{}", self.servers).as_bytes()).to_hex();
        self.folder.join(format!("{}.session", &hash[..32]))
    }

    /// The token of `name`, if there is one.
    pub(super) fn token(&self, name: &str) -> Result<Option<String>, Failure> {
        let path = self.path(name);
        match fs::read(&path) {
            // A file that is damaged is as good as none: the next login replaces it.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok().map(|stored: Stored| stored.token)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    /// Everybody who has a session here, ascending.
    pub(super) fn names(&self) -> Vec<String> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let stored = files.filter_map(|file| serde_json::from_slice::<Stored>(&fs::read(file.path()).ok()?).ok());
        let mut names: Vec<_> =
            stored.filter(|stored| stored.servers == self.servers).map(|stored| stored.name).collect();
        names.sort_unstable();
        names
    }

    /// Keeps the token of `name`, in place of an earlier one.
    pub(super) fn keep(&self, name: &str, token: String) -> Result<(), Failure> {
        let path = self.path(name);
        let stored = Stored { name: name.to_owned(), servers: self.servers.clone(), token };
        self.write(&path, &stored).map_err(|error| failed("written", &path, &error))
    }

    fn write(&self, path: &Path, stored: &Stored) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        // A file of its own, renamed: a reader sees the old one or the new one, never half of one.
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let written = serde_json::to_writer(&mut file, stored).map_err(io::Error::from).and_then(|()| file.flush());
        written.and_then(|()| fs::rename(&draft, path)).inspect_err(|_| {
            let _ = fs::remove_file(&draft);
        })
    }

    /// Drops the token of `name`; that there is none is no error.
    pub(super) fn forget(&self, name: &str) -> Result<(), Failure> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removed", &path, &error)),
            _ => Ok(()),
        }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Local(format!("the session file {} cannot be {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sessions(folder: &Path, servers: &str) -> Sessions {
        Sessions { folder: folder.join("deep/er"), servers: servers.to_owned() }
    }

    #[test]
    fn a_session_is_kept_per_name_and_servers() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (sessions(folder.path(), "a:1"), sessions(folder.path(), "b:1"));
        assert_eq!(one.token("ann").unwrap(), None);
        one.keep("ann", "first".to_owned()).unwrap();
        one.keep("ann", "second".to_owned()).unwrap();
        one.keep("bob", "third".to_owned()).unwrap();
        other.keep("zoe", "fourth".to_owned()).unwrap();
        assert_eq!(one.token("ann").unwrap().as_deref(), Some("second"));
        assert_eq!(other.token("ann").unwrap(), None);
        assert_eq!(one.names(), ["ann", "bob"]);
        one.forget("ann").unwrap();
        one.forget("ann").unwrap();
        assert_eq!(one.names(), ["bob"]);
    }

    #[test]
    fn nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = sessions(folder.path(), "a:1");
        sessions.keep("ann", "token".to_owned()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&sessions.path("ann")), 0o600);
        assert_eq!(mode(&sessions.folder), 0o700);
        assert_eq!(fs::read_dir(&sessions.folder).unwrap().count(), 1, "no draft is left");
    }
}
