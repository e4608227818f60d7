//! Numbers in blocks, as postcard writes them: seven bits a byte, the lowest first; all but the last byte have their highest bit set.

/// A number takes so many bytes at most.
pub(super) const LONGEST: usize = 10;

/// Adds a number.
#[inline]
pub(super) fn put(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Adds a number of either sign: small ones are as short as small ones without.
#[inline]
pub(super) fn put_signed(to: &mut Vec<u8>, number: i64) {
    put(to, (number << 1 ^ number >> 63).cast_unsigned());
}

/// Takes a number.
#[inline]
pub(super) fn take(from: &mut &[u8]) -> Option<u64> {
    match from.split_first()? {
        // Most are this short.
        (&byte, rest) if byte < 0x80 => {
            *from = rest;
            Some(u64::from(byte))
        }
        _ => take_long(from),
    }
}

fn take_long(from: &mut &[u8]) -> Option<u64> {
    take_word(from).or_else(|| take_bytes(from))
}

/// Takes a number of up to eight bytes that others follow, without a branch for each byte: how many there are cannot be foreseen.
/// `None`: it is none of those.
#[inline]
fn take_word(from: &mut &[u8]) -> Option<u64> {
    const LASTS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*from.first_chunk()?);
    let lasts = !word & LASTS;
    let behind = lasts.checked_sub(1)?;
    *from = &from[1 + behind.trailing_ones() as usize / 8..];
    // Seven bits a byte, moved together by pairs.
    let bits = word & (lasts ^ behind) & !LASTS;
    let bits = (bits & 0x7f00_7f00_7f00_7f00) >> 1 | bits & 0x007f_007f_007f_007f;
    let bits = (bits & 0x3fff_0000_3fff_0000) >> 2 | bits & 0x0000_3fff_0000_3fff;
    Some((bits & 0x0fff_ffff_0000_0000) >> 4 | bits & 0x0fff_ffff)
}

fn take_bytes(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.split_off_first().copied()?;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has one bit.
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Takes a number whose lowest bit is its sign.
#[inline]
pub(super) fn take_signed(from: &mut &[u8]) -> Option<i64> {
    let number = take(from)?;
    Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_postcard_does() {
        let near_powers = (0..64).flat_map(|bits| [-1, 0, 1].map(|more| (1u64 << bits).wrapping_add_signed(more)));
        for number in near_powers.chain([0, u64::MAX]) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            put_signed(&mut bytes, number.cast_signed());
            assert_eq!(bytes, postcard::to_stdvec(&(number, number.cast_signed())).unwrap(), "{number}");
            assert!(bytes.len() <= 2 * LONGEST);
            let mut rest = bytes.as_slice();
            assert_eq!((take(&mut rest), take_signed(&mut rest)), (Some(number), Some(number.cast_signed())));
            assert!(rest.is_empty());
            // Whatever follows, and however much.
            for follows in [[0; 8], [0x80; 8], [0xff; 8]] {
                for length in 0..=8 {
                    let all = [bytes.as_slice(), &follows[..length]].concat();
                    let mut rest = all.as_slice();
                    assert_eq!((take(&mut rest), take_signed(&mut rest)), (Some(number), Some(number.cast_signed())));
                    assert_eq!(rest, &follows[..length]);
                }
            }
        }
    }

    #[test]
    fn numbers_end_where_64_bits_do() {
        let most = [[0xff; 9].as_slice(), &[1]].concat();
        assert_eq!(take(&mut most.as_slice()), Some(u64::MAX));
        for bad in [[[0xff; 9].as_slice(), &[2]].concat(), vec![0x80; 10], vec![0x80; 3], Vec::new()] {
            assert_eq!(take(&mut bad.as_slice()), None, "{bad:?}");
        }
        let small: [(u8, i64); 5] = [(0, 0), (1, -1), (2, 1), (3, -2), (126, 63)];
        for (byte, number) in small {
            assert_eq!(take_signed(&mut [byte].as_slice()), Some(number));
        }
    }
}
