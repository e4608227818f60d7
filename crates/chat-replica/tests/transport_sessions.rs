//! Sessions while they last: what goes in comes out, in order, between the right two, and nothing blocks who sends.

mod transport_harness;

use bytes::Bytes;
use chat_proto::ClusterSecret;
use chat_proto::v1::replica_service_client::ReplicaServiceClient;
use chat_proto::v1::{Frame, Welcome};
use chat_replica::protocol::*;
use chat_replica::transport::{Connector, Dialled, Io, Peers, PeersConfig, Tcp, Tuning, wire};
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use transport_harness::*;

async fn pair() -> (Process, Process) {
    let (here, there) = (listener().await, listener().await);
    let mut one = Start::new(member(1, 1)).peer(2, there.local_addr().unwrap()).on(here);
    let mut two = Start::new(member(2, 1)).peer(1, one.address).on(there);
    one.reaches(two.me).await;
    two.reaches(one.me).await;
    (one, two)
}

async fn numbers(process: &mut Process, count: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while (numbers.len() as u64) < count {
        numbers.push(process.until(number).await);
    }
    numbers
}

#[tokio::test]
async fn two_talk_both_ways_in_order() {
    let (mut one, mut two) = pair().await;
    for round in 0..8 {
        let range = round * 500..(round + 1) * 500;
        for n in range.clone() {
            one.sender.send(one.ping(two.me, n));
            two.sender.send(two.ping(one.me, n));
        }
        assert_eq!(numbers(&mut one, 500).await, Vec::from_iter(range.clone()));
        assert_eq!(numbers(&mut two, 500).await, Vec::from_iter(range));
    }
}

#[tokio::test]
async fn large_messages_go_through_whole() {
    let (one, mut two) = pair().await;
    let body = Body::Commands(Bytes::from(vec![42; 3 << 20]));
    let entries: Vec<Entry> =
        (1..=4).map(|n| Entry::chained(ChainHash::default(), n, Epoch::ZERO, body.clone())).collect();
    let message = Message::Append(Append {
        epoch: Epoch::ZERO,
        prev: Place::default(),
        prev_hash: ChainHash::default(),
        entries,
        committed: 0,
    });
    let sent = Envelope { message, ..one.ping(two.me, 0) };
    for _ in 0..4 {
        one.sender.send(sent.clone());
    }
    for _ in 0..4 {
        let came = two.until(|input| if let Input::Receive(e) = input { Some(e.clone()) } else { None }).await;
        assert_eq!(came, sent);
    }
}

/// A driver lets its sessions run for as long as a yield takes, and then blocks on its disk.
#[test]
fn a_yield_puts_what_was_sent_on_the_network() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (driver, test) = (runtime(), runtime());
    let mut two = test.block_on(async { Start::new(member(2, 1)).on(listener().await) });
    let (events, mut received) = mpsc::channel(64);
    let addresses = vec![(two.me.id, two.address.to_string())];
    let (_cluster, watched) = watch::channel(Some(CLUSTER));
    let config = PeersConfig { me: member(1, 1), cluster: watched, addresses, secret: None };
    let (sender, _service) =
        driver.block_on(async { Peers::start(config, events, Arc::new(Tcp), CancellationToken::new()) });
    let up = driver.block_on(async { timeout(LONG, received.recv()).await });
    assert!(matches!(up, Ok(Some(Input::SessionUp { outbound: true, .. }))), "{up:?}");
    for n in 0..100 {
        sender.send(Envelope { from: member(1, 1), ..two.ping(two.me, n) });
        driver.block_on(tokio::task::yield_now());
        assert_eq!(test.block_on(two.until(number)), n, "it came while the driver's runtime stood still");
    }
}

#[tokio::test]
async fn the_dialled_learns_of_the_session_before_its_first_message() {
    let two = listener().await;
    let mut one = Start::new(member(1, 3)).peer(2, two.local_addr().unwrap()).on(listener().await);
    let mut two = Start::new(member(2, 1)).on(two);
    one.reaches(two.me).await;
    one.sender.send(one.ping(two.me, 1));
    let Input::SessionUp { session, peer, outbound: false } = two.next().await else { panic!("no session") };
    assert_eq!(peer, one.me);
    assert_eq!(two.next().await, Input::Receive(one.ping(two.me, 1)));
    one.kill();
    assert_eq!(two.next().await, Input::SessionDown { session, peer: ReplicaId(1) });
}

#[tokio::test]
async fn a_message_for_another_process_run_is_dropped() {
    let (one, mut two) = pair().await;
    one.sender.send(one.ping(member(2, 99), 1));
    one.sender.send(one.ping(member(9, 1), 2));
    one.sender.send(one.ping(two.me, 3));
    assert_eq!(two.until(number).await, 3);
}

