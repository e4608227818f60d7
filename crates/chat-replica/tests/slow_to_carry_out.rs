//! A disk on which carrying out takes long: a backup goes on answering meanwhile, and falls no further behind.

mod nobody;

use chat_core::Applied;
use chat_replica::node::{Disk, Node};
use chat_replica::protocol::*;
use nobody::{Nobody, member};
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

/// So long it takes to carry out an entry.
const SLOW: Duration = Duration::from_millis(1);
/// And so long to make a turn's entries durable, where that takes long.
const SLOW_SYNC: Duration = Duration::from_millis(100);
/// Bytes of an entry.
const LARGE: usize = 16 << 10;
const EPOCH: Epoch = Epoch { round: 1, replica: ReplicaId(1) };

/// A log in memory, and a clock that goes on as entries are carried out.
struct Slow {
    log: Vec<Entry>,
    applied: u64,
    now: Rc<Cell<Time>>,
    /// How long it takes to make durable what was written.
    sync: Duration,
    is_written: bool,
}

impl LogRead for Slow {
    fn read(&self, from: u64, max_bytes: usize) -> Vec<Entry> {
        let mut left = max_bytes;
        let fits = |entry: &&Entry| {
            let fits = entry.index == from || entry.size() <= left;
            left = left.saturating_sub(entry.size());
            fits
        };
        self.log.iter().filter(|entry| entry.index >= from).take_while(fits).cloned().collect()
    }
}

impl Disk for Slow {
    type Error = Infallible;

