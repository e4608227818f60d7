//! The node and the driver on logs that were there before: what is committed and not yet applied must be neither read past nor mixed
//! up, and what is answered says what is so.

mod learner;
mod nobody;

use chat_core::{Applied, Command, DisplayName, Lookup as _, PasswordHash, RequestKey, Timestamp, Username};
use chat_replica::node::{Disk as _, Node, Outbox};
use chat_replica::options::{Config as ServerConfig, Listen, Options};
use chat_replica::protocol::*;
use chat_replica::server::Server;
use chat_replica::storage::{DataDirectory, SqliteDisk};
use chat_replica::transport::Tcp;
use learner::carry_out;
use nobody::{Nobody, member};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const START: Time = Time(1_000_000);

/// A batch that registers accounts with such names; some 600 bytes each.
fn registrations(prefix: &str, count: u64) -> Body {
    let register = |number: u64| {
        let name = Username::parse(&format!("{prefix}{number}")).expect("a name");
        let key = RequestKey(*blake3::hash(name.as_str().as_bytes()).as_bytes().first_chunk().expect("16 of 32"));
        let password = PasswordHash::new(&format!("${}", "x".repeat(500))).expect("shaped like a hash");
        Command::Register { key, display_name: DisplayName::of(&name), name, password, at: Timestamp(0) }
    };
    let commands: Vec<Command> = (0..count).map(register).collect();
    Body::Commands(chat_core::codec::encode(&commands).into())
}

/// A log that begins with the founding of a view of these, and goes on with these batches, all in one epoch.
fn log(epoch: Epoch, members: Vec<Member>, batches: impl IntoIterator<Item = Body>) -> Vec<Entry> {
    let view = View { epoch, primary: epoch.replica, members };
    let mut entries = vec![Entry::chained(ChainHash::default(), 1, epoch, Body::Founding { cluster: CLUSTER, view })];
    for (body, index) in batches.into_iter().zip(2..) {
        let previous = entries.last().expect("the founding").hash;
        entries.push(Entry::chained(previous, index, epoch, body));
    }
    entries
}

fn directory(path: &Path, id: u32) -> Arc<DataDirectory> {
    Arc::new(DataDirectory::take(path, ReplicaId(id)).expect("free"))
}

/// A crash can leave a log of which nothing is known to be committed; the next primary commits all of it at once, and applies it over
/// several turns. Whoever reads meanwhile must not miss what was acknowledged before the crash.
#[tokio::test]
async fn a_new_primary_lets_nobody_read_before_it_has_carried_out_what_it_found() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().join("1");
    let entries = {
        let (mut disk, member, _) = SqliteDisk::open(directory(&path, 1), ReplicaId(1)).expect("a new disk");
        let epoch = Epoch { round: 1, replica: ReplicaId(1) };
        let batches = ["a", "b", "c", "d"].map(|prefix| registrations(prefix, 1900));
        let entries = log(epoch, vec![member], batches);
        for what in [Persist::Cluster(CLUSTER), Persist::Promise(epoch)] {
            disk.persist(&what).expect("persisted");
        }
        for entry in &entries {
            disk.persist(&Persist::Append(entry.clone())).expect("persisted");
        }
        disk.commit().expect("committed");
        entries.len() as u64
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("it has one").to_string();
    let config = ServerConfig {
        id: 1,
        listen: Listen::Bound(listener),
        data: path,
        replicas: vec![(1, address)],
        options: Options::default(),
    };
    let server = Server::start(config, Arc::new(Tcp)).await.expect("started");
    let mut gate = server.handle().gate();
    let mut status = server.handle().status();
    let serving = async {
        gate.wait_for(|gate| gate.serving.is_some()).await.expect("it serves");
        server.handle().read_permit().await.expect("it may be read")
    };
    let permit = tokio::time::timeout(Duration::from_secs(20), serving).await.expect("soon");
    assert!(permit.index >= entries, "{permit:?} misses some of {entries} entries");
    let told = status.wait_for(|status| status.serving);
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("soon").expect("it says so too");
}

