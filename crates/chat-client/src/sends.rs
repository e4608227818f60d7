//! The send stream of one session: one task, started by the first send. The stream takes what has queued by itself, see [`Line`]; the task
//! matches results by tag, keeps the deadlines, and when the stream ends has everything without an answer sent again, in order, on a
//! stream to the next leader. The bookkeeping is [`Outbox`](crate::outbox::Outbox); this is its I/O.

use std::{sync::Arc, time::Duration};

use chat_proto::v1::{self, tagged_result};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tonic::{Response, Status, Streaming};

use crate::{
    call::{PATIENCE, Safety, Tries, pause, request},
    error::{Error, Hint, Refusal, Verdict, explain, judge, judge_failure},
    line::Line,
    model::{Key, Sent},
    outbox::Entry,
    owner::{Finder, Route, Stale},
    token::Token,
};

/// How exactly deadlines and silence are kept.
const TICK: Duration = Duration::from_millis(50);

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

/// What is not an answer. It happens seldom, so each is looked at only when it has been woken, and not with every answer.
enum News {
    Tick,
    /// By the line.
    Called,
    /// Another leads.
    Moved,
}

fn tick() -> BoxFuture<'static, News> {
    sleep(TICK).map(|()| News::Tick).boxed()
}

pub(crate) struct SendTask {
    finder: Finder,
    token: Token,
    line: Arc<Line<Reply>>,
    /// Answers of the last frame, on their way out of the lock.
    told: Vec<(Entry<Reply>, Result<Sent, Refusal>)>,
    patience: Option<Refusal>,
    /// Streams in a row that answered nothing.
    failures: u32,
}

impl SendTask {
    /// The queue of a new task, which ends when the last sender is dropped and everything is answered.
    pub(crate) fn spawn(finder: Finder, token: Token, capacity: usize) -> mpsc::Sender<Entry<Reply>> {
        let (sender, line) = Line::new(capacity);
        let task = Self { finder, token, line, told: Vec::new(), patience: None, failures: 0 };
        tokio::spawn(task.run());
        sender
    }

