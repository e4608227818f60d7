//! Many sends in flight on one stream.
//!
//! The stream is bound to one epoch: what follows a send that was declined must not be carried out before that send comes again. So
//! sends go into the driver's line one after the other without waiting for answers, in one row, and the first answer that is not the log's ends
//! the stream. Answers leave in the order of the sends, as many in one frame as there are.

use super::context::RpcContext;
use super::errors::Fault;
use super::leadership::Term;
use super::{auth, convert};
use crate::handle::{Declined, Done, Row};
use chat_core::{Rejection, TokenHash};
use chat_proto::v1::{self, tagged_result};
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt as _};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;
use tonic::{Request, Status, Streaming};

/// How many sends of one stream may be without a result: beyond, the stream is not read.
const IN_FLIGHT: usize = 1024;
/// How many bytes of text they may have, about.
const IN_FLIGHT_BYTES: usize = 4 << 20;

type Frame = Result<v1::SendStreamResponse, Status>;

pub(super) async fn open(
    context: Arc<RpcContext>,
    request: Request<Streaming<v1::SendStreamRequest>>,
) -> Result<impl Stream<Item = Frame> + Send + 'static, Fault> {
    let session = auth::bearer(request.metadata())?;
    let term = context.term().await?;
    context.authenticate(session).await?;
    let sends = Box::new(Sends {
        session,
        row: Row::new(term.epoch()),
        ending: ending(term, context.clone()),
        context,
        revoked: false,
        inbound: Some(request.into_inner()),
        frame: Vec::new().into_iter(),
        in_flight: VecDeque::new(),
        bytes: 0,
        end: None,
    });
    // In a box: it goes into each frame's future and out of it again.
    Ok(stream::unfold(sends, |mut sends| async { sends.next().await.map(|frame| (frame, sends)) }))
}

/// Why a stream must end though its client goes on, once that is so. It is asked with every message and answers once, so it must cost nothing to
/// ask: this looks at what it holds only when that has been woken, and waits in the same place all the time.
type Ending = FuturesUnordered<BoxFuture<'static, Declined>>;

fn ending(mut term: Term, context: Arc<RpcContext>) -> Ending {
    let end = async move {
        tokio::select! {
            biased;
            () = term.over() => Declined::NotServing,
            () = context.shutdown() => Declined::Stopped,
        }
    };
    FuturesUnordered::from_iter([end.boxed()])
}

/// One stream of sends.
struct Sends {
    context: Arc<RpcContext>,
    session: TokenHash,
    ending: Ending,
    row: Row,
    /// The session is not valid any more, and will not be: its sends need no entry in the log to fail.
    revoked: bool,
    /// `None` once the client has sent everything.
    inbound: Option<Streaming<v1::SendStreamRequest>>,
    /// What is left of the frame that was read last.
    frame: std::vec::IntoIter<v1::TaggedSend>,
    /// In the order in which they were sent.
    in_flight: VecDeque<InFlight>,
    /// Of text, in flight.
    bytes: usize,
    end: Option<End>,
}

/// How the stream ends, when all results before have left.
enum End {
    With(Status),
    Ended,
}

struct InFlight {
    tag: u64,
    bytes: usize,
    answer: Answer,
}

/// What became of a send.
enum Answer {
    /// It was not worth the log's while.
    Refused(Rejection),
    Awaited(oneshot::Receiver<Result<Done, Declined>>),
    Here(Result<Done, Declined>),
}

