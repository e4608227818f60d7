//! Which thread a connection's bytes come in on: a peer's on the driver's, where they are waited for; all others on the server's.
//!
//! A connection belongs to the runtime that polls it from its first byte on, so who it is has to be seen before any of them is read. A peer's says so in the
//! settings that HTTP/2 begins with: its window is [`PEER_WINDOW`], which nobody else would think of. That is a hint and no more: the server takes sessions,
//! too, from peers of another version and where there are too many. Whoever lies gets nothing on the driver's thread but the service of sessions, and
//! shares a few places with all who do.

use super::{Entrance, Incoming, Placed, line, lost};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

/// How many bytes may come in unread on a stream that a peer dials. Odd, so that it is known again.
pub(super) const PEER_WINDOW: u32 = (8 << 20) + 1;
/// So many connections at most live on the driver's thread: some for each peer, as one that broke may not be known to yet.
const PLACES: usize = 16;
/// Whoever has said nothing for so long is no peer.
const FIRST_WORDS: Duration = Duration::from_secs(1);
/// The settings come in a packet of their own, a few microseconds after the preface: so many looks without a pause, and then some with one.
const LOOKS: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// Connections that wait for the server to take them at most.
const LINE: usize = 64;
/// What a connection begins with: the preface, and the header of a frame of settings (RFC 9113, sections 3.4 and 4.1).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const SETTINGS_FRAME: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// So much of it is looked at: a peer has three or four settings, of six bytes each.
const BEGIN: usize = 128;

/// What is accepted, sorted: the connections of peers, which are to be polled on the runtime that they are to live on, and all others.
pub fn sorted(
    incoming: Incoming,
) -> (
    impl Stream<Item = io::Result<Placed<OwnedSemaphorePermit>>> + Send,
    impl Stream<Item = io::Result<TcpStream>> + Send,
) {
    let ((peers, of_peers), (others, of_others)) = (line(PLACES), mpsc::channel(LINE));
    tokio::spawn(sort_all(incoming, peers, others));
    (of_peers, ReceiverStream::new(of_others).map(Ok))
}

type Peers = Entrance<OwnedSemaphorePermit>;

/// Ends when nobody takes connections any more.
async fn sort_all(mut incoming: Incoming, peers: Peers, others: mpsc::Sender<TcpStream>) {
    let places = Arc::new(Semaphore::new(PLACES));
    let closed = others.clone();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = closed.closed() => return,
        };
        if let Some(Ok(stream)) = accepted {
            tokio::spawn(sort(stream, places.clone(), peers.clone(), others.clone()));
        }
    }
}

async fn sort(stream: TcpStream, places: Arc<Semaphore>, peers: Peers, others: mpsc::Sender<TcpStream>) {
    let is_peers = timeout(FIRST_WORDS, begins_as_a_peers(&stream)).await.unwrap_or(false);
    // A driver that has ended takes nobody: the server says so to the peer.
    if is_peers
        && !peers.is_closed()
        && let Ok(place) = places.try_acquire_owned()
    {
        if let Ok(stream) = stream.into_std().inspect_err(lost) {
            // There is room for all that have places.
            let _ = peers.try_send((stream, place));
        }
    } else {
        let _ = others.send(stream).await;
    }
}

async fn begins_as_a_peers(stream: &TcpStream) -> bool {
    let mut begin = [0; BEGIN];
    let mut looks = 0;
    loop {
        let read = stream.peek(&mut begin).await.unwrap_or(0);
        match is_peers(&begin[..read]) {
            Some(is_peers) => return is_peers,
            // It has ended.
            None if read == 0 => return false,
            None if looks < LOOKS => yield_now().await,
            None => sleep(PAUSE).await,
        }
        looks += 1;
    }
}

