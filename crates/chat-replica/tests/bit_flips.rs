//! Rule 15, bit by bit: whatever single bit of a replica's files flips, it either is found before anything is answered from it, and
//! made good, or was one that nothing depends on. Nothing wrong is served, no promise forgotten, no process run repeated.
//!
//! A single bit of the database is mended from its page's checksum. Where more of a page is gone, the log comes from a peer.
//!
//! `BIT_FLIPS=20 SEED=7 cargo test -p chat-replica --test bit_flips -- --nocapture` tries 20 bits of each page instead of one.

mod learner;
mod nobody;
mod wal_frames;

use chat_core::{
    AccountId, Command, Counters, DisplayName, MemoryStore, MessageId, MessageText, PasswordHash, Pattern, Provenance,
    Read, RequestKey, Timestamp, TokenHash, Username, state_hash,
};
use chat_replica::node::{Disk as _, Node};
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, Readers, SqliteDisk};
use chat_sqlite_checksum::{PAGE, VFS};
use learner::carry_out;
use nobody::{Nobody, member};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use wal_frames::{FRAME, HEADER};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const EPOCH: Epoch = Epoch { round: 3, replica: ReplicaId(1) };
const NOW: Time = Time(1_000_000);
const ACCOUNTS: u64 = 8;

/// In memory, where syncs cost nothing.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.expect("a temporary directory")
}

fn key(of: &str) -> RequestKey {
    RequestKey(*blake3::hash(of.as_bytes()).as_bytes().first_chunk().expect("16 of 32"))
}

fn token(account: u64, number: u64) -> TokenHash {
    TokenHash(*blake3::hash(format!("{account}/{number}").as_bytes()).as_bytes())
}

fn name(account: u64) -> Username {
    Username::parse(&format!("user{account}")).expect("a name")
}

/// Some of everything that can be in the state.
fn commands() -> Vec<Command> {
    let at = Timestamp(5);
    let mut commands = Vec::new();
    for account in 1..=ACCOUNTS {
        let name = name(account);
        let password = PasswordHash::new(&format!("${}", "x".repeat(90))).expect("shaped like a hash");
        let display_name = DisplayName::of(&name);
        commands.push(Command::Register { key: key(name.as_str()), display_name, name, password, at });
        for number in 0..12 {
            let (key, token) = (key(&format!("s{account}/{number}")), token(account, number));
            let expires_at = Timestamp(1000 + number as i64);
            commands.push(Command::OpenSession { key, account: AccountId(account), token, at, expires_at });
        }
    }
    for number in 0..280 {
        let (from, to) = (1 + number % ACCOUNTS, 1 + number * 3 % ACCOUNTS);
        let text = MessageText::new(format!("message {number} {}", "and so on ".repeat(number as usize % 13)));
        let (key, session) = (key(&format!("m{number}")), token(from, 0));
        commands.push(Command::Send { key, session, to: name(to), text: text.expect("a text"), at });
    }
    for account in 1..ACCOUNTS {
        let session = token(account, 0);
        commands.push(Command::Acknowledge { session, delivered: Some(account), read: Some(1), at });
        commands.push(Command::CloseSession { token: token(account, 3), at });
    }
    let session = token(ACCOUNTS, 1);
    commands.push(Command::DeleteAccount { key: key("gone"), session, refuse_if_undelivered: false, at });
    commands
}

/// Everything that can be asked, through every table and index.
fn everything<R: Read>(state: &R) -> Result<String, R::Error> {
    let Counters { accounts, .. } = state.counters()?;
    let mut all = format!("{:?} {:?}", state_hash(state)?, state.counters()?);
    for id in (1..=accounts).map(AccountId) {
        let account = state.account(id)?;
        let found = account.as_ref().map(|it| state.account_by_name(&it.name)).transpose()?;
        let password = state.password(id)?;
        all += &format!("{account:?} {found:?} {:?} {:?}", password.map(|it| it.as_phc().len()), state.marks(id)?);
        all += &format!("{:?} {:?}", state.sessions_of(id)?, state.messages_after(id, 0, 1000)?);
        for other in (1..=accounts).map(AccountId) {
            all += &format!("{:?}", state.conversation(id, other, Some(MessageId(u64::MAX)), 1000)?);
        }
    }
    let pattern = Pattern::parse("*").expect("a pattern");
    all += &format!("{:?} {:?}", state.accounts(&pattern, None, 1000)?, state.expired_sessions(Timestamp(2000), 1000)?);
    Ok(all)
}

