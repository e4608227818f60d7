//! What two faults at once do to a replica's disk, on real files (rule 15): a power cut and rot, rot and a mark that is gone, a crash and rot.
//! `unreadable.rs` has sectors that cannot be read, `bit_flips.rs` single faults.

mod old_mark;

use chat_replica::node::Disk as _;
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, SqliteDisk};
use chat_sqlite_checksum::page::verifies;
use chat_sqlite_checksum::{PAGE, VFS};
use old_mark::set_back;
use rusqlite::{Connection, OpenFlags};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EPOCH: Epoch = Epoch { round: 3, replica: ReplicaId(1) };
/// `impaired_until` of a log of which nobody knows how far it went.
const UNKNOWN: u64 = i64::MAX as u64;

fn open(path: &Path) -> (SqliteDisk, Member, Recovered) {
    let directory = Arc::new(DataDirectory::take(path, ReplicaId(2)).expect("free"));
    SqliteDisk::open(directory, ReplicaId(2)).unwrap_or_else(|error| panic!("it does not start: {error}"))
}

/// A log of so many entries.
fn entries(count: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for index in 1..=count {
        let before = entries.last().map(|entry| entry.hash).unwrap_or_default();
        entries.push(Entry::chained(before, index, EPOCH, Body::Commands(vec![index as u8; 3000].into())));
    }
    entries
}

/// One process run that promises, and takes in what its log lacks of these.
fn run(path: &Path, entries: &[Entry]) -> Member {
    let (mut disk, me, found) = open(path);
    assert_eq!(found.impaired_until, None);
    for entry in &entries[found.log.last as usize..] {
        disk.persist(&Persist::Promise(EPOCH)).expect("persisted");
        disk.persist(&Persist::Append(entry.clone())).expect("persisted");
        disk.commit().expect("committed");
    }
    disk.take_in_all().expect("taken in");
    me
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for file in std::fs::read_dir(from).expect("readable") {
        let file = file.expect("readable");
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

fn set_aside(path: &Path) -> bool {
    path.join("replica.db.damaged-1").exists()
}

/// A checkpoint that the power cut off: of each page that it wrote, some sectors are new and some old.
#[test]
fn pages_that_are_torn_while_the_log_has_them_whole() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, all) = (dir.path().join("2"), entries(40));
    run(&path, &all[..10]);
    let file = |name: &str| path.join(name);
    let moved = |path: &Path| {
        let connection =
            Connection::open_with_flags_and_vfs(path.join("replica.db"), OpenFlags::default(), VFS).expect("opened");
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    };
    moved(&path);
    let me = run(&path, &all);
    let old = std::fs::read(file("replica.db")).expect("readable");
    let checkpointed = dir.path().join("checkpointed");
    copy(&path, &checkpointed);
    moved(&checkpointed);
    let new = std::fs::read(checkpointed.join("replica.db")).expect("readable");
    assert!(old[..PAGE] != new[..PAGE], "the first page is among them");
    let mut torn_first_page = 0;
    for sectors in 1..8 {
        let mut torn = new.clone();
        for (page, before) in torn.chunks_mut(PAGE).zip(old.chunks(PAGE)) {
            page[sectors * 512..].copy_from_slice(&before[sectors * 512..]);
        }
        let trial = dir.path().join(format!("torn-{sectors}"));
        copy(&path, &trial);
        std::fs::write(trial.join("replica.db"), &torn).expect("written");
        torn_first_page += u32::from(!verifies(torn.first_chunk().expect("a page"), 1));
        let (disk, member, found) = open(&trial);
        assert!(member.same_disk(&me) && !set_aside(&trial), "{sectors} sectors");
        assert_eq!((found.log.last, found.impaired_until), (40, None), "{sectors} sectors");
        assert!(disk.read(1, usize::MAX) == all);
        // Whoever reads all pages beside SQLite, as is done in the background, must not take them for damage.
        let pages = std::fs::read(trial.join("replica.db")).expect("readable");
        for (page, number) in pages.chunks(PAGE).zip(1..) {
            assert!(verifies(page.try_into().expect("whole"), number) || page == [0; PAGE], "page {number}");
        }
    }
    assert!(torn_first_page > 0);
}

/// The database as it was before the last start, beside the mark that knows of it.
fn lost_a_start(dir: &Path, name: &str) -> (PathBuf, Member, Vec<Entry>) {
    let (path, lost, all) = (dir.join(name), dir.join(format!("{name}-whole")), entries(40));
    run(&lost, &all[..20]);
    copy(&lost, &path);
    let me = run(&lost, &all);
    std::fs::copy(lost.join("replica.mark"), path.join("replica.mark")).expect("copied");
    (path, me, all)
}