impl Sends {
    /// The next frame of results; after an error, nothing.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            let results = self.results();
            if !results.is_empty() {
                return Some(Ok(v1::SendStreamResponse { results }));
            }
            match self.end.replace(End::Ended) {
                Some(End::With(status)) => return Some(Err(status)),
                Some(End::Ended) => return None,
                None => self.end = None,
            }
            if self.inbound.is_none() && self.frame.len() == 0 && self.in_flight.is_empty() {
                return None;
            }
            self.proceed().await;
        }
    }

    /// The results that have come, in order, up to the first that has not.
    fn results(&mut self) -> Vec<v1::TaggedResult> {
        let mut results = Vec::new();
        while let Some(InFlight { tag, bytes, answer }) = self.in_flight.pop_front() {
            let answer = match answer {
                Answer::Awaited(mut receiver) => match receiver.try_recv() {
                    Ok(answer) => Answer::Here(answer),
                    Err(oneshot::error::TryRecvError::Empty) => {
                        self.in_flight.push_front(InFlight { tag, bytes, answer: Answer::Awaited(receiver) });
                        break;
                    }
                    Err(oneshot::error::TryRecvError::Closed) => Answer::Here(Err(Declined::Unknown)),
                },
                here => here,
            };
            self.bytes -= bytes;
            let result = match answer {
                Answer::Refused(rejection) => Err(rejection.into()),
                Answer::Here(Ok(done)) => self.result(done),
                Answer::Here(Err(declined)) => {
                    self.decline(declined);
                    break;
                }
                Answer::Awaited(_) => break,
            };
            let result = match result {
                Ok(sent) => tagged_result::Result::Sent(sent),
                Err(fault) => tagged_result::Result::Failure(Fault::into_failure(fault)),
            };
            results.push(v1::TaggedResult { tag, result: Some(result) });
        }
        results
    }

    fn result(&mut self, done: Done) -> Result<v1::SendResponse, Fault> {
        if done.result == Err(Rejection::SessionInvalid) {
            self.context.sessions.forget(&self.session);
            self.revoked = true;
        }
        let sent = convert::sent(&done.result?, done.copies);
        sent.ok_or_else(|| Fault::internal("the outcome of another request came back"))
    }

    /// Ends the stream; what is in flight gets no result.
    fn decline(&mut self, why: Declined) {
        self.finish(End::With(self.context.declined(why).into()));
    }

    fn finish(&mut self, end: End) {
        self.inbound = None;
        self.frame = Vec::new().into_iter();
        self.in_flight.clear();
        self.bytes = 0;
        self.end.get_or_insert(end);
    }

    /// Waits until there may be a result: sends what was read, then waits for an answer or the next frame.
    async fn proceed(&mut self) {
        while self.has_room()
            && let Some(send) = self.frame.next()
        {
            if let Err(why) = self.submit(send).await {
                return self.decline(why);
            }
        }
        let room = self.has_room();
        let crowd = self.in_flight.len() > 1;
        let first = self.in_flight.front_mut();
        tokio::select! {
            biased;
            true = arrival(first) => {
                if crowd {
                    // The answers of one batch are given one after the other: let that come to its end.
                    tokio::task::yield_now().await;
                }
            }
            frame = read(&mut self.inbound), if room => match frame {
                Ok(Some(frame)) => self.frame = frame.sends.into_iter(),
                Ok(None) => self.inbound = None,
                // The client has gone, or sent what cannot be read.
                Err(status) => self.finish(End::With(status)),
            },
            Some(why) = self.ending.next() => self.decline(why),
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT && self.bytes < IN_FLIGHT_BYTES
    }

    async fn submit(&mut self, send: v1::TaggedSend) -> Result<(), Declined> {
        let v1::TaggedSend { tag, send } = send;
        let send = send.unwrap_or_default();
        let bytes = send.text.len();
        let answer = match convert::send(send, self.session) {
            Err(rejection) => Answer::Refused(rejection),
            Ok(_) if self.revoked => Answer::Refused(Rejection::SessionInvalid),
            Ok(command) => {
                let row = Some(self.row.clone());
                tokio::select! {
                    biased;
                    submitted = self.context.handle.submit(command, row) => Answer::Awaited(submitted?),
                    Some(why) = self.ending.next() => return Err(why),
                }
            }
        };
        self.bytes += bytes;
        self.in_flight.push_back(InFlight { tag, bytes, answer });
        Ok(())
    }
}

/// Waits until the first in flight has its answer, and keeps it there; `false` if there is none to wait for. Cancel safe.
async fn arrival(first: Option<&mut InFlight>) -> bool {
    let Some(InFlight { answer, .. }) = first else { return false };
    if let Answer::Awaited(receiver) = answer {
        let arrived = receiver.await.unwrap_or(Err(Declined::Unknown));
        *answer = Answer::Here(arrived);
    }
    true
}

/// The next frame; never returns once there are no more. Cancel safe.
async fn read(inbound: &mut Option<Streaming<v1::SendStreamRequest>>) -> Result<Option<v1::SendStreamRequest>, Status> {
    match inbound {
        Some(inbound) => inbound.message().await,
        None => std::future::pending().await,
    }
}
