//! What the rest of a replica may ask of its driver.

use crate::answers::Answer;
use crate::clock::Clock;
use crate::desk::{Request, size};
use crate::protocol::{Epoch, Member, ReplicaId, Status, Time};
use chat_core::{Command, Outcome, Rejection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

/// Why a change or a read was not carried out here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Declined {
    /// This replica does not lead, or does not lead any more in the epoch that was asked for. Nothing was done.
    #[error("this replica does not lead")]
    NotServing,
    /// It hands over or leaves. Nothing was done.
    #[error("this replica is handing over")]
    HandingOver,
    /// Rule 13: so many members are in the view, fewer than `min_copies`. Nothing was done.
    #[error("only {0} replicas are in the view, fewer than min_copies")]
    TooFewCopies(usize),
    /// It may or may not have been carried out: ask again with the same key.
    #[error("leadership was lost while the change was under way")]
    Unknown,
    /// The process is ending.
    #[error("this replica is stopping")]
    Stopped,
}

/// A change that was carried out, or refused by the rules, in a committed log entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// What came of it.
    pub result: Result<Outcome, Rejection>,
    /// On how many disks it is.
    pub copies: usize,
}

/// Changes that one caller puts in line one after the other: they are carried out in that order within one epoch, and from the first that is
/// declined on, all are. So what is sent again later comes after nothing that was sent behind it.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) epoch: Epoch,
    pub(crate) broken: Arc<AtomicBool>,
}

impl Row {
    /// A new row, for the epoch in which this replica serves.
    pub fn new(epoch: Epoch) -> Row {
        Row { epoch, broken: Arc::default() }
    }
}

/// A change on its way to the log.
pub(crate) type Proposal = Request<Answer>;

/// What operators and the server ask.
#[derive(Debug)]
pub(crate) enum Control {
    Confirm,
    /// Somebody waits to see this log entry carried out.
    Show(u64),
    Transfer(Option<ReplicaId>),
    Leave,
    /// Stop without further ado.
    Stop,
    /// The database is damaged, as a reader found: what, and where.
    Damaged(String),
    /// From an operator: by id. Answers with the process run that was meant, or why not.
    DeclareCrashed(ReplicaId, oneshot::Sender<Result<Member, &'static str>>),
    /// From the fencing command: that very process run.
    Fenced(Member),
    /// Holds the driver, as SIGSTOP would, until the other end is dropped.
    Pause(std::sync::mpsc::Receiver<()>),
}

/// Whether this replica may answer reads, as published at the end of each turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gate {
    /// The epoch in which it serves.
    pub serving: Option<Epoch>,
    /// What was committed when that began: nobody reads before it is visible (rule 11).
    pub committed: u64,
    /// Reads need no confirmation before this (rule 11).
    pub lease_until: Option<Time>,
    /// What readers see: everything up to this log index is applied.
    pub visible: u64,
}

impl Gate {
    /// Nobody reads here, until a turn says otherwise.
    pub fn closed(visible: u64) -> Gate {
        Gate { serving: None, committed: 0, lease_until: None, visible }
    }

    /// Whether reads need no confirmation, by a clock read now.
    pub fn is_leased(&self, now: Time) -> bool {
        self.lease_until.is_some_and(|until| now < until)
    }

    /// Rule 11: leave to read at `now`, where answers up to the log index `answered` may have left before. `None`: not yet.
    ///
    /// # Errors
    /// [`Declined::NotServing`].
    pub fn permit(&self, answered: u64, now: Time) -> Result<Option<ReadPermit>, Declined> {
        let epoch = self.serving.ok_or(Declined::NotServing)?;
        let may = self.is_leased(now) && self.visible >= self.wanted(answered);
        Ok(may.then_some(ReadPermit { epoch, index: self.visible }))
    }

    /// What must be visible to whoever reads, where answers up to the log index `answered` may have left before.
    pub fn wanted(&self, answered: u64) -> u64 {
        answered.max(self.committed)
    }

    /// Whether what was read under the permit, before `now`, was not stale when it was read.
    pub fn still_holds(&self, permit: &ReadPermit, now: Time) -> bool {
        self.serving == Some(permit.epoch) && self.is_leased(now)
    }
}

/// Leave to read on the primary: everything that was acknowledged before it was given is visible.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPermit {
    /// The epoch in which it was given.
    pub epoch: Epoch,
    /// The applied index that readers see at least.
    pub index: u64,
}

/// Asks the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) proposals: mpsc::Sender<Proposal>,
    /// Of the changes in that line, about.
    pub(crate) line_bytes: Arc<AtomicUsize>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) gate: watch::Receiver<Gate>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) news: watch::Receiver<Status>,
    /// The last log index whose answers may have left.
    pub(crate) answered: Arc<AtomicU64>,
    pub(crate) clock: Clock,
}