fn tells_of(found: &Recovered, run: &Member) -> bool {
    found.deaths.iter().any(|death| death.incarnation == run.incarnation)
}

#[test]
fn a_start_that_only_the_mark_knows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Where the mark is from, whether it is as old as that start, whether the database is salvaged, and what comes of it.
    let cases = [
        (false, false, false, Some(40)),
        (false, false, true, Some(40)),
        // Nothing was acknowledged after that start: all is there.
        (false, true, false, None),
        (false, true, true, None),
        // Nobody knows.
        (true, true, false, Some(UNKNOWN)),
        (true, true, true, Some(UNKNOWN)),
        (true, false, false, Some(UNKNOWN)),
        (true, false, true, Some(UNKNOWN)),
    ];
    for (case, number) in cases.into_iter().zip(1..) {
        let (another_boot, as_at_start, salvaged, until) = case;
        let (path, lost, all) = lost_a_start(dir.path(), &number.to_string());
        set_back(&path, &all[if as_at_start { 19 } else { 39 }], another_boot);
        if salvaged {
            std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
        }
        let (disk, me, found) = open(&path);
        assert!(me.same_disk(&lost) && me.incarnation.count > lost.incarnation.count, "{case:?}");
        assert_eq!((found.log.last, found.impaired_until, set_aside(&path)), (20, until, salvaged), "{case:?}");
        assert_eq!(found.promised, EPOCH, "{case:?}");
        assert!(!tells_of(&found, &lost), "{case:?}: what that run's log held is not known");
        drop(disk);
        let (_disk, _, again) = open(&path);
        assert_eq!(again.impaired_until, until, "{case:?}");
        assert!(!tells_of(&again, &lost), "{case:?}");
        assert_eq!(tells_of(&again, &me), until.is_none(), "{case:?}: a damaged log gives no word");
    }
}

fn damage_the_facts(path: &Path) {
    let connection =
        Connection::open_with_flags_and_vfs(path.join("replica.db"), OpenFlags::default(), VFS).expect("opened");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'replica'";
    let page: u64 = connection.query_row(sql, [], |row| row.get::<_, u32>(0)).expect("there").into();
    drop(connection);
    let file = std::fs::OpenOptions::new().write(true).open(path.join("replica.db")).expect("there");
    file.write_all_at(&[0xff; 512], (page - 1) * PAGE as u64).expect("written");
}

/// With the facts of the database, it is lost whether it knew of the last start.
#[test]
fn facts_that_only_an_old_mark_knows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let all = entries(20);
    for (another_boot, until) in [(false, None), (true, Some(UNKNOWN))] {
        let path = dir.path().join(if another_boot { "old" } else { "new" });
        let me = run(&path, &all);
        set_back(&path, &all[9], another_boot);
        damage_the_facts(&path);
        let (_, member, found) = open(&path);
        assert!(member.same_disk(&me) && set_aside(&path));
        assert_eq!((found.log.last, found.promised, found.impaired_until), (20, EPOCH, until));
        assert_eq!(tells_of(&found, &me), !another_boot, "a damaged log gives no word");
    }
}

/// Facts that no mark confirms are perhaps not the last: a write-ahead log that lost its end looks like one that is whole.
#[test]
fn a_database_whose_mark_is_gone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let all = entries(20);
    for (name, salvaged) in [("started", false), ("salvaged", true)] {
        let path = dir.path().join(name);
        run(&path, &all);
        let me = run(&path, &all);
        std::fs::remove_file(path.join("replica.mark")).expect("removed");
        if salvaged {
            std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
        }
        let (disk, another, found) = open(&path);
        assert!(!another.same_disk(&me), "{name}: nothing says that it promised no more than its database says");
        assert_eq!((found.log.last, found.deaths.len(), found.impaired_until), (20, 0, None), "{name}");
        drop(disk);
        let (_disk, again, found) = open(&path);
        assert!(again.same_disk(&another), "{name}: it has a mark again");
        assert_eq!(found.deaths.len(), 1, "{name}: it gives a word about its own process runs");
    }
}

/// The database and the mark are of two disks: one of the two is not from here, or older.
#[test]
fn a_mark_of_another_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, other, all) = (dir.path().join("1"), dir.path().join("2"), entries(20));
    let (me, foreign) = (run(&path, &all), run(&other, &all));
    std::fs::copy(other.join("replica.mark"), path.join("replica.mark")).expect("copied");
    let (_, another, found) = open(&path);
    assert!(!another.same_disk(&me) && !another.same_disk(&foreign));
    assert_eq!((found.log.last, found.deaths.len()), (20, 0));
}

