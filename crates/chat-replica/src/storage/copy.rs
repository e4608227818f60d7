//! A copy of a damaged database to read from: as much of it as can be read, with single flipped bits turned back.

use super::aside::remove_file;
use super::damage::is_unreadable;
use super::directory::DataDirectory;
use super::disk::{self, DiskError};
use super::log_table::{self, Facts};
use super::protect::is_unprotected;
use chat_sqlite_checksum::page::{Page, mend};
use chat_sqlite_checksum::{DAMAGE_SUFFIX, PAGE};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub(super) const MENDED: &str = "-mended";

/// The damaged database, to be read from.
pub(super) struct Old {
    /// A copy of it.
    pub source: PathBuf,
    /// A connection that gives nothing unproven, if one can be had.
    pub checked: rusqlite::Result<Connection>,
    /// A part of its log could not be read.
    pub is_cut: bool,
}

impl Old {
    /// The row of facts, as its page proves it.
    pub fn facts(&self) -> Option<Facts> {
        self.checked.as_ref().ok().and_then(|old| log_table::facts(old).ok().flatten())
    }
}

/// One without checksums proves nothing, and has nothing better.
pub(super) fn open_old(directory: &DataDirectory) -> Result<Old, DiskError> {
    let has_checksums = !is_unprotected(&directory.database()).unwrap_or(false);
    let (source, is_cut) = copied(directory, has_checksums).map_err(DiskError::File)?;
    let checked = if has_checksums { checked(&source) } else { unchecked(&source) };
    Ok(Old { source, checked, is_cut })
}

/// A copy of the database, with its log and journal as far as they can be read, and whether one of these had to be cut. `mending`: single flipped
/// bits are turned back in it.
fn copied(directory: &DataDirectory, mending: bool) -> io::Result<(PathBuf, bool)> {
    remove(directory, MENDED)?;
    let path = directory.beside(MENDED);
    let old = match File::open(directory.database()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, false)),
        old => old?,
    };
    let length = old.metadata()?.len();
    let mut new = io::BufWriter::new(File::create(&path)?);
    for number in 1..=length.div_ceil(PAGE as u64) {
        let mut page = [0; PAGE];
        // What cannot be read, or is cut off, stays zero.
        if old.read_exact_at(&mut page, (number - 1) * PAGE as u64).is_err() {
            page.fill(0);
        }
        match if mending { mend(&mut page, number) } else { Page::Sound } {
            Page::Sound => {}
            Page::Mended => tracing::error!(page = number, "one bit had flipped; the copy has it right"),
            // SQLite never wrote it, and never reads it.
            Page::Damaged if page == [0; PAGE] => {}
            Page::Damaged => tracing::error!(page = number, "the page is lost"),
        }
        new.write_all(&page)?;
    }
    new.flush()?;
    let mut is_cut = false;
    for end in ["-wal", "-journal"] {
        is_cut |= !copy_readable(&directory.beside(end), &directory.beside(&format!("{MENDED}{end}")))?;
    }
    Ok((path, is_cut))
}

/// Copies a file up to where it cannot be read. Whether that is its end.
fn copy_readable(from: &Path, to: &Path) -> io::Result<bool> {
    let cut = |error: io::Error| {
        if !is_unreadable(&error) {
            return Err(error);
        }
        tracing::error!(path = %from.display(), %error, "ends where it cannot be read");
        Ok(false)
    };
    let mut old = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return cut(error),
        Ok(old) => old,
    };
    let mut new = File::create(to)?;
    let mut bytes = [0; 16 * PAGE];
    loop {
        match old.read(&mut bytes) {
            Ok(0) => return Ok(true),
            Ok(length) => new.write_all(&bytes[..length])?,
            Err(error) => return cut(error),
        }
    }
}

/// Removes a database of ours that does not count, and all that SQLite and the layer put beside it.
pub(super) fn remove(directory: &DataDirectory, database: &str) -> io::Result<()> {
    for end in ["", "-journal", "-wal", "-shm", DAMAGE_SUFFIX] {
        remove_file(&directory.beside(&format!("{database}{end}")))?;
    }
    Ok(())
}

fn checked(source: &Path) -> rusqlite::Result<Connection> {
    let old = disk::connect(source, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    disk::keep_log_on_close(&old)?;
    Ok(old)
}

/// Without comparing checksums: for what carries a proof of its own.
pub(super) fn unchecked(source: &Path) -> rusqlite::Result<Connection> {
    let old = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    disk::keep_log_on_close(&old)?;
    Ok(old)
}
