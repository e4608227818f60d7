//! Reads the whole database, slowly and over and over, so that rot is found while peers are there to repair it.

use super::damage;
use super::directory::DataDirectory;
use chat_sqlite_checksum::PAGE;
use chat_sqlite_checksum::page::verifies;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Weak;
use std::time::Duration;

/// With [`PAUSE`], 1 MiB a second.
const PAGES_AT_ONCE: u64 = 256;
const PAUSE: Duration = Duration::from_secs(1);
/// A page that does not verify is perhaps being written: it is read again so often, and so much later each time.
const LOOKS: usize = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Until a damaged page is found, which is noted and told to whoever watches the directory, or nobody has the directory any more.
pub(crate) async fn scrub(directory: Weak<DataDirectory>) {
    let mut next = 1;
    loop {
        tokio::time::sleep(PAUSE).await;
        // Not held while looking: whoever ends frees the directory at once.
        let Some(pages) = directory.upgrade().map(|directory| directory.pages()) else { return };
        let looked = match pages {
            Ok(pages) => tokio::task::spawn_blocking(move || look(&pages, next)).await,
            Err(error) => Ok(Err(error)),
        };
        match looked {
            Ok(Ok(Looked::Sound { next: after })) => next = after,
            Ok(Ok(Looked::Damaged { page })) => {
                return tell(&directory, &format!("page {page} does not have its checksum"));
            }
            Ok(Err(error)) if damage::is_unreadable(&error) => {
                return tell(&directory, &format!("it cannot be read: {error}"));
            }
            // The machine lacks something: file handles, memory. That says nothing about the disk.
            Ok(Err(error)) => tracing::debug!(%error, "the database is not looked at now"),
            // The process is ending.
            Err(_) => return,
        }
    }
}

fn tell(directory: &Weak<DataDirectory>, what: &str) {
    if let Some(directory) = directory.upgrade() {
        let what = damage::note(&directory, &io::Error::other(what.to_string()));
        directory.damaged.send_replace(Some(what));
    }
}

#[derive(PartialEq, Eq, Debug)]
enum Looked {
    Sound { next: u64 },
    Damaged { page: u64 },
}

fn look(file: &File, first: u64) -> io::Result<Looked> {
    for page in first..first + PAGES_AT_ONCE {
        match is_sound(file, page)? {
            Some(true) => {}
            Some(false) => return Ok(Looked::Damaged { page }),
            None => return Ok(Looked::Sound { next: 1 }),
        }
    }
    Ok(Looked::Sound { next: first + PAGES_AT_ONCE })
}

/// `None` beyond the end.
fn is_sound(file: &File, number: u64) -> io::Result<Option<bool>> {
    let mut page = [0; PAGE];
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        match file.read_exact_at(&mut page, (number - 1) * PAGE as u64) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        // A page that was never written is in nobody's use. If SQLite reads one of zeros after all, that does not verify.
        if verifies(&page, number) || page == [0; PAGE] {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplicaId;
    use crate::storage::{SqliteDisk, disk};
    use rusqlite::OpenFlags;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_flip_in_a_page_that_nobody_reads_is_found() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        drop(SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk"));
        let connection = disk::connect(&directory.database(), OpenFlags::default()).expect("opened");
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
        drop(connection);
        let path = directory.database();
        let all = directory.pages().expect("there");
        assert_eq!(look(&all, 1).expect("readable"), Looked::Sound { next: 1 });
        let pages = std::fs::metadata(&path).expect("there").len() / PAGE as u64;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("there");
        let (mut byte, at) = ([0], pages * PAGE as u64 - 1000);
        file.read_exact_at(&mut byte, at).expect("within");
        file.write_all_at(&[byte[0] ^ 4], at).expect("written");
        assert_eq!(look(&all, 1).expect("readable"), Looked::Damaged { page: pages });
        let mut damaged = directory.damaged.subscribe();
        scrub(Arc::downgrade(&directory)).await;
        let what = damaged.wait_for(Option::is_some).await.expect("held").clone();
        assert!(what.is_some_and(|what| what.contains(&format!("page {pages} "))));
        assert!(damage::noted(&directory).is_some(), "for the next start");
    }

    #[tokio::test]
    async fn who_looks_from_outside_leaves_the_log_alone() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = Arc::new(DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free"));
        let (_disk, ..) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
        look(&directory.pages().expect("there"), 1).expect("readable");
        let wal = || std::fs::metadata(directory.beside("-wal")).map(|file| file.ino()).ok();
        let before = wal();
        let look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM log').fetchall(); c.close()";
        let mut other = std::process::Command::new("python3");
        let Ok(looked) = other.args(["-c", look]).arg(directory.database()).output() else {
            println!("skipped: no python3, and so no other SQLite");
            return;
        };
        assert!(looked.status.success(), "{looked:?}");
        assert!(before.is_some() && wal() == before, "the write-ahead log of a running replica was taken away");
    }
}