/// Not a fault: somebody starts over with a copy, or with a database of an earlier version, which had no mark.
#[test]
fn a_copy_in_an_empty_directory_is_the_disk_that_it_was() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, copied, all) = (dir.path().join("1"), dir.path().join("2"), entries(20));
    let me = run(&path, &all);
    std::fs::create_dir(&copied).expect("made");
    for file in ["replica.db", "replica.db-wal"] {
        std::fs::copy(path.join(file), copied.join(file)).expect("copied");
    }
    let (disk, member, found) = open(&copied);
    assert!(member.same_disk(&me));
    assert_eq!((found.log.last, found.impaired_until), (20, None));
    drop(disk);
    assert!(run(&copied, &all).same_disk(&me), "and from then on it has a mark");
    std::fs::remove_file(copied.join("replica.mark")).expect("removed");
    assert!(!open(&copied).1.same_disk(&me), "which it must not lose");
}

/// SQLite plays a rollback journal into whatever has the name of its database.
#[test]
fn a_hot_journal_beside_a_damaged_database() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, all) = (dir.path().join("1"), entries(20));
    let me = run(&path, &all);
    // Somebody changed it to a database without a write-ahead log, and a crash left the journal of a transaction.
    let flags = OpenFlags::default();
    let connection = Connection::open_with_flags_and_vfs(path.join("replica.db"), flags, VFS).expect("opened");
    connection.pragma_update(None, "journal_mode", "DELETE").expect("set");
    connection.pragma_update(None, "cache_spill", 1).expect("set");
    connection.pragma_update(None, "cache_size", 1).expect("set");
    let rows = "BEGIN; UPDATE log SET body = zeroblob(length(body) - 1); CREATE TABLE t (x);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT randomblob(3000) FROM n";
    connection.execute_batch(rows).expect("begun");
    let crashed = dir.path().join("2");
    copy(&path, &crashed);
    drop(connection);
    let journal = std::fs::read(crashed.join("replica.db-journal")).expect("there is one");
    assert!(journal.starts_with(&[0xd9, 0xd5, 0x05, 0xf9]), "and it is hot");
    std::fs::write(crashed.join("replica.db-damage"), "noted").expect("written");
    let (disk, member, found) = open(&crashed);
    assert!(member.same_disk(&me) && set_aside(&crashed));
    assert_eq!((found.log.last, found.impaired_until, found.promised), (20, None, EPOCH), "as before that transaction");
    assert!(disk.read(1, usize::MAX) == all);
    assert!(std::fs::read(crashed.join("replica.db.damaged-1-journal")).expect("kept") == journal);
    assert!(!crashed.join("replica.db-journal").exists());
    drop(disk);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
    let connection = Connection::open_with_flags_and_vfs(crashed.join("replica.db"), flags, VFS).expect("opened");
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("readable");
    assert_eq!(check, "ok");
}

fn outcome(path: &Path, number: u32) -> String {
    std::fs::read_to_string(path.join(format!("replica.db.damaged-{number}-outcome"))).expect("it is said")
}

/// What came of a damaged database stands beside it, and what had been set aside in it for people goes along.
#[test]
fn what_came_of_what_was_set_aside() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, all) = (dir.path().join("2"), entries(20));
    run(&path, &all);
    let connect = || Connection::open_with_flags_and_vfs(path.join("replica.db"), OpenFlags::default(), VFS);
    let sql = "INSERT INTO log_set_aside SELECT 1, idx, round, replica, kind, body, hash FROM log WHERE idx = 2";
    connect().expect("opened").execute(sql, []).expect("set aside");
    let damage = || std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
    damage();
    drop(open(&path));
    assert!(outcome(&path, 1).starts_with("recovered"), "{}", outcome(&path, 1));
    let count =
        |connection: Connection| connection.query_row("SELECT count(*) FROM log_set_aside", [], |row| row.get(0));
    assert_eq!(count(connect().expect("opened")), Ok(1i64));

    // An entry is lost, and comes again from a peer.
    let connection = connect().expect("opened");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    drop(connection);
    let bytes = std::fs::read(path.join("replica.db")).expect("readable");
    let place = bytes.windows(1000).position(|bytes| bytes == [15; 1000]).expect("the body of entry 15");
    let file = std::fs::OpenOptions::new().write(true).open(path.join("replica.db")).expect("there");
    file.write_all_at(&[0; 64], place as u64).expect("written");
    let (mut disk, _, found) = open(&path);
    assert!(found.log.last < 15 && found.impaired_until == Some(20), "{found:?}");
    assert!(outcome(&path, 2).starts_with("lacking"), "{}", outcome(&path, 2));
    for entry in &all[found.log.last as usize..] {
        disk.persist(&Persist::Append(entry.clone())).expect("persisted");
    }
    disk.persist(&Persist::Repaired).expect("persisted");
    disk.commit().expect("committed");
    drop(disk);
    damage();
    drop(open(&path));
    assert!(outcome(&path, 2).starts_with("recovered"), "its disk was whole: {}", outcome(&path, 2));
}

