//! One call on a connection: the request goes out, its messages as there is room for them, and the answer comes in.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Status,
    body::Body,
    codegen::{
        Body as _,
        http::{Request, Response},
    },
};

/// An answer on its way.
pub(crate) type Answering = BoxFuture<'static, Result<Response<Answer>, Status>>;

/// Opens a stream and sends what is there: a call with one message leaves in one write with it. Whatever comes later is sent by a task, which ends
/// with the answer or with the future that is returned.
///
/// # Errors
/// `h2`'s own, and then nothing was sent.
pub(crate) async fn begin(
    connection: &mut SendRequest<Bytes>,
    head: Request<()>,
    body: Body,
) -> Result<Answering, h2::Error> {
    let (response, stream) = connection.send_request(head, false)?;
    let mut sending = Sending { body, stream, begun: false, held: None };
    let sent = (&mut sending).now_or_never().is_some();
    // Where the other side allows no more streams, this one waits to be opened. `h2` keeps one waker for whoever waits for that and whoever sends on the
    // stream, so nobody sends until then. If it never is, the answer says why.
    let _ = poll_fn(|cx| connection.poll_ready(cx)).await;
    let sender = (!sent).then(|| AbortOnDropHandle::new(tokio::spawn(sending)));
    Ok(answered(response, sender).boxed())
}

async fn answered(response: ResponseFuture, sender: Sender) -> Result<Response<Answer>, Status> {
    let response = response.await.map_err(failed)?;
    Ok(response.map(|stream| Answer { stream, ended: false, _sender: sender }))
}

/// The task that sends, where one is needed: nobody is interested in what it sends once the answer was dropped.
type Sender = Option<AbortOnDropHandle<()>>;

/// Sends a request's messages. It completes when the last is sent, or when there is nobody to send to.
struct Sending {
    body: Body,
    stream: SendStream<Bytes>,
    /// Something was sent: from now on, a message waits for room.
    begun: bool,
    /// The first message, which may be the last and is then marked so; or one that waits for room.
    held: Option<Bytes>,
}

impl Sending {
    /// Waits for room, for a message that is there: room that is asked for ahead is taken from other streams. `false`: the other side wants no more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            if !matches!(ready!(self.stream.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// What is held goes, and is not the last.
    fn let_go(&mut self) -> Result<(), h2::Error> {
        self.held.take().map_or(Ok(()), |held| {
            self.begun = true;
            self.stream.send_data(held, false)
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if self.begun && self.held.is_some() {
                if !ready!(self.poll_room(cx)) {
                    return Poll::Ready(Ok(()));
                }
                self.let_go()?;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.let_go()?;
                    self.held = Some(data);
                }
                Poll::Ready(Some(Err(_))) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(None) => {
                    let last = self.held.take().unwrap_or_default();
                    return Poll::Ready(self.stream.send_data(last, true));
                }
                Poll::Pending => {
                    self.let_go()?;
                    // Room for the next message wakes whoever waits for a reset, behind all that is ready by then, and what they queue goes together: by its
                    // callers alone this would be woken for nearly each message.
                    return self.stream.poll_reset(cx).map_ok(drop);
                }
            }
        }
    }
}

impl Future for Sending {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A stream that has ended says why to whoever waits for the answer.
        self.poll_send(cx).map(drop)
    }
}

/// The messages of an answer, and its trailers.
#[derive(Debug)]
pub(crate) struct Answer {
    stream: RecvStream,
    /// Its messages have: the trailers come.
    ended: bool,
    _sender: Sender,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever takes it has it: the decoder bounds what it keeps.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // A whole answer may come before the request has ended.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(failed(error)))),
                None => self.ended = true,
            }
        }
        ready!(self.stream.poll_trailers(cx))
            .map(|trailers| trailers.map(Frame::trailers))
            .map_err(failed)
            .transpose()
            .into()
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// The stream or its connection is gone; what was asked for may have been done.
fn failed(error: h2::Error) -> Status {
    Status::from_error(Box::new(io_error(&error)))
}