/// One turn of replica 2 that hears this from a primary, on whatever its disk holds.
fn hear(directory: &Arc<DataDirectory>, from: Member, append: Append) -> Node<SqliteDisk> {
    let (disk, me, found) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
    let config = Config::new(me, vec![ReplicaId(1), ReplicaId(3)], CLUSTER, 1);
    let mut node = Node::new(Replica::new(config, found, START), disk);
    let envelope = Envelope { cluster: Some(CLUSTER), from, to: me, message: Message::Append(append) };
    let inputs = [Input::SessionUp { session: 1, peer: from, outbound: true }, Input::Receive(envelope)];
    node.turn(START, inputs, &|| START, &mut Nobody).expect("the disk works");
    node
}

/// What is cut back in a turn is still on the disk while that turn applies.
#[test]
fn an_entry_that_is_cut_back_is_not_applied_from_the_disk() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = directory(&data.path().join("2"), 2);
    let (old, new) = (Epoch { round: 1, replica: ReplicaId(1) }, Epoch { round: 2, replica: ReplicaId(3) });
    let large = ["a", "b"].map(|prefix| registrations(prefix, 1300));
    let batches = large.into_iter().chain([registrations("c", 1), registrations("old", 1)]);
    let entries = log(old, vec![member(1), member(3)], batches);
    let begin = Append { epoch: old, prev: Place::default(), prev_hash: ChainHash::default(), entries, committed: 4 };
    let place = Place { index: 4, epoch: old };
    let before = begin.entries[3].clone();

    let node = hear(&directory, member(1), begin);
    assert!(node.disk().applied() < node.replica().committed(), "one turn does not apply everything");
    drop(node);

    let other = Entry::chained(before.hash, 5, new, registrations("new", 1));
    let append = Append { epoch: new, prev: place, prev_hash: before.hash, entries: vec![other], committed: 5 };
    let mut node = hear(&directory, member(3), append);
    carry_out(&mut node, START);
    node.disk_mut().take_in_all().expect("taken in");
    let known = |name: &str| {
        let name = Username::parse(name).expect("a name");
        node.disk().state().account_by_name(&name).expect("readable").is_some()
    };
    assert_eq!((known("new0"), known("old0")), (true, false), "only what was committed is applied (rule 1)");
}

/// What one missed takes seconds to carry out; it is in the view, and a copy, once it holds it.
#[test]
fn one_that_was_away_holds_the_log_before_it_carries_it_out() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = directory(&data.path().join("2"), 2);
    let epoch = Epoch { round: 1, replica: ReplicaId(1) };
    let batches = ["a", "b", "c", "d", "e"].map(|prefix| registrations(prefix, 100));
    let entries = log(epoch, vec![member(1), member(3)], batches);
    let append = Append { epoch, prev: Place::default(), prev_hash: ChainHash::default(), entries, committed: 6 };
    let mut node = hear(&directory, member(1), append);
    assert_eq!(node.replica().log().last().index, 6);
    assert_eq!(node.disk().applied(), 0, "carried out first");
    carry_out(&mut node, START);
    assert_eq!(node.disk().applied(), 6);
}

/// Counts the entries that are sent.
#[derive(Default)]
struct Sent(usize);

impl Outbox for Sent {
    fn send(&mut self, envelope: Envelope) {
        if let Message::Append(append) = envelope.message {
            self.0 += append.entries.len();
        }
    }
    fn applied(&mut self, _: &Entry, _: Vec<Applied>, _: usize) {}
    fn event(&mut self, _: Event) {}
}