#[tokio::test]
async fn a_peer_that_does_not_read_blocks_nobody() {
    let there = listener().await;
    let mut one = Start::new(member(1, 1)).peer(2, there.local_addr().unwrap()).on(listener().await);
    let mut two = Start { room: 1, ..Start::new(member(2, 1)) }.on(there);
    one.reaches(two.me).await;
    // Far more than the network, the windows and the queues hold.
    const SENT: u64 = 400_000;
    for n in 1..=SENT {
        one.sender.send(one.ping(two.me, n));
    }
    // What was sent before the windows filled comes in order; the rest was dropped; then it goes on.
    let (mut last, mut received) = (0, 0);
    let marker = SENT + 1;
    while last < marker {
        one.sender.send(one.ping(two.me, marker));
        let n = two.until(number).await;
        assert!(n >= last, "{n} after {last}");
        (last, received) = (n, received + 1);
    }
    assert!(received < SENT, "nothing was dropped");
}

/// A caller of the tests' own making.
struct Caller {
    frames: mpsc::Sender<Frame>,
    answers: Streaming<Welcome>,
}

impl Caller {
    async fn call(to: SocketAddr) -> Caller {
        let mut client = ReplicaServiceClient::connect(format!("http://{to}")).await.expect("a connection");
        let (frames, queue) = mpsc::channel(16);
        let answers = client.session(ReceiverStream::new(queue)).await.expect("a session").into_inner();
        Caller { frames, answers }
    }

    async fn answer(&mut self) -> Result<Option<Welcome>, Status> {
        timeout(LONG, self.answers.message()).await.expect("an answer")
    }

    async fn say(&self, frame: Frame) {
        self.frames.send(frame).await.expect("a session");
    }
}

/// A replica without a cluster yet: nothing but the secret tells these two apart.
fn with_secret(id: u32, secret: &str) -> Start {
    Start { cluster: None, secret: Some(ClusterSecret::new(secret.as_bytes())), ..Start::new(member(id, 1)) }
}

#[tokio::test]
async fn those_with_one_secret_talk() {
    let (here, there) = (listener().await, listener().await);
    let mut one = with_secret(1, "one and the same").peer(2, there.local_addr().unwrap()).on(here);
    let mut two = with_secret(2, "one and the same").on(there);
    one.reaches(two.me).await;
    one.sender.send(one.ping(two.me, 7));
    assert_eq!(numbers(&mut two, 1).await, [7]);
}

#[tokio::test]
async fn without_the_secret_there_is_no_session_and_nobody_hears_of_it() {
    let mut two = with_secret(2, "the right one").on(listener().await);
    let mut client = ReplicaServiceClient::connect(format!("http://{}", two.address)).await.expect("a connection");
    let forged = wire::encode(Envelope { from: member(1, 1), ..two.ping(two.me, 1) });
    let refused = client.session(tokio_stream::once(forged)).await.expect_err("no secret was sent");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let peer = |start: Start| start.peer(2, two.address);
    let strangers = [peer(Start::new(member(1, 1))), peer(with_secret(1, "another one"))];
    for stranger in strangers {
        let mut stranger = stranger.on(listener().await);
        // Three times silence, and nothing else: no session, no refusal.
        stranger.falls_silent(2).await;
    }
    assert!(two.events.try_recv().is_err(), "none of it was heard");
}

#[tokio::test]
async fn another_clusters_replica_is_refused_and_nobody_hears_of_it() {
    let mut two = Start::new(member(2, 1)).on(listener().await);
    let mut caller = Caller::call(two.address).await;
    let welcome = wire::decode_welcome(caller.answer().await.unwrap().expect("a welcome")).unwrap();
    assert_eq!((welcome.cluster, welcome.from, welcome.refusal), (Some(CLUSTER), two.me, None));
    let stranger = Envelope { cluster: Some(OTHER_CLUSTER), from: member(1, 1), ..two.ping(two.me, 1) };
    caller.say(wire::encode(stranger.clone())).await;
    let refusal = caller.answer().await.unwrap().expect("a refusal").refusal;
    assert!(refusal.contains(&CLUSTER.to_string()) && refusal.contains(&OTHER_CLUSTER.to_string()), "{refusal}");
    assert_eq!(caller.answer().await.unwrap(), None);

    // The next event is that of a caller who belongs here.
    let caller = Caller::call(two.address).await;
    caller.say(wire::encode(Envelope { cluster: None, ..stranger })).await;
    assert!(matches!(two.next().await, Input::SessionUp { outbound: false, .. }));
}

#[tokio::test]
async fn its_own_number_is_refused() {
    let two = Start::new(member(2, 1)).on(listener().await);
    let mut caller = Caller::call(two.address).await;
    caller.answer().await.unwrap();
    caller.say(wire::encode(two.ping(two.me, 1))).await;
    assert!(!caller.answer().await.unwrap().expect("a refusal").refusal.is_empty());
}

#[tokio::test]
async fn a_session_ends_where_its_caller_becomes_another() {
    let mut two = Start::new(member(2, 1)).on(listener().await);
    let mut caller = Caller::call(two.address).await;
    caller.answer().await.unwrap();
    let first = Envelope { from: member(1, 1), ..two.ping(two.me, 1) };
    caller.say(wire::encode(first.clone())).await;
    caller.say(wire::encode(Envelope { from: member(1, 2), ..first.clone() })).await;
    let Input::SessionUp { session, peer, outbound: false } = two.next().await else { panic!("no session") };
    assert_eq!(peer, member(1, 1));
    assert_eq!(two.next().await, Input::Receive(first));
    assert_eq!(two.next().await, Input::SessionDown { session, peer: ReplicaId(1) });
    caller.answer().await.expect_err("the reason");
}

