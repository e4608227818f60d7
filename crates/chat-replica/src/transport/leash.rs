//! A connection that ends with what it belongs to.

use super::connect::Io;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

/// tonic drives a dialled connection in a task that it spawns itself, and lets it linger to flush what is queued. On this
/// leash the connection fails as soon as `held` is cancelled, so that task ends and the socket closes; until that has
/// happened, the tracker counts it.
pub(super) struct Leash {
    io: Io,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _counted: TaskTrackerToken,
}

impl Leash {
    pub fn new(io: Io, held: CancellationToken, counted: TaskTrackerToken) -> Leash {
        Leash { io, cut: Box::pin(held.cancelled_owned()), _counted: counted }
    }

    /// The connection, unless it was cut; whoever waits for it is woken by the cut, too, whichever way it is stuck.
    fn held(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut Io>> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(Pin::new(&mut self.io)),
        }
    }
}

impl AsyncRead for Leash {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.held(cx)?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Leash {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.held(cx)?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held(cx)?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.held(cx)?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
