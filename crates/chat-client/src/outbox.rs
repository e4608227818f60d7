//! Sends that have no answer yet, in the order in which they were made: the pure part of [`line`](crate::line).
//!
//! ```text
//! push → [unsent] → frame → [in flight] → answered → gone
//!            ↑                   |
//!            └──── rewind ───────┘   the stream was lost: all of them again, in order, before anything newer
//! ```
//!
//! A send keeps its key through every round, so being carried out twice is the service's to prevent and ours to allow.

use std::collections::VecDeque;

use chat_proto::v1;
use tokio::time::Instant;

/// Most sends in one frame.
const FRAME_SENDS: usize = 1024;
/// A frame is closed once its texts reach this many bytes: well below gRPC's usual limit of 4 MiB, also with one
/// more text of the greatest size.
const FRAME_BYTES: usize = 1024 * 1024;
/// Most sends without an answer on one stream.
const WINDOW: usize = 8 * 1024;

/// Most sends without an answer, and most bytes of their texts: beyond that no more are taken over, so that callers wait
/// and memory stays bounded.
const MOST_SENDS: usize = 16 * 1024;
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// One send and whom to tell. `R` is how: a oneshot sender, or a number in tests.
#[derive(Debug)]
pub(crate) struct Entry<R> {
    pub request: v1::SendRequest,
    pub deadline: Instant,
    pub reply: R,
    /// It may have been carried out: a stream that carried it ended without a result.
    pub unsure: bool,
    /// The leader answered that it did not carry it out, and that it may be asked again.
    declined: bool,
}

impl<R> Entry<R> {
    pub(crate) fn new(request: v1::SendRequest, deadline: Instant, reply: R) -> Self {
        Self { request, deadline, reply, unsure: false, declined: false }
    }
}

#[derive(Debug)]
pub(crate) struct Outbox<R> {
    unsent: VecDeque<Entry<R>>,
    /// `None`: answered, or expired, while an earlier one was not.
    in_flight: VecDeque<Option<Entry<R>>>,
    /// Tag of the first of `in_flight`.
    first_tag: u64,
    /// How many of `in_flight` are there.
    unanswered: usize,
    /// Of the texts of all that has no answer.
    bytes: usize,
    /// Something in flight expired, and nothing behind it was answered: the other side may not have read it.
    unread: bool,
}

impl<R> Outbox<R> {
    pub(crate) fn new() -> Self {
        Self {
            unsent: VecDeque::new(),
            in_flight: VecDeque::new(),
            first_tag: 0,
            unanswered: 0,
            bytes: 0,
            unread: false,
        }
    }

    pub(crate) fn push(&mut self, entry: Entry<R>) {
        self.bytes += entry.request.text.len();
        self.unsent.push_back(entry);
    }

