//! ⑧ Committed messages on their way to the streams that listen.
//!
//! The driver tells, the streams listen, and neither waits for the other: a stream has a bounded queue, and what does
//! not fit is dropped. That loses nothing, because a stream knows how far it has come. Whatever does not continue its
//! position, for whichever reason, makes it read on from the database ([`Batch::Behind`]), and what the queue then still
//! holds of that is skipped.

use chat_core::{AccountId, Event, Message, TokenHash};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::Notify;

/// How many messages wait for one stream at most.
const QUEUE: usize = 256;
/// How many bytes of messages wait for one stream, about.
const QUEUE_BYTES: usize = 256 << 10;
/// What a message costs beside its text, about.
const OVERHEAD: usize = 256;
/// How many streams one account can have: what the driver does for one message is bounded.
pub const MAX_PER_ACCOUNT: usize = 64;

/// All streams that listen.
#[derive(Debug, Default)]
pub struct Subscribers {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    accounts: HashMap<AccountId, Vec<Arc<Slot>>>,
    sessions: HashMap<TokenHash, Vec<Arc<Slot>>>,
    live: usize,
}

/// One stream, as the driver sees it.
#[derive(Debug)]
struct Slot {
    account: AccountId,
    token: TokenHash,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the order in which they were told.
    queue: VecDeque<Arc<Message>>,
    bytes: usize,
    /// The highest `seq` known to exist.
    last: u64,
    ended: Option<End>,
}

/// Why a stream must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Its session was closed or revoked. So are all sessions of an account that is deleted, before that is told.
    SessionEnded,
    /// Its account was deleted.
    AccountDeleted,
}

/// The account listens on so many streams that one more would burden everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("an account can listen on at most {MAX_PER_ACCOUNT} streams at a time")]
pub struct TooManyStreams;

/// What there is for a stream after its position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Batch {
    /// The next messages, without a gap; at least one.
    Live(Vec<Arc<Message>>),
    /// There are messages that are only in the database: read on from there.
    Behind,
    /// Nothing yet.
    Idle,
    /// No more.
    Ended(End),
}

impl Subscribers {
    /// Nobody listens yet.
    pub fn new() -> Subscribers {
        Subscribers::default()
    }

    /// Tells whoever listens of what happened, in order. Takes a lock for a moment, and never waits for a stream.
    ///
    /// The lock is taken even while nobody listens. It orders this against [`Subscribers::subscribe`]: either the new
    /// stream is told, or what its owner does afterwards happens after all that the caller did before, such as saying
    /// what readers must wait for.
    pub fn tell(&self, events: impl IntoIterator<Item = Event>) {
        let table = self.table();
        events.into_iter().for_each(|event| table.tell(event));
    }

    /// A stream that is told of everything from now on, until it is dropped.
    ///
    /// # Errors
    /// [`TooManyStreams`].
    pub fn subscribe(self: &Arc<Self>, account: AccountId, token: TokenHash) -> Result<Subscription, TooManyStreams> {
        let slot = Arc::new(Slot { account, token, waiting: Mutex::default(), wake: Notify::new() });
        let mut table = self.table();
        let of_account = table.accounts.entry(account).or_default();
        if of_account.len() >= MAX_PER_ACCOUNT {
            return Err(TooManyStreams);
        }
        of_account.push(slot.clone());
        table.sessions.entry(token).or_default().push(slot.clone());
        table.live += 1;
        Ok(Subscription { slot, of: self.clone() })
    }

