//! The connection to one replica: HTTP/2 by `h2`, made when the first call wants it, and made anew by the first that finds it gone.
//!
//! tonic's channel, which takes the same calls, hands each to a queue, has a task take it out, and another write its message once the stream
//! is open: two writes, two reads and three wake-ups for a request, where this has one write. Figures are in docs/notebook.md (2026-11-28).

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, select},
};
use h2::{
    Ping, PingPong,
    client::{Connection, SendRequest},
};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_util::io::InspectReader;
use tonic::{
    ConnectError, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response, Uri},
    },
};

use crate::{
    discovery::Address,
    error::system_error,
    exchange::{self, Answer, Answering},
    owner::PROBE_TIMEOUT,
};

/// A connection is asked whether it lives this often, and given up if it does not say so in time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// What may be on its way to one call, and to all of a connection. A page of messages comes in one go.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// So many streams at most before the other side has said how many it allows.
const STREAMS_AT_FIRST: usize = 100;
/// An inbox that nobody reads holds messages of some 60 bytes up to its window. `h2` counts each as 256, and takes 2 MiB of them for an attack.
const SMALL_FRAMES: usize = 64 << 20;
/// So many connections in a row may be gone before they are used.
const ATTEMPTS: u32 = 3;
/// Headers of an answer, with the details of an error in them.
const MOST_HEADERS: u32 = 16 * 1024;

/// `None`: not an address, which is a host, a colon and a port.
pub(crate) fn origin(address: &str) -> Option<Uri> {
    let (host, port) = address.rsplit_once(':')?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return None;
    }
    let uri: Uri = format!("http://{address}").parse().ok()?;
    (uri.path() == "/" && uri.authority().is_some_and(|authority| authority.as_str() == address)).then_some(uri)
}

/// What a connection is made of.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// Where streams are opened. Where the other side allows no more, callers wait here for their turn; of who gives up, only the first in line has a stream that waits.
type Requests = Arc<tokio::sync::Mutex<SendRequest<Bytes>>>;
/// Why there is no connection is told to all who waited for it.
type Making = Shared<BoxFuture<'static, Result<Requests, Arc<io::Error>>>>;

/// Cheap to clone: all clones use one connection, which ends when the last of them, and of the calls, is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Channel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Uri,
    /// The last connection, or one that is being made.
    last: Mutex<Option<Making>>,
}

impl Channel {
    /// Connects when it is first used. `None`: not an [address](origin).
    pub(crate) fn to(address: &Address) -> Option<Self> {
        Some(Self(Arc::new(Inner { origin: origin(address)?, last: Mutex::new(None) })))
    }

    /// The connection, or what makes it.
    fn connection(&self) -> Making {
        let mut last = self.lock();
        match &*last {
            Some(making) if !matches!(making.peek(), Some(Err(_))) => making.clone(),
            _ => last.insert(connect(self.0.origin.clone()).shared()).clone(),
        }
    }

    /// This one is gone: the next call makes another.
    fn forget(&self, gone: &Making) {
        self.lock().take_if(|last| last.ptr_eq(gone));
    }

    /// Nothing in these sections can panic half way, so a poisoned lock holds sound data.
    fn lock(&self) -> MutexGuard<'_, Option<Making>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(self, request: Request<Body>) -> Result<Response<Answer>, Status> {
        let (mut head, body) = request.into_parts();
        head.uri = self.absolute(head.uri)?;
        let answer = self.begin(Request::from_parts(head, ()), body).await;
        answer.map_err(|error| Status::from_error(Box::new(error)))?.await
    }

    /// Opens a stream. Until it is open, nothing was asked for.
    async fn begin(&self, head: Request<()>, body: Body) -> Result<Answering, ConnectError> {
        for _ in 0..ATTEMPTS {
            let making = self.connection();
            let made = making.clone().await;
            let requests =
                made.map_err(|failure| not_connected(io::Error::new(failure.kind(), failure.to_string())))?;
            let mut requests = requests.lock().await;
            if poll_fn(|cx| requests.poll_ready(cx)).await.is_ok() {
                let begun = exchange::begin(&mut requests, head, body).await;
                return begun.map_err(|error| not_connected(exchange::io_error(&error)));
            }
            // The last one is gone, or what was made while nobody waited for it.
            self.forget(&making);
        }
        Err(not_connected(io::Error::new(io::ErrorKind::ConnectionReset, "closed as soon as it was made")))
    }

    fn absolute(&self, uri: Uri) -> Result<Uri, Status> {
        let mut parts = self.0.origin.clone().into_parts();
        parts.path_and_query = uri.into_parts().path_and_query;
        Uri::from_parts(parts).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Answer>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Answer>, Status>>;

    /// Always: who calls waits for the connection.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().call(request).boxed()
    }
}

