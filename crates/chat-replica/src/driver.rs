//! ③ The one loop where every event arrives, on a thread of its own.
//!
//! Batches form by themselves: what arrives while a turn is under way goes into the next. Nothing here waits for anything
//! but an event, the next wake-up of the protocol, or the disk.

use crate::answers::{Answer, Answers};
use crate::clock::Clock;
use crate::desk::{BATCH, BATCH_BYTES, Desk, Tell, size};
use crate::failpoint::{Point, reach};
use crate::handle::{Control, Gate, Proposal};
use crate::node::{Disk as _, Node, Outbox, Turned};
use crate::protocol::*;
use crate::storage::{DiskError, Progress, SqliteDisk};
use crate::subscribers::Subscribers;
use crate::transport::PeerSender;
use chat_core::Applied;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};

/// Events taken from the network in one turn at most.
const INPUTS: usize = 1024;

/// How a driver ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It left the view as it was asked to, or found nobody to ask.
    Left,
    /// It was stopped without further ado.
    Stopped,
    /// The disk failed, or holds what it should not (rule 15).
    Failed(String),
    /// The disk was rolled back or cloned; it is another one from now on, and joins as a learner at the next start (rule 12).
    RolledBack(String),
}

/// What the driver is connected to.
pub(crate) struct Wiring {
    pub network: mpsc::Receiver<Input>,
    pub proposals: mpsc::Receiver<Proposal>,
    /// Of the changes in that line, about.
    pub line_bytes: Arc<AtomicUsize>,
    pub control: mpsc::Receiver<Control>,
    pub peers: PeerSender,
    pub answers: Answers,
    pub subscribers: Arc<Subscribers>,
    pub gate: watch::Sender<Gate>,
    pub status: watch::Sender<Status>,
    pub news: watch::Sender<Status>,
    pub cluster: watch::Sender<Option<ClusterId>>,
    pub answered: Arc<AtomicU64>,
    pub suspects: mpsc::Sender<Member>,
    pub stop: Arc<AtomicBool>,
    pub clock: Clock,
    pub min_copies: usize,
}

pub(crate) struct Driver {
    node: Node<SqliteDisk>,
    wiring: Wiring,
    desk: Desk<Answer>,
    /// More is visible to readers.
    shown: Arc<Notify>,
    ended: Option<Ended>,
}

impl Driver {
    pub fn new(node: Node<SqliteDisk>, wiring: Wiring) -> Driver {
        let desk = Desk::new(wiring.min_copies);
        let shown = node.disk().shown();
        Driver { node, wiring, desk, shown, ended: None }
    }

    /// Runs until the end. On a thread of its own: the disk's syncs block it. The sessions with the peers are tasks of `runtime`, and so run on this
    /// thread, too: what the driver sends leaves without waking another, and what comes wakes no other first.
    pub fn run(mut self, runtime: &Runtime) -> Ended {
        let ended = self.turns(runtime);
        // Handlers may outlive this thread for a moment: no read passes any more (rule 11).
        self.wiring.close_gate();
        self.wiring.status.send_modify(|status| status.serving = false);
        self.wiring.news.send_modify(|status| status.serving = false);
        match ended {
            Ended::RolledBack(_) => match self.node.disk_mut().become_another() {
                Ok(()) => ended,
                Err(error) => Ended::Failed(error.to_string()),
            },
            ended => ended,
        }
    }

    fn turns(&mut self, runtime: &Runtime) -> Ended {
        let mut turned = Turned::default();
        loop {
            let mut inputs: Vec<Input> = Vec::new();
            inputs.extend(turned.synced.map(|took| Input::Persisted { took }));
            let mut proposals = Vec::new();
            // However busy this is: a wait that is over at once would let no task run.
            exchange(runtime);
            if inputs.is_empty() && !self.node.is_behind() {
                runtime.block_on(self.wait(&mut inputs, &mut proposals));
            }
            self.drain(&mut inputs, &mut proposals);
            if self.wiring.stop.load(Ordering::Acquire) {
                return Ended::Stopped;
            }
            if let Some(ended) = self.ended.take() {
                return ended;
            }
            let done = self.turn(runtime, inputs, proposals);
            match done.and_then(|done| self.look_ahead().map(|()| done)) {
                Ok(done) => turned = done,
                Err(error) => return Ended::Failed(self.node.disk().last_words(&error)),
            }
            if let Some(ended) = self.ended.take() {
                return ended;
            }
        }
    }

