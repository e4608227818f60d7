//! What the layer costs: commits, checkpoints and cold reads with it and without, in memory, where nothing hides behind a disk's syncs.
//!
//! `cargo run --release -p chat-sqlite-checksum --example cost`

use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::{Duration, Instant};

const COMMITS: u32 = 20_000;
const ROUNDS: usize = 5;

/// How long `COMMITS` transactions of one row took, a checkpoint of what they left, a read of every row from the database, and one from the log.
fn run(path: &Path, vfs: &std::ffi::CStr) -> rusqlite::Result<[Duration; 4]> {
    let open = || Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs);
    let connection = open()?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.execute_batch("CREATE TABLE t (i INTEGER PRIMARY KEY, x BLOB NOT NULL)")?;
    let read = || -> rusqlite::Result<Duration> {
        let connection = open()?;
        let begin = Instant::now();
        connection.query_row("SELECT sum(length(x)) FROM t", [], |row| row.get::<_, i64>(0))?;
        Ok(begin.elapsed())
    };
    let begin = Instant::now();
    for _ in 0..COMMITS {
        connection.prepare_cached("INSERT INTO t (x) VALUES (randomblob(500))")?.execute([])?;
    }
    let commits = begin.elapsed();
    let from_log = read()?;
    let begin = Instant::now();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let checkpoint = begin.elapsed();
    Ok([commits, checkpoint, read()?, from_log])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let what = ["commits", "checkpoint", "read from the database", "read from the log"];
    let mut best = [[Duration::MAX; 4]; 2];
    for _ in 0..ROUNDS {
        for (best, vfs) in best.iter_mut().zip([c"unix", chat_sqlite_checksum::VFS]) {
            let memory = Path::new("/dev/shm");
            let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
            let took = run(&dir.path().join("t.db"), vfs)?;
            best.iter_mut().zip(took).for_each(|(best, took)| *best = took.min(*best));
        }
    }
    println!("best of {ROUNDS}, {COMMITS} rows of 500 bytes, one a commit");
    for (at, what) in what.into_iter().enumerate() {
        println!("{what:24} without {:8.2?}, with {:8.2?}", best[0][at], best[1][at]);
    }
    Ok(())
}
