//! Many records in one row: each as what differs from the one before it.
//!
//! A record begins with a byte: what it is, and how many bytes of its key are those of the key before. The rest of the key, the scope, the body's hash
//! and the answer follow. Numbers that grow along with the keys are stored as their distance from the record before, so that most take a byte or two.
//! The first of a block is stored as if zeros came before it.

use crate::storage::varint::{put, put_signed, take, take_signed};
use chat_core::{AccountId, Answer, BodyHash, MessageId, Provenance, RequestKey, RequestRecord, Scope, Timestamp};
use rusqlite::Error;
use rusqlite::types::Type;

/// No block is longer, so that a row of the table has one page of 4096 bytes, and fills it: SQLite puts 4053 bytes of a row there, and 29 of them are the
/// row's header and where the block begins.
pub(super) const BYTES: usize = 4024;
/// The longest that a record takes.
pub(super) const LONGEST: usize = 1 + 16 + 10 + 8 + 5 * 10 + 5;

/// The first byte: two bits for the kind of answer, one for a provenance with another epoch than the one before, four for the bytes of the key that are shared.
const REGISTERED: u8 = 0;
const SESSION_OPENED: u8 = 1;
const SENT: u8 = 2;
const DELETED: u8 = 3;
const KIND: u8 = 3;
const OTHER_EPOCH: u8 = 4;
const SHARED_SHIFT: u32 = 3;
const MOST_SHARED: usize = 15;

/// Where a record is in the order of all: its key and its scope, as numbers, which are compared faster.
pub(in crate::storage) type Place = (u128, u64);

/// A record under its key and scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Entry {
    pub key: RequestKey,
    pub scope: Scope,
    pub record: RequestRecord,
}

impl Entry {
    /// The record at a place.
    pub fn at((key, scope): Place, record: RequestRecord) -> Entry {
        Entry { key: RequestKey(key.to_be_bytes()), scope: Scope::from_u64(scope), record }
    }

    pub fn place(&self) -> Place {
        place(&self.key, self.scope)
    }
}

/// Where a record of this key and scope is in the order of all.
pub(in crate::storage) fn place(key: &RequestKey, scope: Scope) -> Place {
    (u128::from_be_bytes(key.0), scope.as_u64())
}

/// What the next record differs from.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    key: [u8; 16],
    id: u64,
    at: i64,
    index: u64,
    round: u64,
    replica: u32,
}

impl Before {
    fn write(&mut self, Entry { key: RequestKey(key), scope, record }: &Entry, to: &mut Vec<u8>) {
        let differing = u128::from_be_bytes(self.key) ^ u128::from_be_bytes(*key);
        let shared = (differing.leading_zeros() as usize / 8).min(MOST_SHARED);
        let kind = match &record.answer {
            Answer::Registered { .. } => REGISTERED,
            Answer::SessionOpened { .. } => SESSION_OPENED,
            Answer::Sent { provenance: Provenance { round, replica, .. }, .. } => {
                if (*round, *replica) == (self.round, self.replica) { SENT } else { SENT | OTHER_EPOCH }
            }
            Answer::Deleted { .. } => DELETED,
        };
        to.push(kind | (shared as u8) << SHARED_SHIFT);
        to.extend_from_slice(&key[shared..]);
        put(to, scope.as_u64());
        to.extend_from_slice(&record.body.0);
        match record.answer {
            Answer::Registered { account } => put(to, account.0),
            Answer::SessionOpened { account, expires_at } => {
                put(to, account.0);
                put_signed(to, expires_at.0);
            }
            Answer::Sent { id, seq, at, provenance: Provenance { index, round, replica } } => {
                put_signed(to, id.0.wrapping_sub(self.id).cast_signed());
                put(to, seq);
                put_signed(to, at.0.wrapping_sub(self.at));
                put_signed(to, index.wrapping_sub(self.index).cast_signed());
                if kind & OTHER_EPOCH != 0 {
                    put(to, round);
                    put(to, u64::from(replica));
                }
                (self.id, self.at, self.index, self.round, self.replica) = (id.0, at.0, index, round, replica);
            }
            Answer::Deleted { discarded } => put(to, discarded),
        }
        self.key = *key;
    }

