//! Checksums for a database that comes without: one of an earlier version, or a backup.

use super::directory::DataDirectory;
use super::disk::DiskError;
use super::migrations;
use super::salvage::{NEW, fresh};
use rusqlite::Connection;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// In the header of a database that has checksums, beside the reserve itself: so no single damage makes it look like one without.
pub(crate) const APPLICATION_ID: i32 = 0x6368_6174;
/// In its place, once a mark is beside it: where that is gone later, this tells.
pub(crate) const MARKED: i32 = 0x6368_6d6b;

/// Whether the database is one of an earlier version, without checksums.
pub(super) fn is_unprotected(path: &Path) -> io::Result<bool> {
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(false),
        Err(error) => Err(error),
        Ok(()) => Ok(header.starts_with(b"SQLite format 3\0") && header[20] == 0 && header[68..72] == [0; 4]),
    }
}

/// Whether the database comes from where no checksums are: from an earlier version, or, where no replica has run yet, from a backup that
/// another SQLite made, which copies stale ones along.
pub(crate) fn wants_protection(directory: &DataDirectory) -> io::Result<bool> {
    let path = directory.database();
    let is_elsewhere = !directory.mark().exists() && !directory.has_identity();
    let is_copy = is_elsewhere && std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    Ok(is_copy || is_unprotected(&path)?)
}

/// Gives a database of an earlier version, or a backup, checksums: all of it is copied, and the copy takes its place at once or not at all.
pub(crate) fn protect(directory: &DataDirectory) -> Result<(), DiskError> {
    let path = directory.database();
    let mut old = Connection::open(&path)?;
    migrations::migrate(&mut old)?;
    // Nothing may be left in the write-ahead log: it goes with the name.
    let moved: i64 = old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if moved != 0 {
        return Err(DiskError::File(io::Error::other("the database is in use by another program")));
    }
    old.close().map_err(|(_, error)| error)?;
    // Its log and journal are gone for good before another file has its name: they would be played into that.
    directory.sync().map_err(DiskError::File)?;
    let new = fresh(directory)?;
    new.execute("ATTACH ? AS old", [format!("file:{}?vfs=unix", escaped(&path))])?;
    let transaction = new.unchecked_transaction()?;
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables: Vec<String> = new.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for table in tables {
        new.execute_batch(&format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM old.{table}"))?;
    }
    // What had rotted before has a checksum from now on: the log's own chain is all that tells, once.
    transaction.execute("UPDATE main.replica SET views = NULL", [])?;
    transaction.commit()?;
    new.execute_batch("DETACH old")?;
    new.close().map_err(|(_, error)| error)?;
    std::fs::rename(directory.beside(NEW), &path).map_err(DiskError::File)?;
    directory.sync().map_err(DiskError::File)?;
    tracing::warn!(path = %path.display(), "every page of the database has a checksum from now on");
    Ok(())
}

/// For a URI.
fn escaped(path: &Path) -> String {
    let bytes = PathBuf::from(path).into_os_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    let escape = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    bytes.as_encoded_bytes().iter().map(escape).collect()
}
