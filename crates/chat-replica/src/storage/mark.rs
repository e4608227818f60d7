//! A second witness of what was acknowledged, beside the database (rule 15).
//!
//! SQLite's write-ahead log ends silently at its first damaged frame: acknowledged entries can vanish as if they had never been
//! written. The mark says how long the log was when it was last synced. It is written after the sync and before anybody is told, and is not
//! synced itself, unless it is lowered: where both are lost with the power, the mark is behind, which says less but nothing wrong.

use crate::protocol::{ChainHash, Epoch, ReplicaId};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const CHECKED: usize = 52;
const SIZE: usize = CHECKED + 16;

/// The log's end when it was last synced, and the promise that was durable then: what a disk that lost its tail promised
/// still holds (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub index: u64,
    pub hash: ChainHash,
    pub promised: Epoch,
}

#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    written: Option<Mark>,
}

impl MarkFile {
    pub fn open(path: &Path) -> io::Result<MarkFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(MarkFile { file, written: None })
    }

    /// `None` for a new file, or one that was not written whole.
    pub fn read(&self) -> io::Result<Option<Mark>> {
        let mut bytes = [0; SIZE];
        match self.file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        if bytes[CHECKED..] != checksum(&bytes[..CHECKED]) {
            return Ok(None);
        }
        let promised = Epoch {
            round: u64::from_le_bytes(part(&bytes, 40)),
            replica: ReplicaId(u32::from_le_bytes(part(&bytes, 48))),
        };
        Ok(Some(Mark { index: u64::from_le_bytes(part(&bytes, 0)), hash: ChainHash(part(&bytes, 8)), promised }))
    }

    /// Says `mark` from now on, also after a power failure: for a mark that is lowered. One that were higher than the log
    /// then would make a whole log look damaged, for good.
    pub fn lower(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark)?;
        self.file.sync_data()
    }

    /// Says `mark` from now on.
    pub fn write(&mut self, mark: Mark) -> io::Result<()> {
        if self.written == Some(mark) {
            return Ok(());
        }
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&mark.index.to_le_bytes());
        bytes[8..40].copy_from_slice(&mark.hash.0);
        bytes[40..48].copy_from_slice(&mark.promised.round.to_le_bytes());
        bytes[48..CHECKED].copy_from_slice(&mark.promised.replica.0.to_le_bytes());
        let check = checksum(&bytes[..CHECKED]);
        bytes[CHECKED..].copy_from_slice(&check);
        self.file.write_all_at(&bytes, 0)?;
        self.written = Some(mark);
        Ok(())
    }
}

fn part<const N: usize>(bytes: &[u8; SIZE], from: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[from..from + N]);
    part
}

fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_as_written_and_a_damaged_one_says_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mark");
        let mut file = MarkFile::open(&path).expect("made");
        assert_eq!(file.read().expect("readable"), None);
        let mark = Mark { index: 7, hash: ChainHash([3; 32]), promised: Epoch { round: 5, replica: ReplicaId(2) } };
        file.write(mark).expect("written");
        assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), Some(mark));
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), None);
    }
}
