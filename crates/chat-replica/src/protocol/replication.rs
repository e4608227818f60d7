//! Rule 1: the primary's entries on their way to every member and every learner.

use super::log::LogRead;
use super::message::*;
use super::replica::{Replica, Role};
use super::rules::Rule;
use super::types::*;
use std::collections::{BTreeMap, VecDeque};

/// Entries under way to one peer at most.
const WINDOW: u64 = 1024;
/// Bytes of entries under way to one peer, about. More would only wait in its queue.
const WINDOW_BYTES: usize = 8 << 20;
/// Bytes of entries in one message, about.
const MESSAGE_BYTES: usize = 256 << 10;
/// Bytes of entries to one peer in one step, about: the step reads them from the disk, and others wait for it. The next step follows at once.
const STEP_BYTES: usize = 512 << 10;
/// Bytes of entries in a message that only looks for the place where the logs meet, about.
const PROBE_BYTES: usize = 64 << 10;

/// How far one peer's log is known to be equal to the primary's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Progress {
    pub member: Member,
    /// Durable at the peer, and equal.
    pub matched: u64,
    /// Where the logs meet is not known yet: one message at a time.
    pub probing: bool,
    /// When `matched` last moved, or was not behind.
    pub caught_up_at: Time,
    /// The next entry to send.
    next: u64,
    /// When a message last went out, or an answer came. `None`: one is due now.
    active_at: Option<Time>,
    /// The last entry and the size of each message under way.
    under_way: VecDeque<(u64, usize)>,
    bytes_under_way: usize,
    /// The gap that made us go back last, and when: what was under way behind it is refused for the same gap.
    gap: Option<(u64, Time)>,
}

impl Progress {
    /// Of a peer whose log may be equal up to `guess`.
    pub fn new(member: Member, guess: u64, now: Time) -> Progress {
        Progress {
            member,
            matched: 0,
            probing: true,
            caught_up_at: now,
            next: guess + 1,
            active_at: None,
            under_way: VecDeque::new(),
            bytes_under_way: 0,
            gap: None,
        }
    }

    /// Where the logs meet must be found anew; no earlier than what is certain.
    fn restart(&mut self, guess: u64) {
        self.probing = true;
        self.go_on_after(guess);
        self.active_at = None;
    }

    fn go_on_after(&mut self, index: u64) {
        self.next = index.max(self.matched) + 1;
        self.under_way.clear();
        self.bytes_under_way = 0;
    }

    fn sent(&mut self, append: &Append, now: Time) {
        let bytes = append.entries.iter().map(Entry::size).sum();
        self.next = append.prev.index + append.entries.len() as u64 + 1;
        self.under_way.push_back((self.next - 1, bytes));
        self.bytes_under_way += bytes;
        self.active_at = Some(now);
    }

