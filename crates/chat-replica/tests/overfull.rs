//! A disk whose database takes in less than is carried out: what is committed waits, and the turns go on.

use chat_core::{Applied, Command, DisplayName, PasswordHash, RequestKey, Timestamp, Username};
use chat_replica::node::{Disk, Node, Outbox};
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, DiskError, SqliteDisk};
use std::sync::Arc;
use std::time::Duration;

/// A disk that says when it has had enough.
struct Slow {
    disk: SqliteDisk,
    /// Nothing more is to be carried out beyond this entry.
    enough: u64,
}

impl LogRead for Slow {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        self.disk.read(from, max_bytes)
    }
}

impl Disk for Slow {
    type Error = DiskError;

    fn applied(&self) -> u64 {
        self.disk.applied()
    }
    fn visible(&self) -> u64 {
        self.disk.visible()
    }
    fn is_full(&self) -> bool {
        self.disk.is_full()
    }
    fn is_overfull(&self) -> bool {
        self.disk.applied() >= self.enough
    }
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, DiskError> {
        self.disk.apply(entry)
    }
    fn persist(&mut self, what: &Persist) -> Result<(), DiskError> {
        self.disk.persist(what)
    }
    fn set_committed(&mut self, committed: u64) {
        self.disk.set_committed(committed);
    }
    fn commit(&mut self) -> Result<(), DiskError> {
        self.disk.commit()
    }
    fn show(&mut self) -> Result<(), DiskError> {
        self.disk.show()
    }
    fn is_showing(&self) -> bool {
        self.disk.is_showing()
    }
    fn settle(&mut self) -> Result<(), DiskError> {
        self.disk.settle()
    }
}

/// Keeps which entries were carried out.
#[derive(Default)]
struct Carried(Vec<u64>);

impl Outbox for Carried {
    fn send(&mut self, _: Envelope) {}
    fn applied(&mut self, entry: &Entry, _: Vec<Applied>, _: usize) {
        self.0.push(entry.index);
    }
    fn event(&mut self, event: Event) {
        assert!(!matches!(event, Event::Fatal(_)), "{event:?}");
    }
}

fn registration(number: u64) -> bytes::Bytes {
    let name = Username::parse(&format!("user{number}")).expect("a name");
    let password = PasswordHash::new(&format!("${}", "x".repeat(50))).expect("shaped like a hash");
    let key = RequestKey([number as u8; 16]);
    let command = Command::Register { key, display_name: DisplayName::of(&name), name, password, at: Timestamp(0) };
    chat_core::codec::encode(&[command]).into()
}

#[test]
fn what_is_committed_waits_for_the_database_and_the_turns_go_on() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let directory = Arc::new(DataDirectory::take(&data.path().join("1"), ReplicaId(1)).expect("free"));
    let (disk, me, found) = SqliteDisk::open(directory, ReplicaId(1)).expect("a new disk");
    let config = Config::new(me, Vec::new(), ClusterId([7; 16]), 1);
    let mut now = Time(1_000_000);
    let replica = Replica::new(config, found, now);
    let mut node = Node::new(replica, Slow { disk, enough: u64::MAX });
    let mut carried = Carried::default();
    let mut turn = |node: &mut Node<Slow>, input: Option<Input>| {
        now = now.after(Duration::from_millis(1));
        let turned = node.turn(now, input, &|| now, &mut carried).expect("the disk works");
        let took = turned.synced.map(|took| Input::Persisted { took });
        let turned = took.map(|took| node.turn(now, [took], &|| now, &mut carried).expect("the disk works"));
        assert!(turned.is_none_or(|turned| turned.synced.is_none()));
        carried.0.len()
    };
    while node.replica().serving().is_none() || node.is_behind() {
        turn(&mut node, None);
    }

    let (applied, before) = (node.disk().applied(), turn(&mut node, None));
    node.disk_mut().enough = applied;
    assert_eq!(turn(&mut node, Some(Input::Propose(registration(1)))), before, "it is committed, and waits");
    assert_eq!(turn(&mut node, Some(Input::Propose(registration(2)))), before, "as what comes after it does");
    assert_eq!((node.replica().committed(), node.disk().applied()), (applied + 2, applied));
    assert!(!node.is_behind(), "there is nothing to turn for until something has become visible");

    node.disk_mut().enough = applied + 1;
    assert!(node.is_behind());
    assert_eq!(turn(&mut node, None), before + 1, "no more than there is room for");
    node.disk_mut().enough = u64::MAX;
    assert_eq!(turn(&mut node, None), before + 2);
    assert_eq!(carried.0[before..], [applied + 1, applied + 2], "in order");
}
