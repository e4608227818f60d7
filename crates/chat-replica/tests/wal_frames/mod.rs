//! Where the frames of a write-ahead log end: its file is as long as it will ever be from the start.

use std::path::Path;

/// The file's header.
pub const HEADER: u64 = 32;
/// A page, and what is before it.
pub const FRAME: u64 = 24 + 4096;

/// How many frames there are. Each has the two numbers of the file's header that are drawn whenever it is written from its beginning.
pub fn frames(wal: &Path) -> u64 {
    let bytes = std::fs::read(wal).expect("readable");
    let (header, frames) = bytes.split_at(HEADER as usize);
    frames.chunks_exact(FRAME as usize).take_while(|frame| frame[8..16] == header[16..24]).count() as u64
}