/// What is so.
struct Truth {
    entries: Vec<Entry>,
    at: BTreeMap<u64, String>,
}

impl Truth {
    fn new() -> Truth {
        let members = vec![member(1), member(3)];
        let view = View { epoch: EPOCH, primary: EPOCH.replica, members };
        let founding = Body::Founding { cluster: CLUSTER, view };
        let mut entries = vec![Entry::chained(ChainHash::default(), 1, EPOCH, founding)];
        for (command, index) in commands().into_iter().zip(2..) {
            let previous = entries.last().expect("the founding").hash;
            let body = Body::Commands(chat_core::codec::encode(&[command]).into());
            entries.push(Entry::chained(previous, index, EPOCH, body));
        }
        Truth { entries, at: BTreeMap::new() }
    }

    fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// What the state says when it holds the entries up to this one.
    fn at(&mut self, index: u64) -> &str {
        let entries = &self.entries;
        self.at.entry(index).or_insert_with(|| {
            let mut memory = MemoryStore::default();
            for entry in &entries[..index as usize] {
                let Body::Commands(batch) = &entry.body else { continue };
                for command in chat_core::codec::decode(batch).expect("just encoded") {
                    let provenance = Provenance { index: entry.index, round: entry.epoch.round, replica: 1 };
                    chat_core::apply(&mut memory, provenance, &command).expect("memory does not fail");
                }
            }
            everything(&memory).expect("memory does not fail")
        })
    }
}

fn open(path: &Path) -> (SqliteDisk, Member, Recovered) {
    let directory = Arc::new(DataDirectory::take(path, ReplicaId(2)).expect("free"));
    SqliteDisk::open(directory, ReplicaId(2)).unwrap_or_else(|error| panic!("it does not start: {error}"))
}

/// Replica 2 hears from its primary what it lacks, and carries everything out.
fn follow(path: &Path, entries: &[Entry], committed: u64) -> Node<SqliteDisk> {
    let (disk, me, found) = open(path);
    let after = found.log.last as usize;
    let prev = Place { index: after as u64, epoch: if after == 0 { Epoch::ZERO } else { EPOCH } };
    let prev_hash = found.log.last_hash;
    let append = Append { epoch: EPOCH, prev, prev_hash, entries: entries[after..].to_vec(), committed };
    let config = Config::new(me, vec![ReplicaId(1), ReplicaId(3)], CLUSTER, 1);
    let mut node = Node::new(Replica::new(config, found, NOW), disk);
    let from = member(1);
    let envelope = Envelope { cluster: Some(CLUSTER), from, to: me, message: Message::Append(append) };
    let inputs = [Input::SessionUp { session: 1, peer: from, outbound: true }, Input::Receive(envelope)];
    node.turn(NOW, inputs, &|| NOW, &mut Nobody).expect("the disk works");
    carry_out(&mut node, NOW);
    node
}

fn connect(path: &Path) -> Connection {
    Connection::open_with_flags_and_vfs(path.join("replica.db"), OpenFlags::default(), VFS).expect("opened")
}

/// A replica's data directory, and its last process run.
struct Template {
    path: PathBuf,
    member: Member,
}

