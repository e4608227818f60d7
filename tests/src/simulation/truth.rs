//! What must hold at every moment, whatever happens.

use super::violation::Broken;
use chat_core::{AccountId, Applied, Event, Message, RequestKey, Username};
use chat_replica::protocol::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is wrong, if something is.
pub(crate) type Verdict = Result<(), (Broken, String)>;

/// The one history, as the first replica to commit each entry saw it.
#[derive(Debug, Default)]
pub struct Truth {
    /// By index from 1: what was committed there.
    pub(crate) committed: Vec<(Epoch, ChainHash)>,
    /// By index from 1: what came of it, at the first replica to apply it.
    results: Vec<Vec<Applied>>,
    /// The state's hash at some indexes, at the first replica there.
    hashes: BTreeMap<u64, [u8; 32]>,
    /// What mailboxes hold, by account and `seq`.
    mailboxes: BTreeMap<(AccountId, u64), Arc<Message>>,
    /// The newest `seq` of each mailbox.
    ends: BTreeMap<Username, u64>,
    /// The place that a client was told for its send.
    sent: BTreeMap<RequestKey, (u64, u64)>,
    /// Clients were told of everything up to here.
    acknowledged: u64,
    acknowledgements: u64,
    committers: BTreeMap<Epoch, Member>,
    pub(crate) reads: u64,
}

impl Truth {
    /// How many batches clients were told of.
    pub fn acknowledgements(&self) -> u64 {
        self.acknowledgements
    }

    /// The last log entry that clients were told of.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The last log entry that is committed anywhere.
    pub fn committed(&self) -> u64 {
        self.committed.len() as u64
    }

    /// `entry` is committed, says `by`.
    pub(crate) fn commit(&mut self, by: Member, entry: &Entry) -> Verdict {
        let at = entry.index as usize - 1;
        match self.committed.get(at) {
            Some(known) if *known != (entry.epoch, entry.hash) => {
                Err((Broken::OneHistory, format!("the history forks at {}, says {by}", entry.index)))
            }
            Some(_) => Ok(()),
            None if at == self.committed.len() => {
                self.committed.push((entry.epoch, entry.hash));
                Ok(())
            }
            None => Err((Broken::OneHistory, format!("{by} commits {} before what comes before it", entry.index))),
        }
    }

    /// `by` leads in `epoch` and has committed in it.
    pub(crate) fn lead(&mut self, by: Member, epoch: Epoch) -> Verdict {
        let committer = *self.committers.entry(epoch).or_insert(by);
        if committer == by {
            return Ok(());
        }
        Err((Broken::OneCommitter, format!("both {committer} and {by} commit in {epoch}")))
    }

    /// An entry was carried out with these results.
    pub(crate) fn apply(&mut self, by: Member, index: u64, results: &[Applied]) -> Verdict {
        let at = index as usize - 1;
        if let Some(known) = self.results.get(at) {
            return if known == results {
                Ok(())
            } else {
                Err((Broken::OneState, format!("entry {index} came to {results:?} at {by}, first to {known:?}")))
            };
        }
        if at != self.results.len() {
            return Err((
                Broken::OneState,
                format!("{by} applies {index} before anybody has {}", self.results.len() + 1),
            ));
        }
        for event in results.iter().flat_map(|applied| &applied.events) {
            if let Event::Delivered { recipient, message } = event {
                let gap = message.seq > 1 && !self.mailboxes.contains_key(&(*recipient, message.seq - 1));
                self.ends.insert(message.to.name.clone(), message.seq);
                let twice = self.mailboxes.insert((*recipient, message.seq), message.clone()).is_some();
                if gap || twice {
                    let what = format!("seq {} of the mailbox of {recipient}: gap {gap}, twice {twice}", message.seq);
                    return Err((Broken::OnceInOrder, what));
                }
            }
        }
        self.results.push(results.to_vec());
        Ok(())
    }

    /// The newest `seq` of each mailbox that has messages.
    pub(crate) fn mailbox_ends(&self) -> &BTreeMap<Username, u64> {
        &self.ends
    }

    /// A replica's state has this hash when `index` is applied, and nothing after.
    pub(crate) fn state(&mut self, by: Member, index: u64, hash: [u8; 32]) -> Verdict {
        if *self.hashes.entry(index).or_insert(hash) == hash {
            return Ok(());
        }
        Err((Broken::OneState, format!("at {index}, {by} has another state than the first replica there")))
    }

    /// A client was told that everything up to `index` is safe.
    pub(crate) fn acknowledge(&mut self, index: u64) {
        self.acknowledgements += 1;
        self.acknowledged = self.acknowledged.max(index);
    }

    /// A client is told the place of its message.
    pub(crate) fn sent(&mut self, key: RequestKey, id: u64, seq: u64) -> Verdict {
        let first = *self.sent.entry(key).or_insert((id, seq));
        if first == (id, seq) {
            return Ok(());
        }
        Err((Broken::OnceInOrder, format!("the send {key} came to {:?}, and before to {first:?}", (id, seq))))
    }

    /// A live stream hands on `message`.
    pub(crate) fn delivered(&self, account: AccountId, message: &Message) -> Verdict {
        let known = self.mailboxes.get(&(account, message.seq));
        if known.is_some_and(|known| **known == *message) {
            return Ok(());
        }
        Err((Broken::OnceInOrder, format!("{message:?} is delivered, but {known:?} was applied")))
    }

    /// A read is answered from a state that holds `index`, where `acknowledged` was told to clients before.
    pub(crate) fn read(&mut self, by: Member, index: u64, acknowledged: u64) -> Verdict {
        self.reads += 1;
        if index >= acknowledged {
            return Ok(());
        }
        Err((Broken::FreshReads, format!("{by} would read {index}, but {acknowledged} was acknowledged")))
    }

    /// A log holds all that was ever committed.
    pub(crate) fn is_in(&self, log: &[Entry]) -> bool {
        log.len() >= self.committed.len()
            && self.committed.iter().zip(log).all(|(truth, entry)| *truth == (entry.epoch, entry.hash))
    }
}
