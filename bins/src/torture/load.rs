//! Clients that write, listen and read for a round, and write down what they see.
//!
//! | who | how |
//! | --- | --- |
//! | patient writers | many sends on their way at a time; wait through every outage |
//! | impatient writers | one send at a time, given up soon; half of those without an answer are asked for again |
//! | listeners | one stream for the whole round; another that is opened anew, at the marks or before |
//! | readers | pages of conversations |

use super::pulse::Pulse;
use super::record::{self, Record, message, short, text};
use crate::processes::Broken;
use chat_check::{Answer, CallId, Name, Request};
use chat_client::{Client, Error, Key, Sent, Session, Submitted};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PATIENT: u64 = 6;
const IMPATIENT: u64 = 2;
const RECIPIENTS: u64 = 4;
/// Sends of a patient writer on their way at most.
const WINDOW: usize = 64;
/// Between two bursts of a patient writer, on average.
const BURST: Duration = Duration::from_millis(40);
/// Longer than any outage that is made on purpose.
const PATIENCE: Duration = Duration::from_secs(240);
const IMPATIENCE: Duration = Duration::from_millis(700);
const PASSWORD: &str = "torture is for machines";

/// Ids of client applications, beside those of writers. Streams that are opened anew are another one each.
const READER: u64 = 500;
const LISTENERS: u64 = 1000;
const REOPENED: u64 = 10_000;
const REOPENED_EACH: u64 = 1_000_000;

/// What all clients of a round share.
#[derive(Debug)]
struct Shared {
    record: Record,
    pulse: Arc<Pulse>,
    /// Messages of one patient writer in a second, about.
    rate: f64,
    /// Large texts only, as many as can be on their way.
    large: AtomicBool,
    stop: watch::Sender<bool>,
    /// What a task could not go on with.
    broken: watch::Sender<Option<String>>,
}

/// Whose mailbox, and how far its lasting stream has come.
#[derive(Clone, Debug)]
pub(super) struct Recipient {
    pub name: Name,
    pub session: Session,
    received: Arc<AtomicU64>,
}

impl Recipient {
    /// The `seq` of the last message that the stream handed over.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The clients of a round. Dropping it ends them.
pub(super) struct Load {
    shared: Arc<Shared>,
    recipients: Vec<Recipient>,
    writers: JoinSet<()>,
    others: JoinSet<()>,
}

impl Load {
    /// Makes the accounts, and begins. `rate`: messages in a second altogether, about.
    pub async fn begin(servers: &[String], seed: u64, rate: u32, pulse: Arc<Pulse>) -> Result<Load, Broken> {
        let (stop, broken) = (watch::Sender::new(false), watch::Sender::new(None));
        let rate = f64::from(rate) / PATIENT as f64;
        let shared = Shared { record: Record::new(), pulse, rate, large: AtomicBool::new(false), stop, broken };
        let shared = Arc::new(shared);
        let mut random = SmallRng::seed_from_u64(seed);
        let mut load =
            Load { shared: shared.clone(), recipients: Vec::new(), writers: JoinSet::new(), others: JoinSet::new() };
        for number in 0..RECIPIENTS {
            let (name, session) = join(servers, &shared, LISTENERS + number, format!("r{number}")).await?;
            load.recipients.push(Recipient { name, session, received: Arc::default() });
        }
        let names: Arc<[Name]> = load.recipients.iter().map(|recipient| recipient.name.clone()).collect();
        for number in 0..PATIENT + IMPATIENT {
            let (name, session) = join(servers, &shared, number, format!("w{number}")).await?;
            let writer = Writer {
                shared: shared.clone(),
                client: number,
                name,
                session,
                to: names.clone(),
                number: 0,
                random: SmallRng::seed_from_u64(random.random()),
            };
            if number == 0 {
                load.others.spawn(read(writer.clone()));
            }
            if number < PATIENT {
                load.writers.spawn(writer.write_in_rows());
            } else {
                let impatient = client(servers, IMPATIENCE)?.restore(&writer.session.export())?;
                load.writers.spawn(Writer { session: impatient, ..writer }.write_one_by_one());
            }
        }
        for (number, recipient) in (0..).zip(&load.recipients) {
            load.others.spawn(listen(shared.clone(), LISTENERS + number, recipient.clone()));
            let again = SmallRng::seed_from_u64(random.random());
            load.others.spawn(listen_again(
                shared.clone(),
                REOPENED + number * REOPENED_EACH,
                recipient.clone(),
                again,
            ));
        }
        Ok(load)
    }

    pub fn record(&self) -> &Record {
        &self.shared.record
    }

    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }

    /// From now on texts are large, or as usual.
    pub fn write_large(&self, large: bool) {
        self.shared.large.store(large, Ordering::Relaxed);
    }

