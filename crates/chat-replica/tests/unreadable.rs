//! Sectors that cannot be read (EIO), in every file of a replica: it starts without what is in them, and says what it lost (rule 15).
//!
//! The file system fails no read on demand, so a small library in C, `unreadable/unreadable.c`, is preloaded into the process that starts:
//! this one, once more. Without a C compiler, or where preloading has no effect, the tests say `skipped`.

mod old_mark;
mod wal_frames;

use chat_replica::node::Disk as _;
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, SqliteDisk};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const EPOCH: Epoch = Epoch { round: 3, replica: ReplicaId(1) };
const ENTRIES: u64 = 40;
/// Where a second copy of the mark is.
const SECOND: u64 = 4096;
/// What the second process is told: where the data is.
const DATA: &str = "UNREADABLE_DATA";

fn open(path: &Path) -> (SqliteDisk, Member, Recovered) {
    let directory = Arc::new(DataDirectory::take(path, ReplicaId(2)).expect("free"));
    SqliteDisk::open(directory, ReplicaId(2)).unwrap_or_else(|error| panic!("it does not start: {error}"))
}

fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for index in 1..=ENTRIES {
        let before = entries.last().map(|entry| entry.hash).unwrap_or_default();
        entries.push(Entry::chained(before, index, EPOCH, Body::Commands(vec![index as u8; 3000].into())));
    }
    entries
}

/// A data directory as a process run left it. `taken_in`: the database has taken in one entry after the other, or none yet.
fn written(taken_in: bool) -> (TempDir, PathBuf, Member) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("2");
    let (mut disk, me, _) = open(&path);
    for entry in entries() {
        disk.persist(&Persist::Promise(EPOCH)).expect("persisted");
        disk.persist(&Persist::Append(entry)).expect("persisted");
        disk.commit().expect("committed");
        if taken_in {
            disk.take_in_all().expect("taken in");
        }
    }
    (dir, path, me)
}

/// A data directory with a log of some entries, and the id of its disk. `checkpointed`: all in the database, or in the write-ahead log.
fn template(checkpointed: bool) -> (TempDir, PathBuf, Member) {
    let (dir, path, me) = written(true);
    // It has gone on since, and means nothing any more.
    std::fs::remove_file(path.join("replica.redo")).expect("removed");
    if checkpointed {
        let flags = OpenFlags::default();
        let vfs = chat_sqlite_checksum::VFS;
        let connection = Connection::open_with_flags_and_vfs(path.join("replica.db"), flags, vfs).expect("opened");
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    }
    (dir, path, me)
}

/// What a start found: printed by one process, and read by another.
#[derive(PartialEq, Eq, Debug)]
struct Found {
    same_disk: bool,
    last: u64,
    impaired_until: Option<u64>,
}

