//! Marks of accounts that follow each other in one row, some five bytes each.

use super::Held;
use crate::storage::log_table::undecodable;
use crate::storage::state::corrupt;
use crate::storage::varint::{self, put, take};
use chat_core::Marks;
use rusqlite::types::Type;
use rusqlite::{Result, Row};
use std::ops::Range;

/// The longest that an entry takes: how far an account is from the one before it; its last message; how far what is delivered is behind that, and what is
/// read behind that. What is behind is near, or never was.
const LONGEST: usize = 4 * varint::LONGEST;

/// The bytes of a block that begins at account `first` or behind it. They go on for as long as there is room for another entry; returns how many marks
/// went in, too.
pub(super) fn encode(first: u64, held: &[(u64, Marks)], room: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut before, mut count) = (Vec::with_capacity(room.min(LONGEST * held.len())), first, 0);
    for (account, Marks { read, delivered, last }) in held {
        if bytes.len() + LONGEST > room {
            break;
        }
        let entry = [account - before, *last, last.wrapping_sub(*delivered), delivered.wrapping_sub(*read)];
        entry.into_iter().for_each(|number| put(&mut bytes, number));
        (before, count) = (*account, count + 1);
    }
    (bytes, count)
}

/// Those marks in a column of a row that are `wanted`. All of the row are of accounts within `whole`.
///
/// # Errors
/// If the bytes are none that [`encode`] made, as far as they are looked at.
pub(super) fn read(row: &Row<'_>, column: usize, whole: Range<u64>, wanted: &Range<u64>) -> Result<Held> {
    let bytes = row.get_ref(column)?.as_blob().map_err(|error| corrupt(column, Type::Blob, error))?;
    decode(whole, bytes, wanted).ok_or_else(|| undecodable(column))
}

fn decode(whole: Range<u64>, mut bytes: &[u8], wanted: &Range<u64>) -> Option<Held> {
    let mut held = Held::new();
    let (mut before, mut is_first) = (whole.start, true);
    while !bytes.is_empty() {
        let step = take(&mut bytes)?;
        let account = before.checked_add(step).filter(|account| *account < whole.end)?;
        if step == 0 && !is_first {
            return None;
        }
        if account >= wanted.end {
            break;
        }
        let last = take(&mut bytes)?;
        let delivered = last.wrapping_sub(take(&mut bytes)?);
        let read = delivered.wrapping_sub(take(&mut bytes)?);
        if account >= wanted.start {
            held.push((account, Marks { read, delivered, last }));
        }
        (before, is_first) = (account, false);
    }
    Some(held)
}

/// What is there of an account.
pub(super) fn find(held: &[(u64, Marks)], account: u64) -> Option<Marks> {
    held.binary_search_by_key(&account, |(account, _)| *account).ok().map(|at| held[at].1)
}

/// Both; where both have something, what is new.
pub(super) fn over(mut old: Held, new: &[(u64, Marks)]) -> Held {
    old.extend_from_slice(new);
    keep_last(&mut old);
    old
}

/// Sorts marks by account. Of several of one account, the last count.
pub(super) fn keep_last(held: &mut Held) {
    // Two that are sorted already, one after the other, are merged.
    held.sort_by_key(|(account, _)| *account);
    held.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            *kept = *later;
        }
        same
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn held(base: u64) -> impl Strategy<Value = BTreeMap<u64, Marks>> {
        let marks = any::<[u64; 3]>().prop_map(|[read, delivered, last]| Marks { read, delivered, last });
        prop::collection::btree_map((0..512u64).prop_map(move |account| base + account), marks, 0..100)
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(held in held(1 << 40), room in LONGEST..2000, some in [0..512u64, 0..512u64]) {
            let mut left = Vec::from_iter(held);
            let some = (1 << 40) + some[0].min(some[1])..(1 << 40) + some[0].max(some[1]);
            while let Some((first, _)) = left.first() {
                let (bytes, count) = encode(*first, &left, room);
                prop_assert!(bytes.len() <= room && count > 0);
                let rest = left.split_off(count);
                let whole = left[0].0..u64::MAX;
                for wanted in [whole.clone(), some.clone()] {
                    let expected = left.iter().filter(|(account, _)| wanted.contains(account)).copied().collect();
                    prop_assert_eq!(decode(whole.clone(), &bytes, &wanted), Some(expected));
                }
                left = rest;
            }
        }

        #[test]
        fn what_is_new_counts(old in held(0), new in held(200)) {
            let both = over(Vec::from_iter(old.clone()), &Vec::from_iter(new.clone()));
            let expected: BTreeMap<_, _> = old.into_iter().chain(new).collect();
            prop_assert_eq!(both, Vec::from_iter(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), first in any::<u64>()) {
            let whole = first..first.saturating_add(128);
            if let Some(held) = decode(whole.clone(), &bytes, &whole) {
                prop_assert!(held.is_sorted_by(|(a, _), (b, _)| a < b));
                prop_assert!(held.iter().all(|(account, _)| whole.contains(account)));
            }
        }
    }
}
