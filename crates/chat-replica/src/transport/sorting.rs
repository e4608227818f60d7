//! Which thread a connection's bytes come in on: a peer's on the driver's, where they are waited for; all others on the server's.
//!
//! A connection belongs to the runtime that polls it from its first byte on, so who it is has to be seen before any of them is read. A peer's says so in the
//! settings that HTTP/2 begins with: its window is [`PEER_WINDOW`], which nobody else would think of. That is a hint and no more. Both
//! runtimes offer the same services, so whoever is taken for another is only served more slowly.

use super::Incoming;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

/// How many bytes may come in unread on a stream that a peer dials. Odd, so that it is known again.
pub(super) const PEER_WINDOW: u32 = (8 << 20) + 1;
/// Whoever has said nothing for so long is no peer.
const FIRST_WORDS: Duration = Duration::from_secs(1);
/// Connections that wait for their server to take them at most.
const LINE: usize = 64;
/// What a connection begins with: the preface, and the header of a frame of settings (RFC 9113, sections 3.4 and 4.1).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const SETTINGS_FRAME: u8 = 4;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What is accepted, sorted: the connections of peers, which are to be polled on the runtime that they are to live on, and all others.
pub fn sorted(
    incoming: Incoming,
) -> (impl Stream<Item = io::Result<TcpStream>> + Send, impl Stream<Item = io::Result<TcpStream>> + Send) {
    let ((peers, of_peers), (others, of_others)) = (mpsc::channel(LINE), mpsc::channel(LINE));
    tokio::spawn(sort_all(incoming, peers, others));
    let of_peers = ReceiverStream::new(of_peers).filter_map(|stream| {
        let here = TcpStream::from_std(stream);
        here.inspect_err(|error| tracing::warn!(%error, "a peer's connection was lost")).ok().map(Ok)
    });
    (of_peers, ReceiverStream::new(of_others).map(Ok))
}

/// Ends when nobody takes connections any more.
async fn sort_all(mut incoming: Incoming, peers: mpsc::Sender<std::net::TcpStream>, others: mpsc::Sender<TcpStream>) {
    let closed = others.clone();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = closed.closed() => return,
        };
        if let Some(Ok(stream)) = accepted {
            tokio::spawn(sort(stream, peers.clone(), others.clone()));
        }
    }
}

async fn sort(stream: TcpStream, peers: mpsc::Sender<std::net::TcpStream>, others: mpsc::Sender<TcpStream>) {
    let is_peer = timeout(FIRST_WORDS, begins_as_a_peers(&stream)).await;
    if is_peer.is_ok_and(|is_peer| is_peer)
        // A driver that has ended takes nobody: the server says so to the peer.
        && let Ok(place) = peers.reserve().await
    {
        match stream.into_std() {
            Ok(stream) => place.send(stream),
            Err(error) => tracing::warn!(%error, "a peer's connection was lost"),
        }
        return;
    }
    let _ = others.send(stream).await;
}

async fn begins_as_a_peers(stream: &TcpStream) -> bool {
    let mut begin = [0; 128];
    let read = stream.peek(&mut begin).await.unwrap_or(0);
    window(&begin[..read]) == Some(PEER_WINDOW)
}

/// The window that the settings at the beginning of a connection ask for, if they are there and whole.
fn window(begin: &[u8]) -> Option<u32> {
    let frame = begin.strip_prefix(PREFACE)?;
    let (header, rest) = frame.split_at_checked(FRAME_HEADER)?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    let settings = rest.get(..length).filter(|_| header[3] == SETTINGS_FRAME)?;
    let number = |setting: &[u8]| Some(u32::from_be_bytes(setting.get(2..)?.try_into().ok()?));
    settings.chunks(6).find(|setting| setting.starts_with(&INITIAL_WINDOW_SIZE.to_be_bytes())).and_then(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(window(&begin(&[(2, 0), (4, PEER_WINDOW), (5, 16384)])), Some(PEER_WINDOW));
        assert_eq!(window(&begin(&[(2, 0), (4, 65535)])), Some(65535));
        assert_eq!(window(&begin(&[(2, 0)])), None);
        assert_eq!(window(b"GET / HTTP/1.1\r\n\r\n"), None);
        let whole = begin(&[(4, PEER_WINDOW)]);
        assert!((0..whole.len()).all(|cut| window(&whole[..cut]).is_none()), "half of it says nothing");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(rest in prop::collection::vec(any::<u8>(), 0..60)) {
            window(&rest);
            window(&[PREFACE, &rest].concat());
        }
    }

    /// Both kinds are told apart by what their clients really send, and each connection is whole afterwards.
    #[tokio::test]
    async fn a_peers_connection_is_told_from_a_clients() {
        use hyper_util::rt::TokioIo;
        use std::sync::Arc;
        use tonic::transport::Endpoint;
        let listener = Arc::new(tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port"));
        let address = listener.local_addr().expect("bound");
        let (peers, others) = sorted(Incoming::new(listener));
        let (mut peers, mut others) = (Box::pin(peers), Box::pin(others));
        let dial = |window: Option<u32>| async move {
            let connector = tower::service_fn(move |_: tonic::transport::Uri| async move {
                TcpStream::connect(address).await.map(TokioIo::new)
            });
            let endpoint = Endpoint::from_static("http://replica").initial_stream_window_size(window);
            endpoint.connect_with_connector(connector).await.expect("connected")
        };
        for (window, is_peer) in [(Some(PEER_WINDOW), true), (None, false), (Some(1 << 20), false)] {
            let _channel = dial(window).await;
            let accepted = tokio::select! {
                accepted = peers.next() => (accepted, true),
                accepted = others.next() => (accepted, false),
            };
            let (Some(Ok(stream)), as_peer) = accepted else { panic!("nobody came with {window:?}") };
            assert_eq!(as_peer, is_peer, "with {window:?}");
            let mut first = [0; 3];
            assert_eq!(stream.peek(&mut first).await.expect("readable"), 3);
            assert_eq!(&first, b"PRI");
        }
        drop(peers);
        let _channel = dial(Some(PEER_WINDOW)).await;
        assert!(others.next().await.is_some(), "where no driver takes peers, the server does");
    }
}
