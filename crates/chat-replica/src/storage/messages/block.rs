//! Many messages in one row, so that a page of the database is looked for once and not for each of them.
//!
//! ```text
//! time of the first, then of each message: how far its id is from the one before, length of what follows: recipient, seq, sender, how far its time is
//! from that of the first, text
//! ```
//!
//! Numbers are those of `varint`; times have a sign.

use crate::storage::log_table::undecodable;
use crate::storage::varint::{put, put_signed, take, take_signed};
use chat_core::MessageText;
use rusqlite::Result;

/// No block is longer, unless it is a single message, so that its row has one page of 4096 bytes, and fills it: SQLite puts 4053 bytes of a row there,
/// and 4 of them are the row's header.
pub(super) const BYTES: usize = 4049;
/// The column of the block.
pub(in crate::storage) const COLUMN: usize = 1;

/// A message as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Stored<'b> {
    pub id: u64,
    pub to: u64,
    pub seq: u64,
    pub from: u64,
    pub sent_at: i64,
    /// As [`MessageText`] takes it.
    pub text: &'b str,
}

/// A block that becomes longer.
#[derive(Debug)]
pub(super) struct Block {
    pub first: u64,
    pub bytes: Vec<u8>,
    /// The time that all others are counted from.
    base: i64,
    /// The highest id in it.
    last: Option<u64>,
    /// For the numbers of one message.
    numbers: Vec<u8>,
}

impl Block {
    /// One without messages; it is for ids from `first` on.
    pub fn new(first: u64, base: i64) -> Block {
        let mut block = Block { first, bytes: Vec::with_capacity(BYTES), base, last: None, numbers: Vec::new() };
        put_signed(&mut block.bytes, base);
        block
    }

    /// One that begins with this message.
    pub fn with(message: &Stored<'_>) -> Block {
        let mut block = Block::new(message.id, message.sent_at);
        block.push(message);
        block
    }

    /// One that is there.
    ///
    /// # Errors
    /// If the bytes are none that a block has.
    pub fn of(first: u64, bytes: &[u8]) -> Result<Block> {
        let (mut walk, mut last) = (Walk::new(first, bytes)?, None);
        while let Some(entry) = walk.next(bytes)? {
            last = Some(entry.id);
        }
        // None is kept that has no messages.
        let last = Some(last.ok_or_else(|| undecodable(COLUMN))?);
        Ok(Block { first, bytes: bytes.to_vec(), base: walk.base, last, numbers: Vec::new() })
    }

    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// The highest id in it.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Adds a message, whose id is higher than all before. Whether there was room, as there is for one in any case.
    pub fn push(&mut self, message: &Stored<'_>) -> bool {
        let Stored { id, to, seq, from, sent_at, text } = *message;
        self.numbers.clear();
        [to, seq, from].into_iter().for_each(|number| put(&mut self.numbers, number));
        put_signed(&mut self.numbers, sent_at.wrapping_sub(self.base));
        let before = self.bytes.len();
        put(&mut self.bytes, id - self.last.unwrap_or(self.first));
        put(&mut self.bytes, (self.numbers.len() + text.len()) as u64);
        self.bytes.extend_from_slice(&self.numbers);
        self.bytes.extend_from_slice(text.as_bytes());
        if self.bytes.len() > BYTES && !self.is_empty() {
            self.bytes.truncate(before);
            return false;
        }
        self.last = Some(id);
        true
    }
}

/// The way through a block, from its first message to its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    at: usize,
    base: i64,
    before: u64,
    is_begun: bool,
}

/// A message of a block that was come to, not looked into yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'b> {
    pub id: u64,
    base: i64,
    rest: &'b [u8],
}

impl Walk {
    /// The way through these bytes of the block that begins at `first`.
    ///
    /// # Errors
    /// If they are none that a block has.
    pub fn new(first: u64, bytes: &[u8]) -> Result<Walk> {
        let mut rest = bytes;
        let base = take_signed(&mut rest).ok_or_else(|| undecodable(COLUMN))?;
        Ok(Walk { at: bytes.len() - rest.len(), base, before: first, is_begun: false })
    }

    /// The time that those of all messages are counted from.
    pub fn base(&self) -> i64 {
        self.base
    }

    /// Whether a message with this id would be one that is still to come.
    pub fn is_before(&self, id: u64) -> bool {
        if self.is_begun { self.before < id } else { self.before <= id }
    }

    /// The next message of the same bytes. `None`: there are no more.
    ///
    /// # Errors
    /// If they are none that a block has.
    #[inline]
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<Entry<'b>>> {
        let Some(rest) = bytes.get(self.at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
        self.step(bytes, rest).map(Some).ok_or_else(|| undecodable(COLUMN))
    }

