//! The checksum of a page, as `checked_vfs.c` writes it: for looking at a file beside SQLite, and for mending a single flipped bit.

use crate::{PAGE, RESERVED};

const WORDS: usize = (PAGE - RESERVED) / 8;
const LANES: usize = 4;
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
/// `FACTOR * INVERSE` is 1 in 64 bits.
const INVERSE: u64 = 0xF1DE_83E1_9937_733D;

/// What a page turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Page {
    /// As it was written.
    Sound,
    /// One bit had flipped; it was turned back.
    Mended,
    /// Something else than was written, and more than one bit of it. Not changed.
    Damaged,
}

/// Whether the page with this number, from 1, has the checksum that it was written with.
pub fn verifies(page: &[u8; PAGE], number: u64) -> bool {
    sum(lanes(page, number)) == stored(page)
}

/// Turns a single flipped bit of the page with this number back, wherever in the page it is. That other damage is taken for a single flip has a
/// chance of one in 2^49.
pub fn mend(page: &mut [u8; PAGE], number: u64) -> Page {
    let found = lanes(page, number);
    let stored = stored(page);
    let difference = sum(found) ^ stored;
    if difference == 0 {
        return Page::Sound;
    }
    if difference.is_power_of_two() {
        page[PAGE - RESERVED..].copy_from_slice(&sum(found).to_le_bytes());
        return Page::Mended;
    }
    for lane in 0..LANES {
        if let Some((at, word)) = flipped_word(page, number, lane, wanted(found, lane, stored)) {
            page[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
            return Page::Mended;
        }
    }
    Page::Damaged
}

fn mixed(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(FACTOR);
    state ^ state >> 29
}

/// What `state ^ word` was, if `mixed` made this of it.
fn unmixed(mixed: u64) -> u64 {
    (mixed ^ mixed >> 29 ^ mixed >> 58).wrapping_mul(INVERSE)
}

fn word(page: &[u8; PAGE], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at * 8..at * 8 + 8]);
    u64::from_le_bytes(bytes)
}

fn stored(page: &[u8; PAGE]) -> u64 {
    word(page, WORDS)
}

fn seeds(number: u64) -> [u64; LANES] {
    [number, !number, number.wrapping_add(0x243F_6A88_85A3_08D3), number ^ 0x1319_8A2E_0370_7344]
}

fn lanes(page: &[u8; PAGE], number: u64) -> [u64; LANES] {
    let mut lanes = seeds(number);
    for at in 0..WORDS {
        lanes[at % LANES] = mixed(lanes[at % LANES], word(page, at));
    }
    lanes
}

fn sum(lanes: [u64; LANES]) -> u64 {
    mixed(lanes.into_iter().fold(PAGE as u64, mixed), PAGE as u64)
}

/// What this lane must have come to for the stored checksum, if all other lanes are right.
fn wanted(found: [u64; LANES], lane: usize, stored: u64) -> u64 {
    let before = found[..lane].iter().fold(PAGE as u64, |state, lane| mixed(state, *lane));
    let after = unmixed(stored) ^ PAGE as u64;
    let after = found[lane + 1..].iter().rev().fold(after, |state, lane| unmixed(state) ^ lane);
    unmixed(after) ^ before
}

/// The word of this lane that is one bit off what makes the lane come to `end`, and what it should be.
fn flipped_word(page: &[u8; PAGE], number: u64, lane: usize, end: u64) -> Option<(usize, u64)> {
    let places: Vec<usize> = (lane..WORDS).step_by(LANES).collect();
    let mut state = seeds(number)[lane];
    let mut before = Vec::with_capacity(places.len());
    for at in &places {
        before.push(state);
        state = mixed(state, word(page, *at));
    }
    let mut after = end;
    for (at, state) in places.iter().zip(before).rev() {
        let found = word(page, *at);
        let right = unmixed(after) ^ state;
        if (right ^ found).is_power_of_two() {
            return Some((*at, right));
        }
        after = unmixed(after) ^ found;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(number: u64) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        let mut state = number;
        for byte in &mut page[..PAGE - RESERVED] {
            state = mixed(state, 1);
            *byte = state as u8;
        }
        let sum = sum(lanes(&page, number));
        page[PAGE - RESERVED..].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn every_single_flip_is_found_and_mended() {
        let sound = written(17);
        assert_eq!(mend(&mut sound.clone(), 17), Page::Sound);
        for bit in 0..PAGE * 8 {
            let mut page = sound;
            page[bit / 8] ^= 1 << (bit % 8);
            assert!(!verifies(&page, 17), "bit {bit}");
            assert_eq!(mend(&mut page, 17), Page::Mended, "bit {bit}");
            assert!(page == sound, "bit {bit}");
        }
    }

    #[test]
    fn two_flips_are_damage() {
        let sound = written(17);
        for bit in (0..PAGE * 8).step_by(7) {
            let mut page = sound;
            page[bit / 8] ^= 1 << (bit % 8);
            let other = bit * 31 % (PAGE * 8);
            page[other / 8] ^= 1 << (other % 8);
            let expected = if bit == other { Page::Sound } else { Page::Damaged };
            assert_eq!(mend(&mut page, 17), expected, "bits {bit} and {other}");
        }
        assert_eq!(mend(&mut sound.clone(), 18), Page::Damaged, "another place");
        assert_eq!(mend(&mut [0; PAGE], 1), Page::Damaged, "zeros");
    }
}
