//! A second witness of what was acknowledged, beside the database (rule 15).
//!
//! SQLite's write-ahead log ends silently at its first damaged frame: acknowledged entries can vanish as if they had never been
//! written. The mark says how long the log was when it was last synced. It is written after the sync and before anybody is told, and is not
//! synced itself, unless it is lowered: where both are lost with the power, the mark is behind, which says less but nothing wrong.

use crate::protocol::ChainHash;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const SIZE: usize = 56;

/// The log's end when it was last synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub index: u64,
    pub hash: ChainHash,
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
        if bytes[40..] != checksum(&bytes[..40]) {
            return Ok(None);
        }
        let mut index = [0; 8];
        index.copy_from_slice(&bytes[..8]);
        let mut hash = ChainHash::default();
        hash.0.copy_from_slice(&bytes[8..40]);
        Ok(Some(Mark { index: u64::from_le_bytes(index), hash }))
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
        let check = checksum(&bytes[..40]);
        bytes[40..].copy_from_slice(&check);
        self.file.write_all_at(&bytes, 0)?;
        self.written = Some(mark);
        Ok(())
    }
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
        let mark = Mark { index: 7, hash: ChainHash([3; 32]) };
        file.write(mark).expect("written");
        assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), Some(mark));
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), None);
    }
}