/// With something in every table, a second process run, and free pages. `checkpointed`: all in the database, or much in the write-ahead log.
fn template(dir: &Path, truth: &Truth, checkpointed: bool) -> Template {
    let path = dir.join("template");
    let begin = truth.last() / 2;
    let mut node = follow(&path, &truth.entries[..begin as usize], begin - 3);
    free_some_pages(node.disk_mut(), &truth.entries[begin as usize - 1]);
    node.disk_mut().take_in_all().expect("taken in");
    drop(node);
    let connection = connect(&path);
    connection
        .execute("INSERT INTO log_set_aside SELECT 1, idx, round, replica, kind, body, hash FROM log WHERE idx = 2", [])
        .expect("set aside");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    drop(connection);
    let mut node = follow(&path, &truth.entries, truth.last());
    let member = node.replica().status().me;
    node.disk_mut().take_in_all().expect("taken in");
    drop(node);
    // It has gone on since, and means nothing any more.
    std::fs::remove_file(path.join("replica.redo")).expect("removed");
    if checkpointed {
        let connection = connect(&path);
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    }
    Template { path, member }
}

fn free_some_pages(disk: &mut SqliteDisk, end: &Entry) {
    let mut last = end.clone();
    for index in end.index + 1..=end.index + 20 {
        last = Entry::chained(last.hash, index, EPOCH, Body::Commands(vec![1; 9000].into()));
        disk.persist(&Persist::Append(last.clone())).expect("persisted");
    }
    disk.commit().expect("committed");
    disk.take_in_all().expect("taken in");
    disk.persist(&Persist::CutBack(end.index + 1)).expect("cut back");
    disk.commit().expect("committed");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for file in std::fs::read_dir(from).expect("readable") {
        let file = file.expect("readable");
        // SQLite makes it anew.
        if !file.file_name().to_string_lossy().ends_with("-shm") {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

fn flip(file: &Path, bit: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file).expect("there");
    let mut byte = [0];
    open.read_exact_at(&mut byte, bit / 8).expect("within");
    open.write_all_at(&[byte[0] ^ 1 << (bit % 8)], bit / 8).expect("written");
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// Nothing depended on it.
    Harmless,
    FoundAtStart,
    FoundWhenRead,
}

/// Flips these bits in a copy, starts on it, asks everything, and lets it repair itself. Returns what came of it, and whether the disk was
/// impaired meanwhile.
fn trial(template: &Template, truth: &mut Truth, file: &str, bits: &[u64]) -> (Outcome, bool) {
    let dir = scratch();
    let path = dir.path().join("2");
    copy(&template.path, &path);
    bits.iter().for_each(|bit| flip(&path.join(file), *bit));
    let salvaged = || path.join("replica.db.damaged-1").exists();

    let mut impaired = start_and_ask(&path, template, truth, salvaged);
    let outcome = match impaired {
        Ok(_) if salvaged() => Outcome::FoundAtStart,
        Ok(until) if until.is_some() => Outcome::FoundAtStart,
        Ok(_) => Outcome::Harmless,
        Err(()) => {
            impaired = start_and_ask(&path, template, truth, salvaged);
            assert!(salvaged(), "what was found when it was read is known at the next start");
            Outcome::FoundWhenRead
        }
    };
    let impaired = impaired.expect("after the next start, everything can be read").is_some();

    let node = follow(&path, &truth.entries, truth.last());
    assert_eq!(node.replica().status().impaired_until, None, "repaired");
    assert!(node.disk().read(1, usize::MAX) == truth.entries, "the log is what it was");
    let last = truth.last();
    assert!(everything(&node.disk().state()).expect("readable") == truth.at(last), "the state is what it was");
    (outcome, impaired)
}

/// Starts and asks everything. An error is damage that was found when it was read; then nothing more was asked.
fn start_and_ask(
    path: &Path,
    template: &Template,
    truth: &mut Truth,
    salvaged: impl Fn() -> bool,
) -> Result<Option<u64>, ()> {
    let (disk, member, found) = open(path);
    assert!(member.same_disk(&template.member), "it is the disk that it was");
    assert!(member.incarnation.count > template.member.incarnation.count, "a process run never comes twice");
    assert!(found.promised >= EPOCH, "no promise is forgotten: {:?}", found.promised);
    assert_eq!(found.cluster, Some(CLUSTER));
    assert!(salvaged() || found.known == [self::member(1)] || found.impaired_until.is_some(), "{:?}", found.known);
    let log = disk.read(1, usize::MAX);
    if log.len() as u64 != found.log.last {
        return Err(());
    }
    assert!(log == truth.entries[..log.len()], "a wrong entry was read");
    let short = found.log.last < truth.last();
    assert_eq!(short, found.impaired_until.is_some(), "{} entries of {}", found.log.last, truth.last());
    assert!(found.impaired_until.is_none_or(|until| until >= truth.last()), "{:?}", found.impaired_until);
    match everything(&disk.state()) {
        Ok(said) => assert!(said == truth.at(disk.applied()), "something wrong was served"),
        Err(error) => {
            let words = disk.last_words(&error.into());
            assert!(words.contains("replica.db is damaged"), "{words}");
            return Err(());
        }
    }
    Ok(found.impaired_until)
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What each page is for.
fn pages(template: &Template) -> Vec<String> {
    let connection = connect(&template.path);
    let mut names = vec![
        "(free)".to_string();
        std::fs::metadata(template.path.join("replica.db")).expect("there").len() as usize / PAGE
    ];
    let mut statement = connection.prepare("SELECT pageno, name FROM dbstat").expect("dbstat is compiled in");
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, u32>(0)? as usize, row.get::<_, String>(1)?)))
        .expect("readable");
    for row in rows {
        let (page, name) = row.expect("readable");
        names[page - 1] = name;
    }
    let schema = "SELECT name FROM sqlite_schema WHERE rootpage > 0";
    let mut statement = connection.prepare(schema).expect("readable");
    for name in statement.query_map([], |row| row.get::<_, String>(0)).expect("readable") {
        let name = name.expect("readable");
        assert!(names.contains(&name), "no page of {name}");
    }
    assert!(names.contains(&"(free)".to_string()) && names[0] == "sqlite_schema", "{names:?}");
    names
}