    /// More may be taken over.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < MOST_SENDS && self.bytes < MOST_BYTES
    }

    /// Sends without an answer, framed or not.
    pub(crate) fn len(&self) -> usize {
        self.unsent.len() + self.unanswered
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nothing waits for an answer, and the other side has read all that it was sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_empty() && !self.unread
    }

    /// Something waits for a frame.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// There is something to frame, and room for it on the stream.
    pub(crate) fn can_frame(&self) -> bool {
        !self.unsent.is_empty() && self.in_flight.len() < WINDOW
    }

    /// Everything that waits, as far as it fits into one frame and the window.
    pub(crate) fn frame(&mut self) -> v1::SendStreamRequest {
        let room = WINDOW.saturating_sub(self.in_flight.len()).min(FRAME_SENDS);
        let mut sends = Vec::with_capacity(room.min(self.unsent.len()));
        let mut bytes = 0;
        while sends.len() < room && bytes < FRAME_BYTES {
            let Some(entry) = self.unsent.pop_front() else { break };
            bytes += entry.request.text.len();
            let tag = self.first_tag + self.in_flight.len() as u64;
            sends.push(v1::TaggedSend { tag, send: Some(entry.request.clone()) });
            self.in_flight.push_back(Some(entry));
            self.unanswered += 1;
        }
        v1::SendStreamRequest { sends }
    }

    /// The entry that a result is for. `None` for a tag that is not in flight: answered, or expired meanwhile.
    pub(crate) fn answered(&mut self, tag: u64) -> Option<Entry<R>> {
        let place = usize::try_from(tag.checked_sub(self.first_tag)?).ok()?;
        let entry = self.in_flight.get_mut(place)?.take()?;
        self.unanswered -= 1;
        self.bytes -= entry.request.text.len();
        self.unread = false;
        self.forget_answered();
        Some(entry)
    }

    /// The leader did not carry it out, for now: it stays, and the next [`rewind`](Self::rewind) sends it again.
    pub(crate) fn declined(&mut self, tag: u64) {
        let place = tag.checked_sub(self.first_tag).and_then(|place| usize::try_from(place).ok());
        if let Some(Some(entry)) = place.and_then(|place| self.in_flight.get_mut(place)) {
            entry.declined = true;
        }
    }

    /// The stream is gone: what it had not answered goes first on the next one, in the same order. `read`: the
    /// other side may have read what was in flight.
    pub(crate) fn rewind(&mut self, read: bool) {
        self.first_tag += self.in_flight.len() as u64;
        self.unanswered = 0;
        self.unread = false;
        for mut entry in self.in_flight.drain(..).rev().flatten() {
            entry.unsure |= read && !entry.declined;
            entry.declined = false;
            self.unsent.push_front(entry);
        }
    }

    /// Takes out what has reached its deadline. Deadlines follow the order of the sends (one timeout for all of
    /// them), so only the front is looked at.
    pub(crate) fn expired(&mut self, now: Instant) -> Vec<Entry<R>> {
        let mut expired = Vec::new();
        self.forget_answered();
        while let Some(Some(entry)) = self.in_flight.front_mut() {
            if entry.deadline > now {
                break;
            }
            entry.unsure |= !entry.declined;
            expired.extend(self.answered(self.first_tag));
            self.unread = true;
        }
        while self.unsent.front().is_some_and(|entry| entry.deadline <= now) {
            let entry = self.unsent.pop_front();
            self.bytes -= entry.as_ref().map_or(0, |entry| entry.request.text.len());
            expired.extend(entry);
        }
        expired
    }

    /// Takes out everything, in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry<R>> + '_ {
        self.first_tag += self.in_flight.len() as u64;
        self.unanswered = 0;
        self.bytes = 0;
        self.in_flight.drain(..).flatten().chain(self.unsent.drain(..))
    }

    fn forget_answered(&mut self) {
        while let Some(None) = self.in_flight.front() {
            self.in_flight.pop_front();
            self.first_tag += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn entry(number: u32, deadline: Instant) -> Entry<u32> {
        let request = v1::SendRequest { text: number.to_string(), ..Default::default() };
        Entry::new(request, deadline, number)
    }

    fn texts(frame: &v1::SendStreamRequest) -> Vec<u32> {
        frame.sends.iter().map(|tagged| tagged.send.as_ref().unwrap().text.parse().unwrap()).collect()
    }

    fn filled(count: u32) -> Outbox<u32> {
        let mut outbox = Outbox::new();
        let deadline = Instant::now() + Duration::from_secs(3600);
        (0..count).for_each(|number| outbox.push(entry(number, deadline)));
        outbox
    }

    #[test]
    fn a_lost_stream_is_repeated_in_order_before_newer_sends() {
        let mut outbox = filled(4);
        let tags: Vec<_> = outbox.frame().sends.iter().map(|send| send.tag).collect();
        assert_eq!(outbox.answered(tags[1]).unwrap().reply, 1);
        outbox.push(entry(4, Instant::now() + Duration::from_secs(3600)));
        outbox.rewind(true);
        let frame = outbox.frame();
        assert_eq!(texts(&frame), [0, 2, 3, 4]);
        assert!(outbox.answered(tags[0]).is_none(), "a result of the old stream must not match");
        let unsure: Vec<_> = frame.sends.iter().map(|send| outbox.answered(send.tag).unwrap().unsure).collect();
        assert_eq!(unsure, [true, true, true, false]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_was_declined_is_known_not_to_be_done() {
        let mut outbox = filled(2);
        let frame = outbox.frame();
        outbox.declined(frame.sends[0].tag);
        outbox.rewind(true);
        let unsure: Vec<_> = outbox.drain().map(|entry| entry.unsure).collect();
        assert_eq!(unsure, [false, true]);
    }

    #[test]
    fn a_stream_that_never_was_leaves_no_doubt() {
        let mut outbox = filled(2);
        outbox.frame();
        outbox.rewind(false);
        assert!(outbox.drain().all(|entry| !entry.unsure));
    }

    #[test]
    fn only_what_was_in_flight_expires_unsure() {
        let mut outbox = Outbox::new();
        let now = Instant::now();
        outbox.push(entry(0, now));
        outbox.frame();
        outbox.push(entry(1, now));
        outbox.push(entry(2, now + Duration::from_secs(1)));
        let expired: Vec<_> = outbox.expired(now).iter().map(|entry| (entry.reply, entry.unsure)).collect();
        assert_eq!(expired, [(0, true), (1, false)]);
        assert_eq!(outbox.len(), 1);
        assert_eq!(outbox.unanswered, 0);
        assert_eq!(outbox.expired(now + Duration::from_secs(1)).len(), 1);
        assert!(outbox.is_empty() && !outbox.is_quiet(), "what expired may stand in the way of what comes");
        outbox.push(entry(3, now + Duration::from_secs(1)));
        let tag = outbox.frame().sends[0].tag;
        assert!(outbox.answered(tag).is_some() && outbox.is_quiet());
    }

    #[test]
    fn a_frame_stays_below_its_limits() {
        let mut outbox = filled(FRAME_SENDS as u32 + 1);
        assert_eq!(outbox.frame().sends.len(), FRAME_SENDS);
        assert_eq!(outbox.frame().sends.len(), 1);
        let mut outbox = Outbox::new();
        for _ in 0..64 {
            let request = v1::SendRequest { text: "x".repeat(65536), ..Default::default() };
            outbox.push(Entry::new(request, Instant::now(), 0));
        }
        assert_eq!(outbox.frame().sends.len(), 16);
    }

    #[test]
    fn room_is_bounded_by_sends_and_by_bytes() {
        let now = Instant::now();
        let mut outbox = filled(MOST_SENDS as u32);
        assert!(!outbox.has_room());
        outbox.frame();
        outbox.answered(0).unwrap();
        assert!(outbox.has_room());
        let mut outbox = Outbox::new();
        while outbox.has_room() {
            let request = v1::SendRequest { text: "x".repeat(65536), ..Default::default() };
            outbox.push(Entry::new(request, now, 0));
        }
        assert_eq!(outbox.len(), 256);
        outbox.frame();
        outbox.rewind(true);
        assert_eq!(outbox.expired(now).len(), 256);
        assert_eq!(outbox.bytes, 0);
    }

    proptest! {
        /// Whatever happens to streams, the first transmissions that the last stream answers are in order, each
        /// send is answered once, and none is forgotten.
        #[test]
        fn everything_is_answered_once(steps in proptest::collection::vec(0..4_u8, 0..200)) {
            let mut outbox = Outbox::new();
            let deadline = Instant::now() + Duration::from_secs(3600);
            let (mut made, mut answered, mut on_stream) = (0, Vec::new(), VecDeque::new());
            let mut carried: Vec<u32> = Vec::new();
            for step in steps {
                match step {
                    0 => { outbox.push(entry(made, deadline)); made += 1; }
                    1 if outbox.can_frame() => {
                        let frame = outbox.frame();
                        let numbers = texts(&frame);
                        on_stream.extend(frame.sends.iter().map(|send| send.tag).zip(numbers));
                    }
                    2 => if let Some((tag, number)) = on_stream.pop_front() {
                        prop_assert_eq!(outbox.answered(tag).unwrap().reply, number);
                        answered.push(number);
                        carried.push(number);
                    },
                    3 => { on_stream.clear(); outbox.rewind(true); }
                    _ => {}
                }
            }
            prop_assert!(carried.is_sorted());
            answered.extend(outbox.drain().map(|entry| entry.reply));
            prop_assert_eq!(answered, (0..made).collect::<Vec<_>>());
        }
    }
}