    /// How many streams listen.
    pub fn live(&self) -> usize {
        self.table().live
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn tell(&self, event: Event) {
        match event {
            Event::Delivered { recipient, message } => {
                for slot in self.accounts.get(&recipient).into_iter().flatten() {
                    slot.deliver(&message);
                }
            }
            Event::SessionEnded { token } => {
                for slot in self.sessions.get(&token).into_iter().flatten() {
                    slot.end(End::SessionEnded);
                }
            }
            Event::AccountDeleted { account } => {
                for slot in self.accounts.get(&account).into_iter().flatten() {
                    slot.end(End::AccountDeleted);
                }
            }
            // Streams carry messages only.
            Event::MarksMoved { .. } => {}
        }
    }
}

impl Slot {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self, message: &Arc<Message>) {
        let mut waiting = self.waiting();
        waiting.last = waiting.last.max(message.seq);
        let size = size(message);
        if waiting.queue.len() < QUEUE && waiting.bytes + size <= QUEUE_BYTES {
            waiting.bytes += size;
            waiting.queue.push_back(message.clone());
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn end(&self, end: End) {
        self.waiting().ended = Some(end);
        self.wake.notify_one();
    }
}

/// About what a message takes in memory and on the wire.
pub(crate) fn size(message: &Message) -> usize {
    OVERHEAD + message.text.as_str().len()
}

/// One stream's end of it. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    slot: Arc<Slot>,
    of: Arc<Subscribers>,
}

impl Subscription {
    /// What follows `position`, the `seq` up to which the stream has come. Does not wait.
    pub fn take(&self, position: u64) -> Batch {
        let mut waiting = self.slot.waiting();
        if let Some(end) = waiting.ended {
            return Batch::Ended(end);
        }
        let mut messages = Vec::new();
        let mut next = position + 1;
        while let Some(front) = waiting.queue.front() {
            if front.seq > next {
                break;
            }
            let Some(message) = waiting.queue.pop_front() else { break };
            waiting.bytes -= size(&message);
            if message.seq == next {
                next += 1;
                messages.push(message);
            }
        }
        match (messages.is_empty(), waiting.last > position) {
            (false, _) => Batch::Live(messages),
            (true, true) => Batch::Behind,
            (true, false) => Batch::Idle,
        }
    }

    /// Notes that messages up to `seq` exist, whether or not they were told.
    pub fn learn(&self, seq: u64) {
        let mut waiting = self.slot.waiting();
        waiting.last = waiting.last.max(seq);
    }

    /// The highest `seq` known to exist.
    pub fn last(&self) -> u64 {
        self.slot.waiting().last
    }

