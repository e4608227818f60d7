//! ④ The protocol and its disk, synchronous: what the driver runs, and what a simulation can run.
//!
//! A turn does things in the one order that keeps the promises: send what promises nothing, apply and answer what has committed,
//! make durable what is to be durable with one sync, then send what rests on it.

use crate::failpoint::{Point, reach};
use crate::protocol::*;
use chat_core::Applied;
use core::time::Duration;

/// Where a node keeps its log and its state. Every error is final: the process ends (rule 15).
pub trait Disk: LogRead {
    /// What can go wrong.
    type Error;

    /// The last log entry that the state holds.
    fn applied(&self) -> u64;

    /// Begins the turn's transaction, unless it has begun. With `sync`, its commit returns once everything is durable.
    ///
    /// # Errors
    /// The disk's.
    fn begin(&mut self, sync: bool) -> Result<(), Self::Error>;

    /// Carries out a committed entry on the state, within the transaction; one result for each of its commands.
    ///
    /// # Errors
    /// The disk's.
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, Self::Error>;

    /// Writes one thing, within the transaction.
    ///
    /// # Errors
    /// The disk's.
    fn persist(&mut self, what: &Persist) -> Result<(), Self::Error>;

    /// The commit index to keep, as a lower bound.
    fn set_committed(&mut self, committed: u64);

    /// Ends the transaction; what was applied is visible to readers from here on.
    ///
    /// # Errors
    /// The disk's.
    fn commit(&mut self) -> Result<(), Self::Error>;
}

/// What a turn gives to the world, as it happens.
pub trait Outbox {
    /// ⑤ To a peer. May lose it.
    fn send(&mut self, envelope: Envelope);

    /// ⑦ A committed entry was carried out: answers can leave and streams be told.
    fn applied(&mut self, entry: &Entry, results: Vec<Applied>, copies: usize);

    /// Something happened.
    fn event(&mut self, event: Event);
}

/// What came of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turned {
    /// How long the sync took, if there was one: to be given to the next turn, at once, as [`Input::Persisted`].
    pub synced: Option<Duration>,
    /// The log index of the batch that was proposed in this turn, if it was taken.
    pub proposed: Option<u64>,
}

/// The protocol and its disk.
#[derive(Debug)]
pub struct Node<D> {
    replica: Replica,
    disk: D,
    apply_bytes: usize,
}

/// How many bytes of committed entries are carried out in one turn, about: a long log to catch up with must not keep
/// the node from answering pings.
const APPLY_BYTES: usize = 1 << 20;

impl<D: Disk> Node<D> {
    /// A node of a replica and the disk that it was recovered from.
    pub fn new(replica: Replica, disk: D) -> Node<D> {
        Node { replica, disk, apply_bytes: APPLY_BYTES }
    }

    /// With about so many bytes of committed entries carried out in one turn at most, instead of a megabyte.
    #[must_use]
    pub fn applying_at_most(self, bytes: usize) -> Node<D> {
        Node { apply_bytes: bytes, ..self }
    }

    /// The protocol's state.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// The disk, for what the protocol does not do.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Ends the node, and keeps its disk.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Whether committed entries wait to be carried out: the next turn should come at once.
    pub fn is_behind(&self) -> bool {
        self.disk.applied() < self.replica.committed()
    }

    /// One turn. `now` was read after the last input happened; `clock` reads on.
    ///
    /// # Errors
    /// The disk's: the process must end, and nothing that waited for the disk has left.
    pub fn turn(
        &mut self,
        now: Time,
        inputs: impl IntoIterator<Item = Input>,
        clock: &dyn Fn() -> Time,
        out: &mut dyn Outbox,
    ) -> Result<Turned, D::Error> {
        let effects = self.replica.step(now, inputs, &self.disk);
        reach(Point::BeforeSend);
        effects.send.into_iter().for_each(|envelope| out.send(envelope));
        reach(Point::AfterSend);
        effects.events.into_iter().for_each(|event| out.event(event));
        let sync = !effects.persist.is_empty();
        self.apply_committed(sync, out)?;
        let mut synced = None;
        if sync {
            reach(Point::BeforePersist);
            self.disk.begin(true)?;
            for what in &effects.persist {
                self.disk.persist(what)?;
            }
            reach(Point::BeforeCommit);
            let before = clock();
            self.disk.commit()?;
            synced = Some(clock().since(before));
            reach(Point::AfterCommit);
        } else {
            self.disk.commit()?;
        }
        effects.send_after.into_iter().for_each(|envelope| out.send(envelope));
        reach(Point::AfterPromises);
        Ok(Turned { synced, proposed: effects.proposed })
    }

    /// Only committed entries are applied (rule 1).
    fn apply_committed(&mut self, sync: bool, out: &mut dyn Outbox) -> Result<(), D::Error> {
        let committed = self.replica.committed();
        self.disk.set_committed(committed);
        if self.disk.applied() >= committed {
            return Ok(());
        }
        let log = self.replica.log();
        let mut entries = log.read(self.disk.applied() + 1, self.apply_bytes, &self.disk);
        // What this turn cuts back is still on the disk. Place and epoch together name an entry (rule 1), so they tell it apart.
        let sound = |entry: &Entry| entry.index <= committed && log.epoch_at(entry.index) == Some(entry.epoch);
        entries.truncate(entries.iter().take_while(|entry| sound(entry)).count());
        // A later view, proposed in this very turn perhaps, can name a learner that does not have these entries yet.
        let copies = self.replica.copies();
        reach(Point::BeforeApply);
        self.disk.begin(sync)?;
        for entry in &entries {
            let results = self.disk.apply(entry)?;
            reach(Point::AfterApply);
            out.applied(entry, results, copies);
        }
        reach(Point::AfterAnswers);
        Ok(())
    }
}
