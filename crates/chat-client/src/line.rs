//! The line from a session's callers to its stream, between three who meet in it: callers queue, the request of the stream takes
//! frames by itself ([`Frames`]), and the session's task keeps the time and the answers.
//!
//! ```text
//! callers ──▶ queue ──▶ Outbox ──frames──▶ request of the stream
//!                         ▲────answers, deadlines, the stream's end──── the session's task
//! ```
//!
//! So a send wakes whoever writes it to the connection, and nobody else. While there is no stream, the task takes over what queues.
//! Nobody waits within the lock, and answers are given outside of it.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use chat_proto::v1;
use futures_util::Stream;
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TryRecvError},
    },
    time::Instant,
};

use crate::outbox::{Entry, Outbox};

/// Most sends taken over at a time.
const BATCH: usize = 1024;

#[derive(Debug)]
pub(crate) struct Line<R> {
    state: Mutex<State<R>>,
    /// For the task: it was asleep, or there will be no more sends.
    called: Notify,
}

/// What the task and the stream share.
#[derive(Debug)]
pub(crate) struct State<R> {
    queue: mpsc::Receiver<Entry<R>>,
    /// Nobody can queue any more.
    closed: bool,
    pub(crate) outbox: Outbox<R>,
    taken: Vec<Entry<R>>,
    /// Counts streams: frames are for the last one only.
    stream: u64,
    /// Whoever writes the frames, since it found none.
    writer: Option<Waker>,
    /// It waits for room, not for the queue.
    blocked: bool,
    /// When the other side was heard last, or something began to wait for it.
    pub(crate) heard: Instant,
    /// The task keeps no time until it is called.
    asleep: bool,
}

impl<R> Line<R> {
    /// With the queue that callers put their sends in.
    pub(crate) fn new(capacity: usize) -> (mpsc::Sender<Entry<R>>, Arc<Self>) {
        let (sender, queue) = mpsc::channel(capacity);
        let state = State {
            queue,
            closed: false,
            outbox: Outbox::new(),
            taken: Vec::new(),
            stream: 0,
            writer: None,
            blocked: false,
            heard: Instant::now(),
            asleep: false,
        };
        (sender, Arc::new(Self { state: Mutex::new(state), called: Notify::new() }))
    }

    /// Nothing in these sections can panic half way, so a poisoned lock holds sound data.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frames of a new stream. Those of an earlier one end.
    pub(crate) fn frames(self: &Arc<Self>) -> Frames<R> {
        let mut state = self.lock();
        state.end_stream();
        (state.heard, state.asleep) = (Instant::now(), false);
        Frames { line: self.clone(), stream: state.stream }
    }

    /// Ends it all: whoever waits for a result is told that there is none, and nobody can queue any more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.end_stream();
        state.closed = true;
        state.queue.close();
        let mut left: Vec<_> = state.outbox.drain().collect();
        left.extend(std::iter::from_fn(|| state.queue.try_recv().ok()));
        // Whoever is told may do anything.
        drop(state);
        drop(left);
    }

    /// Waits for the call for whoever [fell asleep](State::sleep), or that nobody can send any more.
    pub(crate) async fn called(&self) {
        self.called.notified().await;
    }

    /// Without a stream: waits until something wants to be sent. `false`: nothing ever will.
    pub(crate) async fn filled(&self) -> bool {
        poll_fn(|cx| {
            let mut state = self.lock();
            while state.outbox.is_empty() && !state.closed {
                ready!(state.poll_take(cx));
            }
            Poll::Ready(!state.outbox.is_empty())
        })
        .await
    }

    /// Without a stream: takes over what queues, as it comes.
    pub(crate) async fn fill(&self) -> Infallible {
        poll_fn(|cx| {
            let mut state = self.lock();
            while state.poll_take(cx).is_ready() {}
            Poll::Pending
        })
        .await
    }
}

