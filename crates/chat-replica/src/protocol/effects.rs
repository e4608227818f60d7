//! What goes into a step of the protocol and what comes out of it.

use super::message::Envelope;
use super::types::*;
use core::time::Duration;

/// An event. The driver reads its clock after it took the event from its queue, never before (rule 7).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A message came.
    Receive(Envelope),
    /// A session with this process run began: it was dialled and answered, or it dialled us. `session` tells it from others.
    SessionUp {
        /// Any number, not used for another session.
        session: u64,
        /// Who is at the other end.
        peer: Member,
        /// We dialled: messages to the peer can go out.
        outbound: bool,
    },
    /// A session ended.
    SessionDown {
        /// As when it began.
        session: u64,
        /// Who was at the other end.
        peer: ReplicaId,
    },
    /// Exactly ECONNREFUSED, at the numeric address where `peer` last answered our dial (rule 8).
    Refused {
        /// The process run that answered there last.
        peer: Member,
    },
    /// A dial failed in any other way: that is silence (rule 8).
    Unreachable {
        /// Whom it was to reach.
        peer: ReplicaId,
    },
    /// An operator vouches that this process run crashed when it fell silent, stays so, and wrote nothing alone in between
    /// (rule 8). Where that is not true, what it acknowledged alone is given up: no automaton may say this.
    DeclaredCrashed {
        /// The process run.
        peer: Member,
    },
    /// A fencing command ended this process run (rule 8). That proves something only while its lease to us lasts: later
    /// it may have left us out and written alone.
    Fenced {
        /// The process run.
        peer: Member,
    },
    /// A batch of commands for the log. Ignored unless [`super::Replica::accepts`].
    Propose(bytes::Bytes),
    /// Everything that was to be persisted so far is synced; that took `took`.
    Persisted {
        /// The time of the sync.
        took: Duration,
    },
    /// Renew the leases now: a read waits for them (rule 11).
    Confirm,
    /// Hand over to this member, or to the best.
    Transfer {
        /// To whom.
        to: Option<ReplicaId>,
    },
    /// Leave the view, handing over first: the process is about to end.
    Leave,
}

/// One thing to make durable. The order counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Persist {
    /// Nothing of an epoch below this is accepted any more (rule 2).
    Promise(Epoch),
    /// The cluster that this disk now belongs to.
    Cluster(ClusterId),
    /// The highest process run seen of a peer's disk (rule 12).
    Known(Member),
    /// Remove the entries from this index on.
    CutBack(u64),
    /// Add an entry.
    Append(Entry),
    /// The disk counts again: it is repaired (rule 15).
    Repaired,
}

/// What a step wants done, in the order of the fields: send what does not depend on the disk, persist, send the rest, apply.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Effects {
    /// Messages that promise nothing durable.
    pub send: Vec<Envelope>,
    /// To be durable before anything below happens, all in one transaction.
    pub persist: Vec<Persist>,
    /// Messages that rest on what is persisted.
    pub send_after: Vec<Envelope>,
    /// What happened, for logs, status and the driver.
    pub events: Vec<Event>,
    /// The log index of the batch that was proposed in this step, if it was taken.
    pub proposed: Option<u64>,
}

/// Something that the world outside may want to know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The cluster was founded, or this disk joined it.
    Joined(ClusterId),
    /// This replica leads from now on, and serves.
    Serving(Epoch),
    /// This replica does not lead any more: what it proposed and has not answered is unknown.
    SteppedDown(Epoch),
    /// A new view was committed.
    View(ViewAt),
    /// The primary of the newest view is not heard, and its crash would be of use: a fencing command may be asked.
    Suspected(Member),
    /// Proof that a process run crashed was obtained, and how.
    Proven(Member, &'static str),
    /// A process run that was proven crashed speaks: an assumption of rule 8 does not hold here.
    ProofContradicted(Member),
    /// A peer has seen this disk further on than it is: rolled back or cloned (rule 12). The process must end; the disk
    /// becomes another one, a learner.
    RolledBack {
        /// Who says so.
        by: ReplicaId,
        /// What it has seen.
        known: Incarnation,
    },
    /// This replica was left out as it asked to be.
    Left,
    /// The disk counts again.
    Repaired,
    /// A peer's log differs from this one where it must not. The process must end.
    Fatal(String),
}