/// A learner gets what its window allows, step by step, without an answer in between.
#[test]
fn a_primary_that_has_more_to_send_goes_on_at_once() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = directory(&data.path().join("1"), 1);
    let (mut disk, founder, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
    let batches = (0..20).map(|number: u32| registrations(&format!("n{number}x"), 100));
    disk.persist(&Persist::Cluster(CLUSTER)).expect("persisted");
    for entry in log(Epoch { round: 1, replica: ReplicaId(1) }, vec![founder], batches) {
        disk.persist(&Persist::Append(entry)).expect("persisted");
    }
    disk.commit().expect("committed");
    drop(disk);

    let (disk, me, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("opened again");
    let (now, learner) = (Time(1_000_000), member(2));
    let config = Config::new(me, vec![ReplicaId(2)], CLUSTER, 1);
    let mut node = Node::new(Replica::new(config, found, now), disk);
    let mut out = Sent::default();
    let mut inputs = Vec::new();
    while node.replica().serving().is_none() || node.is_behind() {
        let turned = node.turn(now, std::mem::take(&mut inputs), &|| now, &mut out).expect("the disk works");
        inputs.extend(turned.synced.map(|took| Input::Persisted { took }));
    }
    let epoch = node.replica().serving().expect("it serves");
    let say = |message| Input::Receive(Envelope { cluster: Some(CLUSTER), from: learner, to: me, message });
    let hello = Hello {
        promised: Epoch::ZERO,
        last: Place::default(),
        committed: 0,
        deaths: Vec::new(),
        impaired: false,
        founders: vec![ReplicaId(1), ReplicaId(2)],
    };
    inputs.extend([Input::SessionUp { session: 1, peer: learner, outbound: true }, say(Message::Hello(hello))]);
    inputs.push(say(Message::AppendReply { epoch, promised: epoch, matched: 1, conflict: false }));
    let mut steps = 0;
    while !inputs.is_empty() || node.wake_at() <= now {
        node.turn(now, std::mem::take(&mut inputs), &|| now, &mut out).expect("the disk works");
        steps += 1;
        assert!(steps < 10, "it comes to an end");
    }
    assert!(steps > 1 && out.0 >= 20, "{} entries in {steps} steps", out.0);
}

/// Remembers on how many disks entries were said to be.
#[derive(Default)]
struct Copies(Vec<(u64, usize)>);

impl Outbox for Copies {
    fn send(&mut self, _: Envelope) {}
    fn applied(&mut self, entry: &Entry, _: Vec<Applied>, copies: usize) {
        self.0.push((entry.index, copies));
    }
    fn event(&mut self, _: Event) {}
}

/// A learner is taken in before it has everything: a view with it may be proposed in the very turn that answers an entry that it lacks.
#[test]
fn who_is_only_about_to_be_taken_in_holds_no_copy() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = directory(&data.path().join("1"), 1);
    let (mut disk, founder, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).expect("a new disk");
    disk.persist(&Persist::Cluster(CLUSTER)).expect("persisted");
    let founding = log(Epoch { round: 1, replica: ReplicaId(1) }, vec![founder], []).remove(0);
    disk.persist(&Persist::Append(founding)).expect("persisted");
    disk.commit().expect("committed");
    drop(disk);

    let (disk, me, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("opened again");
    let config = Config::new(me, vec![ReplicaId(2)], CLUSTER, 1);
    let now = Time(1_000_000);
    let mut node = Node::new(Replica::new(config, found, now), disk);
    let mut out = Copies::default();
    let mut turn = |inputs: Vec<Input>| {
        let synced = node.turn(now, inputs, &|| now, &mut out).expect("the disk works").synced;
        (synced.map(|took| Input::Persisted { took }), node.replica().serving())
    };
    let (mut persisted, mut epoch) = turn(Vec::new());
    while epoch.is_none() {
        (persisted, epoch) = turn(Vec::from_iter(persisted));
    }
    let (epoch, learner) = (epoch.expect("it serves"), member(2));
    let say = |message| Input::Receive(Envelope { cluster: Some(CLUSTER), from: learner, to: me, message });
    let hello = Hello {
        promised: Epoch::ZERO,
        last: Place::default(),
        committed: 0,
        deaths: Vec::new(),
        impaired: false,
        founders: vec![ReplicaId(1), ReplicaId(2)],
    };
    turn(vec![Input::SessionUp { session: 1, peer: learner, outbound: true }, say(Message::Hello(hello))]);
    let Body::Commands(batch) = registrations("a", 1) else { unreachable!("it is a batch") };
    let (persisted, _) = turn(vec![Input::Propose(batch)]);
    let holds_what_was_before = Message::AppendReply { epoch, promised: epoch, matched: 2, conflict: false };
    turn(persisted.into_iter().chain([say(holds_what_was_before)]).collect());
    assert_eq!(out.0.last(), Some(&(3, 1)), "(entry, copies)");
}

/// Some entries, and what replica 2 is told of those after the first ones.
fn from_a_peer() -> (Vec<Entry>, impl Fn(usize, u64) -> Append) {
    let epoch = Epoch { round: 1, replica: ReplicaId(1) };
    let entries = log(epoch, vec![member(1), member(3)], ["a", "b", "c", "d"].map(|prefix| registrations(prefix, 1)));
    let all = entries.clone();
    let after = move |index: usize, committed: u64| Append {
        epoch,
        prev: Place { index: index as u64, epoch: if index == 0 { Epoch::ZERO } else { epoch } },
        prev_hash: index.checked_sub(1).map(|at| all[at].hash).unwrap_or_default(),
        entries: all[index..].to_vec(),
        committed,
    };
    (entries, after)
}

/// Not by the disk, which every page would tell: by whoever wrote the page.
fn damage(directory: &DataDirectory, sql: &str) {
    let flags = rusqlite::OpenFlags::default();
    let opened = rusqlite::Connection::open_with_flags_and_vfs(directory.database(), flags, chat_sqlite_checksum::VFS);
    opened.expect("opened").execute_batch(sql).expect("damaged");
}

/// Replica 2 hears the rest again, and has everything, once.
fn is_repaired(directory: &Arc<DataDirectory>, append: Append) {
    let mut node = hear(directory, member(1), append);
    carry_out(&mut node, START);
    assert_eq!((node.replica().status().impaired_until, node.replica().log().last().index), (None, 5));
    node.disk_mut().take_in_all().expect("taken in");
    let accounts = chat_core::Lookup::counters(&node.disk().state()).expect("readable").accounts;
    assert_eq!((accounts, node.disk().applied()), (4, 5), "each was applied once");
    drop(node);
    let (_, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
    assert_eq!((found.impaired_until, found.log.last), (None, 5));
}

/// Rule 15 on the real disk: what is damaged is set aside, comes again from a peer, and is not applied twice.
#[test]
fn a_damaged_log_is_repaired_from_a_peer() {
    // How much was carried out; what is damaged; what is left of what was carried out. The start goes on from where the state stands, and further back
    // if that is gone. A state that was made of what is damaged is made anew.
    for (committed, sql, applied) in [
        (2, "UPDATE log SET body = zeroblob(9) WHERE idx = 3", 2),
        (5, "UPDATE log SET body = zeroblob(9) WHERE idx = 3; DELETE FROM log WHERE idx = 5", 0),
    ] {
        let data = tempfile::tempdir().expect("a temporary directory");
        let directory = directory(&data.path().join("2"), 2);
        let (_, after) = from_a_peer();
        carry_out(&mut hear(&directory, member(1), after(0, committed)), START);
        damage(&directory, sql);
        let (disk, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
        assert_eq!((found.impaired_until, found.log.last, disk.applied()), (Some(5), 2, applied), "{sql}");
        drop(disk);
        is_repaired(&directory, after(2, 5));
    }
}

/// What the state was made of is not followed at a start: whoever reads it finds that it does not follow.
#[test]
fn an_early_entry_that_is_not_what_it_was_is_found_when_it_is_read() {
    // What is damaged, and from where on it is noticed.
    for (sql, broken) in
        [("UPDATE log SET body = zeroblob(9) WHERE idx = 3", [1, 2, 3]), ("DELETE FROM log WHERE idx = 3", [1, 3, 4])]
    {
        let data = tempfile::tempdir().expect("a temporary directory");
        let directory = directory(&data.path().join("2"), 2);
        let (entries, after) = from_a_peer();
        carry_out(&mut hear(&directory, member(1), after(0, 5)), START);
        damage(&directory, sql);
        let (mut disk, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
        assert_eq!((found.impaired_until, found.log.last, disk.applied()), (None, 5, 5), "{sql}");
        assert!(disk.read(5, usize::MAX) == entries[4..], "{sql}");
        for from in broken {
            assert_eq!(disk.read(from, usize::MAX), [], "{sql}, from {from}");
            let error = disk.commit().expect_err("what was read is no log");
            assert!(disk.last_words(&error).contains("the log's chain of hashes breaks at entry"), "{error}");
        }
        drop(disk);
        let (disk, _, found) = SqliteDisk::open(directory.clone(), ReplicaId(2)).expect("opened");
        assert_eq!((found.impaired_until, found.log.last, disk.applied()), (Some(5), 2, 0), "{sql}: salvaged");
        drop(disk);
        is_repaired(&directory, after(2, 5));
    }
}
