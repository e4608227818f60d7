//! Writes that belong together leave together.
//!
//! `h2` hands a message of more than some 256 bytes over in a write of its own, behind whatever else is to be written, and asks to have it flushed before it
//! hands over the trailers that end the answer, though they are ready: a system call more for each answer. Here such a write, which is told by its two
//! pieces, waits for the next one, or until the task of the connection is polled again, which is asked for at once.

use bytes::{Buf as _, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Longer writes do not wait: to copy them costs more than a call.
const LONGEST: usize = 20 * 1024;
/// So many pieces of a write leave with what waited; the rest of it is written next.
const PIECES: usize = 4;

/// A connection on which a large write waits for the next.
///
/// A flush is answered before what waits has left; that it leaves is for the next poll of the same task, of reading, writing, flushing or shutting
/// down. So it is only for tasks that do one of these whenever they are polled, as those of HTTP/2 do. What waits is lost with a runtime that ends before.
#[derive(Debug)]
pub struct Gathered<S> {
    stream: S,
    waits: BytesMut,
    /// It has waited for long enough.
    is_due: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// On this connection.
    pub fn new(stream: S) -> Gathered<S> {
        Gathered { stream, waits: BytesMut::new(), is_due: false }
    }

    /// Writes what waits, and as much of `more` as leaves with it: how much that is.
    fn poll_leave(&mut self, cx: &mut Context<'_>, more: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while !self.waits.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            pieces[0] = IoSlice::new(&self.waits);
            for (piece, more) in pieces[1..].iter_mut().zip(more) {
                *piece = IoSlice::new(more);
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_waiting = written.min(self.waits.len());
            self.waits.advance(of_waiting);
            if self.waits.is_empty() {
                // A connection that does nothing keeps no memory for it.
                (self.waits, self.is_due) = (BytesMut::new(), false);
                return Poll::Ready(Ok(written - of_waiting));
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_due
            && let Poll::Ready(left) = self.poll_leave(cx, &[])
        {
            left?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let left_too = ready!(self.poll_leave(cx, bufs))?;
        if left_too > 0 {
            return Poll::Ready(Ok(left_too));
        }
        let bytes = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        if bytes <= LONGEST && bufs.iter().filter(|buf| !buf.is_empty()).count() > 1 {
            self.waits.reserve(bytes);
            bufs.iter().for_each(|buf| self.waits.extend_from_slice(buf));
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waits.is_empty() && !self.is_due {
            self.is_due = true;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_leave(cx, &[]))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(cx, &[]))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl<S: Connected> Connected for Gathered<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    /// Takes what it is told to, call by call, and then everything; `None` is a call that must be made again.
    #[derive(Debug, Default)]
    struct Wire {
        takes: VecDeque<Option<usize>>,
        taken: Vec<u8>,
        calls: usize,
        is_shut: bool,
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let most = match self.takes.pop_front() {
                Some(None) => return Poll::Pending,
                Some(Some(most)) => most,
                None => usize::MAX,
            };
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).take(most).collect();
            self.taken.extend(&all);
            self.calls += 1;
            Poll::Ready(Ok(all.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    const LARGE: [u8; 10_000] = [7; 10_000];
    const SMALL: [u8; 30] = [8; 30];

    /// As `h2` does it: what is large has a piece of its own.
    fn write(stream: &mut Gathered<Wire>, cx: &mut Context<'_>, buf: &[u8]) {
        let head = if buf.len() > 256 { 9 } else { 0 };
        let pieces = [&buf[..head], &buf[head..]].map(IoSlice::new);
        let written = Pin::new(stream).poll_write_vectored(cx, &pieces);
        assert!(matches!(written, Poll::Ready(Ok(all)) if all == buf.len()), "{written:?}");
    }

    fn flush(stream: &mut Gathered<Wire>, cx: &mut Context<'_>) {
        assert!(matches!(Pin::new(stream).poll_flush(cx), Poll::Ready(Ok(()))));
    }

    #[test]
    fn an_answer_and_its_trailers_leave_in_one_call() {
        let (mut stream, waker) = (Gathered::new(Wire::default()), noop_waker());
        let cx = &mut Context::from_waker(&waker);
        write(&mut stream, cx, &LARGE);
        flush(&mut stream, cx);
        write(&mut stream, cx, &SMALL);
        flush(&mut stream, cx);
        assert_eq!((stream.stream.calls, stream.stream.taken.len()), (1, LARGE.len() + SMALL.len()));
        assert!(!stream.is_due && stream.waits.capacity() == 0, "nothing is kept");
    }

    #[test]
    fn what_is_small_does_not_wait() {
        let (mut stream, waker) = (Gathered::new(Wire::default()), noop_waker());
        let cx = &mut Context::from_waker(&waker);
        write(&mut stream, cx, &SMALL);
        assert_eq!(stream.stream.taken, SMALL);
    }

    #[test]
    fn what_nothing_follows_leaves_when_the_task_is_polled_again_and_that_is_asked_for() {
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        for again in ["read", "flush", "shutdown"] {
            let mut stream = Gathered::new(Wire::default());
            write(&mut stream, cx, &LARGE);
            let before = woken.0.load(Ordering::SeqCst);
            flush(&mut stream, cx);
            assert_eq!(woken.0.load(Ordering::SeqCst), before + 1);
            assert!(stream.stream.taken.is_empty());
            match again {
                "read" => assert!(Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_pending()),
                "flush" => flush(&mut stream, cx),
                _ => assert!(Pin::new(&mut stream).poll_shutdown(cx).is_ready() && stream.stream.is_shut),
            }
            assert_eq!(stream.stream.taken, LARGE, "{again}");
        }
    }

    /// What a task of HTTP/2 does with a connection.
    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Flush,
        Read,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write = prop_oneof![1..300usize, 250..260usize, 1000..30_000usize].prop_map(Step::Write);
        prop::collection::vec(prop_oneof![3 => write, 1 => Just(Step::Flush), 1 => Just(Step::Read)], 0..30)
    }

    proptest! {
        #[test]
        fn all_leaves_in_its_order_however_little_the_wire_takes(
            steps in steps(),
            takes in prop::collection::vec(prop::option::of(1..20_000usize), 0..60),
        ) {
            let wire = Wire { takes: takes.into(), ..Wire::default() };
            let (mut stream, waker) = (Gathered::new(wire), noop_waker());
            let cx = &mut Context::from_waker(&waker);
            let mut expected = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Write(bytes) => {
                        let all = vec![number as u8; bytes];
                        let mut left = all.as_slice();
                        while !left.is_empty() {
                            let (head, tail) = left.split_at(left.len() / 3);
                            let pieces = [IoSlice::new(head), IoSlice::new(tail)];
                            if let Poll::Ready(written) = Pin::new(&mut stream).poll_write_vectored(cx, &pieces) {
                                let written = written.expect("it works");
                                prop_assert!(written > 0 && written <= left.len());
                                expected.extend_from_slice(&left[..written]);
                                left = &left[written..];
                            }
                        }
                    }
                    Step::Flush => drop(Pin::new(&mut stream).poll_flush(cx)),
                    Step::Read => drop(Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut [0]))),
                }
            }
            while Pin::new(&mut stream).poll_shutdown(cx).is_pending() {}
            prop_assert_eq!(stream.stream.taken, expected);
        }
    }
}