/// A number below `below`, drawn from the seed for this.
fn drawn(seed: u64, page: u64, number: u64, below: u64) -> u64 {
    let hash = blake3::hash(format!("{seed}/{page}/{number}").as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("8 of 32")) % below
}

/// A bit of each page, and then many: enough for nobody to mend it.
#[test]
fn every_page_of_the_database() {
    let (seed, per_page) = (from_environment("SEED", 1), from_environment("BIT_FLIPS", 1));
    println!("SEED={seed} BIT_FLIPS={per_page}");
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, true);
    let mut counts: BTreeMap<(bool, String, Outcome, bool), u64> = BTreeMap::new();
    for (page, name) in (0..).zip(pages(&template)) {
        for number in 0..=per_page {
            let lost = number == per_page;
            let bits: Vec<u64> = (0..if lost { 40 } else { 1 })
                .map(|bit| page * PAGE as u64 * 8 + drawn(seed, page, number * 1000 + bit, PAGE as u64 * 8))
                .collect();
            let words =
                format!("page {} ({name}), {} bits, the first {}", page + 1, bits.len(), bits[0] % (PAGE as u64 * 8));
            println!("{words}");
            let (outcome, impaired) = trial(&template, &mut truth, "replica.db", &bits);
            // What is set aside is for people.
            let in_use = !["(free)", "log_set_aside"].contains(&&*name);
            assert_eq!(outcome != Outcome::Harmless, in_use, "{words}: {outcome:?}");
            assert!(lost || !impaired, "{words}: a single bit needs no peer");
            *counts.entry((lost, name.clone(), outcome, impaired)).or_default() += 1;
        }
    }
    for ((lost, name, outcome, impaired), count) in &counts {
        let what = if *lost { "page lost" } else { "one bit" };
        println!("{what:9} {name:28} {outcome:?}{}: {count}", if *impaired { ", repaired from a peer" } else { "" });
    }
    let repaired = counts.keys().any(|(lost, name, _, impaired)| *lost && name == "log" && *impaired);
    assert!(repaired, "no lost page of the log came from a peer");
}