    /// Waits for something to happen, or for the protocol's next wake-up.
    async fn wait(&mut self, inputs: &mut Vec<Input>, proposals: &mut Vec<Proposal>) {
        let wake = tokio::time::Instant::from_std(self.wiring.clock.instant(self.node.wake_at()));
        let room = self.has_room();
        let ahead = self.node.disk().look_ahead_at(self.progress());
        let ahead = async {
            if let Some(at) = ahead { tokio::time::sleep_until(at.into()).await } else { std::future::pending().await }
        };
        tokio::select! {
            biased;
            Some(input) = self.wiring.network.recv() => inputs.push(input),
            Some(control) = self.wiring.control.recv() => self.control(control, inputs),
            Some(proposal) = self.wiring.proposals.recv(), if room => {
                self.wiring.line_bytes.fetch_sub(size(&proposal.command), Ordering::Relaxed);
                proposals.push(proposal);
            }
            () = self.shown.notified() => {}
            () = ahead => {}
            () = tokio::time::sleep_until(wake) => inputs.push(Input::Tick),
        }
    }

    fn look_ahead(&mut self) -> Result<(), DiskError> {
        let progress = self.progress();
        self.node.disk_mut().look_ahead(Instant::now(), progress)
    }

    fn progress(&self) -> Progress {
        match self.node.replica().is_live() {
            false => Progress::Learns,
            true if self.node.has_applied_all() => Progress::IsUpToDate,
            true => Progress::IsBehind,
        }
    }

    fn drain(&mut self, inputs: &mut Vec<Input>, proposals: &mut Vec<Proposal>) {
        while let Ok(control) = self.wiring.control.try_recv() {
            self.control(control, inputs);
        }
        while inputs.len() < INPUTS {
            let Ok(input) = self.wiring.network.try_recv() else { break };
            inputs.push(input);
        }
        if !self.has_room() && proposals.is_empty() {
            return;
        }
        let mut bytes = 0;
        while proposals.len() < BATCH && bytes < BATCH_BYTES {
            let Ok(proposal) = self.wiring.proposals.try_recv() else { break };
            bytes += size(&proposal.command);
            proposals.push(proposal);
        }
        self.wiring.line_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether changes are taken from the line. What could not be carried out soon waits there, where whoever sends more is held up.
    fn has_room(&self) -> bool {
        !self.node.disk().is_overfull() && self.desk.has_room(self.node.replica(), self.line_is_full())
    }

    /// Whether what stands in line fills a log entry.
    fn line_is_full(&self) -> bool {
        self.wiring.proposals.len() >= BATCH || self.wiring.line_bytes.load(Ordering::Relaxed) >= BATCH_BYTES
    }

    fn control(&mut self, control: Control, inputs: &mut Vec<Input>) {
        match control {
            Control::Confirm => inputs.push(Input::Confirm),
            Control::Show(index) => self.node.show(index),
            Control::Transfer(to) => inputs.push(Input::Transfer { to }),
            Control::Leave => inputs.push(Input::Leave),
            Control::Stop => self.wiring.stop.store(true, Ordering::Release),
            Control::Damaged(what) => self.ended = Some(Ended::Failed(what)),
            Control::Fenced(peer) => inputs.push(Input::Fenced { peer }),
            Control::DeclareCrashed(id, answer) => {
                let named = self.node.replica().named_in_view(id);
                let verdict = match named {
                    None => Err("it is not in the view: nobody waits for it"),
                    Some(_) if !self.node.replica().is_live() => {
                        Err("this replica was restarted since that view: it needs the disks of all whom the view names")
                    }
                    Some(member) if self.node.replica().in_contact(&member) => {
                        Err("this replica is in contact with it: it has not crashed")
                    }
                    Some(member) => Ok(member),
                };
                if let Ok(peer) = verdict {
                    inputs.push(Input::DeclaredCrashed { peer });
                }
                let _ = answer.send(verdict);
            }
            // Both an answer and the other end's death end the pause.
            Control::Pause(until) => drop(until.recv()),
        }
    }

    fn turn(
        &mut self,
        runtime: &Runtime,
        mut inputs: Vec<Input>,
        proposals: Vec<Proposal>,
    ) -> Result<Turned, DiskError> {
        let (wiring, desk, ended) = (&mut self.wiring, &mut self.desk, &mut self.ended);
        inputs.extend(wiring.answers.together(|tell| desk.propose(self.node.replica(), proposals, tell)));
        let clock = wiring.clock;
        let mut out = TurnOut { runtime, wiring, desk, ended, unsent: false };
        let turned = self.node.turn(clock.now(), inputs, &|| clock.now(), &mut out)?;
        self.wiring.answers.together(|tell| self.desk.turned(&turned, tell));
        self.publish();
        Ok(turned)
    }

    /// Tells readers and watchers where this replica stands.
    fn publish(&mut self) {
        let replica = self.node.replica();
        let gate = self.desk.gate(replica, self.node.disk().visible());
        self.wiring.gate.send_if_modified(|old| std::mem::replace(old, gate) != gate);
        let status = replica.status();
        // With every turn, so whoever can do with less listens to the news.
        if status.is_news_after(&self.wiring.news.borrow()) {
            self.wiring.news.send_replace(status.clone());
        }
        self.wiring.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }
}

impl Wiring {
    fn close_gate(&self) {
        self.gate.send_modify(|gate| (gate.serving, gate.lease_until) = (None, None));
    }
}

/// Lets the sessions with the peers put on the network what is in their queues: whoever yields is polled again when no task is ready any more, or
/// after some dozens of them.
fn flush(runtime: &Runtime) {
    runtime.block_on(tokio::task::yield_now());
}

/// The same, and lets them take from the network what has come: the first pause finds out where something has.
fn exchange(runtime: &Runtime) {
    flush(runtime);
    flush(runtime);
}

/// What a turn gives to the world.
struct TurnOut<'d> {
    runtime: &'d Runtime,
    wiring: &'d mut Wiring,
    desk: &'d mut Desk<Answer>,
    ended: &'d mut Option<Ended>,
    unsent: bool,
}

