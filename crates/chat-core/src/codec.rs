//! Commands as bytes, as the log and the replicas carry them; and answers, as a store keeps them.
//!
//! A batch is one byte that says which format follows (now 1), then the commands in postcard's encoding. Reading
//! refuses, and never panics or takes more memory than the input warrants, whatever it is given.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Answer, Command};

const FORMAT: u8 = 1;

/// No command has fewer bytes than one that closes a session.
const SHORTEST: usize = 34;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not even a format byte.
    #[error("no bytes where a batch of commands should be")]
    Empty,
    /// Made by a newer version of this software, or no batch at all.
    #[error("a batch of commands in format {found}, but only format {FORMAT} is known here")]
    UnknownFormat {
        /// The format byte.
        found: u8,
    },
    /// The contents do not read.
    #[error("the bytes cannot be read as what they should be")]
    Malformed,
    /// There is more than was written.
    #[error("{count} bytes are left over")]
    LeftOver {
        /// How many.
        count: usize,
    },
}

/// The bytes of a batch of commands.
pub fn encode(batch: &[Command]) -> Vec<u8> {
    write(vec![FORMAT], &batch)
}

/// The batch of commands that was encoded.
pub fn decode(bytes: &[u8]) -> Result<Vec<Command>, DecodeError> {
    split(bytes).map(|(commands, _)| commands)
}

/// The batch of commands that was encoded, and the bytes of each of them: one behind the other, they are its end.
pub fn split(bytes: &[u8]) -> Result<(Vec<Command>, Vec<&[u8]>), DecodeError> {
    let mut rest = match bytes.split_first() {
        None => return Err(DecodeError::Empty),
        Some((&FORMAT, rest)) => rest,
        Some((&found, _)) => return Err(DecodeError::UnknownFormat { found }),
    };
    let count = take::<usize>(&mut rest)?;
    let room = count.min(rest.len() / SHORTEST);
    let (mut commands, mut parts) = (Vec::with_capacity(room), Vec::with_capacity(room));
    for _ in 0..count {
        let before = rest;
        commands.push(take(&mut rest)?);
        parts.push(&before[..before.len() - rest.len()]);
    }
    if rest.is_empty() { Ok((commands, parts)) } else { Err(DecodeError::LeftOver { count: rest.len() }) }
}

/// The bytes of an answer: 2 to about 60.
pub fn encode_answer(answer: &Answer) -> Vec<u8> {
    write(Vec::new(), answer)
}

/// The answer that was encoded.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, DecodeError> {
    read(bytes)
}

fn write(to: Vec<u8>, value: &impl Serialize) -> Vec<u8> {
    // Postcard fails when its output is full, or a length is not known in advance: neither happens here.
    postcard::to_extend(value, to).expect("commands and answers can always be written to memory")
}

fn take<'b, T: Deserialize<'b>>(rest: &mut &'b [u8]) -> Result<T, DecodeError> {
    let (value, after) = postcard::take_from_bytes(rest).map_err(|_| DecodeError::Malformed)?;
    *rest = after;
    Ok(value)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::LeftOver { count: rest.len() }),
        Err(_) => Err(DecodeError::Malformed),
    }
}
