//! ③ Who asks, and who waits for which log entry: the driver's part that is no I/O, so that a simulation runs the same.
//!
//! Of one turn: [`Desk::propose`] before it, [`Desk::applied`] and [`Desk::stepped_down`] while it happens, [`Desk::turned`] and
//! [`Desk::gate`] after it.

use crate::handle::{Declined, Done, Gate, Row};
use crate::node::Turned;
use crate::protocol::*;
use chat_core::{Applied, Command, Event as Told};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::Ordering;

/// Changes in one log entry at most.
pub const BATCH: usize = 1024;
/// Bytes of changes in one log entry, about.
pub const BATCH_BYTES: usize = 512 << 10;
/// Full log entries proposed and not yet committed at most: beyond, changes wait in line.
const UNDER_WAY: u64 = 32;

/// A change that somebody asks for; `A` is where the answer goes.
#[derive(Debug)]
pub struct Request<A> {
    /// What is to be done.
    pub command: Command,
    /// What it follows, if it may only be done in a row.
    pub row: Option<Row>,
    /// Whom to tell.
    pub answer: A,
}

/// About how many bytes of a log entry it takes.
pub fn size(command: &Command) -> usize {
    match command {
        Command::Send { text, .. } => 128 + text.as_str().len(),
        _ => 256,
    }
}

/// Tells who asked what came of it.
pub type Tell<'t, A> = &'t mut dyn FnMut(A, Result<Done, Declined>);

/// Answers that wait for a log entry.
struct Waiting<A> {
    index: u64,
    epoch: Epoch,
    answers: Vec<A>,
}

/// What this replica serves in, and how far the log was committed when that began. Predecessors may have answered all of
/// it, so nobody reads here before it is visible (rule 11).
#[derive(Clone, Copy)]
struct Term {
    epoch: Epoch,
    committed: u64,
}

/// Those who ask for changes, and where this replica stands for them.
pub struct Desk<A> {
    min_copies: usize,
    /// In the batch of this turn.
    asked: Vec<(Option<Row>, A)>,
    /// In which epoch this replica served when that was made.
    asked_in: Option<Epoch>,
    waiting: VecDeque<Waiting<A>>,
    term: Option<Term>,
}

impl<A> fmt::Debug for Desk<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl<A> Desk<A> {
    /// Nobody waits yet. `min_copies` is rule 13's.
    pub fn new(min_copies: usize) -> Desk<A> {
        Desk { min_copies, asked: Vec::new(), asked_in: None, waiting: VecDeque::new(), term: None }
    }

    /// Whether changes are taken from the line: to be proposed, or to be declined at once. `full`: those in line fill an entry.
    ///
    /// What comes while an entry is under way goes into the next one together: each entry costs every replica a sync and some wake-ups. A line
    /// that fills one gains nothing by waiting.
    pub fn has_room(&self, replica: &Replica, full: bool) -> bool {
        let most = if full { UNDER_WAY } else { 1 };
        replica.serving().is_none() || replica.entries_under_way() < most
    }

    /// Makes one batch of what is in line, or declines it. What it returns goes into the turn, behind everything else.
    pub fn propose(
        &mut self,
        replica: &Replica,
        requests: impl IntoIterator<Item = Request<A>>,
        tell: Tell<'_, A>,
    ) -> Option<Input> {
        let why = replica.accepts().err().map(|why| match why {
            NotAccepting::NotServing => Declined::NotServing,
            NotAccepting::HandingOver => Declined::HandingOver,
            NotAccepting::TooFewCopies(copies) => Declined::TooFewCopies(copies),
        });
        self.asked_in = replica.serving();
        let mut commands = Vec::new();
        for Request { command, row, answer } in requests {
            match why.or_else(|| row.as_ref().and_then(|row| out_of_row(row, self.asked_in))) {
                None => {
                    commands.push(command);
                    self.asked.push((row, answer));
                }
                Some(why) => decline_in_row(row, answer, why, tell),
            }
        }
        (!commands.is_empty()).then(|| Input::Propose(chat_core::codec::encode(&commands).into()))
    }

    /// A committed entry was carried out: whoever asked for it is told, and whoever asked for what stood in its place.
    /// Returns what there is for those who listen, in order.
    pub fn applied(
        &mut self,
        index: u64,
        epoch: Epoch,
        results: Vec<Applied>,
        copies: usize,
        tell: Tell<'_, A>,
    ) -> impl Iterator<Item = Told> + use<A> {
        while self.waiting.front().is_some_and(|waiting| waiting.index < index) {
            let overtaken = self.waiting.pop_front().map(|waiting| waiting.answers);
            overtaken.into_iter().flatten().for_each(|answer| tell(answer, Err(Declined::Unknown)));
        }
        let mine = |waiting: &&Waiting<A>| waiting.index == index && waiting.epoch == epoch;
        let answers = if self.waiting.front().as_ref().is_some_and(mine) {
            self.waiting.pop_front().map(|waiting| waiting.answers).unwrap_or_default()
        } else {
            Vec::new()
        };
        // Rule 13 holds for what was under way when the view shrank, too.
        let enough = copies >= self.min_copies;
        let mut answers = answers.into_iter();
        let mut told = Vec::with_capacity(results.len());
        for applied in results {
            if let Some(answer) = answers.next() {
                let done = Done { result: applied.result, copies };
                tell(answer, if enough { Ok(done) } else { Err(Declined::Unknown) });
            }
            told.extend(applied.events);
        }
        told.into_iter()
    }

    /// Leadership is lost: nobody knows what will become of what is under way.
    pub fn stepped_down(&mut self, tell: Tell<'_, A>) {
        self.waiting
            .drain(..)
            .flat_map(|waiting| waiting.answers)
            .for_each(|answer| tell(answer, Err(Declined::Unknown)));
    }

    /// The turn is over: its batch waits for its entry, or was not taken.
    pub fn turned(&mut self, turned: &Turned, tell: Tell<'_, A>) {
        let asked = std::mem::take(&mut self.asked);
        match (turned.proposed, self.asked_in) {
            (Some(index), Some(epoch)) if !asked.is_empty() => {
                let answers = asked.into_iter().map(|(_, answer)| answer).collect();
                self.waiting.push_back(Waiting { index, epoch, answers });
            }
            // Something else that came in this turn was first: office was lost, or a handing over began.
            _ => asked.into_iter().for_each(|(row, answer)| decline_in_row(row, answer, Declined::NotServing, tell)),
        }
    }

    /// Where this replica stands for readers, with the state applied up to `visible` for them to see.
    pub fn gate(&mut self, replica: &Replica, visible: u64) -> Gate {
        if replica.serving() != self.term.map(|term| term.epoch) {
            self.term = replica.serving().map(|epoch| Term { epoch, committed: replica.committed() });
        }
        let (serving, committed) = self.term.map_or((None, 0), |term| (Some(term.epoch), term.committed));
        Gate { serving, committed, lease_until: replica.lease_until(), visible }
    }
}

/// Why this one of a row is not carried out, if it is not: an earlier one was not, or the epoch has ended.
fn out_of_row(row: &Row, serving: Option<Epoch>) -> Option<Declined> {
    let in_row = serving == Some(row.epoch) && !row.broken.load(Ordering::Relaxed);
    (!in_row).then_some(Declined::NotServing)
}

/// What follows in the row is declined too: it must not be carried out before this comes again.
fn decline_in_row<A>(row: Option<Row>, answer: A, why: Declined, tell: Tell<'_, A>) {
    if let Some(row) = row {
        row.broken.store(true, Ordering::Relaxed);
    }
    tell(answer, Err(why));
}