impl<R> State<R> {
    /// Takes over what has queued. Pending: there is nothing, and whoever asks is woken when there is; or there is no room, or will be
    /// nothing, and nobody is woken.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closed || !self.outbox.has_room() {
            return Poll::Pending;
        }
        let count = ready!(self.queue.poll_recv_many(cx, &mut self.taken, BATCH));
        self.closed = count == 0;
        self.take_over(Instant::now());
        Poll::Ready(())
    }

    fn take_over(&mut self, now: Instant) {
        if self.outbox.is_empty() {
            self.heard = now;
        }
        self.taken.drain(..).for_each(|entry| self.outbox.push(entry));
    }

    /// Takes out what has reached its deadline, in the queue too: while the stream cannot be written, nobody else looks there.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Entry<R>> {
        while self.outbox.has_room() && !self.closed {
            match self.queue.try_recv() {
                Ok(entry) => self.taken.push(entry),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.closed = true,
            }
            self.take_over(now);
        }
        let expired = self.outbox.expired(now);
        self.make_room_known();
        expired
    }

    /// Everything is answered, and nobody can send any more.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && self.outbox.is_empty()
    }

    /// If nothing waits for an answer: the next send calls. Returns whether it is so. A stream that waits for its connection does not look at
    /// the queue, so nobody would call.
    pub(crate) fn sleep(&mut self) -> bool {
        self.asleep = self.outbox.is_quiet();
        self.asleep
    }

    /// After something was taken out of the outbox: wakes the writer if it waits for that.
    pub(crate) fn make_room_known(&mut self) {
        if self.blocked && (self.outbox.can_frame() || self.outbox.has_room()) {
            self.blocked = false;
            self.writer.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// The stream is gone, see [`Outbox::rewind`].
    pub(crate) fn rewind(&mut self, read: bool) {
        self.end_stream();
        self.outbox.rewind(read);
    }

    fn end_stream(&mut self) {
        self.stream += 1;
        self.blocked = false;
        // It would keep the request open for ever.
        self.writer.take().into_iter().for_each(Waker::wake);
    }
}

/// The frames of one stream, for its request: each has whatever waits when it is asked for. They end when the stream does.
#[derive(Debug)]
pub(crate) struct Frames<R> {
    line: Arc<Line<R>>,
    stream: u64,
}

impl<R> Stream for Frames<R> {
    type Item = v1::SendStreamRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.line.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        let was_closed = state.closed;
        let _ = state.poll_take(cx);
        if state.closed && !was_closed || state.asleep && !state.outbox.is_empty() {
            state.asleep = false;
            self.line.called.notify_one();
        }
        if state.outbox.can_frame() {
            return Poll::Ready(Some(state.outbox.frame()));
        }
        // Where there is room, and nothing that has no place on the stream, it is the queue that will wake.
        state.blocked = state.outbox.has_unsent() || !state.outbox.has_room();
        match &mut state.writer {
            Some(writer) => writer.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
        time::Duration,
    };

    use futures_util::FutureExt as _;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The request of a stream, as its connection's task polls it.
    struct Writer {
        frames: Frames<u32>,
        woken: Arc<Count>,
    }

    impl Writer {
        fn of(line: &Arc<Line<u32>>) -> Self {
            Self { frames: line.frames(), woken: Arc::default() }
        }

        /// The numbers and tags of the next frame. `None`: nothing waits.
        fn frame(&mut self) -> Poll<Option<Vec<(u32, u64)>>> {
            let waker = Waker::from(self.woken.clone());
            let frame = Pin::new(&mut self.frames).poll_next(&mut Context::from_waker(&waker));
            let number = |send: &v1::SendRequest| send.text.split(' ').next().unwrap().parse().unwrap();
            let sends = |frame: v1::SendStreamRequest| {
                frame.sends.iter().map(|tagged| (number(tagged.send.as_ref().unwrap()), tagged.tag)).collect()
            };
            frame.map(|frame| frame.map(sends))
        }

        fn numbers(&mut self) -> Vec<u32> {
            let Poll::Ready(Some(frame)) = self.frame() else { panic!("no frame") };
            frame.into_iter().map(|(number, _)| number).collect()
        }

        fn woken(&self) -> usize {
            self.woken.0.load(Ordering::Relaxed)
        }
    }

    fn entry(number: u32, bytes: usize) -> Entry<u32> {
        let text = format!("{number} {}", "x".repeat(bytes));
        let request = v1::SendRequest { text, ..Default::default() };
        Entry::new(request, Instant::now() + Duration::from_secs(3600), number)
    }

    #[test]
    fn a_frame_has_what_has_queued_and_the_next_send_wakes_its_writer() {
        let (queue, line) = Line::new(8);
        let mut writer = Writer::of(&line);
        (0..3).for_each(|number| queue.try_send(entry(number, 0)).unwrap());
        assert_eq!(writer.numbers(), [0, 1, 2]);
        assert!(writer.frame().is_pending() && writer.woken() == 0);
        queue.try_send(entry(3, 0)).unwrap();
        assert_eq!(writer.woken(), 1);
        assert_eq!(writer.numbers(), [3]);
    }

    #[test]
    fn what_a_lost_stream_took_goes_first_on_the_next() {
        let (queue, line) = Line::new(8);
        let mut lost = Writer::of(&line);
        queue.try_send(entry(0, 0)).unwrap();
        queue.try_send(entry(1, 0)).unwrap();
        assert_eq!(lost.numbers(), [0, 1]);
        assert!(lost.frame().is_pending());
        line.lock().rewind(true);
        assert_eq!(lost.woken(), 1, "its request would stay open");
        queue.try_send(entry(2, 0)).unwrap();
        assert_eq!(lost.frame(), Poll::Ready(None), "nothing goes out on it any more");
        let mut next = Writer::of(&line);
        assert_eq!(next.numbers(), [0, 1, 2]);
        assert_eq!(lost.frame(), Poll::Ready(None));
    }

    #[test]
    fn between_streams_the_task_takes_over_in_order() {
        let (queue, line) = Line::new(8);
        assert!(line.filled().now_or_never().is_none());
        queue.try_send(entry(0, 0)).unwrap();
        assert_eq!(line.filled().now_or_never(), Some(true));
        queue.try_send(entry(1, 0)).unwrap();
        assert!(line.fill().now_or_never().is_none());
        queue.try_send(entry(2, 0)).unwrap();
        assert!(line.lock().expired(Instant::now()).is_empty());
        queue.try_send(entry(3, 0)).unwrap();
        assert_eq!(Writer::of(&line).numbers(), [0, 1, 2, 3]);
    }

    #[test]
    fn what_waits_where_nobody_writes_expires_too() {
        let (queue, line) = Line::new(8);
        let _unwritten = line.frames();
        queue.try_send(entry(0, 0)).unwrap();
        let expired = line.lock().expired(Instant::now() + Duration::from_secs(7200));
        assert!(expired.iter().all(|entry| !entry.unsure) && expired.len() == 1);
    }

    #[test]
    fn a_writer_without_room_is_woken_by_an_answer() {
        let (queue, line) = Line::new(1024);
        let mut writer = Writer::of(&line);
        let mut tags = Vec::new();
        for number in 0.. {
            if queue.try_send(entry(number, 60_000)).is_err() {
                break;
            }
            while let Poll::Ready(Some(frame)) = writer.frame() {
                tags.extend(frame);
            }
        }
        assert!(!line.lock().outbox.has_room());
        let before = writer.woken();
        assert!(line.lock().outbox.answered(tags[0].1).is_some());
        line.lock().make_room_known();
        assert_eq!(writer.woken(), before + 1);
        let next = tags.len() as u32;
        assert_eq!(writer.numbers()[0], next, "the queue goes on where it was");
    }

    #[test]
    fn whoever_sleeps_is_called_once_by_the_next_send() {
        let (queue, line) = Line::new(8);
        let mut writer = Writer::of(&line);
        assert!(line.lock().sleep());
        assert!(writer.frame().is_pending());
        assert!(line.called().now_or_never().is_none());
        queue.try_send(entry(0, 0)).unwrap();
        writer.numbers();
        assert!(line.called().now_or_never().is_some());
        assert!(!line.lock().sleep(), "an answer is awaited");
        queue.try_send(entry(1, 0)).unwrap();
        writer.numbers();
        assert!(line.called().now_or_never().is_none());
    }

    #[test]
    fn the_end_of_the_queue_is_told_behind_all_answers() {
        let (queue, line) = Line::new(8);
        let mut writer = Writer::of(&line);
        queue.try_send(entry(0, 0)).unwrap();
        drop(queue);
        assert_eq!(writer.numbers(), [0]);
        assert!(writer.frame().is_pending() && !line.lock().is_done());
        assert!(line.lock().outbox.answered(0).is_some());
        assert!(line.lock().is_done() && line.called().now_or_never().is_some());
        assert_eq!(line.filled().now_or_never(), Some(false));
    }
}