/// Starts in a process of its own that cannot read these bytes of these files. `None` if that is not possible here.
fn start_without(path: &Path, me: &Member, unreadable: &[(&str, u64, u64)]) -> Option<Found> {
    let library = path.with_extension("so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/unreadable/unreadable.c");
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-O2", "-Wall", "-shared", "-fPIC", "-pthread", "-o"]).arg(&library).args([source, "-ldl"]);
    if !cc.output().is_ok_and(|made| made.status.success()) {
        println!("skipped: there is no C compiler");
        return None;
    }
    let probe = path.with_extension("probe");
    std::fs::write(&probe, "probe").expect("written");
    let preloaded = |command: &mut Command, words: String| {
        command.env("LD_PRELOAD", &library).env("UNREADABLE", words).output().expect("it runs")
    };
    if preloaded(Command::new("cat").arg(&probe), format!("{}:0:5", probe.display())).status.success() {
        println!("skipped: LD_PRELOAD takes no effect");
        return None;
    }
    let ranges = unreadable.iter().map(|(file, from, to)| format!("{}:{from}:{to}", path.join(file).display()));
    let mut child = Command::new(std::env::current_exe().expect("it has a path"));
    child.args(["--exact", "the_other_process", "--ignored", "--nocapture"]).env(DATA, path);
    let output = preloaded(&mut child, ranges.collect::<Vec<_>>().join(","));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    let found = text.lines().find_map(|line| line.split_once("found ").map(|(_, words)| words));
    let words: Vec<&str> = found.expect("the other process started").split(' ').collect();
    let [disk, count, promised, last, impaired] = words[..] else { panic!("{words:?}") };
    let same_disk = disk == format!("{:?}", me.disk.0).replace(' ', "");
    assert!(count.parse::<u64>().expect("a number") > me.incarnation.count, "a process run never comes twice");
    assert!(!same_disk || promised.parse::<u64>().expect("a number") == EPOCH.round, "no promise is forgotten");
    let (last, impaired_until) = (last.parse().expect("a number"), impaired.parse().ok());
    // And a start after that finds what that one found.
    let (_, member, again) = open(path);
    assert_eq!((again.log.last, again.impaired_until), (last, impaired_until));
    assert_eq!(member.same_disk(me), same_disk);
    Some(Found { same_disk, last, impaired_until })
}

#[test]
#[ignore = "it is started by the others"]
fn the_other_process() {
    let path = PathBuf::from(std::env::var_os(DATA).expect("started by another test"));
    let (disk, me, found) = open(&path);
    assert_eq!(disk.read(1, usize::MAX).len() as u64, found.log.last);
    let until = found.impaired_until.map_or("none".to_string(), |until| until.to_string());
    let id = format!("{:?}", me.disk.0).replace(' ', "");
    println!("found {id} {} {} {} {until}", me.incarnation.count, found.promised.round, found.log.last);
}

/// A sector of the write-ahead log that holds a part of what was written.
fn amid_the_frames(path: &Path) -> u64 {
    let frames = wal_frames::frames(&path.join("replica.db-wal"));
    assert!(frames > 20, "{frames} frames");
    frames * wal_frames::FRAME / 2 / 4096 * 4096
}

#[test]
fn the_write_ahead_log_ends_where_it_cannot_be_read() {
    let (_dir, path, me) = template(false);
    let bad = amid_the_frames(&path);
    let size = std::fs::metadata(path.join("replica.db-wal")).expect("there").len();
    let Some(found) = start_without(&path, &me, &[("replica.db-wal", bad, bad + 4096)]) else { return };
    assert!(found.last > 0 && found.last < ENTRIES, "{found:?}");
    assert!(
        found.same_disk && found.impaired_until == Some(ENTRIES),
        "it is damage, and the mark says how much: {found:?}"
    );
    assert_eq!(std::fs::metadata(path.join("replica.db.damaged-1-wal")).expect("kept").len(), size);
}

/// What the redo log still has is not lost with the write-ahead log.
#[test]
fn the_write_ahead_log_of_what_the_redo_log_has() {
    let (_dir, path, me) = written(false);
    let Some(found) = start_without(&path, &me, &[("replica.db-wal", 0, 4096)]) else { return };
    assert_eq!((found.same_disk, found.last, found.impaired_until), (true, ENTRIES, None));
}

/// Starts without a sector amid a log; with the mark set back to before that, if it is said in which boot.
fn cut_amid(path: &Path, me: &Member, log: &str, bad: u64, mark: Option<bool>) -> Option<Found> {
    if let Some(another_boot) = mark {
        old_mark::set_back(path, &entries()[4], another_boot);
    }
    let found = start_without(path, me, &[(log, bad, bad + 4096)])?;
    assert!(found.last > 5 && found.last < ENTRIES, "{found:?}");
    Some(found)
}