/// The header says what kind of file it is, and how the rest is to be read.
#[test]
fn the_header_of_the_database() {
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, true);
    // The magic, the page size, versions, the reserve, the number of pages, the encoding, the version of the schema, the application.
    for byte in [0, 16, 17, 18, 20, 28, 31, 43, 59, 60, 63, 68, 95] {
        for bit in [0, 3] {
            let (outcome, impaired) = trial(&template, &mut truth, "replica.db", &[byte * 8 + bit]);
            assert_eq!((outcome, impaired), (Outcome::FoundAtStart, false), "byte {byte}");
        }
    }
}

#[test]
fn every_frame_of_the_write_ahead_log() {
    let (seed, per_frame) = (from_environment("SEED", 1), from_environment("BIT_FLIPS", 1));
    println!("SEED={seed} BIT_FLIPS={per_frame}");
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, false);
    let frames = wal_frames::frames(&template.path.join("replica.db-wal"));
    assert!(frames > 20, "{frames} frames");
    let header = (0..8).map(|word| word * 32 + word);
    let in_frames = (0..frames).flat_map(|frame| {
        (0..per_frame).map(move |number| {
            // Every other one in the frame's own header.
            let (from, bits) = if (frame + number) % 2 == 0 { (0, 24 * 8) } else { (24 * 8, 4096 * 8) };
            (HEADER + frame * FRAME) * 8 + from + drawn(seed, frame, number, bits)
        })
    });
    let mut counts: BTreeMap<(Outcome, bool), u64> = BTreeMap::new();
    for bit in header.chain(in_frames) {
        let outcome = trial(&template, &mut truth, "replica.db-wal", &[bit]);
        *counts.entry(outcome).or_default() += 1;
    }
    println!("{frames} frames: (outcome, repaired from a peer): {counts:?}");
    assert!(
        counts.contains_key(&(Outcome::FoundAtStart, true)),
        "no lost end of the log was told by the mark: {counts:?}"
    );
}

/// Turns that the database has not taken in: the redo log has nothing else that tells of them, but the mark says how many there are.
#[test]
fn every_frame_of_the_redo_log() {
    let (seed, per_frame) = (from_environment("SEED", 1), from_environment("BIT_FLIPS", 1));
    println!("SEED={seed} BIT_FLIPS={per_frame}");
    let (dir, mut truth) = (scratch(), Truth::new());
    let path = dir.path().join("template");
    let early = truth.last() as usize - 30;
    follow(&path, &truth.entries[..early], early as u64).disk_mut().take_in_all().expect("taken in");
    let (mut disk, member, _) = open(&path);
    for entry in &truth.entries[early..] {
        disk.persist(&Persist::Append(entry.clone())).expect("persisted");
        disk.commit().expect("committed");
    }
    drop(disk);
    let template = Template { path, member };
    let bytes = std::fs::read(template.path.join("replica.redo")).expect("readable");
    let (mut frames, mut at) = (Vec::new(), 0);
    // The tag of the process run and the number, then the length; each begins at a page.
    while bytes[at..at + 8] == bytes[..8] {
        let length = u32::from_le_bytes(*bytes[at + 16..].first_chunk().expect("4 bytes")) as usize;
        frames.push((at as u64, length as u64));
        at += length.next_multiple_of(4096);
    }
    assert_eq!(frames.len(), 30, "a frame for each turn");
    let mut counts: BTreeMap<(Outcome, bool), u64> = BTreeMap::new();
    for ((begin, length), place) in frames.iter().zip(0..) {
        for number in 0..per_frame {
            // Every other one in the frame's header.
            let bits = if (place + number) % 2 == 0 { 36 * 8 } else { length * 8 };
            let bit = begin * 8 + drawn(seed, place, number, bits);
            let (outcome, impaired) = trial(&template, &mut truth, "replica.redo", &[bit]);
            *counts.entry((outcome, impaired)).or_default() += 1;
        }
    }
    println!("{} frames: (outcome, repaired from a peer): {counts:?}", frames.len());
    assert!(counts.get(&(Outcome::FoundAtStart, true)).is_some_and(|found| *found > 15 * per_frame), "{counts:?}");
    // What fills a frame's last page means nothing, and what comes behind it neither.
    for beyond in [frames[0].1, at as u64] {
        assert_eq!(trial(&template, &mut truth, "replica.redo", &[beyond * 8 + 5]), (Outcome::Harmless, false));
    }
}