/// Of the system's kind, where the system gave it.
pub(crate) fn io_error(error: &h2::Error) -> io::Error {
    io::Error::new(error.get_io().map_or(io::ErrorKind::Other, io::Error::kind), error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use futures_util::{StreamExt as _, stream};
    use h2::server::SendResponse;
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, split};
    use tokio_stream::wrappers::ReceiverStream;
    use tokio_util::io::InspectWriter;
    use tonic::codegen::http::HeaderMap;

    use super::*;
    use crate::channel::shake_hands;

    type Server = h2::server::Connection<DuplexStream, Bytes>;

    /// A connection, what has been written on it, and its other side.
    async fn connected() -> (SendRequest<Bytes>, Arc<AtomicUsize>, Server) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let near = InspectWriter::new(near, {
            let writes = writes.clone();
            move |_: &[u8]| {
                writes.fetch_add(1, Ordering::Relaxed);
            }
        });
        let (near, far) = tokio::join!(shake_hands(near), h2::server::handshake(far));
        (near.expect("a handshake"), writes, far.expect("a handshake"))
    }

    fn head() -> Request<()> {
        Request::post("http://a:1/a.Service/Method").body(()).expect("a request")
    }

    /// A request of these messages.
    fn body(messages: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Body {
        Body::new(StreamBody::new(messages.map(|data| Ok::<_, Status>(Frame::data(data)))))
    }

    fn one(message: &'static str) -> Body {
        body(stream::iter([Bytes::from_static(message.as_bytes())]))
    }

    /// The next request. The connection goes on in a task of its own.
    async fn accept(mut server: Server) -> (Request<RecvStream>, SendResponse<Bytes>) {
        let accepted = server.accept().await.expect("a request").expect("a sound one");
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        accepted
    }

    async fn ends_cancelled(stream: &mut RecvStream) {
        let end = stream.data().await.expect("no end");
        assert_eq!(end.expect_err("more").reason(), Some(Reason::CANCEL));
    }

    async fn frames(mut answer: Answer) -> Vec<Result<Frame<Bytes>, Status>> {
        let mut frames = Vec::new();
        while let Some(frame) = answer.frame().await {
            frames.push(frame);
            // Nothing else comes then, again and again.
            if frames.last().is_some_and(Result::is_err) {
                break;
            }
        }
        frames
    }

    #[tokio::test]
    async fn a_call_with_one_message_leaves_in_one_write() {
        let (mut connection, writes, mut server) = connected().await;
        let server = tokio::spawn(async move {
            let mut ends = Vec::new();
            while let Some(accepted) = server.accept().await {
                let (request, mut respond) = accepted.expect("a sound request");
                let mut stream = request.into_body();
                assert_eq!(stream.data().await.expect("data").expect("sound"), "hello");
                ends.push(stream.is_end_stream());
                respond.send_response(Response::new(()), true).expect("an answer");
            }
            ends
        });
        let mut before = 0;
        // The first goes with what each side says about itself.
        for _ in 0..3 {
            before = writes.load(Ordering::Relaxed);
            let call = begin(&mut connection, head(), one("hello")).await.expect("a call");
            assert!(frames(call.await.expect("an answer").into_body()).await.is_empty());
        }
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
        drop(connection);
        assert_eq!(server.await.expect("no panic"), [true; 3], "the end comes in a frame of its own");
    }

    #[tokio::test]
    async fn an_answer_has_its_messages_and_its_trailers() {
        let (mut connection, _, server) = connected().await;
        let server = tokio::spawn(async move {
            let (_, mut respond) = accept(server).await;
            let mut stream = respond.send_response(Response::new(()), false).expect("an answer");
            // More than may be on its way at a time.
            (0..40).for_each(|byte| stream.send_data(vec![byte; 100_000].into(), false).expect("a message"));
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().expect("a value"));
            stream.send_trailers(trailers).expect("trailers");
        });
        let call = begin(&mut connection, head(), one("hello")).await.expect("a call");
        let mut frames = frames(call.await.expect("an answer").into_body()).await;
        server.await.expect("no panic");
        let trailers = frames.pop().expect("frames").expect("sound").into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        let data: Vec<_> = frames.into_iter().map(|frame| frame.expect("sound").into_data().expect("data")).collect();
        assert!(data.concat().chunks(100_000).zip(0..40).all(|(chunk, byte)| chunk == vec![byte; 100_000]));
        assert_eq!(data.iter().map(Bytes::len).sum::<usize>(), 4_000_000);
    }

    #[tokio::test]
    async fn messages_are_asked_for_as_there_is_room() {
        let (mut connection, _, mut server) = connected().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let messages = stream::iter(0..100).map(move |byte| {
            counter.fetch_add(1, Ordering::Relaxed);
            Bytes::from(vec![byte; 50_000])
        });
        let call = begin(&mut connection, head(), body(messages)).await.expect("a call");
        let (request, mut respond) = server.accept().await.expect("a request").expect("a sound one");
        let mut stream = request.into_body();
        let answered = tokio::spawn(async move {
            let mut length = 0;
            while let Some(data) = stream.data().await {
                let data = data.expect("sound");
                length += data.len();
                // What was sent, what may be on its way (64 KiB), and one message more, or two of the first.
                let sent = asked.load(Ordering::Relaxed) * 50_000;
                assert!(sent <= length + 65_535 + 150_000, "{sent} bytes were asked for, {length} were taken");
                stream.flow_control().release_capacity(data.len()).expect("it was used");
            }
            respond.send_response(Response::new(()), true).expect("an answer");
            length
        });
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        assert!(call.await.is_ok());
        assert_eq!(answered.await.expect("no panic"), 5_000_000);
    }

    /// So whoever makes the messages keeps their time: a send stream looks at its queue when it is asked.
    #[tokio::test]
    async fn a_message_is_asked_for_though_others_have_all_the_room() {
        let (mut connection, _, mut server) = connected().await;
        let all = stream::iter([Bytes::from(vec![7; 100_000])]).chain(stream::pending());
        let _all = begin(&mut connection, head(), body(all)).await.expect("a call");
        let (words, messages) = tokio::sync::mpsc::channel(1);
        let _call = begin(&mut connection, head(), body(ReceiverStream::new(messages))).await.expect("a call");
        tokio::spawn(async move {
            let mut unread = Vec::new();
            while let Some(accepted) = server.accept().await {
                unread.push(accepted);
            }
        });
        let asked = async {
            for word in ["one", "two", "three"] {
                words.send(Bytes::from(word)).await.expect("it is asked for");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asked).await.expect("the second is never asked for");
    }

    #[tokio::test]
    async fn a_message_leaves_though_the_next_is_not_there() {
        let (mut connection, _, server) = connected().await;
        let messages = stream::iter([Bytes::from_static(b"hello")]).chain(stream::pending());
        let call = begin(&mut connection, head(), body(messages)).await.expect("a call");
        let (request, _respond) = accept(server).await;
        let mut stream = request.into_body();
        assert_eq!(stream.data().await.expect("data").expect("sound"), "hello");
        // Nobody waits for the answer any more, and the request would go on for ever.
        drop(call);
        ends_cancelled(&mut stream).await;
    }

    #[tokio::test]
    async fn an_answer_that_is_dropped_ends_its_request() {
        let (mut connection, _, server) = connected().await;
        let call = begin(&mut connection, head(), body(stream::pending())).await.expect("a call");
        let (request, mut respond) = accept(server).await;
        let _answering = respond.send_response(Response::new(()), false).expect("an answer");
        drop(call.await.expect("an answer"));
        ends_cancelled(&mut request.into_body()).await;
    }

    #[tokio::test]
    async fn whoever_answers_before_the_request_has_ended_may_refuse_the_rest() {
        let (mut connection, _, server) = connected().await;
        let call = begin(&mut connection, head(), body(stream::pending())).await.expect("a call");
        let (_request, mut respond) = accept(server).await;
        let mut answering = respond.send_response(Response::new(()), false).expect("an answer");
        answering.send_data(Bytes::from_static(b"no"), false).expect("a message");
        let answer = call.await.expect("an answer").into_body();
        tokio::spawn(async move {
            tokio::task::yield_now().await;
            answering.send_reset(Reason::NO_ERROR);
        });
        assert!(frames(answer).await.iter().all(Result::is_ok));
    }

    /// A megabyte that takes ten seconds: the answer to a ping would be behind it.
    #[tokio::test(start_paused = true)]
    async fn a_slow_line_is_not_silent() {
        let ((near, line), (far_line, far)) = (tokio::io::duplex(1 << 20), tokio::io::duplex(4 << 20));
        let ((mut from_near, mut to_near), (mut from_far, mut to_far)) = (split(line), split(far_line));
        tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
        tokio::spawn(async move {
            let mut some = vec![0; 10_000];
            while let Ok(length @ 1..) = from_far.read(&mut some).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
                to_near.write_all(&some[..length]).await.expect("written");
            }
        });
        let (connection, server) = tokio::join!(shake_hands(near), h2::server::handshake(far));
        let (mut connection, server) = (connection.expect("a handshake"), server.expect("a handshake"));
        let call = begin(&mut connection, head(), one("hello")).await.expect("a call");
        let (_request, mut respond) = accept(server).await;
        let mut stream = respond.send_response(Response::new(()), false).expect("an answer");
        stream.send_data(vec![7; 1_000_000].into(), true).expect("a message");
        let begun = tokio::time::Instant::now();
        let frames = frames(call.await.expect("an answer").into_body()).await;
        assert!(begun.elapsed() > Duration::from_secs(5), "it was not slow: {:?}", begun.elapsed());
        let length = |frame: Result<Frame<Bytes>, Status>| frame.expect("sound").into_data().expect("data").len();
        assert_eq!(frames.into_iter().map(length).sum::<usize>(), 1_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_other_side_is_silent_is_given_up() {
        let (mut connection, _, mut server) = connected().await;
        let call = begin(&mut connection, head(), one("hello")).await.expect("a call");
        let _request = server.accept().await.expect("a request");
        // From here on it is not polled, so it answers no ping.
        let begun = tokio::time::Instant::now();
        let Err(status) = call.await else { panic!("an answer") };
        assert!(begun.elapsed() <= Duration::from_millis(3600), "after {:?}", begun.elapsed());
        assert!(connection.ready().await.is_err(), "{status:?}");
    }
}
