//! A second witness of what was acknowledged, beside the database (rule 15).
//!
//! SQLite's write-ahead log ends silently at its first damaged frame: acknowledged entries can vanish as if they had never been
//! written. The mark says how long the log was when it was last synced, and what the protocol's one row of facts was. It is written after
//! the sync and before anybody is told. It is synced itself where it is lowered, and where it says another disk, process run, promise or
//! impairment. The log's end is not synced: where both are lost with the power, it is behind, which says less but nothing wrong. The mark
//! says in which boot of the machine it was written: within that boot, the page cache has kept it, and it is the last one.
//!
//! It is there twice, in two pages of one file, so that neither a flipped bit nor a sector takes it. Each start makes the file anew: a sector
//! that cannot be read could not be written in part either.

use super::damage::is_unreadable;
use super::directory::DataDirectory;
use crate::protocol::{ChainHash, DiskId, Epoch, Incarnation, ReplicaId};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Index 8, hash 32, promised 8 + 4; then disk 16, process run 8 + 8, committed 8, impaired until 8; then the boot 16; then the checksum.
const CHECKED: usize = 116;
const SIZE: usize = CHECKED + 16;
/// What earlier versions wrote ended before the boot, and still earlier after the promise.
const WITHOUT_BOOT: usize = 100;
const WITHOUT_FACTS: usize = 52;
/// Where the copies are in the file. Earlier versions wrote only the first.
const COPIES: [u64; 2] = [0, 4096];
/// Stands for "not impaired".
const WHOLE: u64 = u64::MAX;
const NEW: &str = "mark-new";

/// The log's end when it was last synced, and the promise that was durable then: what a disk that lost its tail promised
/// still holds (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub index: u64,
    pub hash: ChainHash,
    pub promised: Epoch,
    /// `None` in a mark of an earlier version.
    pub run: Option<Run>,
    /// No power failure can have taken a later one, so nothing beyond `index` was acknowledged.
    pub is_last: bool,
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

    /// Both copies are synced before the log is cut back to where a mark was lowered to: if they differ, the further one is right too.
    fn how_far(&self) -> (u64, Epoch, u64) {
        (self.run.map_or(0, |run| run.incarnation.count), self.promised, self.index)
    }
}

#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    written: Option<Mark>,
    boot: [u8; 16],
}

impl MarkFile {
    /// What the file at `path` says. `None` without one, or if no copy of it can be read as it was written.
    pub fn read(path: &Path) -> io::Result<Option<Mark>> {
        MarkFile::read_in(path, boot())
    }