    #[inline]
    fn step<'b>(&mut self, bytes: &'b [u8], rest: &'b [u8]) -> Option<Entry<'b>> {
        let (further, length, rest) = match rest {
            // Most are close to the one before, and have 128 bytes or more: whoever passes many looks at these three at once.
            [further @ ..0x80, low @ 0x80..=0xff, high @ ..0x80, rest @ ..] => {
                (u64::from(*further), usize::from(low & 0x7f) | usize::from(*high) << 7, rest)
            }
            mut rest => (take(&mut rest)?, usize::try_from(take(&mut rest)?).ok()?, rest),
        };
        let id = self.before.checked_add(further)?;
        if further == 0 && self.is_begun {
            return None;
        }
        let (entry, after) = rest.split_at_checked(length)?;
        (self.at, self.before, self.is_begun) = (bytes.len() - after.len(), id, true);
        Some(Entry { id, base: self.base, rest: entry })
    }
}

impl<'b> Entry<'b> {
    /// What it says.
    ///
    /// # Errors
    /// If the bytes are none that a block has.
    pub fn message(self) -> Result<Stored<'b>> {
        let decode = |mut rest: &'b [u8]| {
            let (to, seq, from) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
            let sent_at = self.base.wrapping_add(take_signed(&mut rest)?);
            let text = std::str::from_utf8(rest).ok().filter(|text| MessageText::check(text).is_ok())?;
            Some(Stored { id: self.id, to, seq, from, sent_at, text })
        };
        decode(self.rest).ok_or_else(|| undecodable(COLUMN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Owned {
        further: u64,
        numbers: [u64; 3],
        sent_at: i64,
        text: String,
    }

    fn message() -> impl Strategy<Value = Owned> {
        let number = prop_oneof![0..300u64, any::<u64>()];
        let further = prop_oneof![Just(1u64), 1..1000u64];
        let text = prop_oneof!["[a-zü]{1,40}", "[a-z]{1,5000}"];
        let owned = |(further, numbers, sent_at, text)| Owned { further, numbers, sent_at, text };
        (further, [number.clone(), number.clone(), number], any::<i64>(), text).prop_map(owned)
    }

    /// Numbered from `first` on.
    fn stored(first: u64, all: &[Owned]) -> Vec<Stored<'_>> {
        let mut id = first;
        let mut stored = Vec::new();
        for Owned { further, numbers: [to, seq, from], sent_at, text } in all {
            id += further;
            stored.push(Stored { id, to: *to, seq: *seq, from: *from, sent_at: *sent_at, text });
        }
        stored
    }

    fn read(block: &Block) -> Vec<Stored<'_>> {
        let (mut walk, mut all) = (Walk::new(block.first, &block.bytes).expect("a block"), Vec::new());
        while let Some(entry) = walk.next(&block.bytes).expect("readable") {
            all.push(entry.message().expect("readable"));
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(all in prop::collection::vec(message(), 1..60), first in 0..1u64 << 40) {
            let all = stored(first, &all);
            let mut blocks: Vec<Block> = Vec::new();
            for message in &all {
                // As if each had come with a batch of its own.
                let going_on = blocks.pop().map(|block| Block::of(block.first, &block.bytes).expect("a block"));
                blocks.extend(going_on);
                if !blocks.last_mut().is_some_and(|block| block.push(message)) {
                    let mut block = Block::new(message.id, message.sent_at);
                    prop_assert!(block.push(message), "there is room for one, however long");
                    blocks.push(block);
                }
            }
            let read: Vec<_> = blocks.iter().flat_map(read).collect();
            prop_assert_eq!(&read, &all);
            for block in &blocks {
                prop_assert!(block.bytes.len() <= BYTES || self::read(block).len() == 1);
                prop_assert_eq!(block.last(), self::read(block).last().map(|message| message.id));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(first in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(mut block) = Block::of(first, &bytes) {
                let id = block.last().expect("it has messages").saturating_add(1);
                block.push(&Stored { id, to: 1, seq: 1, from: 1, sent_at: i64::MIN, text: "x" });
            }
            let Ok(mut walk) = Walk::new(first, &bytes) else { return Ok(()) };
            let mut last = None;
            while let Ok(Some(entry)) = walk.next(&bytes) {
                prop_assert!(last < Some(entry.id), "ids ascend");
                last = Some(entry.id);
                let _ = entry.message();
            }
        }
    }

    #[test]
    fn a_short_message_among_others_takes_few_bytes_more_than_its_text() {
        let text = "x".repeat(128);
        let mut block = Block::new(10_000_000, 1_700_000_000_000);
        let message = |at: u64| Stored {
            id: 10_000_000 + at,
            to: 700_000,
            seq: 400_000,
            from: 900_000,
            sent_at: 1_700_000_000_000 + 20,
            text: &text,
        };
        assert!((0..28).all(|at| block.push(&message(at))), "{} bytes", block.bytes.len());
        assert!(!block.push(&message(28)));
        assert_eq!(read(&block).len(), 28);
    }
}
