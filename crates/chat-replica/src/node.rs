//! ④ The protocol and its disk, synchronous: what the driver runs, and what a simulation can run.
//!
//! A turn does things in the one order that keeps the promises: send what promises nothing, make durable what is to be durable with one sync, then
//! send what rests on it. What has committed is carried out and answered before the sync by a primary, after all that by others.

use crate::backlog::{Backlog, Role, Share};
use crate::failpoint::{Point, reach};
use crate::protocol::*;
use chat_core::Applied;
use core::time::Duration;

/// Where a node keeps its log and its state. Every error is final: the process ends (rule 15).
pub trait Disk: LogRead {
    /// What can go wrong.
    type Error;

    /// The last log entry that was carried out.
    fn applied(&self) -> u64;

    /// The last log entry whose effects readers see. What was carried out since is made again from the log after a crash.
    fn visible(&self) -> u64;

    /// Whether so much was carried out and is not visible that it should be.
    fn is_full(&self) -> bool;

    /// Whether so much is that nothing more is to be carried out until some of it has become visible. The turns go on meanwhile: who waited here would
    /// be silent.
    fn is_overfull(&self) -> bool {
        false
    }

    /// Carries out a committed entry on the state, within the turn or to be written later; one result for each of its commands.
    ///
    /// # Errors
    /// The disk's.
    fn apply(&mut self, entry: &Entry) -> Result<Vec<Applied>, Self::Error>;

    /// Writes one thing, to be durable with the turn.
    ///
    /// # Errors
    /// The disk's.
    fn persist(&mut self, what: &Persist) -> Result<(), Self::Error>;

    /// The commit index to keep, as a lower bound.
    fn set_committed(&mut self, committed: u64);

    /// Ends the turn: once it returns, all that was persisted in it is durable.
    ///
    /// # Errors
    /// The disk's.
    fn commit(&mut self) -> Result<(), Self::Error>;

    /// Makes all that was carried out visible to readers, in a transaction of its own that is not synced: at once, or after a while. Until then
    /// [`Disk::is_showing`].
    ///
    /// # Errors
    /// The disk's.
    fn show(&mut self) -> Result<(), Self::Error>;

    /// Whether something is on its way to be visible. While it is, there is nothing more to [`Disk::show`].
    fn is_showing(&self) -> bool {
        false
    }