/// Nothing was asked for yet, which callers can tell by the error's type.
fn not_connected(why: io::Error) -> ConnectError {
    ConnectError(Box::new(why))
}

/// In a task of its own: whoever gives up waiting takes it from nobody.
fn connect(origin: Uri) -> BoxFuture<'static, Result<Requests, Arc<io::Error>>> {
    let made = tokio::spawn(async move { timeout(PROBE_TIMEOUT, dial(origin)).await? });
    async move { made.await.map_err(io::Error::other).flatten().map_err(Arc::new) }.boxed()
}

async fn dial(origin: Uri) -> io::Result<Requests> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // Of several addresses of a name, each has its part of the time.
    connector.set_connect_timeout(Some(PROBE_TIMEOUT));
    let stream: TokioIo<TcpStream> = connector.call(origin).await.map_err(refused)?;
    let requests = shake_hands(stream.into_inner()).await.map_err(|error| exchange::io_error(&error))?;
    Ok(Arc::new(tokio::sync::Mutex::new(requests)))
}

/// The system's own error, where it is one.
fn refused(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    match system_error(&error) {
        Some(system) => io::Error::new(system.kind(), system.to_string()),
        None => io::Error::other(error),
    }
}

pub(crate) async fn shake_hands<T: Io>(stream: T) -> Result<SendRequest<Bytes>, h2::Error> {
    let heard = Arc::new(AtomicBool::new(false));
    let listening = InspectReader::new(stream, {
        let heard = heard.clone();
        move |_: &[u8]| heard.store(true, Ordering::Relaxed)
    });
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEADERS)
        .initial_max_send_streams(STREAMS_AT_FIRST)
        .data_frame_budget(SMALL_FRAMES)
        .handshake(listening);
    let (requests, connection) = handshake.await?;
    tokio::spawn(drive(connection, heard));
    Ok(requests)
}

/// Reads and writes, until nobody uses the connection any more or the other side is gone or silent. What is under way then fails.
async fn drive<T: Io>(mut connection: Connection<T, Bytes>, heard: Arc<AtomicBool>) {
    match connection.ping_pong() {
        Some(pings) => drop(select(connection, pin!(keep_alive(pings, heard))).await),
        None => drop(connection.await),
    }
}