    /// Waits until something was told since the last wait; also returns for things already taken. Cancel safe.
    pub async fn told(&self) {
        self.slot.wake.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut table = self.of.table();
        let Slot { account, token, .. } = &*self.slot;
        remove(&mut table.accounts, account, &self.slot);
        remove(&mut table.sessions, token, &self.slot);
        table.live -= 1;
    }
}

fn remove<K: std::hash::Hash + Eq>(map: &mut HashMap<K, Vec<Arc<Slot>>>, key: &K, slot: &Arc<Slot>) {
    if let Some(slots) = map.get_mut(key) {
        slots.retain(|other| !Arc::ptr_eq(other, slot));
        if slots.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chat_core::{MessageId, MessageText, Party, Timestamp, Username};

    const ANN: AccountId = AccountId(1);
    const BEN: AccountId = AccountId(2);
    const TOKEN: TokenHash = TokenHash([7; 32]);

    fn message(seq: u64, bytes: usize) -> Arc<Message> {
        let party = |id, name| Party { id, name: Username::parse(name).unwrap() };
        Arc::new(Message {
            id: MessageId(100 + seq),
            seq,
            from: party(BEN, "ben"),
            to: party(ANN, "ann"),
            text: MessageText::new("x".repeat(bytes)).unwrap(),
            sent_at: Timestamp(0),
            sender_deleted: false,
        })
    }

    fn listening() -> (Arc<Subscribers>, Subscription) {
        let subscribers = Arc::new(Subscribers::new());
        let subscription = subscribers.subscribe(ANN, TOKEN).unwrap();
        (subscribers, subscription)
    }

    fn tell(subscribers: &Subscribers, seqs: impl IntoIterator<Item = u64>) {
        subscribers.tell(seqs.into_iter().map(|seq| Event::Delivered { recipient: ANN, message: message(seq, 1) }));
    }

    fn live(batch: Batch) -> Vec<u64> {
        match batch {
            Batch::Live(messages) => messages.iter().map(|message| message.seq).collect(),
            other => panic!("not live: {other:?}"),
        }
    }

    #[test]
    fn what_continues_the_position_is_live() {
        let (subscribers, subscription) = listening();
        assert_eq!(subscription.take(4), Batch::Idle);
        tell(&subscribers, 4..=6);
        assert_eq!(live(subscription.take(4)), [5, 6], "what the stream has had is skipped");
        assert_eq!(subscription.take(6), Batch::Idle);
    }

    #[test]
    fn a_gap_makes_the_stream_read_and_what_it_read_is_not_repeated() {
        let (subscribers, subscription) = listening();
        tell(&subscribers, [8, 9]);
        assert_eq!(subscription.take(4), Batch::Behind);
        assert_eq!(live(subscription.take(8)), [9], "5 to 8 came from the database");
    }

    #[test]
    fn messages_that_were_there_before_are_read() {
        let (subscribers, subscription) = listening();
        subscription.learn(3);
        assert_eq!(subscription.take(0), Batch::Behind);
        tell(&subscribers, [4]);
        assert_eq!(subscription.take(0), Batch::Behind);
        assert_eq!(live(subscription.take(3)), [4]);
    }

    #[test]
    fn a_full_queue_drops_and_the_stream_reads_on() {
        let (subscribers, subscription) = listening();
        let all = QUEUE as u64 + 50;
        tell(&subscribers, 1..=all);
        assert_eq!(live(subscription.take(0)).len(), QUEUE);
        tell(&subscribers, [all + 1]);
        assert_eq!(subscription.take(QUEUE as u64), Batch::Behind, "50 were dropped");
        assert_eq!(live(subscription.take(all)), [all + 1]);
        assert_eq!(subscription.last(), all + 1);
    }

    #[test]
    fn large_messages_fill_the_queue_earlier() {
        let (subscribers, subscription) = listening();
        for seq in 1..=20 {
            let message = message(seq, MessageText::MAX_BYTES);
            subscribers.tell([Event::Delivered { recipient: ANN, message }]);
        }
        assert_eq!(live(subscription.take(0)), [1, 2, 3]);
        assert_eq!(subscription.take(3), Batch::Behind);
    }

    #[test]
    fn ends_reach_whom_they_concern() {
        let (subscribers, subscription) = listening();
        let other = subscribers.subscribe(ANN, TokenHash([8; 32])).unwrap();
        subscribers.tell([Event::SessionEnded { token: TOKEN }]);
        assert_eq!(subscription.take(0), Batch::Ended(End::SessionEnded));
        assert_eq!(other.take(0), Batch::Idle);
        subscribers.tell([Event::AccountDeleted { account: BEN }]);
        assert_eq!(other.take(0), Batch::Idle);
        subscribers.tell([Event::AccountDeleted { account: ANN }]);
        assert_eq!(other.take(0), Batch::Ended(End::AccountDeleted));
    }

    #[test]
    fn dropping_unsubscribes() {
        let (subscribers, subscription) = listening();
        let second = subscribers.subscribe(ANN, TOKEN).unwrap();
        assert_eq!(subscribers.live(), 2);
        drop(subscription);
        tell(&subscribers, [1]);
        assert_eq!(live(second.take(0)), [1]);
        drop(second);
        assert_eq!(subscribers.live(), 0);
        assert!(subscribers.table().accounts.is_empty() && subscribers.table().sessions.is_empty());
    }

    #[test]
    fn one_account_cannot_listen_without_bound() {
        let (subscribers, _first) = listening();
        let more: Vec<_> = (1..MAX_PER_ACCOUNT).map(|_| subscribers.subscribe(ANN, TOKEN).unwrap()).collect();
        assert_eq!(subscribers.subscribe(ANN, TOKEN).unwrap_err(), TooManyStreams);
        assert!(subscribers.subscribe(BEN, TokenHash([9; 32])).is_ok());
        drop(more);
        assert!(subscribers.subscribe(ANN, TOKEN).is_ok());
    }

    #[tokio::test]
    async fn being_told_before_waiting_is_not_missed() {
        let (subscribers, subscription) = listening();
        tell(&subscribers, [1]);
        subscription.told().await;
        assert_eq!(live(subscription.take(0)), [1]);
    }
}