#[test]
fn the_redo_log_ends_where_it_cannot_be_read() {
    // After a power failure the mark is perhaps behind; what cannot be read was perhaps acknowledged.
    for (mark, until) in [(None, Some(ENTRIES)), (Some(false), None), (Some(true), Some(i64::MAX as u64))] {
        let (_dir, path, me) = written(false);
        let Some(found) = cut_amid(&path, &me, "replica.redo", 64 << 10, mark) else { return };
        assert_eq!((found.same_disk, found.impaired_until), (true, until), "a mark that is set back: {mark:?}");
    }
}

#[test]
fn a_redo_log_that_cannot_be_read_and_has_nothing_new() {
    let (_dir, path, me) = template(true);
    std::fs::write(path.join("replica.redo"), vec![0; 16 << 20]).expect("written");
    let Some(found) = start_without(&path, &me, &[("replica.redo", 0, 16 << 20)]) else { return };
    assert_eq!((found.same_disk, found.last, found.impaired_until), (true, ENTRIES, None));
}

/// After a power failure the mark is perhaps behind: what cannot be read was perhaps acknowledged.
#[test]
fn the_write_ahead_log_ends_behind_an_old_mark() {
    for (another_boot, until) in [(false, None), (true, Some(i64::MAX as u64))] {
        let (_dir, path, me) = template(false);
        let bad = amid_the_frames(&path);
        let Some(found) = cut_amid(&path, &me, "replica.db-wal", bad, Some(another_boot)) else { return };
        assert_eq!((found.same_disk, found.impaired_until), (true, until), "another boot: {another_boot}");
    }
}

#[test]
fn a_write_ahead_log_without_a_beginning_and_a_mark_in_half() {
    let (_dir, path, me) = template(false);
    let unreadable = [("replica.db-wal", 0, 4096), ("replica.mark", 0, 1)];
    let Some(found) = start_without(&path, &me, &unreadable) else { return };
    assert!(found.same_disk && found.impaired_until == Some(ENTRIES), "{found:?}");
}

#[test]
fn a_page_of_the_database() {
    let (_dir, path, me) = template(true);
    let last = std::fs::metadata(path.join("replica.db")).expect("there").len() - 4096;
    let Some(found) = start_without(&path, &me, &[("replica.db", last, last + 4096)]) else { return };
    assert!(found.same_disk && found.last < ENTRIES && found.impaired_until == Some(ENTRIES), "{found:?}");
}

/// What the log has whole is written anew, and nothing is set aside.
#[test]
fn the_first_page_of_the_database_while_the_log_has_it() {
    let (_dir, path, me) = template(false);
    let Some(found) = start_without(&path, &me, &[("replica.db", 0, 4096)]) else { return };
    assert_eq!(found, Found { same_disk: true, last: ENTRIES, impaired_until: None });
    assert!(File::open(path.join("replica.db.damaged-1")).is_err());
}

#[test]
fn one_copy_of_the_mark_is_enough() {
    for at in [0, SECOND] {
        let (_dir, path, me) = template(true);
        let Some(found) = start_without(&path, &me, &[("replica.mark", at, at + 4096)]) else { return };
        assert_eq!(found, Found { same_disk: true, last: ENTRIES, impaired_until: None }, "without the one at {at}");
    }
}

#[test]
fn a_mark_that_cannot_be_read_is_gone() {
    let (_dir, path, me) = template(true);
    let Some(found) = start_without(&path, &me, &[("replica.mark", 0, 2 * SECOND)]) else { return };
    assert_eq!((found.same_disk, found.last), (false, ENTRIES), "nothing says that its promise is the last: {found:?}");
}

#[test]
fn the_identity_and_the_note_of_damage() {
    let (_dir, path, me) = template(true);
    std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
    let unreadable = [("identity", 0, 4096), ("replica.db-damage", 0, 4096)];
    let Some(found) = start_without(&path, &me, &unreadable) else { return };
    assert_eq!(found, Found { same_disk: true, last: ENTRIES, impaired_until: None });
    assert!(File::open(path.join("replica.db.damaged-1")).is_ok(), "what was noted is heeded, whatever it was");
}
