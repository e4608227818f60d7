//! The layer under SQLite: it is in the way of every read, and what it finds is an error and a note beside the database.

use chat_sqlite_checksum::page::verifies;
use chat_sqlite_checksum::{DAMAGE_SUFFIX, IOERR_DATA, PAGE, RESERVED, VFS};
use rusqlite::{Connection, Error, OpenFlags};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Of SQLite's log: its header, and a page with the header of its frame.
const LOG_HEADER: usize = 32;
const FRAME: usize = 24 + PAGE;

fn open(path: &Path) -> Connection {
    let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), VFS).expect("opened");
    connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
    connection
}

/// 200 rows over some 60 pages, with an index.
fn fill(connection: &Connection) {
    let rows = "CREATE TABLE t (i INTEGER PRIMARY KEY, x BLOB NOT NULL); CREATE INDEX by_x ON t (substr(x, 1, 8));
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, randomblob(1000) FROM n";
    connection.execute_batch(rows).expect("filled");
}

fn checkpoint(connection: &Connection) {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
}

fn whole(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT sum(length(x)) FROM t", [], |row| row.get(0))
}

fn flip(path: &Path, byte: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("there");
    let mut at = [0];
    file.read_exact_at(&mut at, byte).expect("within");
    file.write_all_at(&[at[0] ^ 1 << bit], byte).expect("written");
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

/// Reads every page in use, by a connection that has none yet.
fn read_all(path: &Path) -> rusqlite::Result<String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags_and_vfs(path, flags, VFS)?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))
}

/// The check of everything goes on after a page that it cannot read, and says so in words.
fn is_found(result: rusqlite::Result<String>) -> bool {
    match result {
        Err(Error::SqliteFailure(error, _)) => error.extended_code == IOERR_DATA,
        Err(_) => false,
        Ok(words) => words.contains("disk I/O error") || words.contains(&IOERR_DATA.to_string()),
    }
}

#[test]
fn a_flip_of_any_page_of_the_database_is_found_when_it_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    fill(&connection);
    checkpoint(&connection);
    drop(connection);
    let header = std::fs::read(&path).expect("readable");
    assert_eq!(usize::from(header[20]), RESERVED);
    assert_eq!(read_all(&path).expect("sound"), "ok");
    for (page, number) in header.chunks(PAGE).zip(1..) {
        assert!(verifies(page.try_into().expect("whole pages"), number), "page {number}, as Rust computes it");
    }
    let pages = header.len() / PAGE;
    assert!(pages > 50, "{pages} pages");
    for page in 0..pages {
        // The magic, the page size, the reserve and the checksum among them.
        for (byte, bit) in [(0, 0), (16, 4), (20, 3), (24, 7), (100, 1), (page * 37 % PAGE, 5), (PAGE - 1, 7)] {
            let at = (page * PAGE + byte) as u64;
            flip(&path, at, bit);
            let read = read_all(&path);
            let words = format!("a flip of bit {bit} of byte {byte} of page {}: {read:?}", page + 1);
            assert!(is_found(read), "{words}");
            let note = beside(&path, DAMAGE_SUFFIX);
            let text = std::fs::read_to_string(&note).expect("it is noted");
            assert!(text.contains(&format!("at byte {}", page * PAGE)), "{text}");
            std::fs::remove_file(note).expect("removed");
            flip(&path, at, bit);
        }
    }
    assert_eq!(read_all(&path).expect("sound again"), "ok");
}

/// A power cut within a checkpoint leaves the first page torn, and the log has it whole; nothing reads it from the database before that is known.
#[test]
fn a_torn_header_is_taken_from_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    connection.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
    fill(&connection);
    checkpoint(&connection);
    connection.execute_batch("CREATE TABLE more (x); INSERT INTO more VALUES (zeroblob(9000))").expect("written");
    let (database, log) =
        (std::fs::read(&path).expect("readable"), std::fs::read(beside(&path, "-wal")).expect("readable"));
    drop(connection);
    let torn = dir.path().join("torn.db");
    let restore = |first_page: &[u8], log: &[u8]| {
        std::fs::write(&torn, [first_page, &database[PAGE.min(database.len())..]].concat()).expect("written");
        std::fs::write(beside(&torn, "-wal"), log).expect("written");
        for end in ["-shm", DAMAGE_SUFFIX] {
            let _ = std::fs::remove_file(beside(&torn, end));
        }
    };
    let is_there = || {
        let connection = Connection::open_with_flags_and_vfs(&torn, OpenFlags::default(), VFS)?;
        connection.query_row("SELECT length(x) FROM more", [], |row| row.get::<_, i64>(0))
    };
    for garbage in [[0; 512], [0xff; 512]] {
        for sector in 0..8 {
            let mut page = database[..PAGE].to_vec();
            page[sector * 512..][..512].copy_from_slice(&garbage);
            if page == database[..PAGE] {
                continue;
            }
            restore(&page, &log);
            assert_eq!(is_there().expect("the log has it"), 9000, "sector {sector}");
            assert_eq!(read_all(&torn).expect("sound"), "ok");
            assert!(!beside(&torn, DAMAGE_SUFFIX).exists());
            // Where the log has none, or none that is committed and sound, it is lost.
            let frame = |number: usize| LOG_HEADER + number * FRAME;
            let first = (0..(log.len() - LOG_HEADER) / FRAME).find(|it| log[frame(*it)..][..4] == [0, 0, 0, 1]);
            let mut flipped = log.clone();
            flipped[frame(first.expect("it is there")) + 100] ^= 1;
            for log in [&[][..], &log[..frame(1)], &flipped] {
                restore(&page, log);
                let found = is_there().expect_err("nobody has it").sqlite_error().map(|error| error.extended_code);
                assert_eq!(found, Some(IOERR_DATA), "sector {sector}");
                assert!(beside(&torn, DAMAGE_SUFFIX).exists());
            }
        }
    }
}

