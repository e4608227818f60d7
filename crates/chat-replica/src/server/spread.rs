//! Which event loop a client's connection lives on: the one that has the fewest.

use crate::transport::{self, Entrance, Gathered, Placed, lost};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_stream::{Stream, StreamExt as _};

/// Connections that wait for one event loop to take them at most.
const LINE: usize = 64;

/// As many clones of it exist as an event loop has connections, and one.
type Live = Arc<()>;

/// The way to one event loop.
pub(super) struct Line {
    entrance: Entrance<Live>,
    live: Live,
}

/// A line, and what comes out of it, which is to be polled on its event loop.
pub(super) fn line() -> (Line, impl Stream<Item = io::Result<Gathered<Placed<Live>>>> + Send) {
    let (entrance, connections) = transport::line(LINE);
    (Line { entrance, live: Arc::default() }, connections.map(|connection| connection.map(Gathered::new)))
}

/// Puts each connection in one of these lines, until there are no more.
pub(super) async fn spread(connections: impl Stream<Item = io::Result<TcpStream>>, mut lines: Vec<Line>) {
    let mut connections = std::pin::pin!(connections);
    while let Some(accepted) = connections.next().await {
        // An event loop that has ended serves nobody any more.
        lines.retain(|line| !line.entrance.is_closed());
        // One that takes nobody at the moment holds up nobody else; where none does, they wait.
        let key = |line: &&Line| (line.entrance.capacity() == 0, Arc::strong_count(&line.live));
        let Some(line) = lines.iter().min_by_key(key) else { return };
        if let Ok(stream) = accepted.and_then(TcpStream::into_std).inspect_err(lost) {
            let _ = line.entrance.send((stream, line.live.clone())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    async fn connections(count: usize) -> (Vec<TcpStream>, Vec<io::Result<TcpStream>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mut dialled, mut accepted) = (Vec::new(), Vec::new());
        for _ in 0..count {
            dialled.push(TcpStream::connect(address).await.expect("connected"));
            accepted.push(listener.accept().await.map(|(stream, _)| stream));
        }
        (dialled, accepted)
    }

    #[tokio::test]
    async fn each_connection_goes_where_the_fewest_live() {
        let (_dialled, mut accepted) = connections(9).await;
        let later = accepted.split_off(6);
        let ((first, of_first), (second, of_second)) = (line(), line());
        let (mut of_first, mut of_second) = (Box::pin(of_first), Box::pin(of_second));
        let (more, connections) = mpsc::unbounded_channel();
        let spreading = tokio::spawn(async move {
            let connections = tokio_stream::wrappers::UnboundedReceiverStream::new(connections);
            spread(connections, vec![first, second]).await;
        });
        accepted.into_iter().for_each(|stream| more.send(stream).expect("it runs"));
        let mut placed = Vec::new();
        for _ in 0..3 {
            placed.push(of_first.next().await.expect("half of them").expect("connected"));
            drop(of_second.next().await.expect("half of them").expect("connected"));
        }
        later.into_iter().for_each(|stream| more.send(stream).expect("it runs"));
        for _ in 0..3 {
            placed.push(of_second.next().await.expect("it has none left, the first three").expect("connected"));
        }
        drop(more);
        assert!(of_first.next().await.is_none(), "it has three already");
        spreading.await.expect("it ends when there are no more");
    }

    #[tokio::test]
    async fn a_loop_that_has_ended_gets_nobody() {
        let (_dialled, accepted) = connections(6).await;
        let ((ended, gone), (goes_on, of_it)) = (line(), line());
        drop(gone);
        spread(tokio_stream::iter(accepted), vec![ended, goes_on]).await;
        assert_eq!(of_it.collect::<Vec<_>>().await.len(), 6);
    }

    #[tokio::test]
    async fn a_loop_that_takes_nobody_holds_nobody_up() {
        let (_dialled, accepted) = connections(2 * LINE + 1).await;
        let ((stands_still, of_it), (goes_on, of_the_other)) = (line(), line());
        // It has many, so that the one that stands still seems to have room for more.
        let held: Vec<Live> = (0..2 * LINE).map(|_| goes_on.live.clone()).collect();
        let taken = tokio::spawn(of_the_other.collect::<Vec<_>>());
        spread(tokio_stream::iter(accepted), vec![stands_still, goes_on]).await;
        assert_eq!(of_it.collect::<Vec<_>>().await.len(), LINE, "as many as wait there at most");
        assert_eq!(taken.await.expect("no panic").len(), LINE + 1);
        drop(held);
    }
}
