//! The send stream of one session: one task, started by the first send. It puts whatever has queued into one frame,
//! matches results by tag, and when the stream ends sends everything without an answer again, in order, on a
//! stream to the next leader. The bookkeeping is [`Outbox`]; this is its I/O.

use std::{sync::Arc, time::Duration};

use chat_proto::v1::{self, tagged_result};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::{
    call::{PATIENCE, Safety, Tries, pause, request},
    error::{Error, Hint, Refusal, Verdict, explain, judge, judge_failure},
    model::{Key, Sent},
    outbox::{Entry, Outbox},
    owner::{Finder, Route, Stale},
    token::Token,
};

/// How exactly deadlines and silence are kept.
const TICK: Duration = Duration::from_millis(50);
/// Most sends taken over at a time.
const BATCH: usize = 1024;

pub(crate) type Reply = oneshot::Sender<Result<Sent, Error>>;

/// How a stream ended, and so what comes next.
#[derive(Debug)]
enum End {
    /// Everything is answered, and nobody can send any more.
    Done,
    /// This leader is of no use: the next one.
    Lost(Option<Hint>),
    /// The same leader again, later.
    Later(Refusal),
    /// No stream can be had with this session.
    Refused(Refusal),
}

pub(crate) struct SendTask {
    finder: Finder,
    token: Token,
    queue: mpsc::Receiver<Entry<Reply>>,
    /// Nobody can queue any more.
    closed: bool,
    outbox: Outbox<Reply>,
    taken: Vec<Entry<Reply>>,
    patience: Option<Refusal>,
    /// Streams in a row that answered nothing.
    failures: u32,
    tick: Interval,
}

impl SendTask {
    /// The queue of a new task, which ends when the last sender is dropped and everything is answered.
    pub(crate) fn spawn(finder: Finder, token: Token, capacity: usize) -> mpsc::Sender<Entry<Reply>> {
        let (sender, queue) = mpsc::channel(capacity);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let task = Self {
            finder,
            token,
            queue,
            closed: false,
            outbox: Outbox::new(),
            taken: Vec::with_capacity(BATCH),
            patience: None,
            failures: 0,
            tick,
        };
        tokio::spawn(task.run());
        sender
    }

    async fn run(mut self) {
        let mut stale = Stale::default();
        loop {
            if self.outbox.is_empty() && !self.take().await {
                return;
            }
            let finder = self.finder.clone();
            let (failures, known) = (self.failures, stale.clone());
            let way = async move {
                // The task keeps the deadlines of its sends by itself: these only bound one question.
                let deadline = Instant::now() + Duration::from_secs(10);
                pause(failures, deadline).await;
                finder.route(&known, deadline).await
            };
            let Some(route) = self.keep_house_during(way).await.flatten() else { continue };
            match self.stream(&route).await {
                End::Done => return,
                End::Lost(hint) => {
                    stale = Stale { generation: route.generation, hint };
                    self.patience = None;
                }
                End::Later(refusal) => self.patience = Some(refusal),
                End::Refused(refusal) => self.refuse_all(&refusal),
            }
            self.failures += 1;
        }
    }

    /// Waits for the next sends. False: there will be none.
    async fn take(&mut self) -> bool {
        let count = self.queue.recv_many(&mut self.taken, BATCH).await;
        self.took(count);
        count > 0
    }

    fn took(&mut self, count: usize) {
        self.closed |= count == 0;
        self.taken.drain(..).for_each(|entry| self.outbox.push(entry));
    }

