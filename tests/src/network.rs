//! Links between replicas that can fall silent, one direction at a time, or lie: refuse as if nobody listened.

use chat_replica::transport::{Connector, Dialled, Io};
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

#[derive(Debug, Default)]
struct State {
    /// (from, to): nothing gets through, and nobody is told.
    cuts: BTreeSet<(u32, u32)>,
    /// (from, to): dials are refused, though the other end lives, and connections break.
    forged: BTreeSet<(u32, u32)>,
    waiting: Vec<Waker>,
}

/// The network between the replicas of one cluster.
#[derive(Debug)]
pub(crate) struct Network {
    replicas: BTreeMap<SocketAddr, u32>,
    state: Mutex<State>,
}

impl Network {
    pub fn new(replicas: BTreeMap<SocketAddr, u32>) -> Arc<Network> {
        Arc::new(Network { replicas, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cut(&self, from: u32, to: u32) {
        self.state().cuts.insert((from, to));
    }

    pub fn forge_refusals(&self, from: u32, to: u32) {
        let mut state = self.state();
        state.forged.insert((from, to));
        state.waiting.drain(..).for_each(Waker::wake);
    }

    pub fn heal(&self) {
        let mut state = self.state();
        state.cuts.clear();
        state.forged.clear();
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether refusals are forged where `from` dials `to`. Wakes the task when that changes.
    fn poll_forged(&self, from: u32, to: u32, context: &Context<'_>) -> bool {
        let mut state = self.state();
        state.watch(context);
        state.forged.contains(&(from, to))
    }

    /// Ready unless the direction is cut.
    fn poll_open(&self, from: u32, to: u32, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.cuts.contains(&(from, to)) {
            return Poll::Ready(());
        }
        state.watch(context);
        Poll::Pending
    }
}

impl State {
    fn watch(&mut self, context: &Context<'_>) {
        if !self.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            self.waiting.push(context.waker().clone());
        }
    }
}

/// Dials for one replica.
#[derive(Debug)]
pub(crate) struct Dialler {
    pub network: Arc<Network>,
    pub me: u32,
}

impl Connector for Dialler {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Dialled>> {
        let (network, from) = (self.network.clone(), self.me);
        let peer = network.replicas.get(&to).copied().unwrap_or_default();
        Box::pin(async move {
            // A handshake needs both directions.
            std::future::poll_fn(|context| network.poll_open(from, peer, context)).await;
            std::future::poll_fn(|context| network.poll_open(peer, from, context)).await;
            if std::future::poll_fn(|context| Poll::Ready(network.poll_forged(from, peer, context))).await {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let (local, other) = (stream.local_addr()?, stream.peer_addr()?);
            let io: Io = Box::new(Link { network, from, to: peer, stream });
            Ok(Dialled { io, local, peer: other })
        })
    }
}

/// A connection that stands still while its link is cut. What was written before arrives when the link is healed, as with TCP.
struct Link {
    network: Arc<Network>,
    from: u32,
    to: u32,
    stream: TcpStream,
}

/// Goes on only where the link carries this direction.
macro_rules! open {
    ($link:expr, $from:expr, $to:expr, $context:expr) => {
        if $link.network.poll_forged($link.from, $link.to, $context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if $link.network.poll_open($from, $to, $context).is_pending() {
            return Poll::Pending;
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        open!(self, self.to, self.from, context);
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        open!(self, self.from, self.to, context);
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