    /// That no client has met what it cannot go on with.
    pub fn check(&self) -> Result<(), Broken> {
        self.shared.broken.borrow().clone().map_or(Ok(()), |why| Err(Broken(why)))
    }

    /// Nobody writes any more; returns when everything that was sent has its answer.
    pub async fn drain(&mut self, time: Duration) -> Result<(), Broken> {
        self.shared.stop.send_replace(true);
        let done = async {
            while let Some(ended) = self.writers.join_next().await {
                ended.map_err(|error| Broken(error.to_string()))?;
            }
            Ok(())
        };
        timeout(time, done)
            .await
            .map_err(|_| Broken(format!("{time:?} after everything was mended, sends are without an answer")))?
    }

    /// What is in each mailbox, by its own account, written down as a call. Returns the highest `seq` of each.
    pub async fn marks(&self) -> Result<Vec<u64>, Broken> {
        let mut last = Vec::new();
        for (number, recipient) in (0..).zip(&self.recipients) {
            let look = Request::Acknowledge { delivered: None, read: None };
            let call = self.shared.record.begin(LISTENERS + number, &recipient.name, look);
            let seen = recipient.session.whoami().await.map(|whoami| whoami.marks);
            self.shared.record.conclude(call, &seen, |seen| Answer::Marks(record::marks(seen)));
            last.push(seen?.last);
        }
        Ok(last)
    }
}

fn client(servers: &[String], time: Duration) -> Result<Client, Broken> {
    Ok(Client::builder().servers(servers).timeout(time).connect_lazy()?)
}

/// A new account, logged in through a connection of its own.
async fn join(servers: &[String], shared: &Shared, id: u64, name: String) -> Result<(Name, Session), Broken> {
    let (client, key, account) = (client(servers, PATIENCE)?, Key::generate(), Name::from(name.as_str()));
    let call = shared.record.begin(id, &account, Request::Register { key: Some((*key.as_bytes()).into()) });
    let registered = client.register_with(key, &name, "", PASSWORD).await;
    shared.record.conclude(call, &registered, |_| Answer::Registered);
    registered?;
    Ok((account, client.log_in(&name, PASSWORD).await?))
}

#[derive(Clone)]
struct Writer {
    shared: Arc<Shared>,
    client: u64,
    name: Name,
    session: Session,
    to: Arc<[Name]>,
    number: u64,
    random: SmallRng,
}

impl Writer {
    fn next(&mut self) -> (Name, String) {
        self.number += 1;
        let large = self.shared.large.load(Ordering::Relaxed) || self.random.random_range(0..1000) == 0;
        let filling = if large { self.random.random_range(20_000..60_000) } else { self.random.random_range(0..200) };
        let to = self.to[self.random.random_range(0..self.to.len())].clone();
        (to, text(&self.name, self.number, filling))
    }

    fn begin(&self, key: Key, to: &Name, text: &str) -> CallId {
        let request = Request::Send { key: Some((*key.as_bytes()).into()), to: to.clone(), text: short(text) };
        self.shared.record.begin(self.client, &self.name, request)
    }

    fn end(&self, call: CallId, begun: Instant, result: &Result<Sent, Error>) {
        if let Ok(sent) = result {
            if !sent.duplicate {
                self.shared.pulse.tell_time(begun, sent.sent_at_ms);
            }
            self.shared.pulse.acknowledge(begun);
        }
        self.shared.record.conclude(call, result, |sent| Answer::Sent {
            id: sent.id,
            seq: sent.seq,
            index: sent.index,
        });
        if let Err(error @ (Error::Refused(_) | Error::Usage(_))) = result {
            // Nothing that a writer sends is to be refused, whatever happens to the replicas.
            let why = format!("a send of {} was refused: {error}", self.name);
            self.shared.broken.send_if_modified(|broken| broken.is_none() && broken.replace(why).is_none());
        }
    }

    /// Many sends on their way at a time.
    async fn write_in_rows(mut self) {
        let mut stop = self.shared.stop.subscribe();
        let mut flying = FuturesUnordered::new();
        let mut pause = Box::pin(sleep(BURST));
        loop {
            let stopped = *stop.borrow_and_update();
            if stopped && flying.is_empty() {
                return;
            }
            let room = !stopped && flying.len() < WINDOW;
            tokio::select! {
                Some((call, begun, result)) = flying.next() => self.end(call, begun, &result),
                () = &mut pause, if room => {
                    let most = (2.0 * self.shared.rate * BURST.as_secs_f64()).ceil().max(1.0) as usize;
                    let burst = self.random.random_range(1..=most).min(WINDOW - flying.len());
                    let large = self.shared.large.load(Ordering::Relaxed);
                    let burst = if large { WINDOW - flying.len() } else { burst };
                    for _ in 0..burst {
                        let Some((call, begun, submitted)) = self.submit().await else { continue };
                        flying.push(async move { (call, begun, submitted.await) });
                    }
                    pause = Box::pin(sleep(BURST.mul_f64(self.random.random_range(0.5..1.5))));
                }
                _ = stop.changed() => {}
            }
        }
    }

