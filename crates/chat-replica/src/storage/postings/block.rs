//! Many postings in one row: the first as the row's key, each other one as its distance from the one before it.

use super::Posting;
use crate::storage::varint::{self, put, put_signed, take, take_signed};
use rusqlite::Error;
use rusqlite::types::Type;
use std::ops::ControlFlow;

/// No block has more bytes beside its key, so that a row has one page of 4096 bytes, and fills it: SQLite puts 4053 bytes of a row there, and up to 40 of
/// them are the row's header, its run, and where it begins.
pub(super) const BYTES: usize = 4013;
/// The longest that a posting takes.
const LONGEST: usize = 3 * varint::LONGEST;
/// The shortest.
const SHORTEST: usize = 3;

/// A row as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub first: Posting,
    /// All others.
    pub rest: Vec<u8>,
}

/// Puts postings, which ascend, into as few blocks of at most so many bytes as they need, one after the other.
pub(super) fn encode<E>(
    postings: impl IntoIterator<Item = Posting>,
    bytes: usize,
    mut write: impl FnMut(&Block) -> Result<(), E>,
) -> Result<(), E> {
    let mut postings = postings.into_iter();
    let Some(first) = postings.next() else { return Ok(()) };
    let mut block = Block { first, rest: Vec::with_capacity(bytes) };
    let mut before = first;
    for posting in postings {
        if block.rest.len() + LONGEST > bytes {
            write(&block)?;
            block.first = posting;
            block.rest.clear();
        } else {
            let (further, y, z) = step(before, posting);
            put(&mut block.rest, further);
            put(&mut block.rest, y);
            put_signed(&mut block.rest, z);
        }
        before = posting;
    }
    write(&block)
}

/// What follows a posting, as small numbers: how far the first is from the one before, the second as it is or, where the first stays, how far it is
/// too, and the third, which goes up and down.
type Step = (u64, u64, i64);

fn step(before: Posting, [x, y, z]: Posting) -> Step {
    let further = x - before[0];
    (further, if further == 0 { y - before[1] } else { y }, z.wrapping_sub(before[2]).cast_signed())
}

fn taken(before: Posting, (further, y, z): Step) -> Option<Posting> {
    let x = before[0].checked_add(further)?;
    let y = if further == 0 { before[1].checked_add(y)? } else { y };
    let posting = [x, y, before[2].wrapping_add(z.cast_unsigned())];
    (posting > before).then_some(posting)
}

/// Adds the postings of a block to `to`.
///
/// # Errors
/// If the bytes are none that [`encode`] made.
pub(super) fn decode(first: Posting, rest: &[u8], to: &mut Vec<Posting>) -> Result<(), Error> {
    to.reserve(1 + rest.len() / SHORTEST);
    each(first, rest, |posting| {
        to.push(posting);
        ControlFlow::Continue(())
    })
}

/// Visits the postings of a block, which ascend, for as long as `visit` wants more.
///
/// # Errors
/// If the bytes up to there are none that [`encode`] made.
#[inline]
pub(super) fn each(
    first: Posting,
    mut rest: &[u8],
    mut visit: impl FnMut(Posting) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut posting = first;
    while visit(posting).is_continue() && !rest.is_empty() {
        // In a long conversation most are like the one before, but for an id that is a little higher.
        if let &[0, 0, twice, ref behind @ ..] = rest
            && matches!(twice, 2..0x80)
            && twice % 2 == 0
            && let Some(id) = posting[2].checked_add(u64::from(twice / 2))
        {
            (posting[2], rest) = (id, behind);
            continue;
        }
        let step = next(&mut rest).ok_or_else(|| damaged("a posting that ends nowhere".into()))?;
        posting = taken(posting, step).ok_or_else(|| damaged("postings that do not ascend".into()))?;
    }
    Ok(())
}

/// Takes a step from the bytes.
fn next(from: &mut &[u8]) -> Option<Step> {
    Some((take(from)?, take(from)?, take_signed(from)?))
}

pub(super) fn damaged(why: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::FromSqlConversionFailure(3, Type::Blob, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn blocks(postings: &BTreeSet<Posting>) -> Vec<Block> {
        let mut blocks = Vec::new();
        let kept = encode(postings.iter().copied(), BYTES, |Block { first, rest }| {
            blocks.push(Block { first: *first, rest: rest.clone() });
            Ok::<(), ()>(())
        });
        kept.expect("nothing failed");
        blocks
    }

    fn postings() -> impl Strategy<Value = BTreeSet<Posting>> {
        let number = prop_oneof![0..5u64, 0..100_000u64, any::<u64>()];
        let posting = [number.clone(), number.clone(), number];
        prop::collection::btree_set(posting, 0..400)
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(postings in postings()) {
            let mut read = Vec::new();
            for Block { first, rest } in blocks(&postings) {
                prop_assert!(rest.len() <= BYTES);
                decode(first, &rest, &mut read).expect("readable");
            }
            prop_assert_eq!(read, Vec::from_iter(postings));
        }

        #[test]
        fn no_bytes_make_it_panic(first in any::<Posting>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut read = Vec::new();
            let decoded = decode(first, &rest, &mut read).is_ok();
            prop_assert_eq!(decoded, by_postcard(first, &rest).is_some_and(|all| all == read));
            if decoded {
                prop_assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
            }
        }
    }

    /// As the bytes are understood by what wrote them. `None`: not at all.
    fn by_postcard(first: Posting, mut rest: &[u8]) -> Option<Vec<Posting>> {
        let mut all = vec![first];
        while !rest.is_empty() {
            let (step, left) = postcard::take_from_bytes(rest).ok()?;
            all.push(taken(*all.last()?, step)?);
            rest = left;
        }
        Some(all)
    }

    #[test]
    fn the_sign_of_a_step_is_its_lowest_bit() {
        let small: [(u8, i64); 5] = [(0, 0), (1, -1), (2, 1), (3, -2), (126, 63)];
        for (byte, z) in small {
            assert_eq!(next(&mut [7, 9, byte].as_slice()), Some((7, 9, z)));
        }
    }

    #[test]
    fn neighbours_take_few_bytes() {
        let postings = (1..=200).map(|seq| [7, seq, 1_000 + 3 * seq]).collect();
        let blocks = blocks(&postings);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].rest.len(), 199 * 3);
    }
}