    async fn run(mut self) {
        let mut stale = Stale::default();
        while self.line.filled().await {
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

    /// Completes `work`, while new sends are taken over and old ones expire. `None`: nothing waits any more.
    async fn keep_house_during<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                never = self.line.fill() => match never {},
                () = sleep(TICK) => self.expire(),
            }
            if self.line.lock().outbox.is_empty() {
                return None;
            }
        }
    }

    fn expire(&mut self) {
        let expired = self.line.lock().expired(Instant::now());
        for entry in expired {
            let safety = Safety::Keyed(key_of(&entry.request));
            let tries = Tries { unsure: entry.unsure, patience: self.patience.clone() };
            // Whoever dropped the future of its send does not wait for the result.
            let _ = entry.reply.send(Err(tries.expire(safety, &self.finder)));
        }
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        let refused: Vec<_> = self.line.lock().outbox.drain().collect();
        for entry in refused {
            let safety = Safety::Keyed(key_of(&entry.request));
            let tries = Tries { unsure: entry.unsure, patience: None };
            let _ = entry.reply.send(Err(tries.refuse(safety, refusal.clone())));
        }
    }

    /// One stream to one leader, from its opening to its end.
    async fn stream(&mut self, route: &Arc<Route>) -> End {
        let mut rpc = route.rpc();
        let opening = rpc.send_stream(request(self.line.frames(), Some(&self.token)));
        tokio::pin!(opening);
        let mut news = self.news(route);
        let mut ticking = true;
        let mut results = None;
        loop {
            let opened = results.is_some();
            tokio::select! {
                // The clock first: under load something else is always ready.
                biased;
                Some(what) = news.next() => match what {
                    News::Tick => {
                        self.expire();
                        self.listen(route);
                        // Until it is open, nobody might write, and so call.
                        ticking = !(opened && self.line.lock().sleep());
                        news.extend(ticking.then(tick));
                    }
                    News::Called => {
                        news.push(self.call());
                        news.extend((!ticking).then(tick));
                        ticking = true;
                    }
                    News::Moved => return self.lost(None, true),
                },
                response = &mut opening, if !opened => match response {
                    Ok(response) => results = Some(Response::into_inner(response)),
                    Err(status) => return self.ended(route, &status, false),
                },
                frame = next(&mut results), if opened => match frame {
                    Ok(Some(frame)) => {
                        if let Some(end) = self.settle(route, frame) {
                            return end;
                        }
                        continue;
                    }
                    Ok(None) => return self.lost(None, true),
                    Err(status) => return self.ended(route, &status, true),
                },
            }
            if self.line.lock().is_done() {
                self.line.lock().rewind(false);
                return End::Done;
            }
        }
    }

    /// What is waited for besides answers while a stream lasts.
    fn news(&self, route: &Arc<Route>) -> FuturesUnordered<BoxFuture<'static, News>> {
        let (finder, route) = (self.finder.clone(), route.clone());
        let moved = async move {
            finder.moved(&route).await;
            News::Moved
        };
        [tick(), self.call(), moved.boxed()].into_iter().collect()
    }

    fn call(&self) -> BoxFuture<'static, News> {
        let line = self.line.clone();
        let called = async move {
            line.called().await;
            News::Called
        };
        called.boxed()
    }

    /// Has the leader suspected if it owes answers and is silent.
    fn listen(&self, route: &Route) {
        let mut state = self.line.lock();
        if !state.outbox.is_empty() && state.heard.elapsed() >= PATIENCE {
            state.heard = Instant::now();
            self.finder.suspect(route);
        }
    }

    /// Hands results to those who wait for them. `Some`: the stream ends.
    fn settle(&mut self, route: &Route, frame: v1::SendStreamResponse) -> Option<End> {
        let end = self.sort(route, frame);
        for (entry, outcome) in self.told.drain(..) {
            let outcome = outcome.map_err(|refusal| {
                let tries = Tries { unsure: entry.unsure, patience: None };
                tries.refuse(Safety::Keyed(key_of(&entry.request)), refusal)
            });
            let _ = entry.reply.send(outcome);
        }
        end
    }

    /// Takes what results are for out of the outbox. `Some`: the stream ends.
    fn sort(&mut self, route: &Route, frame: v1::SendStreamResponse) -> Option<End> {
        let mut end = None;
        let mut state = self.line.lock();
        state.heard = Instant::now();
        for tagged in frame.results {
            let outcome = match tagged.result {
                Some(tagged_result::Result::Sent(sent)) => Ok(sent.into()),
                Some(tagged_result::Result::Failure(failure)) => match judge_failure(&failure) {
                    Verdict::Refused(refusal) => Err(refusal),
                    Verdict::Elsewhere { hint, done } => {
                        self.finder.note(&route.address, failure.message);
                        if !done {
                            state.outbox.declined(tagged.tag);
                        }
                        end.get_or_insert(End::Lost(hint));
                        continue;
                    }
                    Verdict::Later(refusal) => {
                        state.outbox.declined(tagged.tag);
                        end.get_or_insert(End::Later(refusal));
                        continue;
                    }
                },
                None => continue,
            };
            let Some(entry) = state.outbox.answered(tagged.tag) else { continue };
            self.failures = 0;
            self.patience = None;
            self.told.push((entry, outcome));
        }
        let end = end.or_else(|| state.is_done().then_some(End::Done));
        if end.is_some() {
            // Everything after the declined one goes again too, behind it: the order is kept, and what had been
            // carried out meanwhile is answered as a duplicate.
            state.rewind(true);
        } else {
            state.make_room_known();
        }
        end
    }

    fn lost(&self, hint: Option<Hint>, read: bool) -> End {
        self.line.lock().rewind(read);
        End::Lost(hint)
    }

    /// The stream ended with `status`. `opened`: it had been accepted before.
    fn ended(&self, route: &Route, status: &Status, opened: bool) -> End {
        match judge(status) {
            Verdict::Elsewhere { hint, done } => {
                self.finder.note(&route.address, explain(status));
                self.lost(hint, opened || done)
            }
            Verdict::Later(refusal) => {
                // Nothing was done: of a stream's sends, the first that is declined for now takes all behind it along.
                self.line.lock().rewind(false);
                End::Later(refusal)
            }
            Verdict::Refused(refusal) => {
                self.line.lock().rewind(opened);
                End::Refused(refusal)
            }
        }
    }
}

/// Where its runtime ends before the session does, nobody else would give answers, or keep deadlines.
impl Drop for SendTask {
    fn drop(&mut self) {
        self.line.end();
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
