//! A connection and the place that it has, which is free again where the connection ends; and its way to the runtime that it is to live on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Where connections leave the runtime that accepted them, each with its place.
pub type Entrance<P> = mpsc::Sender<(std::net::TcpStream, P)>;

/// A line in which so many connections wait at most. What comes out of it is to be polled on the runtime that they are to live on.
pub fn line<P: Send>(room: usize) -> (Entrance<P>, impl Stream<Item = io::Result<Placed<P>>> + Send) {
    let (entrance, exit) = mpsc::channel(room);
    let connections = ReceiverStream::new(exit).filter_map(|(stream, place)| {
        let here = TcpStream::from_std(stream).inspect_err(lost);
        here.ok().map(|stream| Ok(Placed { stream, _place: place }))
    });
    (entrance, connections)
}

/// Says that a connection could not leave one runtime, or arrive at another.
pub fn lost(error: &io::Error) {
    tracing::warn!(%error, "a connection was lost as it was accepted");
}

/// A connection with its place `P`, which is dropped with it.
#[derive(Debug)]
pub struct Placed<P> {
    stream: TcpStream,
    _place: P,
}

#[cfg(test)]
impl<P> Placed<P> {
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

impl<P: Unpin> AsyncRead for Placed<P> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<P: Unpin> AsyncWrite for Placed<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<P> Connected for Placed<P> {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