    fn read_in(path: &Path, boot: [u8; 16]) -> io::Result<Option<Mark>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_unreadable(&error) => {
                tracing::error!(%error, "replica.mark cannot be read");
                return Ok(None);
            }
            file => file?,
        };
        let mut found: Option<Mark> = None;
        for at in COPIES {
            let copy = match read_copy(&file, at) {
                Err(error) if is_unreadable(&error) => Copy::Damaged,
                copy => copy?,
            };
            match copy {
                Copy::Absent => {}
                Copy::Damaged => tracing::error!(at, "a copy of replica.mark is damaged"),
                Copy::Sound(mark, written_in) => {
                    let mark = Mark { is_last: written_in == boot && boot != [0; 16], ..mark };
                    found = Some(mark).into_iter().chain(found).max_by_key(Mark::how_far);
                }
            }
        }
        Ok(found)
    }

    /// Makes the file anew, durably, and says `mark` from now on. A crash leaves the one that was there, or this one.
    pub fn begin(directory: &DataDirectory, mark: Mark) -> io::Result<MarkFile> {
        let path = directory.mark();
        let new = path.with_extension(NEW);
        let mut begun = MarkFile { file: File::create(&new)?, written: None, boot: boot() };
        begun.write(mark)?;
        std::fs::rename(&new, &path)?;
        directory.sync()?;
        Ok(begun)
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
        let (bytes, length) = encoded(&mark, self.boot);
        for at in COPIES {
            self.file.write_all_at(&bytes[..length], at)?;
        }
        if before.map(|before| before.facts()) != Some(mark.facts()) {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

enum Copy {
    Absent,
    Damaged,
    /// And in which boot it was written.
    Sound(Mark, [u8; 16]),
}

fn read_copy(file: &File, at: u64) -> io::Result<Copy> {
    let mut bytes = [0; SIZE];
    let mut length = 0;
    while length < SIZE {
        match file.read_at(&mut bytes[length..], at + length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    if length == 0 {
        return Ok(Copy::Absent);
    }
    let verifies =
        |checked: &usize| length >= checked + 16 && bytes[*checked..checked + 16] == checksum(&bytes[..*checked]);
    let Some(checked) = [CHECKED, WITHOUT_BOOT, WITHOUT_FACTS].into_iter().find(verifies) else {
        return Ok(Copy::Damaged);
    };
    let number = |from| u64::from_le_bytes(part(&bytes, from));
    let promised = Epoch { round: number(40), replica: ReplicaId(u32::from_le_bytes(part(&bytes, 48))) };
    let run = (checked > WITHOUT_FACTS).then(|| Run {
        disk: DiskId(part(&bytes, 52)),
        incarnation: Incarnation { count: number(68), nonce: number(76) },
        committed: number(84),
        impaired_until: Some(number(92)).filter(|until| *until != WHOLE),
    });
    let boot = if checked == CHECKED { part(&bytes, WITHOUT_BOOT) } else { [0; 16] };
    let mark = Mark { index: number(0), hash: ChainHash(part(&bytes, 8)), promised, run, is_last: false };
    Ok(Copy::Sound(mark, boot))
}

fn encoded(mark: &Mark, boot: [u8; 16]) -> ([u8; SIZE], usize) {
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
        bytes[92..WITHOUT_BOOT].copy_from_slice(&run.impaired_until.unwrap_or(WHOLE).to_le_bytes());
        bytes[WITHOUT_BOOT..CHECKED].copy_from_slice(&boot);
        CHECKED
    } else {
        WITHOUT_FACTS
    };
    let check = checksum(&bytes[..length]);
    bytes[length..length + 16].copy_from_slice(&check);
    (bytes, length + 16)
}

/// What the kernel calls the time since it was started; zeros if it does not say.
fn boot() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
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

    fn mark() -> Mark {
        let incarnation = Incarnation { count: 3, nonce: 17 };
        let run = Run { disk: DiskId([8; 16]), incarnation, committed: 6, impaired_until: Some(9) };
        let promised = Epoch { round: 5, replica: ReplicaId(2) };
        Mark { index: 7, hash: ChainHash([3; 32]), promised, run: Some(run), is_last: true }
    }

    #[test]
    fn a_mark_reads_as_written_and_neither_copy_is_needed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free");
        let path = directory.mark();
        assert_eq!(MarkFile::read(&path).expect("no file"), None);
        let whole = Mark { run: mark().run.map(|run| Run { impaired_until: None, ..run }), ..mark() };
        for mark in [mark(), whole] {
            let mut file = MarkFile::begin(&directory, Mark { index: 3, ..mark }).expect("made");
            file.write(mark).expect("written");
            assert_eq!(MarkFile::read(&path).expect("readable"), Some(mark));
            let sound = std::fs::read(&path).expect("readable");
            for (lost, kept) in [(COPIES[0] as usize, COPIES[1]), (COPIES[1] as usize, COPIES[0])] {
                for bit in 0..SIZE * 8 {
                    let mut bytes = sound.clone();
                    bytes[lost + bit / 8] ^= 1 << (bit % 8);
                    std::fs::write(&path, &bytes).expect("written");
                    assert_eq!(MarkFile::read(&path).expect("readable"), Some(mark), "bit {bit} of the copy at {lost}");
                    bytes[kept as usize + bit / 16] ^= 1;
                    std::fs::write(&path, &bytes).expect("written");
                    assert_eq!(MarkFile::read(&path).expect("readable"), None, "and one of the other");
                }
            }
        }
    }

    #[test]
    fn after_another_boot_it_may_be_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free");
        MarkFile::begin(&directory, mark()).expect("made");
        for other in [[0; 16], [1; 16]] {
            let read = MarkFile::read_in(&directory.mark(), other).expect("readable");
            assert_eq!(read, Some(Mark { is_last: false, ..mark() }));
        }
    }

    #[test]
    fn a_mark_of_an_earlier_version_is_one_copy() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("mark");
        let (sound, _) = encoded(&mark(), [7; 16]);
        for (checked, run) in [(WITHOUT_BOOT, mark().run), (WITHOUT_FACTS, None)] {
            let mut bytes = sound[..checked].to_vec();
            bytes.extend_from_slice(&checksum(&bytes));
            std::fs::write(&path, &bytes).expect("written");
            let read = MarkFile::read(&path).expect("readable");
            assert_eq!(read, Some(Mark { run, is_last: false, ..mark() }));
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, flipped).expect("written");
                assert_eq!(MarkFile::read(&path).expect("readable"), None, "bit {bit}");
            }
        }
    }
}