    fn read(&mut self, from: &mut &[u8]) -> Option<Entry> {
        let first = take_byte(from)?;
        let shared = usize::from(first >> SHARED_SHIFT);
        if shared > MOST_SHARED {
            return None;
        }
        let rest = from.split_off(..16 - shared)?;
        self.key[shared..].copy_from_slice(rest);
        let scope = Scope::from_u64(take(from)?);
        let (body, left) = from.split_first_chunk()?;
        *from = left;
        let answer = match first & (KIND | OTHER_EPOCH) {
            REGISTERED => Answer::Registered { account: AccountId(take(from)?) },
            SESSION_OPENED => {
                Answer::SessionOpened { account: AccountId(take(from)?), expires_at: Timestamp(take_signed(from)?) }
            }
            DELETED => Answer::Deleted { discarded: take(from)? },
            kind if kind & KIND == SENT => self.read_sent(kind & OTHER_EPOCH != 0, from)?,
            _ => return None,
        };
        Some(Entry { key: RequestKey(self.key), scope, record: RequestRecord { body: BodyHash(*body), answer } })
    }

    fn read_sent(&mut self, is_other_epoch: bool, from: &mut &[u8]) -> Option<Answer> {
        self.id = self.id.wrapping_add_signed(take_signed(from)?);
        let seq = take(from)?;
        self.at = self.at.wrapping_add(take_signed(from)?);
        self.index = self.index.wrapping_add_signed(take_signed(from)?);
        if is_other_epoch {
            self.round = take(from)?;
            self.replica = u32::try_from(take(from)?).ok()?;
        }
        let Before { id, at, index, round, replica, .. } = *self;
        let provenance = Provenance { index, round, replica };
        Some(Answer::Sent { id: MessageId(id), seq, at: Timestamp(at), provenance })
    }
}

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    from.split_off_first().copied()
}

/// What the record differs from that comes behind another.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    before: Before,
    last: Option<Place>,
}

/// The records of a block, which ascend. Nothing follows an error, which says that the bytes are none that [`Packer`] made.
#[derive(Clone, Debug)]
pub(super) struct Entries<'b> {
    bytes: &'b [u8],
    read: End,
}

impl<'b> Entries<'b> {
    pub fn new(bytes: &'b [u8]) -> Self {
        Entries::behind(End { before: Before::default(), last: None }, bytes)
    }

    /// Those that a block has behind the record that `end` was read at.
    pub fn behind(end: End, bytes: &'b [u8]) -> Self {
        Entries { bytes, read: end }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let entry = self.read.before.read(&mut self.bytes);
        let ascends = |entry: &Entry| self.read.last.is_none_or(|last| last < entry.place());
        let Some(entry) = entry.filter(ascends) else {
            self.bytes = &[];
            return Some(Err(damaged("a block of requests that cannot be read")));
        };
        self.read.last = Some(entry.place());
        Some(Ok(entry))
    }
}

/// Records of requests that are none, or not where they should be.
pub(super) fn damaged(what: &str) -> Error {
    Error::FromSqlConversionFailure(1, Type::Blob, what.into())
}

/// A row as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The place of its first record, or one before that.
    pub first: Place,
    pub bytes: Vec<u8>,
}

impl Block {
    /// Removes the records from a place on, and returns them and what they come behind.
    ///
    /// # Errors
    /// Damage.
    pub fn split_off(&mut self, place: Place) -> Result<(End, Vec<u8>), Error> {
        let mut entries = Entries::new(&self.bytes);
        let (mut end, mut at) = (entries.read, 0);
        while let Some(entry) = entries.next().transpose()?
            && entry.place() < place
        {
            (end, at) = (entries.read, self.bytes.len() - entries.bytes.len());
        }
        Ok((end, self.bytes.split_off(at)))
    }
}

/// Puts records, which ascend, into as few blocks as they need, one after the other.
pub(super) struct Packer {
    full: Vec<Block>,
    block: Block,
    before: Before,
    limit: usize,
}

impl Packer {
    /// Goes on behind the last record of a block.
    pub fn behind(block: Block, end: End) -> Packer {
        Packer { full: Vec::new(), block, before: end.before, limit: BYTES }
    }

