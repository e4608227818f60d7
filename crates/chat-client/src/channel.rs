//! The connection to one replica: HTTP/2 by `h2`, made when the first call wants it, and made anew by the first that finds it gone.
//!
//! tonic's channel, which takes the same calls, hands each to a queue, has a task take it out, and another write its message once the stream
//! is open: two writes, two reads and three wake-ups for a request, where this has one write. Figures are in docs/notebook.md (2026-11-28).

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
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
use tonic::{
    ConnectError, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response, Uri, uri::PathAndQuery},
    },
};

use crate::{discovery::Address, exchange, exchange::Answer};

/// For a connection to be made.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection is asked whether it lives this often, and given up if it does not say so in time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// What may be on its way to one call, and to all of a connection. A page of messages comes in one go.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
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

/// Why there is no connection; all who waited for it are told.
type Failure = Arc<io::Error>;
type Making = Shared<BoxFuture<'static, Result<SendRequest<Bytes>, Failure>>>;

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

    /// The connection, made if there is none that lives.
    async fn connection(&self) -> Result<SendRequest<Bytes>, ConnectError> {
        // What was made while nobody waited for it may be gone again.
        for _ in 0..3 {
            match self.last() {
                Ok(connection) => return Ok(connection),
                Err(making) => drop(making.await.map_err(|failure| not_connected(failure.kind(), &*failure))?),
            }
        }
        Err(not_connected(io::ErrorKind::ConnectionReset, &"closed as soon as it was made"))
    }

    /// The connection if there is one, or else what makes it.
    fn last(&self) -> Result<SendRequest<Bytes>, Making> {
        // Nothing in here can panic half way, so a poisoned lock holds sound data.
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(making) = &*last {
            match making.peek() {
                None => return Err(making.clone()),
                Some(Ok(connection)) => {
                    if let Some(Ok(living)) = connection.clone().ready().now_or_never() {
                        return Ok(living);
                    }
                }
                Some(Err(_)) => {}
            }
        }
        Err(last.insert(connect(self.0.origin.clone()).shared()).clone())
    }

    async fn call(self, request: Request<Body>) -> Result<Response<Answer>, Status> {
        let connection = self.connection().await.map_err(|error| Status::from_error(Box::new(error)))?;
        let (mut head, body) = request.into_parts();
        head.uri = self.absolute(head.uri)?;
        exchange::begin(connection, Request::from_parts(head, ()), body)?.await
    }

    fn absolute(&self, uri: Uri) -> Result<Uri, Status> {
        let mut parts = self.0.origin.clone().into_parts();
        parts.path_and_query = uri.into_parts().path_and_query.or(Some(PathAndQuery::from_static("/")));
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
fn not_connected(kind: io::ErrorKind, why: &dyn std::fmt::Display) -> ConnectError {
    ConnectError(Box::new(io::Error::new(kind, why.to_string())))
}

/// In a task of its own: whoever gives up waiting takes it from nobody.
fn connect(origin: Uri) -> BoxFuture<'static, Result<SendRequest<Bytes>, Failure>> {
    let made = tokio::spawn(async move {
        match timeout(CONNECT_TIMEOUT, dial(origin)).await {
            Ok(made) => made,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    });
    async move { made.await.map_err(io::Error::other).flatten().map_err(Arc::new) }.boxed()
}

async fn dial(origin: Uri) -> io::Result<SendRequest<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // Of several addresses of a name, each has its part of the time.
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let stream: TokioIo<TcpStream> = connector.call(origin).await.map_err(refused)?;
    shake_hands(stream.into_inner()).await.map_err(|error| {
        let kind = error.get_io().map_or(io::ErrorKind::Other, io::Error::kind);
        io::Error::new(kind, error.to_string())
    })
}

pub(crate) async fn shake_hands<T: Io>(stream: T) -> Result<SendRequest<Bytes>, h2::Error> {
    let handshake = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MOST_HEADERS)
        .handshake(stream);
    let (requests, connection) = handshake.await?;
    tokio::spawn(drive(connection));
    Ok(requests)
}

/// The system's own error, where it is one.
fn refused(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let mut sources = std::iter::successors(error.source(), |error| error.source());
    match sources.find_map(|source| source.downcast_ref::<io::Error>()) {
        Some(system) => io::Error::new(system.kind(), system.to_string()),
        None => io::Error::other(error),
    }
}

/// Reads and writes, until nobody uses the connection any more or the other side is gone or silent. What is under way then fails.
async fn drive<T: Io>(mut connection: Connection<T, Bytes>) {
    match connection.ping_pong() {
        Some(pings) => drop(select(connection, pin!(keep_alive(pings))).await),
        None => drop(connection.await),
    }
}

/// Ends when the other side is silent.
async fn keep_alive(mut pings: PingPong) {
    loop {
        sleep(KEEP_ALIVE).await;
        let Ok(Ok(_)) = timeout(KEEP_ALIVE_TIMEOUT, pings.ping(Ping::opaque())).await else { return };
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

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
            while channel.last().is_ok() {
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
}