/// Damaged databases that may hold what nothing else does are not deleted: when there are many, nothing starts before somebody has looked.
#[test]
fn too_many_damaged_databases() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, all) = (dir.path().join("2"), entries(20));
    let me = run(&path, &all);
    for number in 1..=8 {
        // As an earlier version left them, which did not say what came of them.
        std::fs::write(path.join(format!("replica.db.damaged-{number}")), "damaged").expect("written");
    }
    std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
    for _ in 0..2 {
        let directory = Arc::new(DataDirectory::take(&path, ReplicaId(2)).expect("free"));
        let said = SqliteDisk::open(directory, ReplicaId(2)).map(|_| ()).expect_err("no more").to_string();
        assert!(said.contains("replica.db is damaged") && said.contains("8 damaged ones"), "{said}");
        assert!(!path.join("replica.db-mended").exists(), "it takes no more room");
    }
    std::fs::remove_file(path.join("replica.db.damaged-3")).expect("removed");
    let (_, member, found) = open(&path);
    assert!(member.same_disk(&me));
    assert_eq!((found.log.last, found.impaired_until), (20, None));
    assert!(path.join("replica.db.damaged-9").exists());
}

/// Rule 12: what the redo log knows of the others is newer than what the damaged database knew.
#[test]
fn a_process_run_of_another_disk_that_only_the_redo_log_knows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("1");
    let seen =
        |count| Member { id: ReplicaId(1), disk: DiskId([1; 16]), incarnation: Incarnation { count, nonce: count } };
    let (mut disk, ..) = open(&path);
    for count in [5, 6] {
        disk.persist(&Persist::Known(seen(count))).expect("persisted");
        disk.commit().expect("committed");
        if count == 5 {
            disk.take_in_all().expect("taken in");
        }
    }
    drop(disk);
    std::fs::write(path.join("replica.db-damage"), "noted").expect("written");
    let (_disk, _, found) = open(&path);
    assert!(set_aside(&path));
    assert_eq!(found.known, [seen(6)]);
}

/// A frame of the redo log that is damaged takes the entries behind it, but not the facts: they hold whatever was lost before them.
#[test]
fn facts_behind_a_frame_that_is_damaged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, all) = (dir.path().join("1"), entries(3));
    let cluster = ClusterId([4; 16]);
    let other = Member { id: ReplicaId(1), disk: DiskId([1; 16]), incarnation: Incarnation { count: 6, nonce: 6 } };
    let (mut disk, me, _) = open(&path);
    let mut turn = |what: Persist| {
        disk.persist(&what).expect("persisted");
        disk.commit().expect("committed");
    };
    turn(Persist::Append(all[0].clone()));
    turn(Persist::Append(all[1].clone()));
    [Persist::Promise(EPOCH), Persist::Cluster(cluster), Persist::Known(other)].into_iter().for_each(&mut turn);
    turn(Persist::Append(all[2].clone()));
    drop(disk);
    let file = std::fs::OpenOptions::new().write(true).open(path.join("replica.redo")).expect("there");
    // In the second entry: each turn begins at a page.
    file.write_all_at(&[0xff], 4096 + 1000).expect("written");
    let (disk, again, found) = open(&path);
    assert!(again.same_disk(&me) && disk.read(1, usize::MAX) == all[..1]);
    assert_eq!((found.log.last, found.impaired_until), (1, Some(3)));
    assert_eq!((found.promised, found.cluster, found.known), (EPOCH, Some(cluster), vec![other]));
}

/// The file `identity` says it, too, but only after the turn.
#[test]
fn a_cluster_that_only_the_redo_log_knows() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, cluster) = (dir.path().join("1"), ClusterId([4; 16]));
    let me = run(&path, &entries(3));
    let (mut disk, ..) = open(&path);
    disk.persist(&Persist::Cluster(cluster)).expect("persisted");
    disk.commit().expect("committed");
    drop(disk);
    damage_the_facts(&path);
    std::fs::remove_file(path.join("identity")).expect("removed");
    let (_disk, again, found) = open(&path);
    assert!(again.same_disk(&me) && set_aside(&path));
    assert_eq!((found.log.last, found.impaired_until, found.cluster), (3, None, Some(cluster)));
}
