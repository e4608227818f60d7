//! Live delivery: a mailbox from a position on. One task per [`Inbox`] keeps the stream, so that silence is noticed
//! also while the caller is busy; when the stream is lost it goes on after the last message that it has passed on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chat_proto::v1;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Response, Streaming};

use crate::{
    call::{pause, request},
    error::{Error, Hint, Verdict, explain, judge},
    model::Message,
    owner::{Finder, Route, Stale},
    token::Token,
};

/// A stream that is silent for this long is dead: the service sends something at least every 2 s.
const SILENCE: Duration = Duration::from_secs(5);
/// A leader that is silent for this long is suspected.
const SUSPICIOUS: Duration = Duration::from_millis(2500);
/// Messages that wait for the caller.
const BUFFER: usize = 256;

/// The messages of one mailbox, in order, from a position on and then live. Made by
/// [`Session::inbox`](crate::Session::inbox); dropping it ends the stream.
///
/// It never ends by itself: when the leader dies it goes on with the next one, without a gap and without a repetition.
/// Receiving a message does not acknowledge it: what was not acknowledged comes again in the next `inbox()`.
pub struct Inbox {
    messages: mpsc::Receiver<Result<Message, Error>>,
    last: Arc<AtomicU64>,
    ended: Option<Error>,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("buffered", &self.buffered()).field("last", &self.last()).finish_non_exhaustive()
    }
}

impl Inbox {
    pub(crate) fn start(finder: Finder, token: Token, after: Option<u64>) -> Self {
        let (passed_on, messages) = mpsc::channel(BUFFER);
        let last = Arc::new(AtomicU64::new(0));
        let task = InboxTask { finder, token, position: after, passed_on, last: last.clone(), failures: 0 };
        tokio::spawn(task.run());
        Self { messages, last, ended: None }
    }

    /// The next message: its `seq` is one above that of the message before it. Waits for as long as there is none.
    ///
    /// # Errors
    /// [`Error::Refused`] when the session ends or its account is deleted; the same again for every later call.
    /// Losing the leader is no error.
    ///
    /// # Cancellation safety
    /// Safe: dropping the future loses nothing.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = chat_testkit::Cluster::builder().replicas(1).start().await; let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// # client.register("ann", "correct horse").await?;
    /// let session = client.log_in("ann", "correct horse").await?;
    /// session.send("ann", "note to self").await?;
    /// let mut inbox = session.inbox();
    /// let message = inbox.next().await?;
    /// assert_eq!((message.seq, message.text.as_str()), (1, "note to self"));
    /// session.acknowledge(message.seq).await?;
    /// # Ok(()) }
    /// ```
    pub async fn next(&mut self) -> Result<Message, Error> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let received = self.messages.recv().await.unwrap_or_else(|| {
            // The task ends without a word only when its runtime does.
            Err(Error::Usage("the runtime of this client has been shut down".to_owned()))
        });
        if let Err(error) = &received {
            self.ended = Some(error.clone());
        }
        received
    }

    /// How many messages [`next`](Self::next) would return without waiting: 0 to 256.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.messages.len()
    }

    /// The highest `seq` in the mailbox that the service has told of; 0 before it has told of any.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

struct InboxTask {
    finder: Finder,
    token: Token,
    /// The last `seq` that was passed on; `None` before the first, where the service's delivered mark decides.
    position: Option<u64>,
    passed_on: mpsc::Sender<Result<Message, Error>>,
    last: Arc<AtomicU64>,
    failures: u32,
}

/// Why a stream was left.
enum Left {
    /// The caller dropped the inbox.
    Unwanted,
    Lost(Option<Hint>),
    /// The same leader again, later.
    Later,
    Refused(Error),
}

impl InboxTask {
    async fn run(mut self) {
        let mut stale = Stale::default();
        let passed_on = self.passed_on.clone();
        loop {
            let deadline = Instant::now() + Duration::from_secs(3600);
            let failures = self.failures;
            let finder = self.finder.clone();
            let way = async {
                pause(failures, deadline).await;
                finder.route(&stale, deadline).await
            };
            let route = tokio::select! {
                route = way => route,
                () = passed_on.closed() => return,
            };
            let Some(route) = route else { continue };
            let left = tokio::select! {
                left = self.follow(&route) => left,
                () = passed_on.closed() => Left::Unwanted,
                () = finder.moved(&route) => Left::Lost(None),
            };
            match left {
                Left::Unwanted => return,
                Left::Lost(hint) => stale = Stale { generation: route.generation, hint },
                Left::Later => {}
                Left::Refused(error) => {
                    let _ = self.passed_on.send(Err(error)).await;
                    return;
                }
            }
            self.failures += 1;
        }
    }

    /// Passes on what one stream brings, until it is lost. Cancelled, it has passed on all up to `position`.
    async fn follow(&mut self, route: &Route) -> Left {
        let mut rpc = route.rpc();
        let asked = request(v1::InboxRequest { after: self.position }, Some(&self.token));
        let mut stream = match timeout(SILENCE, rpc.inbox(asked)).await {
            Ok(Ok(response)) => Response::into_inner(response),
            Ok(Err(status)) => return self.left(route, &status),
            Err(_) => return Left::Lost(None),
        };
        loop {
            let frame = match self.heard(route, &mut stream).await {
                Ok(frame) => frame,
                Err(left) => return left,
            };
            self.last.fetch_max(frame.last, Ordering::Relaxed);
            for message in frame.messages {
                match self.position.map(|position| message.seq.cmp(&(position + 1))) {
                    // Passed on already.
                    Some(std::cmp::Ordering::Less) => continue,
                    // Something is missing: ask for it again.
                    Some(std::cmp::Ordering::Greater) => return Left::Lost(None),
                    Some(std::cmp::Ordering::Equal) | None => {}
                }
                // The place first: between taking a place and moving the position nothing can be cancelled.
                let Ok(place) = self.passed_on.reserve().await else { return Left::Unwanted };
                self.position = Some(message.seq);
                place.send(Ok(message.into()));
            }
            self.failures = 0;
        }
    }

    /// The next frame, within the time that the service promises.
    async fn heard(&self, route: &Route, stream: &mut Streaming<v1::InboxResponse>) -> Result<v1::InboxResponse, Left> {
        let mut frame = timeout(SUSPICIOUS, stream.message()).await;
        if frame.is_err() {
            self.finder.suspect(route);
            frame = timeout(SILENCE - SUSPICIOUS, stream.message()).await;
        }
        match frame {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) | Err(_) => Err(Left::Lost(None)),
            Ok(Err(status)) => Err(self.left(route, &status)),
        }
    }

    fn left(&self, route: &Route, status: &tonic::Status) -> Left {
        match judge(status) {
            Verdict::Elsewhere { hint, .. } => {
                self.finder.note(&route.address, explain(status));
                Left::Lost(hint)
            }
            Verdict::Later(_) => Left::Later,
            Verdict::Refused(refusal) => Left::Refused(Error::Refused(refusal)),
        }
    }
}