impl Outbox for TurnOut<'_> {
    fn send(&mut self, envelope: Envelope) {
        self.wiring.peers.send(envelope);
        self.unsent = true;
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.unsent) {
            flush(self.runtime);
        }
    }

    fn applied(&mut self, entry: &Entry, results: Vec<Applied>, copies: usize) {
        // Before any answer leaves: a read that follows it must wait until it is visible (rule 11).
        self.wiring.answered.store(entry.index, Ordering::Release);
        let applied = |tell: Tell<'_, _>| self.desk.applied(entry.index, entry.epoch, results, copies, tell);
        let events = self.wiring.answers.together(applied);
        self.wiring.subscribers.tell(events);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Joined(cluster) => {
                tracing::info!(%cluster, "joined the cluster");
                self.wiring.cluster.send_replace(Some(cluster));
            }
            Event::Serving(epoch) => {
                tracing::info!(%epoch, "primary");
                reach(Point::Serving);
            }
            Event::SteppedDown(epoch) => {
                tracing::info!(%epoch, "no longer primary");
                // Before anything that rests on it leaves: no read passes from here on (rule 11).
                self.wiring.close_gate();
                self.wiring.answers.together(|tell| self.desk.stepped_down(tell));
            }
            Event::View(at) => {
                tracing::info!(epoch = %at.view.epoch, primary = %at.view.primary, members = ?at.view.members, "view");
                reach(Point::ViewCommitted);
            }
            Event::Suspected(member) => {
                tracing::info!(%member, "the primary is not heard");
                let _ = self.wiring.suspects.try_send(member);
            }
            Event::Proven(member, how) => tracing::info!(%member, how, "proven crashed"),
            Event::ProofContradicted(member) => {
                tracing::error!(%member, "speaks, though it was taken for crashed: an operator was wrong, or something between the replicas forges refusals. It stays outside until it is restarted");
            }
            Event::Left => *self.ended = Some(Ended::Left),
            Event::Repaired => tracing::info!("the log is repaired: this disk counts again"),
            Event::RolledBack { by, known } => {
                let why =
                    format!("replica {by} has seen start {} of this disk, which is further on than it is", known.count);
                *self.ended = Some(Ended::RolledBack(why));
            }
            Event::Fatal(why) => *self.ended = Some(Ended::Failed(why)),
        }
    }
}