#[test]
fn a_page_in_the_wrong_place_is_found() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    fill(&connection);
    checkpoint(&connection);
    drop(connection);
    let bytes = std::fs::read(&path).expect("readable");
    let file = OpenOptions::new().write(true).open(&path).expect("there");
    file.write_all_at(&bytes[9 * PAGE..10 * PAGE], 10 * PAGE as u64).expect("written");
    assert!(is_found(read_all(&path)));
}

#[test]
fn a_flip_in_the_log_of_a_running_process_is_found_by_readers_and_by_checkpoints() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    connection.pragma_update(None, "wal_autocheckpoint", 0).expect("set");
    fill(&connection);
    let log = beside(&path, "-wal");
    let frames = (std::fs::metadata(&log).expect("there").len() - 32) / 4120;
    let before = std::fs::read(&path).expect("readable");
    for frame in 0..frames {
        flip(&log, 32 + frame * 4120 + 24 + frame * 53 % 4096, (frame % 8) as u8);
        let found = read_all(&path);
        let checkpointed = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(String::new()));
        // A frame that a later one replaces is read by nobody.
        assert!(is_found(checkpointed) || found.expect("sound") == "ok", "frame {frame} of {frames}");
        flip(&log, 32 + frame * 4120 + 24 + frame * 53 % 4096, (frame % 8) as u8);
    }
    assert_eq!(std::fs::read(&path).expect("readable").len() % PAGE, before.len() % PAGE);
    checkpoint(&connection);
    assert_eq!(read_all(&path).expect("sound"), "ok");
}

/// A transaction that outgrows its cache overwrites its own frames in the log, and SQLite renews their checksums when it commits.
#[test]
fn a_transaction_larger_than_the_cache_is_read_back_by_itself_and_by_others() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    fill(&connection);
    connection.pragma_update(None, "cache_size", 10).expect("set");
    connection.execute_batch("BEGIN").expect("begun");
    for round in 0..3 {
        connection.execute_batch("UPDATE t SET x = randomblob(1000)").expect("updated");
        assert_eq!(whole(&connection).expect("readable"), 200_000, "round {round}");
    }
    connection.execute_batch("SAVEPOINT s; UPDATE t SET x = randomblob(900); ROLLBACK TO s").expect("undone");
    assert_eq!(whole(&connection).expect("readable"), 200_000);
    connection.execute_batch("COMMIT").expect("committed");
    assert_eq!(read_all(&path).expect("sound"), "ok");
    connection
        .execute_batch("BEGIN; UPDATE t SET x = randomblob(800); UPDATE t SET x = randomblob(700); ROLLBACK")
        .expect("undone");
    connection.execute_batch("UPDATE t SET x = randomblob(600)").expect("updated");
    assert_eq!(whole(&connection).expect("readable"), 120_000);
    assert_eq!(read_all(&path).expect("sound"), "ok");
}

/// Were one of them left unwritten, whoever looks at the file would take it for damaged.
#[test]
fn pages_that_come_and_go_within_a_transaction_are_written() {
    for (journal, cache) in [("WAL", 1000), ("WAL", 5), ("DELETE", 1000), ("DELETE", 5)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("t.db");
        let connection = open(&path);
        connection.pragma_update(None, "journal_mode", journal).expect("set");
        connection.pragma_update(None, "synchronous", "OFF").expect("set");
        connection.pragma_update(None, "cache_size", cache).expect("set");
        fill(&connection);
        let batch = "BEGIN; CREATE TABLE u (x); INSERT INTO u VALUES (randomblob(400000)); DELETE FROM t WHERE i % 5 > 1; DROP TABLE u; COMMIT";
        connection.execute_batch(batch).unwrap_or_else(|error| panic!("{journal}: {error}"));
        drop(connection);
        assert_eq!(read_all(&path).expect("sound"), "ok", "{journal}");
        let bytes = std::fs::read(&path).expect("readable");
        for (page, number) in bytes.chunks(PAGE).zip(1..) {
            assert!(
                verifies(page.try_into().expect("whole pages"), number),
                "{journal}: page {number} was never written"
            );
        }
    }
}

