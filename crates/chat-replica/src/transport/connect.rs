//! How a TCP connection to a peer is made, and what must be true of it before it counts.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a session runs over.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection of whatever kind.
pub type Io = Box<dyn Duplex>;

/// A connection that was made.
pub struct Dialled {
    /// It.
    pub io: Io,
    /// This end's address.
    pub local: SocketAddr,
    /// The other end's address, as the connection itself tells it.
    pub peer: SocketAddr,
}

impl Dialled {
    /// A socket that is not connected to the address that was dialled, or is connected to itself (an ephemeral port can
    /// be), says nothing about a peer: silence (rule 8).
    pub(super) fn verified(self, to: SocketAddr) -> io::Result<Io> {
        if self.peer != to {
            return Err(io::Error::other(format!("dialled {to}, connected to {}", self.peer)));
        }
        if self.local == self.peer {
            return Err(io::Error::other(format!("dialled {to}, connected to itself")));
        }
        Ok(self.io)
    }
}

/// Makes connections. An error of kind [`io::ErrorKind::ConnectionRefused`] means that `to` itself refused (rule 8): an
/// implementation that cannot be sure returns another kind.
pub trait Connector: Send + Sync + 'static {
    /// Dials a numeric address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Dialled>>;
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Connector for Tcp {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Dialled>> {
        async move {
            let stream = TcpStream::connect(to).await?;
            // Only the connect itself may say 'refused'; what fails on a connection that was made is something else.
            let after = |error: io::Error| io::Error::other(format!("connected to {to}, then: {error}"));
            stream.set_nodelay(true).map_err(after)?;
            let (local, peer) = (stream.local_addr().map_err(after)?, stream.peer_addr().map_err(after)?);
            Ok(Dialled { io: Box::new(stream), local, peer })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialled(local: &str, peer: &str) -> Dialled {
        Dialled { io: Box::new(tokio::io::empty()), local: local.parse().unwrap(), peer: peer.parse().unwrap() }
    }

    #[test]
    fn only_a_connection_to_the_dialled_address_and_not_to_itself_counts() {
        let to = "127.0.0.1:7101".parse().unwrap();
        assert!(dialled("127.0.0.1:40000", "127.0.0.1:7101").verified(to).is_ok());
        for wrong in [dialled("127.0.0.1:7101", "127.0.0.1:7101"), dialled("127.0.0.1:40000", "127.0.0.2:7101")] {
            let error = wrong.verified(to).err().expect("not verified");
            assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