/// All their bits are tried where they are written and read; here, what a start makes of it.
#[test]
fn the_mark_and_the_identity() {
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, true);
    for file in ["replica.mark", "identity"] {
        let sound = std::fs::read(template.path.join(file)).expect("there");
        for byte in (0..sound.len() as u64).step_by(11) {
            let outcome = trial(&template, &mut truth, file, &[byte * 8 + byte % 8]);
            assert_eq!(outcome, (Outcome::Harmless, false), "byte {byte} of {file}: the database says the same");
        }
    }
}

/// As an earlier version left it: pages without checksums, a mark without facts, an identity without a checksum.
fn before_checksums(template: &Template, path: &Path) {
    copy(&template.path, path);
    let protected = path.join("protected.db");
    std::fs::rename(path.join("replica.db"), &protected).expect("renamed");
    assert!(!path.join("replica.db-wal").exists(), "all of it is in the database");
    let mut old = Connection::open(path.join("replica.db")).expect("opened");
    old.pragma_update(None, "journal_mode", "WAL").expect("set");
    chat_replica::storage::migrations::migrate(&mut old).expect("made");
    old.execute("ATTACH ? AS new", [protected.to_str().expect("text")]).expect("attached");
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables = old.prepare(sql).and_then(|mut all| all.query_map([], |row| row.get::<_, String>(0))?.collect());
    let tables: Vec<String> = tables.expect("readable");
    for table in tables {
        let copied = format!("DELETE FROM main.{table}; INSERT INTO main.{table} SELECT * FROM new.{table}");
        old.execute_batch(&copied).expect("copied");
    }
    old.execute_batch("DETACH new").expect("detached");
    // A crash leaves the log where it is.
    old.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).expect("set");
    drop(old);
    std::fs::remove_file(protected).expect("removed");
    let mut mark = std::fs::read(path.join("replica.mark")).expect("readable")[..52].to_vec();
    let check = blake3::hash(&mark);
    mark.extend_from_slice(&check.as_bytes()[..16]);
    std::fs::write(path.join("replica.mark"), mark).expect("written");
    let identity = std::fs::read_to_string(path.join("identity")).expect("readable");
    let lines: Vec<&str> = identity.lines().filter(|line| !line.starts_with("check")).collect();
    std::fs::write(path.join("identity"), lines.join("\n") + "\n").expect("written");
}