/// Whoever reads while another writes and moves the log into the database sees nothing that does not verify.
#[test]
fn readers_and_a_writer_at_the_same_time_see_no_damage() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    fill(&connection);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = || {
            let mut looks = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let reader =
                    Connection::open_with_flags_and_vfs(&path, OpenFlags::SQLITE_OPEN_READ_ONLY, VFS).expect("opened");
                for _ in 0..5 {
                    assert_eq!(whole(&reader).expect("readable") % 200, 0);
                    looks += 1;
                }
            }
            looks
        };
        let readers = [scope.spawn(look), scope.spawn(look)];
        connection.pragma_update(None, "wal_autocheckpoint", 40).expect("set");
        connection.pragma_update(None, "synchronous", "OFF").expect("set");
        for round in 0..200 {
            connection.execute("UPDATE t SET x = randomblob(?)", [900 + round % 100]).expect("updated");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let looks: u32 = readers.into_iter().map(|reader| reader.join().expect("read")).sum();
        assert!(looks > 0);
    });
    assert!(!beside(&path, DAMAGE_SUFFIX).exists());
    assert_eq!(read_all(&path).expect("sound"), "ok");
}

#[test]
fn a_database_without_room_for_checksums_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    Connection::open(&path).expect("opened").execute_batch("CREATE TABLE t (x)").expect("made");
    assert!(is_found(read_all(&path)));
}

/// How many reads this thread has asked the operating system for.
#[cfg(target_os = "linux")]
fn reads() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/io").expect("told");
    let line = told.lines().find_map(|line| line.strip_prefix("syscr: "));
    line.expect("among them").parse().expect("a number")
}

#[test]
#[cfg(target_os = "linux")]
fn pages_that_follow_each_other_are_fetched_together() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let connection = open(&path);
    fill(&connection);
    checkpoint(&connection);
    let pages = std::fs::metadata(&path).expect("there").len() / PAGE as u64;
    for order in ["ASC", "DESC"] {
        let connection = open(&path);
        let sql = format!("SELECT length(x) FROM t NOT INDEXED ORDER BY i {order}");
        let mut statement = connection.prepare(&sql).expect("compiled");
        let before = reads();
        let lengths = statement.query_map([], |row| row.get::<_, i64>(0)).expect("read");
        assert_eq!(lengths.map(|length| length.expect("read")).sum::<i64>(), 200_000);
        // What telling costs is in it, too.
        let reads = reads() - before;
        assert!(reads < pages / 2, "{order}: {reads} reads of {pages} pages");
    }
}

/// What was fetched for one transaction is as old as that: the next one sees what was written meanwhile.
#[test]
fn what_was_fetched_is_forgotten_with_its_transaction() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.db");
    let writer = open(&path);
    // So that nothing else is close to what is read: that would be fetched instead.
    writer.execute_batch("CREATE TABLE other (x); INSERT INTO other VALUES (zeroblob(60000))").expect("written");
    fill(&writer);
    checkpoint(&writer);
    let reader = open(&path);
    // Nothing stays in its own cache that is not in use.
    reader.pragma_update(None, "cache_size", 1).expect("set");
    for round in 0..50u8 {
        let read = |from: i64| -> Vec<u8> {
            let sql = "SELECT substr(x, -1) FROM t NOT INDEXED WHERE i BETWEEN ?1 AND ?1 + 60 ORDER BY i DESC";
            let mut statement = reader.prepare_cached(sql).expect("compiled");
            let rows = statement.query_map([from], |row| row.get::<_, Vec<u8>>(0)).expect("read");
            rows.flat_map(|row| row.expect("read")).collect()
        };
        // How much of the log is not in the database yet.
        let move_log = || {
            let left = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?);
            writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], left).expect("checkpointed")
        };
        writer.execute("UPDATE t SET x = ?1", [vec![round; 1000]]).expect("written");
        assert_eq!(move_log(), 0);
        // Pages that its snapshot takes from the database stay there for as long as it lasts, whoever wants to move the log.
        reader.execute_batch("BEGIN").expect("begun");
        assert_eq!(read(100), vec![round; 61], "written before it began");
        writer.execute("UPDATE t SET x = ?1", [vec![round + 100; 1000]]).expect("written");
        assert!(move_log() > 0, "it waits for the reader");
        assert_eq!(read(80), vec![round; 61], "its snapshot");
        reader.execute_batch("COMMIT").expect("ended");
        assert_eq!(move_log(), 0);
        // The first of these was fetched last.
        assert_eq!(read(20), vec![round + 100; 61], "as it is now");
    }
}
