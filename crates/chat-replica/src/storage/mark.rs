//! A second witness of what was acknowledged, beside the database (rule 15).
//!
//! SQLite's write-ahead log ends silently at its first damaged frame: acknowledged entries can vanish as if they had never been
//! written. The mark says how long the log was when it was last synced, and what the protocol's one row of facts was. It is written after
//! the sync and before anybody is told. It is synced itself where it is lowered, and where it says another disk, process run, promise or
//! impairment. The log's end is not synced: where both are lost with the power, it is behind, which says less but nothing wrong.

use crate::protocol::{ChainHash, DiskId, Epoch, Incarnation, ReplicaId};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Index 8, hash 32, promised 8 + 4; then disk 16, process run 8 + 8, committed 8, impaired until 8; then the checksum.
const CHECKED: usize = 100;
const SIZE: usize = CHECKED + 16;
/// What earlier versions wrote ended after the promise.
const OLD_CHECKED: usize = 52;
const OLD_SIZE: usize = OLD_CHECKED + 16;
/// Stands for "not impaired".
const WHOLE: u64 = u64::MAX;

/// The log's end when it was last synced, and the promise that was durable then: what a disk that lost its tail promised
/// still holds (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub index: u64,
    pub hash: ChainHash,
    pub promised: Epoch,
    /// `None` in a mark of an earlier version.
    pub run: Option<Run>,
}

/// Whose mark it is, and what else was durable then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub disk: DiskId,
    pub incarnation: Incarnation,
    pub committed: u64,
    pub impaired_until: Option<u64>,
}

impl Mark {
    /// What must not be behind, even after a power failure.
    fn facts(&self) -> (Epoch, Option<Run>) {
        (self.promised, self.run.map(|run| Run { committed: 0, ..run }))
    }
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

    /// `None` for a new file, or one that is damaged.
    pub fn read(&self) -> io::Result<Option<Mark>> {
        let mut bytes = [0; SIZE];
        let mut length = 0;
        while length < SIZE {
            match self.file.read_at(&mut bytes[length..], length as u64)? {
                0 => break,
                more => length += more,
            }
        }
        let checked = if length == OLD_SIZE { OLD_CHECKED } else { CHECKED };
        if length != checked + 16 || bytes[checked..length] != checksum(&bytes[..checked]) {
            if length > 0 {
                tracing::error!("replica.mark is damaged: the database alone says what was acknowledged");
            }
            return Ok(None);
        }
        let number = |from| u64::from_le_bytes(part(&bytes, from));
        let promised = Epoch { round: number(40), replica: ReplicaId(u32::from_le_bytes(part(&bytes, 48))) };
        let run = (checked == CHECKED).then(|| Run {
            disk: DiskId(part(&bytes, 52)),
            incarnation: Incarnation { count: number(68), nonce: number(76) },
            committed: number(84),
            impaired_until: Some(number(92)).filter(|until| *until != WHOLE),
        });
        Ok(Some(Mark { index: number(0), hash: ChainHash(part(&bytes, 8)), promised, run }))
    }

    /// Says `mark` from now on, also after a power failure: for a mark that is lowered. One that were higher than the log
    /// then would make a whole log look damaged, for good.
    pub fn lower(&mut self, mark: Mark) -> io::Result<()> {
        self.write(mark)?;
        self.file.sync_data()
    }

    /// Says `mark` from now on; its facts also after a power failure.
    pub fn write(&mut self, mark: Mark) -> io::Result<()> {
        let before = self.written.replace(mark);
        if before == Some(mark) {
            return Ok(());
        }
        let mut bytes = [0; SIZE];
        bytes[..8].copy_from_slice(&mark.index.to_le_bytes());
        bytes[8..40].copy_from_slice(&mark.hash.0);
        bytes[40..48].copy_from_slice(&mark.promised.round.to_le_bytes());
        bytes[48..52].copy_from_slice(&mark.promised.replica.0.to_le_bytes());
        let length = if let Some(run) = mark.run {
            bytes[52..68].copy_from_slice(&run.disk.0);
            bytes[68..76].copy_from_slice(&run.incarnation.count.to_le_bytes());
            bytes[76..84].copy_from_slice(&run.incarnation.nonce.to_le_bytes());
            bytes[84..92].copy_from_slice(&run.committed.to_le_bytes());
            bytes[92..CHECKED].copy_from_slice(&run.impaired_until.unwrap_or(WHOLE).to_le_bytes());
            CHECKED
        } else {
            OLD_CHECKED
        };
        let check = checksum(&bytes[..length]);
        bytes[length..length + 16].copy_from_slice(&check);
        self.file.write_all_at(&bytes[..length + 16], 0)?;
        if before.map(|before| before.facts()) != Some(mark.facts()) {
            self.file.sync_data()?;
        }
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
        let incarnation = Incarnation { count: 3, nonce: 17 };
        let run = Run { disk: DiskId([8; 16]), incarnation, committed: 6, impaired_until: Some(9) };
        let promised = Epoch { round: 5, replica: ReplicaId(2) };
        let old = Mark { index: 7, hash: ChainHash([3; 32]), promised, run: None };
        for mark in
            [old, Mark { run: Some(run), ..old }, Mark { run: Some(Run { impaired_until: None, ..run }), ..old }]
        {
            file.write(mark).expect("written");
            assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), Some(mark));
            let sound = std::fs::read(&path).expect("readable");
            for bit in 0..sound.len() * 8 {
                let mut bytes = sound.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, bytes).expect("written");
                assert_eq!(MarkFile::open(&path).expect("there").read().expect("readable"), None, "bit {bit}");
            }
        }
    }
}