/// Whether a connection that begins so is a peer's. `None`: more of it must be seen.
fn is_peers(begin: &[u8]) -> Option<bool> {
    let (seen, preface) = begin.split_at(begin.len().min(PREFACE.len()));
    if !PREFACE.starts_with(seen) {
        return Some(false);
    }
    let (header, rest) = preface.split_at_checked(FRAME_HEADER)?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    if header[3] != SETTINGS_FRAME || length > BEGIN - PREFACE.len() - FRAME_HEADER {
        return Some(false);
    }
    let window = [INITIAL_WINDOW_SIZE.to_be_bytes().as_slice(), &PEER_WINDOW.to_be_bytes()].concat();
    Some(rest.get(..length)?.chunks(6).any(|setting| setting == window))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt as _;
    use tonic::transport::{Channel, Endpoint};

    fn begin(settings: &[(u16, u32)]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend([0, 0, 6 * settings.len() as u8, SETTINGS_FRAME, 0, 0, 0, 0, 0]);
        for (which, value) in settings {
            bytes.extend(which.to_be_bytes());
            bytes.extend(value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_window_is_found_among_the_settings() {
        assert_eq!(is_peers(&begin(&[(2, 0), (4, PEER_WINDOW), (5, 16384)])), Some(true));
        assert_eq!(is_peers(&begin(&[(2, 0), (4, 65535)])), Some(false));
        assert_eq!(is_peers(&begin(&[(2, 0)])), Some(false));
        assert_eq!(is_peers(b"GET / HTTP/1.1\r\n\r\n"), Some(false));
        let whole = begin(&[(4, PEER_WINDOW)]);
        assert!((0..whole.len()).all(|cut| is_peers(&whole[..cut]).is_none()), "half of it says nothing");
        let long = begin(&[(5, 16384); 30]);
        assert_eq!(is_peers(&long[..BEGIN]), Some(false), "nobody waits for what is never looked at");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in prop::collection::vec(any::<u8>(), 0..BEGIN)) {
            is_peers(&rest);
            let whole = [PREFACE, &rest].concat();
            let seen = is_peers(&whole[..whole.len().min(BEGIN)]);
            prop_assert!(seen.is_some() || whole.len() < BEGIN, "it would look at this for ever");
        }
    }

    async fn listening() -> (SocketAddr, Incoming) {
        let listener = Arc::new(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        (listener.local_addr().expect("bound"), Incoming::new(listener))
    }

    async fn dial(address: SocketAddr, window: Option<u32>) -> Channel {
        let connector = tower::service_fn(move |_: tonic::transport::Uri| async move {
            TcpStream::connect(address).await.map(hyper_util::rt::TokioIo::new)
        });
        let endpoint = Endpoint::from_static("http://replica").initial_stream_window_size(window);
        endpoint.connect_with_connector(connector).await.expect("connected")
    }

    /// Both kinds are told apart by what their clients really send, and each connection is whole afterwards.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peers_connection_is_told_from_a_clients() {
        let (address, incoming) = listening().await;
        let (peers, others) = sorted(incoming);
        let (mut peers, mut others) = (Box::pin(peers), Box::pin(others));
        for (window, is_peer) in [(Some(PEER_WINDOW), true), (None, false), (Some(1 << 20), false)].repeat(20) {
            let _channel = dial(address, window).await;
            let (stream, as_peer) = tokio::select! {
                Some(Ok(placed)) = peers.next() => (placed.into_stream(), true),
                Some(Ok(stream)) = others.next() => (stream, false),
            };
            assert_eq!(as_peer, is_peer, "with {window:?}");
            let mut first = [0; 3];
            assert_eq!(stream.peek(&mut first).await.expect("readable"), 3);
            assert_eq!(&first, b"PRI");
        }
        drop(peers);
        let _channel = dial(address, Some(PEER_WINDOW)).await;
        assert!(others.next().await.is_some(), "where no driver takes peers, the server does");
    }

    #[tokio::test]
    async fn settings_that_come_late_are_waited_for() {
        let (address, mut incoming) = listening().await;
        let mut dialled = TcpStream::connect(address).await.expect("connected");
        dialled.set_nodelay(true).expect("set");
        let accepted = incoming.next().await.expect("it never ends").expect("it never fails");
        let mut begins = std::pin::pin!(begins_as_a_peers(&accepted));
        for part in begin(&[(4, PEER_WINDOW)]).chunks(13) {
            assert!((&mut begins).now_or_never().is_none(), "not all is there");
            dialled.write_all(part).await.expect("sent");
        }
        assert!(begins.await);
    }

    #[tokio::test]
    async fn there_are_a_few_places_and_whoever_goes_leaves_one() {
        let (address, incoming) = listening().await;
        let (peers, others) = sorted(incoming);
        let (mut peers, mut others) = (Box::pin(peers), Box::pin(others));
        let mut placed = Vec::new();
        for _ in 0..PLACES {
            placed
                .push((dial(address, Some(PEER_WINDOW)).await, peers.next().await.expect("a place").expect("a peer")));
        }
        let _channel = dial(address, Some(PEER_WINDOW)).await;
        assert!(others.next().await.is_some(), "the server takes who has no place");
        placed.pop();
        let _channel = dial(address, Some(PEER_WINDOW)).await;
        assert!(peers.next().await.is_some());
    }
}
