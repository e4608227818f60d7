//! Accepting connections without owning the listener.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

/// How long to wait where accepting fails for want of file handles or memory: asking again at once would only spin.
const WANT: Duration = Duration::from_millis(50);

/// The connections of a listener, for `serve_with_incoming*`. It never ends and never yields an error.
///
/// tonic drops what it accepts from as soon as it drains, and with a stream that owns the listener this would close it
/// under a living process: a refusal that proves nothing (rule 8). This one shares the listener; the process keeps the
/// other half until it exits.
pub struct Incoming {
    listener: Arc<TcpListener>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// Accepts from `listener`. Only one at a time may do so.
    pub fn new(listener: Arc<TcpListener>) -> Incoming {
        Incoming { listener, pause: None }
    }

    fn take(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<TcpStream> {
        match accepted {
            Ok((stream, from)) => {
                // Without it small messages wait for acknowledgements; a connection where it fails is gone already.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%from, %error, "a connection broke as it was accepted");
                    return None;
                }
                Some(stream)
            }
            Err(error) if is_about_one_connection(&error) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                self.pause = Some(Box::pin(sleep(WANT)));
                None
            }
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(error.kind(), ConnectionAborted | ConnectionReset | BrokenPipe | Interrupted | TimedOut)
}

impl Stream for Incoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let accepted = ready!(self.listener.poll_accept(cx));
            if let Some(stream) = self.take(accepted) {
                return Poll::Ready(Some(Ok(stream)));
            }
        }
    }
}