    fn applied(&self) -> u64 {
        self.applied
    }
    fn visible(&self) -> u64 {
        self.applied
    }
    fn is_full(&self) -> bool {
        false
    }
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, Infallible> {
        assert_eq!(entry.index, self.applied + 1, "in order");
        self.applied = entry.index;
        self.now.set(self.now.get().after(SLOW));
        Ok(Vec::new())
    }
    fn persist(&mut self, what: &Persist) -> Result<(), Infallible> {
        if let Persist::Append(entry) = what {
            self.log.push(entry.clone());
            self.is_written = true;
        }
        Ok(())
    }
    fn set_committed(&mut self, _: u64) {}
    fn commit(&mut self) -> Result<(), Infallible> {
        if std::mem::take(&mut self.is_written) {
            self.now.set(self.now.get().after(self.sync));
        }
        Ok(())
    }
    fn show(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Replica 2, with a primary at the other end.
struct Backup {
    node: Node<Slow>,
    now: Rc<Cell<Time>>,
    last: Entry,
}

impl Backup {
    /// Of a cluster of these replicas, with so many entries in its log after the first.
    fn of(members: &[u32], entries: u64) -> Backup {
        let members = members.iter().copied().map(member).collect();
        let (cluster, view) = (ClusterId([7; 16]), View { epoch: EPOCH, primary: ReplicaId(1), members });
        let founding = Entry::chained(ChainHash::default(), 1, EPOCH, Body::Founding { cluster, view });
        let mut log = vec![founding];
        (0..entries).for_each(|_| log.push(following(&log[log.len() - 1])));
        let now = Rc::new(Cell::new(Time(1_000_000)));
        let found = Recovered {
            cluster: Some(cluster),
            promised: EPOCH,
            log: RecoveredLog::of(&log, 1),
            deaths: Vec::new(),
            known: Vec::new(),
            impaired_until: None,
        };
        let config = Config::new(member(2), vec![ReplicaId(1), ReplicaId(3)], cluster, 1);
        let last = log[log.len() - 1].clone();
        let replica = Replica::new(config, found, now.get());
        let node =
            Node::new(replica, Slow { log, applied: 1, now: now.clone(), sync: Duration::ZERO, is_written: false });
        let mut backup = Backup { node, now, last };
        backup.turn(Some(Input::SessionUp { session: 1, peer: member(1), outbound: false }));
        backup
    }

    /// How much was carried out in it, and how long it took.
    fn turn(&mut self, input: Option<Input>) -> (u64, Duration) {
        let (applied, began, now) = (self.node.disk().applied, self.now.get(), self.now.clone());
        self.node.turn(began, input, &move || now.get(), &mut Nobody).expect("nothing fails");
        (self.node.disk().applied - applied, self.now.get().since(began))
    }

    /// The primary sends so many entries more, and says that all have committed.
    fn hears(&mut self, more: usize) -> (u64, Duration) {
        let prev = Place { index: self.last.index, epoch: EPOCH };
        let (prev_hash, mut entries) = (self.last.hash, Vec::new());
        for _ in 0..more {
            self.last = following(&self.last);
            entries.push(self.last.clone());
        }
        let message = Message::Append(Append { epoch: EPOCH, prev, prev_hash, entries, committed: self.last.index });
        let cluster = Some(ClusterId([7; 16]));
        self.turn(Some(Input::Receive(Envelope { cluster, from: member(1), to: member(2), message })))
    }
}

fn following(before: &Entry) -> Entry {
    Entry::chained(before.hash, before.index + 1, EPOCH, Body::Commands(vec![0; LARGE].into()))
}

#[test]
fn a_backup_looks_for_messages_between_what_it_carries_out() {
    let mut backup = Backup::of(&[1, 2, 3], 100);
    let (mut all, took) = backup.hears(0);
    assert!(all > 0 && took < Duration::from_millis(10), "{all} entries in {took:?}");
    while backup.node.is_behind() {
        let (applied, took) = backup.turn(None);
        assert!(applied > 0 && took < Duration::from_millis(10), "{applied} entries in {took:?}");
        all += applied;
    }
    assert_eq!(all, 100);
}

#[test]
fn a_backup_that_falls_far_behind_carries_out_more_than_comes_however_long_that_takes() {
    let mut backup = Backup::of(&[1, 2, 3], 100);
    let mut longest_backlog = 0;
    for round in 0..200 {
        let (applied, took) = backup.hears(20);
        let backlog = (backup.last.index - backup.node.disk().applied) as usize;
        longest_backlog = longest_backlog.max(backlog);
        // The primary waits for its next answer.
        let is_early = round < 20;
        assert!(applied > 0 && (!is_early || took < Duration::from_millis(5)), "{applied} entries in {took:?}");
    }
    let bound = 100 + (8 << 20) / LARGE + 2 * 20;
    assert!((bound / 2..=bound).contains(&longest_backlog), "{longest_backlog} entries behind at most");
}

#[test]
fn a_learner_gets_the_log_first() {
    let mut learner = Backup::of(&[1, 3], 100);
    for _ in 0..3 {
        assert_eq!(learner.hears(20).0, 0);
        assert!(!learner.node.is_behind(), "it waits for more");
    }
    let (wake, now) = (learner.node.wake_at(), learner.now.get());
    assert!(wake > now && wake <= now.after(Duration::from_millis(50)), "{wake:?} at {now:?}");
    learner.now.set(now.after(Duration::from_millis(50)));
    learner.turn(None);
    while learner.node.is_behind() {
        let (applied, took) = learner.turn(None);
        assert!(applied > 0 && took < Duration::from_millis(10), "{applied} entries in {took:?}");
    }
    assert_eq!(learner.node.disk().applied, 161, "no more came");
}

/// A sync that takes longer than a pause of the log is none: its sender may wait for the answer.
#[test]
fn a_learner_whose_disk_is_slow_gets_the_log_first() {
    let mut learner = Backup::of(&[1, 3], 100);
    learner.node.disk_mut().sync = SLOW_SYNC;
    assert_eq!(learner.hears(20).0, 0);
    learner.now.set(learner.now.get().after(Duration::from_millis(40)));
    assert_eq!(learner.turn(None).0, 0, "more may be on its way");
    learner.now.set(learner.now.get().after(Duration::from_millis(10)));
    assert!(learner.turn(None).0 > 0, "nothing is");
}