#[test]
fn a_database_of_an_earlier_version_gets_checksums_and_keeps_everything() {
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, true);
    let path = dir.path().join("2");
    before_checksums(&template, &path);
    let reserved = || std::fs::read(path.join("replica.db")).expect("readable")[20];
    assert_eq!(reserved(), 0);
    // What a crash on the way leaves is in nobody's way.
    std::fs::write(path.join("replica.db-new"), "half").expect("written");
    let impaired = start_and_ask(&path, &template, &mut truth, || false);
    assert_eq!((impaired, reserved()), (Ok(None), 8));
    let (disk, _, found) = open(&path);
    assert_eq!((disk.applied(), found.log.last, found.deaths.len()), (truth.last(), truth.last(), 3));
    assert!(!path.join("replica.db.damaged-1").exists() && !path.join("replica.db-new").exists());
    drop(disk);

    // Still earlier ones had no mark: it is missed only once there has been one.
    let path = dir.path().join("4");
    before_checksums(&template, &path);
    std::fs::remove_file(path.join("replica.mark")).expect("removed");
    assert_eq!(start_and_ask(&path, &template, &mut truth, || false), Ok(None));
    // Interrupted after it got its checksums and before it had a mark.
    connect(&path).pragma_update(None, "application_id", 0x6368_6174).expect("set back");
    std::fs::remove_file(path.join("replica.mark")).expect("removed");
    assert_eq!(start_and_ask(&path, &template, &mut truth, || false), Ok(None));

    // One that is damaged already is saved as far as its log proves itself.
    let path = dir.path().join("3");
    before_checksums(&template, &path);
    let wal = std::fs::metadata(path.join("replica.db-wal")).expect("there").len();
    assert!(wal > 0, "all of it is in the log");
    let connection = Connection::open(path.join("replica.db")).expect("opened");
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("checkpointed");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'message_blocks'";
    let root: u64 = connection.query_row(sql, [], |row| row.get::<_, u32>(0)).expect("there").into();
    drop(connection);
    (0..8).for_each(|bit| flip(&path.join("replica.db"), (root - 1) * PAGE as u64 * 8 + bit));
    let node = follow(&path, &truth.entries, truth.last());
    let last = truth.last();
    assert!(everything(&node.disk().state()).expect("readable") == truth.at(last));
    assert!(path.join("replica.db.damaged-1").exists());
}

/// Somebody looks at the database of a stopped replica with another SQLite, which moves the log into the database when it is closed.
#[test]
fn who_looks_with_another_sqlite_loses_nothing() {
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, false);
    let path = dir.path().join("2");
    copy(&template.path, &path);
    let shell = Connection::open(path.join("replica.db")).expect("opened");
    shell.query_row("SELECT count(*) FROM message_blocks", [], |_| Ok(())).expect("readable");
    drop(shell);
    assert!(!path.join("replica.db-wal").exists(), "it was moved");
    let salvaged = || path.join("replica.db.damaged-1").exists();
    assert_eq!(start_and_ask(&path, &template, &mut truth, salvaged), Ok(None), "no peer is needed");
    let node = follow(&path, &truth.entries, truth.last());
    let last = truth.last();
    assert!(everything(&node.disk().state()).expect("readable") == truth.at(last));
}

#[test]
fn a_backup_that_another_sqlite_made_is_a_replica_again() {
    let (dir, mut truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, false);
    let path = dir.path().join("2");
    std::fs::create_dir(&path).expect("made");
    let shell = Connection::open(template.path.join("replica.db")).expect("opened");
    shell.execute("VACUUM INTO ?", [path.join("replica.db").to_str().expect("text")]).expect("copied");
    assert_eq!(start_and_ask(&path, &template, &mut truth, || false), Ok(None));
    let (disk, _, _) = open(&path);
    assert_eq!(disk.applied(), truth.last());
    assert!(!path.join("replica.db.damaged-1").exists());
}

/// While it runs, what is in memory hides what happens on the disk; whoever reads it anew finds it.
#[tokio::test]
async fn a_page_that_flips_under_a_running_replica() {
    let (dir, truth) = (scratch(), Truth::new());
    let template = template(dir.path(), &truth, true);
    let names = pages(&template);
    let directory = Arc::new(DataDirectory::take(&template.path, ReplicaId(2)).expect("free"));
    let (_disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
    let readers = Readers::new(directory);
    readers.read(|state| state.applied()).await.expect("readable");
    let messages = names.iter().rposition(|name| name == "message_blocks").expect("there");
    flip(&template.path.join("replica.db"), (messages * PAGE + 2000) as u64 * 8);
    let read = readers.read(|state| everything(state)).await;
    assert!(read.is_err(), "it was read without an error");
    let noted = std::fs::read_to_string(template.path.join("replica.db-damage")).expect("it is noted");
    assert!(noted.contains(&format!("the database at byte {}", messages * PAGE)), "{noted}");
}
