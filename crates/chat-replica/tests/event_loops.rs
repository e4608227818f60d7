//! Clients whose connections live on threads of their own.

#[allow(dead_code, reason = "every test file uses its own part of it")]
mod rpc_harness;

use chat_replica::server::EventLoops;
use rpc_harness::{User, alone_on, dial, soon, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// More than there are event loops, so that each has some.
const CLIENTS: usize = 9;
/// Of HTTP/2 (RFC 9113, section 4.1): three bytes of length, the type, and five that do not matter here.
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

#[tokio::test]
async fn all_are_answered_and_delivered_to_wherever_they_are_served() {
    let replica = alone_on(EventLoops::threads().unwrap()).await;
    let bob = User::new(&replica, "bob").await;
    let mut inbox = bob.inbox(Some(0)).await.unwrap();
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let bob = bob.by(dial(&replica.server).await);
        senders.spawn(async move {
            for _ in 0..20 {
                bob.send(text("bob", "from one of many threads")).await.unwrap();
            }
        });
    }
    soon(async { while senders.join_next().await.is_some_and(|sent| sent.is_ok()) {} }).await;
    assert!(senders.is_empty(), "one of them failed");
    let seqs: Vec<u64> = inbox.messages(20 * CLIENTS).await.iter().map(|message| message.seq).collect();
    assert_eq!(seqs, (1..=20 * CLIENTS as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn connections_end_with_the_event_loops() {
    let replica = alone_on(EventLoops::threads().unwrap()).await;
    let mut connection = TcpStream::connect(replica.server.address()).await.unwrap();
    // The preface of HTTP/2, and settings that say nothing.
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; FRAME_HEADER];
    soon(connection.read_exact(&mut frame)).await.unwrap();
    assert_eq!(frame[3], SETTINGS, "it is served");
    let mut said = vec![0; usize::from(frame[2])];
    soon(connection.read_exact(&mut said)).await.unwrap();
    replica.server.kill();
    // Whoever answers pings is never taken for dead: it ends with the loops, or not at all.
    while soon(connection.read_exact(&mut frame)).await.is_ok() {
        said.resize(usize::from(frame[2]), 0);
        soon(connection.read_exact(&mut said)).await.unwrap();
        if frame[3] == PING {
            frame[4] |= ACK;
            // It may end in between.
            let _ = connection.write_all(&[&frame[..], &said].concat()).await;
        }
    }
}