    /// Completes `work`, while new sends are taken over and old ones expire. `None`: nothing waits any more.
    async fn keep_house_during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let room = !self.closed && self.outbox.has_room();
            tokio::select! {
                done = &mut work => return Some(done),
                count = self.queue.recv_many(&mut self.taken, BATCH), if room => self.took(count),
                _ = self.tick.tick() => self.expire(),
            }
            if self.outbox.is_empty() {
                return None;
            }
        }
    }

    fn expire(&mut self) {
        for entry in self.outbox.expired(Instant::now()) {
            let safety = Safety::Keyed(key_of(&entry.request));
            let tries = Tries { unsure: entry.unsure, patience: self.patience.clone() };
            // Whoever dropped the future of its send does not wait for the result.
            let _ = entry.reply.send(Err(tries.expire(safety, &self.finder)));
        }
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        for entry in self.outbox.drain() {
            let safety = Safety::Keyed(key_of(&entry.request));
            let tries = Tries { unsure: entry.unsure, patience: None };
            let _ = entry.reply.send(Err(tries.refuse(safety, refusal.clone())));
        }
    }

    /// One stream to one leader, from its opening to its end.
    async fn stream(&mut self, route: &Arc<Route>) -> End {
        // One frame at a time, so that what queues while it is written goes out together in the next.
        let (frames, outgoing) = mpsc::channel(1);
        let mut rpc = route.rpc();
        let opening = rpc.send_stream(request(ReceiverStream::new(outgoing), Some(&self.token)));
        let finder = self.finder.clone();
        let moved = finder.moved(route);
        tokio::pin!(opening, moved);
        let mut results = None;
        let mut heard = Instant::now();
        let mut writable = true;
        loop {
            if self.closed && self.outbox.is_empty() {
                return End::Done;
            }
            let room = !self.closed && self.outbox.has_room();
            let opened = results.is_some();
            tokio::select! {
                // The clock first: under load something else is always ready.
                biased;
                _ = self.tick.tick(), if !self.outbox.is_empty() => {
                    self.expire();
                    if self.outbox.awaits_answers() && heard.elapsed() >= PATIENCE {
                        heard = Instant::now();
                        self.finder.suspect(route);
                    }
                }
                () = &mut moved => return self.lost(None, true),
                response = &mut opening, if !opened => match response {
                    Ok(response) => results = Some(Response::into_inner(response)),
                    Err(status) => return self.ended(route, &status, false),
                },
                frame = next(&mut results), if opened => match frame {
                    Ok(Some(frame)) => {
                        heard = Instant::now();
                        if let Some(end) = self.settle(route, frame) {
                            return end;
                        }
                    }
                    Ok(None) => return self.lost(None, true),
                    Err(status) => return self.ended(route, &status, true),
                },
                count = self.queue.recv_many(&mut self.taken, BATCH), if room => self.took(count),
                permit = frames.reserve(), if writable && self.outbox.can_frame() => match permit {
                    Ok(permit) => {
                        if !self.outbox.awaits_answers() {
                            heard = Instant::now();
                        }
                        permit.send(self.outbox.frame());
                    }
                    // The stream is ending: its status tells why.
                    Err(_) => writable = false,
                },
            }
        }
    }

    /// Hands results to those who wait for them. `Some`: one of them ends the stream.
    fn settle(&mut self, route: &Route, frame: v1::SendStreamResponse) -> Option<End> {
        let mut end = None;
        for tagged in frame.results {
            let outcome = match tagged.result {
                Some(tagged_result::Result::Sent(sent)) => Ok(sent.into()),
                Some(tagged_result::Result::Failure(failure)) => match judge_failure(&failure) {
                    Verdict::Refused(refusal) => Err(refusal),
                    Verdict::Elsewhere { hint, done } => {
                        self.finder.note(&route.address, failure.message);
                        if !done {
                            self.outbox.declined(tagged.tag);
                        }
                        end.get_or_insert(End::Lost(hint));
                        continue;
                    }
                    Verdict::Later(refusal) => {
                        self.outbox.declined(tagged.tag);
                        end.get_or_insert(End::Later(refusal));
                        continue;
                    }
                },
                None => continue,
            };
            let Some(entry) = self.outbox.answered(tagged.tag) else { continue };
            self.failures = 0;
            self.patience = None;
            let outcome = outcome.map_err(|refusal| {
                let tries = Tries { unsure: entry.unsure, patience: None };
                tries.refuse(Safety::Keyed(key_of(&entry.request)), refusal)
            });
            let _ = entry.reply.send(outcome);
        }
        if end.is_some() {
            // Everything after the declined one goes again too, behind it: the order is kept, and what had been
            // carried out meanwhile is answered as a duplicate.
            self.outbox.rewind(true);
        }
        end
    }

    fn lost(&mut self, hint: Option<Hint>, read: bool) -> End {
        self.outbox.rewind(read);
        End::Lost(hint)
    }

    /// The stream ended with `status`. `opened`: it had been accepted before.
    fn ended(&mut self, route: &Route, status: &Status, opened: bool) -> End {
        match judge(status) {
            Verdict::Elsewhere { hint, done } => {
                self.finder.note(&route.address, explain(status));
                self.lost(hint, opened || done)
            }
            Verdict::Later(refusal) => {
                // Nothing was done: of a stream's sends, the first that is declined for now takes all behind it along.
                self.outbox.rewind(false);
                End::Later(refusal)
            }
            Verdict::Refused(refusal) => {
                self.outbox.rewind(opened);
                End::Refused(refusal)
            }
        }
    }
}

/// The key of a request that was made from one.
fn key_of(request: &v1::SendRequest) -> Key {
    Key::from_bytes(request.key.as_ref().try_into().unwrap_or_default())
}

async fn next(
    results: &mut Option<Streaming<v1::SendStreamResponse>>,
) -> Result<Option<v1::SendStreamResponse>, Status> {
    match results {
        Some(results) => results.message().await,
        None => std::future::pending().await,
    }
}