    async fn submit(&mut self) -> Option<(CallId, Instant, Submitted)> {
        let ((to, text), key, begun) = (self.next(), Key::generate(), Instant::now());
        let call = self.begin(key, &to, &text);
        match self.session.submit_with_key(key, &to, &text).await {
            Ok(submitted) => Some((call, begun, submitted)),
            Err(error) => {
                self.end(call, begun, &Err(error));
                None
            }
        }
    }

    /// One send after the other, given up soon; half of what has no answer is asked for again until it has.
    async fn write_one_by_one(mut self) {
        while !*self.shared.stop.borrow() {
            let ((to, text), key) = (self.next(), Key::generate());
            let again: bool = self.random.random();
            loop {
                let begun = Instant::now();
                let call = self.begin(key, &to, &text);
                let result = self.session.send_with_key(key, &to, &text).await;
                self.end(call, begun, &result);
                if !again || !matches!(result, Err(Error::Unknown { .. })) {
                    break;
                }
            }
            sleep(Duration::from_millis(self.random.random_range(1..60))).await;
        }
    }
}

/// The stream of a mailbox, from its beginning to the end of the round. Now and then it marks what has arrived.
async fn listen(shared: Arc<Shared>, client: u64, recipient: Recipient) {
    let stream = shared.record.listen(client, &recipient.name, Some(0));
    let mut inbox = recipient.session.inbox_after(0);
    let mut marked = Instant::now();
    loop {
        match inbox.next().await {
            Ok(given) => {
                shared.record.deliver(stream, message(&given));
                recipient.received.store(given.seq, Ordering::Relaxed);
            }
            Err(error) => {
                let why = format!("the stream of {} ended: {error}", recipient.name);
                shared.broken.send_replace(Some(why));
                return;
            }
        }
        if marked.elapsed() > Duration::from_millis(300) {
            marked = Instant::now();
            let seq = recipient.received();
            let request = Request::Acknowledge { delivered: Some(seq), read: None };
            let call = shared.record.begin(client, &recipient.name, request);
            let result = recipient.session.acknowledge(seq).await;
            shared.record.conclude(call, &result, |given| Answer::Marks(record::marks(given)));
        }
    }
}

/// Streams that are opened again and again: at the marks, or a little before what has arrived elsewhere.
async fn listen_again(shared: Arc<Shared>, first: u64, recipient: Recipient, mut random: SmallRng) {
    for client in first.. {
        sleep(Duration::from_millis(random.random_range(100..2000))).await;
        let after = random.random::<bool>().then(|| recipient.received().saturating_sub(random.random_range(0..100)));
        let stream = shared.record.listen(client, &recipient.name, after);
        let mut inbox = match after {
            Some(after) => recipient.session.inbox_after(after),
            None => recipient.session.inbox(),
        };
        let time = Duration::from_millis(random.random_range(10..800));
        let follow = async {
            while let Ok(given) = inbox.next().await {
                shared.record.deliver(stream, message(&given));
            }
        };
        // Its end is the caller's.
        let _ = timeout(time, follow).await;
    }
}

/// Pages of the conversations of one writer, the newest ones or those before some message.
async fn read(writer: Writer) {
    let Writer { shared, name, session, to, mut random, .. } = writer;
    let mut newest = 0;
    loop {
        sleep(Duration::from_millis(random.random_range(20..200))).await;
        let (with, limit) = (&to[random.random_range(0..to.len())], random.random_range(1..=50));
        let before = (newest > 0 && random.random_range(0..3) == 0).then(|| random.random_range(1..=newest));
        let request = Request::ReadConversation { with: with.clone(), before, limit, stale: false };
        let call = shared.record.begin(READER, &name, request);
        let mut pages = session.history(with).page_size(limit);
        if let Some(before) = before {
            pages = pages.before(before);
        }
        let page = pages.older().await.map(Option::unwrap_or_default);
        if let Ok(page) = &page
            && page.len() < limit as usize
            && !matches!(pages.older().await, Ok(None))
        {
            // It holds less than was asked for, because texts are large: as if no more had been asked for.
            shared.record.limit(call, page.len() as u32);
        }
        newest = page.iter().flatten().map(|message| message.id).max().unwrap_or_default().max(newest);
        shared.record.conclude(call, &page, |page| Answer::Page(page.iter().map(message).collect()));
    }
}