impl Handle {
    /// Puts a change in line and returns where its answer will come. What one caller puts in line is proposed in that order.
    /// In a `row`, only if nothing before it in the row was declined.
    ///
    /// Waits while the line is full. Cancel safe: until it returns, nothing is in line; afterwards, dropping the receiver lets the change
    /// go on unheard.
    ///
    /// # Errors
    /// [`Declined::Stopped`].
    pub async fn submit(
        &self,
        command: Command,
        row: Option<Row>,
    ) -> Result<oneshot::Receiver<Result<Done, Declined>>, Declined> {
        let (answer, receiver) = Answer::channel();
        let place = self.proposals.reserve().await.map_err(|_| Declined::Stopped)?;
        // Before the driver can take it out again.
        self.line_bytes.fetch_add(size(&command), Ordering::Relaxed);
        place.send(Request { command, row, answer });
        Ok(receiver)
    }

    /// Carries a change out and waits for its answer. Dropped before that, the change may still be carried out.
    ///
    /// # Errors
    /// Why not; after [`Declined::Unknown`] it may have been carried out all the same.
    pub async fn propose(&self, command: Command) -> Result<Done, Declined> {
        self.submit(command, None).await?.await.unwrap_or(Err(Declined::Unknown))
    }

    /// Rule 11: waits until this replica may read as the primary, and sees all that was acknowledged before this call. Re-check
    /// with [`Handle::still_holds`] after reading. Bound it with a deadline: while leases cannot be renewed, it waits.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Declined::NotServing`], [`Declined::Stopped`].
    pub async fn read_permit(&self) -> Result<ReadPermit, Declined> {
        self.permit(self.answered.load(Ordering::Acquire)).await
    }

    /// Rule 11: waits until it is sure that this replica leads, by its leases or by one round, and sees all that was committed when that began. Bound it with a deadline.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Declined::NotServing`], [`Declined::Stopped`].
    pub async fn confirm(&self) -> Result<Epoch, Declined> {
        self.permit(0).await.map(|permit| permit.epoch)
    }

    async fn permit(&self, index: u64) -> Result<ReadPermit, Declined> {
        let mut gate = self.gate.clone();
        loop {
            let gate_now = *gate.borrow_and_update();
            let now = self.clock.now();
            if let Some(permit) = gate_now.permit(index, now)? {
                return Ok(permit);
            }
            let ask = if gate_now.is_leased(now) { Control::Show(gate_now.wanted(index)) } else { Control::Confirm };
            self.control.send(ask).await.map_err(|_| Declined::Stopped)?;
            gate.changed().await.map_err(|_| Declined::Stopped)?;
        }
    }

    /// Whether what was read under the permit was not stale when it was read.
    pub fn still_holds(&self, permit: &ReadPermit) -> bool {
        let gate = *self.gate.borrow();
        gate.still_holds(permit, self.clock.now())
    }

    /// Waits until readers see this log index, on any replica. Returns what they see. Cancel safe; bound it with a deadline.
    ///
    /// # Errors
    /// [`Declined::Stopped`].
    pub async fn wait_visible(&self, index: u64) -> Result<u64, Declined> {
        let mut gate = self.gate.clone();
        loop {
            let visible = gate.borrow_and_update().visible;
            if visible >= index {
                return Ok(visible);
            }
            self.control.send(Control::Show(index)).await.map_err(|_| Declined::Stopped)?;
            gate.changed().await.map_err(|_| Declined::Stopped)?;
        }
    }

    /// The gate, to watch for the end of leadership.
    pub fn gate(&self) -> watch::Receiver<Gate> {
        self.gate.clone()
    }

    /// The replica's state, as it changes: with every log entry.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The replica's state, as it changes in more than how far its log goes: where that is said, it is out of date.
    pub fn news(&self) -> watch::Receiver<Status> {
        self.news.clone()
    }

    /// An operator's word that the process run of `id` that the newest view names has crashed (rule 8). Returns which one that is.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn declare_crashed(&self, id: ReplicaId) -> Result<Member, &'static str> {
        const STOPPING: &str = "this replica is stopping";
        let (answer, receiver) = oneshot::channel();
        self.control.send(Control::DeclareCrashed(id, answer)).await.map_err(|_| STOPPING)?;
        receiver.await.map_err(|_| STOPPING)?
    }

    /// Begins handing over to another member, the best if none is named. See [`Handle::status`] for what comes of it.
    pub async fn transfer(&self, to: Option<ReplicaId>) {
        let _ = self.control.send(Control::Transfer(to)).await;
    }
}