    pub fn push(&mut self, entry: &Entry) {
        let end = self.block.bytes.len();
        if end == 0 {
            self.block = Block { first: entry.place(), bytes: Vec::with_capacity(self.limit + LONGEST) };
        }
        self.before.write(entry, &mut self.block.bytes);
        if self.block.bytes.len() <= self.limit || end == 0 {
            return;
        }
        self.block.bytes.truncate(end);
        self.before = Before::default();
        self.full.push(std::mem::replace(&mut self.block, Block { first: entry.place(), bytes: Vec::new() }));
        self.push(entry);
    }

    /// Bytes of all blocks.
    pub fn length(&self) -> usize {
        self.full.iter().chain([&self.block]).map(|block| block.bytes.len()).sum()
    }

    /// All blocks, at least one.
    pub fn finish(mut self) -> Vec<Block> {
        self.full.push(self.block);
        self.full
    }
}

/// Puts records into blocks of at most so many bytes.
pub(super) fn pack(entries: impl IntoIterator<Item = Result<Entry, Error>>, limit: usize) -> Result<Vec<Block>, Error> {
    let block = Block { first: (0, 0), bytes: Vec::new() };
    let mut packer = Packer { full: Vec::new(), block, before: Before::default(), limit };
    entries.into_iter().try_for_each(|entry| entry.map(|entry| packer.push(&entry)))?;
    Ok(packer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn answers() -> impl Strategy<Value = Answer> {
        let number = || prop_oneof![0..5_u64, 0..100_000_u64, any::<u64>()];
        let account = || number().prop_map(AccountId);
        let sent = (number(), number(), any::<i64>(), number(), number(), any::<u32>());
        prop_oneof![
            account().prop_map(|account| Answer::Registered { account }),
            (account(), any::<i64>())
                .prop_map(|(account, at)| Answer::SessionOpened { account, expires_at: Timestamp(at) }),
            number().prop_map(|discarded| Answer::Deleted { discarded }),
            sent.prop_map(|(id, seq, at, index, round, replica)| {
                let provenance = Provenance { index, round, replica };
                Answer::Sent { id: MessageId(id), seq, at: Timestamp(at), provenance }
            }),
        ]
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let key = prop_oneof![any::<[u8; 16]>(), (0..3_u8).prop_map(|byte| [byte; 16])];
        let place = (key, prop_oneof![0..3_u64, any::<u64>()]);
        let records = prop::collection::btree_map(place, (any::<[u8; 8]>(), answers()), 0..200);
        records.prop_map(|records: BTreeMap<_, _>| {
            let entry = |((key, scope), (body, answer))| {
                let record = RequestRecord { body: BodyHash(body), answer };
                Entry { key: RequestKey(key), scope: Scope::from_u64(scope), record }
            };
            records.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(entries in entries(), limit in LONGEST..BYTES) {
            let blocks = pack(entries.iter().cloned().map(Ok), limit).expect("packed");
            prop_assert!(blocks.iter().all(|block| block.bytes.len() <= limit));
            let read: Result<Vec<_>, _> = blocks.iter().flat_map(|block| Entries::new(&block.bytes)).collect();
            prop_assert_eq!(read.expect("readable"), entries);
        }

        #[test]
        fn what_is_split_off_and_put_back_is_as_it_was(entries in entries(), at in any::<prop::sample::Index>()) {
            let place = entries.get(at.index(entries.len() + 1)).map_or((u128::MAX, 0), Entry::place);
            let whole = pack(entries.into_iter().map(Ok), 1 << 20).expect("packed");
            let mut block = whole[0].clone();
            let (end, tail) = block.split_off(place).expect("readable");
            prop_assert!(Entries::new(&block.bytes).all(|entry| entry.expect("readable").place() < place));
            let mut packer = Packer::behind(block, end);
            packer.limit = 1 << 20;
            Entries::behind(end, &tail).for_each(|entry| packer.push(&entry.expect("readable")));
            prop_assert_eq!(packer.finish(), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: Vec<_> = Entries::new(&bytes).map_while(Result::ok).map(|entry| entry.place()).collect();
            prop_assert!(read.is_sorted_by(|a, b| a < b), "{:?}", read);
        }
    }
}