    fn acknowledged(&mut self, matched: u64, now: Time) {
        // The answer to what went out before we knew where to look does not say whether the logs meet there.
        self.probing &= matched + 1 < self.next;
        if matched <= self.matched {
            return;
        }
        self.caught_up_at = now;
        self.matched = matched;
        self.next = self.next.max(matched + 1);
        while self.under_way.front().is_some_and(|(last, _)| *last <= matched) {
            self.bytes_under_way -= self.under_way.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The peer has nothing, or something else, at the place that a message followed; it says after which to try again.
    fn refused(&mut self, hint: u64, now: Time, retry: core::time::Duration) {
        let back = hint.max(self.matched);
        if back + 1 >= self.next {
            // An old answer: we are there already.
            return;
        }
        if !self.probing {
            if self.gap.is_some_and(|(gap, at)| gap == back && now.since(at) <= retry) {
                return;
            }
            self.gap = Some((back, now));
        }
        self.go_on_after(back);
        self.active_at = None;
    }

    fn has_room(&self, last: u64) -> bool {
        self.next <= last && self.next <= self.matched + WINDOW && self.bytes_under_way < WINDOW_BYTES
    }
}

impl Replica {
    /// A session: where the logs meet must be found anew.
    pub(super) fn restart_progress(&mut self, member: Member) {
        let (now, told) = (self.now, self.told_last(member.id));
        let Role::Primary(primary) = &mut self.role else { return };
        match primary.progress.get_mut(&member.id) {
            Some(progress) if progress.member == member => progress.restart(told),
            _ => {
                primary.progress.insert(member.id, Progress::new(member, told, now));
            }
        }
    }

    /// A greeting says where the peer's log ends. That is of use as long as it is not known where the logs meet; and where the peer has more than was
    /// sent to it: a session can begin before the greeting has come, and then the logs meet at their beginning, but all the rest need not be sent.
    pub(super) fn meet_progress(&mut self, member: Member) {
        let told = self.told_last(member.id);
        let Role::Primary(primary) = &self.role else { return };
        let knows = |progress: &Progress| progress.member == member && !progress.probing && told < progress.next;
        if !primary.progress.get(&member.id).is_some_and(knows) {
            self.restart_progress(member);
        }
    }

    /// The end of the peer's log as it said last, if ours goes so far.
    fn told_last(&self, id: ReplicaId) -> u64 {
        self.peers.get(&id).map_or(0, |peer| peer.last.index).min(self.log.last().index)
    }

    pub(super) fn on_append_reply(
        &mut self,
        from: Member,
        epoch: Epoch,
        promised: Epoch,
        matched: u64,
        conflict: bool,
    ) {
        self.see(promised);
        let (now, last, retry) = (self.now, self.log.last().index, self.retry());
        let any_epoch = !self.holds(Rule::AcknowledgedInEpoch);
        let Role::Primary(primary) = &mut self.role else { return };
        if epoch != primary.epoch && !any_epoch {
            return;
        }
        if promised > epoch {
            self.heed_higher_promise(promised);
            return;
        }
        let Some(progress) = primary.progress.get_mut(&from.id).filter(|progress| progress.member == from) else {
            return;
        };
        // What is due stays so: this may be the answer to something earlier.
        progress.active_at = progress.active_at.map(|_| now);
        if conflict {
            progress.refused(matched, now, retry);
        } else {
            progress.acknowledged(matched.min(last), now);
        }
    }

    /// After so long without an answer, something may have got lost on the way.
    fn retry(&self) -> core::time::Duration {
        self.config.ping_interval * 2
    }

    /// To every member and every learner, as their window allows.
    pub(super) fn replicate(&mut self, disk: &dyn LogRead) {
        let Role::Primary(primary) = &mut self.role else { return };
        let mut progress = std::mem::take(&mut primary.progress);
        for (id, progress) in &mut progress {
            if self.reachable_id(*id) == Some(progress.member) {
                self.replicate_to(progress, disk);
            }
        }
        if let Role::Primary(primary) = &mut self.role {
            primary.progress = progress;
        }
    }

    fn replicate_to(&mut self, progress: &mut Progress, disk: &dyn LogRead) {
        let (now, last) = (self.now, self.log.last().index);
        let overdue = progress.active_at.is_none_or(|at| now.since(at) > self.retry());
        if progress.matched == last {
            progress.caught_up_at = now;
        }
        if progress.probing {
            if overdue && let Some(append) = self.append_after(progress.next - 1, PROBE_BYTES, disk) {
                progress.active_at = Some(now);
                self.send(progress.member, Message::Append(append));
            }
            return;
        }
        if overdue && progress.matched + 1 < progress.next {
            // Nothing is sent again before the peer has said what it lacks: it may only be slow.
            if let Some(append) = self.append_after(progress.next - 1, 0, disk) {
                progress.active_at = Some(now);
                self.send(progress.member, Message::Append(append));
            }
        }
        let mut bytes = 0;
        while bytes < STEP_BYTES && progress.has_room(last) {
            let Some(append) = self.append_after(progress.next - 1, MESSAGE_BYTES, disk) else { break };
            if append.entries.is_empty() {
                break;
            }
            bytes += append.entries.iter().map(Entry::size).sum::<usize>();
            progress.sent(&append, now);
            self.send(progress.member, Message::Append(append));
        }
    }

    /// Whether a step ended before somebody's window was full: the next one comes at once, or a peer that has much to learn would get one step's
    /// worth for each of its answers.
    pub(super) fn has_more_to_send(&self, progress: &BTreeMap<ReplicaId, Progress>) -> bool {
        let last = self.log.last().index;
        let wants = |progress: &Progress| !progress.probing && progress.has_room(last);
        progress.iter().any(|(id, progress)| wants(progress) && self.reachable_id(*id) == Some(progress.member))
    }

    /// A message that follows the entry at `index`; with no entries if there is to be no byte of them.
    fn append_after(&self, index: u64, max_bytes: usize, disk: &dyn LogRead) -> Option<Append> {
        let prev = Place { index, epoch: self.log.epoch_at(index)? };
        let prev_hash = self.log.hash_at(index, disk)?;
        let entries = if max_bytes == 0 { Vec::new() } else { self.log.read(index + 1, max_bytes, disk) };
        Some(Append { epoch: self.promised, prev, prev_hash, entries, committed: self.log.committed() })
    }
}