    /// Takes note of what has become visible since.
    ///
    /// # Errors
    /// The disk's.
    fn settle(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What a turn gives to the world, as it happens.
pub trait Outbox {
    /// ⑤ To a peer. May lose it.
    fn send(&mut self, envelope: Envelope);

    /// What was sent should be on its way before the disk is waited for.
    fn flush(&mut self) {}

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
    backlog: Backlog,
    /// Somebody waits to see this log entry carried out, and perhaps others later ones.
    awaited: Option<u64>,
    /// Since when there is something that was carried out and is not visible.
    hidden_since: Option<Time>,
}

/// Entries are read in portions of so many bytes, about.
const PORTION: usize = 32 << 10;
/// What was carried out waits so long at most until it is visible, if nobody wants to see it: what comes meanwhile is written together.
const HIDDEN_FOR: Duration = Duration::from_millis(250);

impl<D: Disk> Node<D> {
    /// A node of a replica and the disk that it was recovered from.
    pub fn new(replica: Replica, disk: D) -> Node<D> {
        Node { replica, disk, backlog: Backlog::new(), awaited: None, hidden_since: None }
    }

    /// With about so many bytes of committed entries carried out in one turn at most, instead of a megabyte.
    #[must_use]
    pub fn applying_at_most(self, bytes: usize) -> Node<D> {
        Node { backlog: self.backlog.at_most(bytes), ..self }
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

    /// Readers wait for this log entry: it becomes visible in the turn in which it is carried out, or in the next, which should come at once.
    pub fn show(&mut self, index: u64) {
        if index <= self.disk.visible() {
            return;
        }
        self.awaited = Some(self.awaited.map_or(index, |awaited| awaited.min(index)));
    }

    /// Whether the next turn should come at once: committed entries wait to be carried out, or readers to see them.
    pub fn is_behind(&self) -> bool {
        self.can_apply() || self.must_show()
    }

    fn can_apply(&self) -> bool {
        let is_learning = self.backlog.learning_until().is_some();
        !self.has_applied_all() && !is_learning && !self.disk.is_overfull()
    }

    /// Whether no committed entry waits to be carried out.
    pub fn has_applied_all(&self) -> bool {
        self.disk.applied() >= self.replica.committed()
    }

    fn must_show(&self) -> bool {
        let awaited = self.awaited.is_some_and(|index| index <= self.disk.applied());
        (awaited || self.disk.is_full()) && !self.disk.is_showing()
    }

    /// When to turn again at the latest, if nothing happens before.
    pub fn wake_at(&self) -> Time {
        let show_at = self.hidden_since.filter(|_| !self.disk.is_showing()).map(|since| since.after(HIDDEN_FOR));
        [show_at, self.backlog.learning_until()].into_iter().flatten().fold(self.replica.wake_at(), Time::min)
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
        self.settle()?;
        let effects = self.replica.step(now, inputs, &self.disk);
        reach(Point::BeforeSend);
        effects.send.into_iter().for_each(|envelope| out.send(envelope));
        out.flush();
        reach(Point::AfterSend);
        if effects.events.iter().any(|event| matches!(event, Event::View(_))) {
            // Whom a restart needs depends on which views it knows committed (rules 4, 10): that is written at once, too.
            self.show(self.replica.committed());
        }
        effects.events.into_iter().for_each(|event| out.event(event));
        let sync = !effects.persist.is_empty();
        self.backlog.note(now, self.role(), &effects.persist);
        // Whoever asked a primary waits for what it carries out; for what others carry out nobody waits as for what they acknowledge.
        let apply_first = !sync || self.replica.serving().is_some();
        self.disk.set_committed(self.replica.committed());
        if apply_first {
            self.apply_committed(clock, out)?;
        }
        let mut synced = None;
        if sync {
            reach(Point::BeforePersist);
            for what in &effects.persist {
                self.disk.persist(what)?;
            }
            reach(Point::BeforeCommit);
            let before = clock();
            self.disk.commit()?;
            let after = clock();
            synced = Some(after.since(before));
            self.backlog.durable(after);
            reach(Point::AfterCommit);
        } else {
            self.disk.commit()?;
        }
        effects.send_after.into_iter().for_each(|envelope| out.send(envelope));
        out.flush();
        reach(Point::AfterPromises);
        if !apply_first {
            self.apply_committed(clock, out)?;
            self.disk.commit()?;
        }
        self.show_if_due(now)?;
        Ok(Turned { synced, proposed: effects.proposed })
    }

    /// Last in the turn: others wait for what it sends, and nobody but readers for this.
    fn show_if_due(&mut self, now: Time) -> Result<(), D::Error> {
        let long_hidden = self.hidden_since.is_some_and(|since| now.since(since) >= HIDDEN_FOR);
        if (long_hidden && !self.disk.is_showing()) || self.must_show() {
            self.disk.show()?;
            // What is on its way is not hidden any more.
            self.hidden_since = None;
            self.settle()?;
        }
        let hidden = self.disk.visible() < self.disk.applied();
        self.hidden_since = self.hidden_since.or(Some(now)).filter(|_| hidden);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), D::Error> {
        self.disk.settle()?;
        // Whoever waits for a later one sees that something moved, and says so again.
        self.awaited = self.awaited.filter(|index| *index > self.disk.visible());
        Ok(())
    }

    fn role(&self) -> Role {
        match self.replica.serving() {
            Some(_) => Role::Primary,
            None if self.replica.is_live() => Role::Backup,
            None => Role::Learner,
        }
    }

    /// Only committed entries are applied (rule 1).
    fn apply_committed(&mut self, clock: &dyn Fn() -> Time, out: &mut dyn Outbox) -> Result<(), D::Error> {
        if !self.can_apply() {
            self.backlog.carried_out(0, self.has_applied_all());
            return Ok(());
        }
        let (Share { least, most, time }, begun) = (self.backlog.share(), clock());
        let is_over = |bytes| bytes > least && clock().since(begun) >= time;
        let mut bytes = 0;
        reach(Point::BeforeApply);
        while bytes < most && self.can_apply() && !is_over(bytes) {
            let applied = self.apply_portion((most - bytes).min(PORTION), &|applied| is_over(bytes + applied), out)?;
            if applied == 0 {
                break;
            }
            bytes += applied;
        }
        self.backlog.carried_out(bytes, self.has_applied_all());
        reach(Point::AfterAnswers);
        Ok(())
    }

    /// Carries out the next entries of so many bytes, about, or until it is over after one of them, and returns how many they had.
    fn apply_portion(
        &mut self,
        bytes: usize,
        is_over: &dyn Fn(usize) -> bool,
        out: &mut dyn Outbox,
    ) -> Result<usize, D::Error> {
        let (committed, log) = (self.replica.committed(), self.replica.log());
        let mut entries = log.read(self.disk.applied() + 1, bytes, &self.disk);
        // What this turn cuts back is still on the disk, where this comes first. Place and epoch together name an entry (rule 1), so they tell it apart.
        let sound = |entry: &Entry| entry.index <= committed && log.epoch_at(entry.index) == Some(entry.epoch);
        entries.truncate(entries.iter().take_while(|entry| sound(entry)).count());
        // A later view, proposed in this very turn perhaps, can name a learner that does not have these entries yet.
        let copies = self.replica.copies();
        let mut applied = 0;
        for entry in &entries {
            if self.disk.is_overfull() {
                break;
            }
            let results = self.disk.apply(entry)?;
            reach(Point::AfterApply);
            out.applied(entry, results, copies);
            applied += entry.size();
            if is_over(applied) {
                break;
            }
        }
        Ok(applied)
    }
}
