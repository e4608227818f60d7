//! SQLite's errors in words that say what to do.

use rusqlite::{Error, ErrorCode, ffi};

/// As SQLite says it; where that is only "disk I/O error", with what it does not say.
pub(super) fn explained(error: &Error) -> String {
    match error {
        Error::SqliteFailure(failure, _) if failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
            format!("{error}: the file beside it, -shm, cannot grow; the disk is full, or nearly")
        }
        Error::SqliteFailure(failure, _) if failure.code == ErrorCode::SystemIoFailure => {
            format!("{error} (SQLite's code {})", failure.extended_code)
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_is_called_so() {
        let failure = |code| Error::SqliteFailure(ffi::Error::new(code), None);
        assert!(explained(&failure(ffi::SQLITE_IOERR_SHMSIZE)).contains("the disk is full"));
        assert!(explained(&failure(ffi::SQLITE_FULL)).contains("full"));
        assert!(explained(&failure(ffi::SQLITE_IOERR_READ)).contains("code 266"));
    }
}