/// Ends when the other side is silent: nothing was `heard`. Whoever is still sending is not: on a slow line, its answer to a ping is behind that.
async fn keep_alive(mut pings: PingPong, heard: Arc<AtomicBool>) {
    loop {
        sleep(KEEP_ALIVE).await;
        if heard.swap(false, Ordering::Relaxed) {
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        loop {
            match timeout(KEEP_ALIVE_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await {
                Ok(Ok(_)) => break,
                Err(_) if heard.swap(false, Ordering::Relaxed) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::{
        net::TcpListener,
        sync::{mpsc, oneshot},
    };
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::error::{Verdict, explain, judge};

    fn request() -> Request<Body> {
        Request::post("/a.Service/Method").body(Body::empty()).expect("a request")
    }

    async fn listener() -> (TcpListener, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        (listener, Channel::to(&address.as_str().into()).expect("an address"))
    }

    /// Answers one call, and closes the connection.
    async fn answer_one(listener: &TcpListener) -> Uri {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut server = h2::server::handshake(stream).await.expect("a handshake");
        let (request, mut respond) = server.accept().await.expect("a request").expect("a sound one");
        respond.send_response(Response::new(()), true).expect("an answer");
        server.graceful_shutdown();
        while server.accept().await.is_some() {}
        request.uri().clone()
    }

    /// Whether the last connection does, as far as is known.
    async fn lives(channel: &Channel) -> bool {
        let requests = channel.connection().await.expect("a connection");
        let mut requests = requests.lock().await;
        poll_fn(|cx| requests.poll_ready(cx)).await.is_ok()
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for address in ["127.0.0.1:7100", "[::1]:7100", "one.example:1"] {
            assert!(origin(address).is_some(), "{address}");
        }
        for none in ["", ":7100", "one", "one:", "one:70000", "http://one:1", "one:1/path", "me@one:1/", "one two:1"] {
            assert!(origin(none).is_none(), "{none}");
        }
    }

    #[tokio::test]
    async fn nothing_was_done_where_nobody_listens() {
        let (listener, channel) = listener().await;
        drop(listener);
        for _ in 0..2 {
            let Err(status) = channel.clone().call(request()).await else { panic!("an answer") };
            assert_eq!(judge(&status), Verdict::Elsewhere { hint: None, done: false });
            assert_eq!(explain(&status), "connection refused");
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_gone_is_made_anew() {
        let (listener, channel) = listener().await;
        for _ in 0..3 {
            let (uri, answer) = tokio::join!(answer_one(&listener), channel.clone().call(request()));
            assert!(answer.is_ok(), "{answer:?}");
            assert_eq!(uri.path(), "/a.Service/Method");
            assert_eq!(uri.authority().map(ToString::to_string), Some(listener.local_addr().unwrap().to_string()));
            // The end of the connection was read by its task.
            while lives(&channel).await {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn who_gives_up_while_a_connection_is_made_takes_it_from_nobody() {
        let (listener, channel) = listener().await;
        let mut gone = channel.clone().call(request()).boxed();
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        let (_, answer) = tokio::join!(answer_one(&listener), channel.call(request()));
        assert!(answer.is_ok(), "{answer:?}");
    }

    #[tokio::test]
    async fn a_lost_connection_leaves_it_open_whether_it_was_done() {
        let (listener, channel) = listener().await;
        let accept = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut server = h2::server::handshake(stream).await.expect("a handshake");
            let _asked = server.accept().await.expect("a request").expect("a sound one");
        };
        let ((), answer) = tokio::join!(accept, channel.call(request()));
        let Err(status) = answer else { panic!("an answer") };
        assert_eq!(judge(&status), Verdict::Elsewhere { hint: None, done: true }, "{status:?}");
    }

    /// Where no more streams are allowed, whoever gives up waiting has asked for nothing.
    #[tokio::test]
    async fn calls_wait_for_their_turn_and_leave_nothing_behind() {
        let (listener, channel) = listener().await;
        let (mut came, mut go_on) = (oneshot::channel(), oneshot::channel());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut server = h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(stream);
            let mut server = (&mut server).await.expect("a handshake");
            let mut asked = Vec::new();
            let (request, mut respond) = server.accept().await.expect("a request").expect("a sound one");
            asked.push(request.uri().path().to_owned());
            came.0.send(()).expect("somebody waits");
            // Until others have come and gone.
            tokio::select! {
                told = &mut go_on.1 => told.expect("no panic"),
                _ = server.accept() => panic!("a second stream"),
            }
            respond.send_response(Response::new(()), true).expect("an answer");
            while let Some(accepted) = server.accept().await {
                let (request, mut respond) = accepted.expect("a sound request");
                asked.push(request.uri().path().to_owned());
                // Who has given up does not wait for it.
                let _ = respond.send_response(Response::new(()), true);
            }
            asked
        });
        let first = tokio::spawn(channel.clone().call(request()));
        (&mut came.1).await.expect("the first");
        let named = |path: &str| Request::post(path).body(Body::empty()).expect("a request");
        for _ in 0..40 {
            let mut gives_up = channel.clone().call(named("/a.Service/GivesUp")).boxed();
            assert!((&mut gives_up).now_or_never().is_none());
        }
        let mut last = channel.clone().call(named("/a.Service/Last")).boxed();
        assert!((&mut last).now_or_never().is_none());
        go_on.0.send(()).expect("the server waits");
        assert!(last.await.is_ok());
        assert!(first.await.expect("no panic").is_ok());
        drop(channel);
        let asked = server.await.expect("no panic");
        assert_eq!(asked.first().map(String::as_str), Some("/a.Service/Method"));
        assert_eq!(asked.last().map(String::as_str), Some("/a.Service/Last"));
        // One of those may have been let in line before the other side had said that it allows one.
        assert!(asked.len() <= 3, "{asked:?}");
    }

    /// `h2` keeps one waker for a stream: that of whoever waits for it to be opened, or of whoever sends on it.
    #[tokio::test]
    async fn a_stream_that_waits_to_be_opened_keeps_nobody_asleep() {
        for stream_parks_last in [true, false] {
            let going_on = goes_on_when_it_is_opened(stream_parks_last);
            timeout(Duration::from_secs(20), going_on).await.expect("somebody sleeps for ever");
        }
    }

    async fn goes_on_when_it_is_opened(stream_parks_last: bool) {
        let (listener, channel) = listener().await;
        let ((came, mut has_come), (go_on, mut goes_on)) = (mpsc::channel(8), mpsc::channel::<()>(1));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut builder = h2::server::Builder::new();
            let mut server =
                builder.max_concurrent_streams(1).handshake::<_, Bytes>(stream).await.expect("a handshake");
            // One at a time, as it allows no more.
            while let Some(accepted) = server.accept().await {
                let (request, mut respond) = accepted.expect("a sound request");
                let (path, mut messages) = (request.uri().path().to_owned(), request.into_body());
                let answering = async {
                    came.send(path.clone()).await.expect("somebody waits");
                    while let Some(message) = messages.data().await {
                        let message = String::from_utf8(message.expect("sound").to_vec()).expect("a word");
                        // A request without messages ends with an empty one.
                        if !message.is_empty() {
                            came.send(message).await.expect("somebody waits");
                        }
                    }
                    if path == "/Held" {
                        goes_on.recv().await.expect("a word");
                    }
                    respond.send_response(Response::new(()), true).expect("an answer");
                };
                tokio::select! {
                    () = answering => {}
                    _ = server.accept() => panic!("a second stream, or none any more"),
                }
            }
        });
        let call = |path: &str, body| channel.clone().call(Request::post(path).body(body).expect("a request"));
        let mut next = async || has_come.recv().await.expect("the server lives");
        // With its answer, it is known that there may be one stream.
        assert!(call("/Known", Body::empty()).await.is_ok());
        assert_eq!(next().await, "/Known");
        let held = tokio::spawn(call("/Held", Body::empty()));
        assert_eq!(next().await, "/Held");

        let (words, messages) = streamed();
        words.send("one").await.expect("room");
        let stream = tokio::spawn(call("/Stream", messages));
        let turns = if stream_parks_last { 0 } else { 10 };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let behind = tokio::spawn(call("/Behind", Body::empty()));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        go_on.send(()).await.expect("the server waits");
        assert_eq!([next().await, next().await], ["/Stream", "one"]);
        // It sleeps in between.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        words.send("two").await.expect("room");
        assert_eq!(next().await, "two");
        drop(words);
        assert_eq!(next().await, "/Behind");
        for call in [held, stream, behind] {
            assert!(call.await.expect("no panic").is_ok());
        }
    }

    /// A request whose messages are sent one after the other.
    fn streamed() -> (mpsc::Sender<&'static str>, Body) {
        let (words, messages) = mpsc::channel(8);
        let messages = ReceiverStream::new(messages).map(|word: &str| Ok::<_, Status>(Frame::data(word.into())));
        (words, Body::new(StreamBody::new(messages)))
    }
}
