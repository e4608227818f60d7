//! The primary's part: writing and committing (rules 1, 5, 13).

use super::effects::{Event, Persist};
use super::handover::Transfer;
use super::log::Log;
use super::quorum::has_spoken;
use super::replica::{Replica, Role};
use super::replication::Progress;
use super::rules::Rule;
use super::types::*;
use std::collections::BTreeMap;

/// Where the log ended a moment ago, so that a learner's lag can be told in time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Mark {
    at: Time,
    /// The end at least one ping interval ago.
    pub earlier: u64,
    latest: u64,
}

/// A primary's state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Primary {
    pub epoch: Epoch,
    /// Its first view entry: it serves once that has committed (rule 5).
    pub first: u64,
    pub progress: BTreeMap<ReplicaId, Progress>,
    /// Members that asked to be left out.
    pub leavers: Vec<Member>,
    pub transfer: Option<Transfer>,
    pub mark: Mark,
    /// The view is not what it should be.
    pub restless: bool,
}

impl Primary {
    pub fn new(epoch: Epoch, first: u64, now: Time) -> Primary {
        Primary {
            epoch,
            first,
            progress: BTreeMap::new(),
            leavers: Vec::new(),
            transfer: None,
            mark: Mark { at: now, earlier: first, latest: first },
            restless: true,
        }
    }

    /// Rule 5: whether its first view has committed.
    pub fn serves(&self, log: &Log) -> bool {
        self.first <= log.committed()
    }

    pub fn is_restless(&self) -> bool {
        self.restless || self.transfer.is_some()
    }
}

/// Why a batch is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAccepting {
    /// This replica does not lead, or does not serve yet.
    NotServing,
    /// It is handing over or leaving.
    HandingOver,
    /// Rule 13: the view has this many members, fewer than `min_copies`.
    TooFewCopies(usize),
}

impl Replica {
    /// Whether [`super::Input::Propose`] would be taken now.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self) -> Result<(), NotAccepting> {
        let Role::Primary(primary) = &self.role else { return Err(NotAccepting::NotServing) };
        if !primary.serves(&self.log) {
            return Err(NotAccepting::NotServing);
        }
        if primary.transfer.is_some() || self.leaving.is_some() {
            return Err(NotAccepting::HandingOver);
        }
        let copies = self.log.newest_view().map_or(0, |at| at.view.members.len());
        let enough = copies >= self.config.min_copies || !self.holds(Rule::MinCopies);
        if enough { Ok(()) } else { Err(NotAccepting::TooFewCopies(copies)) }
    }

    /// Rule 1: the primary appends, and sends at the same time as its own disk syncs.
    pub(super) fn propose(&mut self, batch: bytes::Bytes) {
        if self.accepts().is_err() {
            return;
        }
        let entry = self.log.push_new(self.promised, Body::Commands(batch));
        self.out.proposed = Some(entry.index);
        self.out.persist.push(Persist::Append(entry));
    }

    pub(super) fn step_down(&mut self) {
        if let Role::Primary(primary) = &self.role {
            self.out.events.push(Event::SteppedDown(primary.epoch));
        }
        self.role = Role::Follower;
        self.leader = None;
    }

    /// What a primary does whenever something may have moved.
    pub(super) fn lead(&mut self) {
        let (now, last, interval) = (self.now, self.log.last().index, self.config.ping_interval);
        let Role::Primary(primary) = &mut self.role else { return };
        if now.since(primary.mark.at) >= interval {
            primary.mark = Mark { at: now, earlier: primary.mark.latest, latest: last };
        }
        self.commit_what_is_held();
        self.change_view();
        self.hand_over();
    }

    /// Rule 1.
    fn commit_what_is_held(&mut self) {
        let Role::Primary(primary) = &self.role else { return };
        let Some(newest) = self.log.newest_view() else { return };
        // Its newest view is always of its own epoch, so that what commits ends with its own epoch.
        let view = if self.holds(Rule::CommitReachesView) { newest.index } else { 0 };
        let least = view.max(self.log.committed() + 1);
        let places = primary.progress.values().map(|progress| progress.matched).chain([self.own_place()]);
        let mut places: Vec<u64> = places.filter(|place| *place >= least).collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        let serving_before = primary.serves(&self.log);
        let held = places.into_iter().find(|place| {
            let holders = self.holders(primary, *place);
            let everybody = newest.view.members.iter().all(|m| has_spoken(m, &holders, self.config.rules));
            (everybody || !self.holds(Rule::EveryMemberHolds))
                && (self.quorum_in_force(&holders) || !self.holds(Rule::HoldersAreQuorum))
        });
        let (first, epoch) = (primary.first, primary.epoch);
        let Some(held) = held else { return };
        self.commit(held);
        if !serving_before && first <= held {
            self.out.events.push(Event::Serving(epoch));
        }
    }

    /// Who holds the log durably up to `place`. An impaired disk counts for nothing (rule 15): one that has just lost what it
    /// held is no copy to rely on.
    fn holders(&self, primary: &Primary, place: u64) -> Vec<Member> {
        let held = primary.progress.values().filter(|progress| progress.matched >= place).map(|p| p.member);
        let counts = |m: &Member| !self.is_impaired(m) || !self.holds(Rule::ImpairedHasNoVote);
        let mut holders: Vec<Member> = held.filter(counts).collect();
        if self.own_place() >= place {
            holders.push(self.me);
        }
        holders
    }

    /// Up to where the primary's own disk counts: what is durable.
    fn own_place(&self) -> u64 {
        if self.holds(Rule::OwnEntriesDurable) { self.log.durable() } else { self.log.last().index }
    }

    /// Up to where a new entry may be proposed before earlier ones commit.
    pub fn entries_under_way(&self) -> u64 {
        self.log.last().index - self.log.committed()
    }
}
