//! What a damaged disk looks like, and the note that tells the next start (rule 15).

use super::directory::DataDirectory;
use chat_sqlite_checksum::{DAMAGE_SUFFIX, IOERR_DATA};
use rusqlite::{Error, ErrorCode};
use std::fs::OpenOptions;
use std::io::{self, Write as _};

/// SQLite's extended codes for a page that the operating system cannot read, a file that is too short, and a file system that says that it is damaged.
const IOERR_READ: i32 = 10 | 1 << 8;
const IOERR_SHORT_READ: i32 = 10 | 2 << 8;
const IOERR_CORRUPTFS: i32 = 10 | 33 << 8;

/// Whether this says that the file is not what was written. A full disk or a failed write is not that.
pub(crate) fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(failure, _) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                || [IOERR_DATA, IOERR_READ, IOERR_SHORT_READ, IOERR_CORRUPTFS].contains(&failure.extended_code)
        }
        Error::FromSqlConversionFailure(..) | Error::IntegralValueOutOfRange(..) => true,
        Error::InvalidColumnType(..) | Error::Utf8Error(..) => true,
        _ => false,
    }
}

/// Whether this says that what is in a file cannot be read (EIO), or is not what the file system wrote (EBADMSG, EUCLEAN).
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|number| [5, 74, 117].contains(&number))
}

/// Notes durably that the database is damaged, and returns all that is noted. The layer under SQLite has noted already which page it was, if
/// it was one.
pub(crate) fn note(directory: &DataDirectory, error: &dyn std::error::Error) -> String {
    let append = || -> io::Result<()> {
        let path = directory.beside(DAMAGE_SUFFIX);
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        writeln!(file, "the database: {error}")?;
        file.sync_all()?;
        directory.sync()
    };
    if let Err(failed) = append() {
        tracing::error!(%failed, "the damage cannot be noted beside the database");
    }
    let database = directory.database();
    let what = noted(directory).unwrap_or_else(|| error.to_string());
    format!(
        "{} is damaged ({what}). Start it again: it saves what is sound, and repairs itself from its peers",
        database.display()
    )
}

/// What was noted, if anything was.
pub(crate) fn noted(directory: &DataDirectory) -> Option<String> {
    let bytes = match std::fs::read(directory.beside(DAMAGE_SUFFIX)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("damage was noted, and the note cannot be read: {error}")),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.dedup();
    Some(lines.join("; "))
}
