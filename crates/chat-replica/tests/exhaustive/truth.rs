//! What was decided so far, and what must never be.

use chat_replica::protocol::*;

/// An entry, as the first replica to commit it saw it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Committed {
    pub epoch: Epoch,
    pub hash: ChainHash,
    /// The epoch of the primary that committed it.
    pub led_in: Epoch,
}

/// Something that must never be.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Broken {
    /// Two replicas commit different entries at one index.
    Fork(String),
    /// Two primaries commit in one epoch.
    TwoPrimaries(String),
    /// The production code itself notices that it cannot go on, or a simulated disk does.
    Fatal(String),
    /// A living process was proven crashed.
    FalseProof(String),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Truth {
    /// By index from 1.
    pub committed: Vec<Committed>,
    /// Clients were told of everything up to here.
    pub acknowledged: u64,
    pub committers: Vec<(Epoch, Member)>,
    pub broken: Option<Broken>,
    /// What a search should get to see at least once.
    pub view_changed: bool,
    pub view_undone: bool,
    pub learner_taken_in: bool,
    pub takeover_on_proof: bool,
    pub takeover_by_majority: bool,
}

impl Truth {
    pub fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// `by`, serving in that epoch if it serves, commits `entry`; `before` is the newest view before it.
    pub fn commit(&mut self, by: Member, serving: Option<Epoch>, entry: &Entry, before: Option<&View>) {
        let at = entry.index as usize - 1;
        match self.committed.get(at) {
            Some(known) if (known.epoch, known.hash) != (entry.epoch, entry.hash) => {
                let first = known.epoch;
                self.breaks(Broken::Fork(format!(
                    "at index {} there was an entry of {first}, and {by} commits one of {}",
                    entry.index, entry.epoch
                )));
            }
            Some(_) => {}
            None => {
                let (epoch, hash, led_in) = (entry.epoch, entry.hash, serving.unwrap_or(entry.epoch));
                self.committed.push(Committed { epoch, hash, led_in });
                if let (Some(view), Some(before)) = (entry.body.view(), before) {
                    self.view_changed = true;
                    self.learner_taken_in |= view.epoch == before.epoch && view.members.len() > before.members.len();
                }
            }
        }
        if serving != Some(entry.epoch) {
            return;
        }
        match self.committers.iter().find(|(epoch, _)| *epoch == entry.epoch) {
            Some((epoch, first)) if *first != by => {
                let why = format!("{first} committed in {epoch}, and now {by} does");
                self.breaks(Broken::TwoPrimaries(why));
            }
            Some(_) => {}
            None => self.committers.push((entry.epoch, by)),
        }
        if matches!(entry.body, Body::Commands(_)) {
            self.acknowledged = self.acknowledged.max(entry.index);
        }
    }

    /// Whether a log holds all that earlier primaries than that of `epoch` have committed.
    pub fn is_in(&self, log: &[Entry], epoch: Epoch) -> bool {
        let earlier = self.committed.iter().enumerate().filter(|(_, known)| known.led_in < epoch);
        let held = |at: usize| log.get(at).map(|entry| (entry.epoch, entry.hash));
        earlier.into_iter().all(|(at, known)| held(at) == Some((known.epoch, known.hash)))
    }
}