#[tokio::test]
async fn a_frame_that_cannot_be_read_ends_the_session_and_says_why() {
    let mut two = Start::new(member(2, 1)).on(listener().await);
    let mut caller = Caller::call(two.address).await;
    caller.answer().await.unwrap();
    let good = wire::encode(Envelope { from: member(1, 1), ..two.ping(two.me, 1) });
    caller.say(good.clone()).await;
    caller.say(Frame { message: None, ..good }).await;
    let status = caller.answer().await.expect_err("the reason");
    assert_eq!(status.message(), "message is missing");
    two.until(|input| matches!(input, Input::SessionDown { .. }).then_some(())).await;
}

#[tokio::test]
async fn before_the_founding_everybody_meets() {
    let there = listener().await;
    let unfounded = Start { cluster: None, ..Start::new(member(1, 1)) };
    let mut one = unfounded.peer(2, there.local_addr().unwrap()).on(listener().await);
    let two = Start::new(member(2, 1)).on(there);
    one.reaches(two.me).await;
    // Founded elsewhere meanwhile: no session with this one any more.
    one.cluster.send_replace(Some(OTHER_CLUSTER));
    two.shutdown.cancel();
    let address = two.address;
    two.kill();
    one.refused().await;
    let _two = Start::new(member(2, 2)).on(rebind(address, 64));
    one.falls_silent(2).await;
}

#[tokio::test]
async fn shutdown_ends_every_task_and_connection() {
    let (one, mut two) = pair().await;
    one.shutdown.cancel();
    timeout(LONG, one.sender.ended()).await.expect("an end");
    two.until(|input| matches!(input, Input::SessionDown { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_driver_that_is_gone_ends_every_task_and_connection() {
    let (mut one, mut two) = pair().await;
    one.events.close();
    while one.events.try_recv().is_ok() {}
    timeout(LONG, one.sender.ended()).await.expect("an end");
    two.until(|input| matches!(input, Input::SessionDown { .. }).then_some(())).await;
}

/// Connections that a cut leaves half dead: both ends believe in them, and nothing passes, nor is taken.
#[derive(Default)]
struct Cut(Arc<AtomicBool>);

struct Cuttable {
    io: Io,
    cut: Arc<AtomicBool>,
}

impl Connector for Cut {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, std::io::Result<Dialled>> {
        let cut = self.0.clone();
        Box::pin(async move {
            if cut.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            let dialled = Tcp.connect(to).await?;
            Ok(Dialled { io: Box::new(Cuttable { io: dialled.io, cut }), ..dialled })
        })
    }
}

impl AsyncRead for Cuttable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if !self.cut.load(Ordering::SeqCst) {
            return read;
        }
        buf.clear();
        Poll::Pending
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_half_dead_connection_ends_at_both_ends() {
    let soon = Duration::from_millis(50);
    let tuning = Tuning { keepalive_interval: soon, keepalive_timeout: soon, ..short() };
    let cut = Arc::new(Cut::default());
    let there = listener().await;
    let start = Start { tuning: tuning.clone(), connector: cut.clone(), ..Start::new(member(1, 1)) };
    let mut one = start.peer(2, there.local_addr().unwrap()).on(listener().await);
    let mut two = Start { tuning, ..Start::new(member(2, 1)) }.on(there);
    let session = one.reaches(two.me).await;
    one.sender.send(one.ping(two.me, 1));
    assert_eq!(two.until(number).await, 1);
    cut.0.store(true, Ordering::SeqCst);
    one.until(|input| (*input == Input::SessionDown { session, peer: ReplicaId(2) }).then_some(())).await;
    two.until(|input| matches!(input, Input::SessionDown { .. }).then_some(())).await;
    assert_eq!(one.next().await, Input::Unreachable { peer: ReplicaId(2) });
}

#[tokio::test]
async fn a_connection_that_is_stuck_does_not_hold_up_the_end() {
    let never = Duration::from_secs(3600);
    let tuning = Tuning { keepalive_interval: never, keepalive_timeout: never, ..short() };
    let cut = Arc::new(Cut::default());
    let there = listener().await;
    let start = Start { tuning: tuning.clone(), connector: cut.clone(), ..Start::new(member(1, 1)) };
    let mut one = start.peer(2, there.local_addr().unwrap()).on(listener().await);
    let two = Start { tuning, ..Start::new(member(2, 1)) }.on(there);
    one.reaches(two.me).await;
    cut.0.store(true, Ordering::SeqCst);
    for n in 0..1000 {
        one.sender.send(one.ping(two.me, n));
    }
    one.shutdown.cancel();
    timeout(LONG, one.sender.ended()).await.expect("an end");
}
