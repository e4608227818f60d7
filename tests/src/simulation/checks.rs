//! What is checked at every step.

use super::process::Ending;
use super::truth::Verdict;
use super::violation::{Broken, Violation};
use super::world::{World, host_of};
use chat_core::Applied;
use chat_replica::protocol::*;
use std::fmt::Display;

/// How many log entries lie between two states whose hashes are compared.
const HASH_EVERY: u64 = 48;

impl World {
    /// The run ends here: a promise is broken. Only the first counts.
    ///
    /// # Panics
    /// In a strict world, with the violation.
    pub fn violate(&mut self, broken: Broken, place: impl Display, what: impl Display) {
        if self.violation.is_some() {
            return;
        }
        let (place, what) = (place.to_string(), what.to_string());
        let violation = Violation { seed: self.settings.seed, at: self.now, broken, place, what };
        self.note(|| format!("VIOLATION {violation}"));
        if self.settings.strict {
            panic!("{violation}\n{}\n{}", self.tail(100), self.describe());
        }
        self.violation = Some(violation);
    }

    pub(crate) fn judge(&mut self, place: impl Display, verdict: Verdict) {
        if let Err((broken, what)) = verdict {
            self.violate(broken, place, what);
        }
    }

    /// Committed histories never differ.
    pub(crate) fn check_commits(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let (replica, disk) = (process.node.replica(), process.node.disk());
        let (committed, serving, member) = (replica.committed(), replica.serving(), process.member);
        let seen = std::mem::replace(&mut process.seen_commit, committed);
        if committed == seen {
            return;
        }
        let mut verdict = match committed > seen {
            true => Ok(()),
            false => Err((Broken::OneHistory, format!("the commit index moved back from {seen} to {committed}"))),
        };
        let mut next = seen + 1;
        while next <= committed && verdict.is_ok() {
            // A disk that fails now gives nothing: the process is about to end.
            let entries = replica.log().read(next, 1 << 20, disk);
            if entries.is_empty() {
                break;
            }
            for entry in entries.iter().take_while(|entry| entry.index <= committed) {
                verdict = verdict.and_then(|()| self.truth.commit(member, entry));
                if serving == Some(entry.epoch) {
                    verdict = verdict.and_then(|()| self.truth.lead(member, entry.epoch));
                }
            }
            next += entries.len() as u64;
        }
        self.judge(member, verdict);
        if serving.is_some() {
            self.note(|| format!("{member} commits up to {committed}"));
        }
    }

    fn runs(&self, who: Member) -> bool {
        self.process(host_of(who.id)).is_some_and(|process| process.member == who)
    }

    /// Something happened, says the node.
    pub(crate) fn happened(&mut self, host: usize, event: Event) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let member = process.member;
        self.note(|| format!("{member} says {event:?}"));
        match event {
            Event::Fatal(why) => self.violate(Broken::Fatal, member, why),
            // The greeting of a run that ended meanwhile may come late.
            Event::ProofContradicted(who) if self.runs(who) => {
                self.violate(Broken::TrueProof, member, format!("{who} was taken for crashed, and speaks"));
            }
            Event::RolledBack { by, known } => {
                let Some(process) = &mut self.hosts[host].process else { return };
                // Several peers can say so in one turn.
                let said = process.ending.replace(Ending::RolledBack) == Some(Ending::RolledBack);
                let starts = process.node.disk().starts;
                if !said && !self.network.rolled_back[host] {
                    let what = format!("was not rolled back, but {by} knows {known:?}, not {starts:?}");
                    self.violate(Broken::SoundDisk, member, what);
                }
            }
            Event::Serving(_) => {
                self.views += 1;
                self.serving_since[host] = Some(self.now);
            }
            Event::SteppedDown(_) => {
                self.serving_since[host] = None;
                let Some(process) = &mut self.hosts[host].process else { return };
                let mut told = Vec::new();
                process.service.stepped_down(&mut told);
                self.answer(host, told);
            }
            Event::Left => {
                if let Some(process) = &mut self.hosts[host].process {
                    process.ending = Some(Ending::Left);
                }
            }
            _ => {}
        }
    }

    /// A committed entry was carried out: its answers leave, and whoever listens is told.
    pub(crate) fn applied(&mut self, host: usize, index: u64, epoch: Epoch, results: Vec<Applied>, copies: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let member = process.member;
        let verdict = self.truth.apply(member, index, &results);
        if process.replica().serving() == Some(epoch) && copies >= self.settings.min_copies && !results.is_empty() {
            self.truth.acknowledge(index);
        }
        let mut told = Vec::new();
        process.service.applied(index, epoch, results, copies, &mut told);
        self.judge(member, verdict);
        self.answer(host, told);
        self.pump_all(host);
    }

    /// No replica that may answer reads has missed what a client was told (rule 11).
    pub(crate) fn check_reads(&mut self) {
        let (now, mut verdict) = (self.now, Ok(()));
        let acknowledged = self.truth.acknowledged();
        for process in self.hosts.iter().filter_map(|host| host.process.as_ref()) {
            let member = process.member;
            if process.may_read(now) {
                verdict = verdict.and_then(|()| self.truth.read(member, process.replica().committed(), acknowledged));
            }
            if let Some(visible) = process.service.may_read(process.clock.at(now)) {
                verdict = verdict.and_then(|()| self.truth.read(member, visible, acknowledged));
            }
        }
        self.judge("a reader", verdict);
    }

    /// What is promised to others is durable when it leaves.
    pub(crate) fn check_durable(&mut self, host: usize, message: &Message) {
        if !self.settings.order_is_checked {
            return;
        }
        let Some(process) = &self.hosts[host].process else { return };
        let (disk, member) = (process.node.disk(), process.member);
        let wrong = match message {
            // Its promise is what keeps it from leading twice in one epoch; that others are not empty, from founding twice.
            Message::Append(append) if disk.promised > Epoch::ZERO => {
                (disk.promised < append.epoch).then_some("a promise that is not durable")
            }
            _ if !process.landed => rests_on_disk(message).then_some("before the transaction has landed"),
            Message::Vote { epoch, granted: true, .. } | Message::RequestVote { epoch, .. } => {
                (disk.promised < *epoch).then_some("a promise that is not durable")
            }
            // One turn may accept entries, and then a later primary that cuts them back: as if both had been durable in turn.
            Message::AppendReply { epoch, matched, conflict: false, promised } if *epoch == disk.promised => {
                let durable = disk.log.len() as u64 >= *matched && disk.promised >= *promised;
                (!durable).then_some("an acknowledgement that is not durable")
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            let what = format!("{message:?} leaves: {wrong}");
            self.violate(Broken::DurableFirst, member, what);
        }
    }

    /// Replicas that have applied the same have the same state.
    pub(crate) fn check_state(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let (member, state) = (process.member, process.node.disk().state());
        if !state.applied.is_multiple_of(HASH_EVERY) || process.service.hashed == state.applied {
            return;
        }
        process.service.hashed = state.applied;
        let Ok(hash) = chat_core::state_hash(&state.store);
        let verdict = self.truth.state(member, state.applied, hash);
        self.judge(member, verdict);
    }
}

fn rests_on_disk(message: &Message) -> bool {
    matches!(message, Message::RequestVote { .. } | Message::Vote { .. } | Message::AppendReply { .. })
}
