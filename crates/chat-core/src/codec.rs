//! Commands as bytes, as the log and the replicas carry them; and answers, as a store keeps them.
//!
//! A batch is one byte that says which format follows (now 1), then the commands in postcard's encoding. Reading
//! refuses, and never panics or takes more memory than the input warrants, whatever it is given.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::{Answer, Command};

const FORMAT: u8 = 1;

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
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, rest)) => read(rest),
        Some((&found, _)) => Err(DecodeError::UnknownFormat { found }),
    }
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

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(DecodeError::LeftOver { count: rest.len() }),
        Err(_) => Err(DecodeError::Malformed),
    }
}
