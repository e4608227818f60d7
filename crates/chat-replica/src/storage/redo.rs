//! The redo log: what a turn makes durable, in one write and one sync of a file that has its length already.
//!
//! The database takes the same in later, many turns in one transaction (`tail`), and says in that transaction which turn was the last. So a
//! start has only those to carry out again that came after it; the others mean nothing any more.
//!
//! ```text
//! area 0: frame frame frame  (older frames)          area 1: frame frame  (older frames)
//! frame:  tag 8, number 8, length 4, checksum 16, records
//! ```
//!
//! That the database holds an area durably is made so by `intake`, when `disk` finds one that waits for it ([`Redo::is_full`]).
//!
//! A frame is one turn, and begins at a page, so that none is in a page that was durable already, and no page is written twice. Two areas are written in turn, each from its beginning, once the database holds durably what is in it. Frames are
//! numbered from 1 in each process run, and tag and checksum are those of that run: what an earlier run or an earlier round left behind the
//! last frame is not taken for one that follows it.
//!
//! The end of an area looks like a damaged frame. That the log is not shorter than what was acknowledged is for the mark to say (rule 15);
//! after a power failure, which can take what the mark said, a sound frame beyond one that is not tells: it was written after the sync of that.

use super::damage::is_unreadable;
use super::direct::{DirectFile, PAGE};
use super::directory::DataDirectory;
use crate::protocol::*;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Of one area.
const AREA: u64 = 8 << 20;
const AREAS: [u64; 2] = [0, AREA];
const HEADER: usize = 36;
/// Earlier versions began them at multiples of this.
const ALIGN: usize = 8;
/// So much is read at once; where that fails, so much counts as lost.
const PART: usize = 64 << 10;
const ZEROS: [u8; PAGE] = [0; PAGE];
const NEW: &str = "redo-new";

/// One thing that was made durable, as it is written.
#[derive(Serialize, Deserialize)]
enum Record {
    Append { index: u64, epoch: Epoch, kind: u8, body: Bytes, hash: [u8; 32] },
    CutBack(u64),
    Promise(Epoch),
    Cluster(ClusterId),
    Known(Member),
    Repaired,
}

impl Record {
    fn of(what: &Persist) -> Record {
        match what {
            Persist::Append(entry) => {
                let (kind, body) = entry.body.encode();
                Record::Append { index: entry.index, epoch: entry.epoch, kind, body, hash: entry.hash.0 }
            }
            Persist::CutBack(from) => Record::CutBack(*from),
            Persist::Promise(epoch) => Record::Promise(*epoch),
            Persist::Cluster(cluster) => Record::Cluster(*cluster),
            Persist::Known(member) => Record::Known(*member),
            Persist::Repaired => Record::Repaired,
        }
    }

    fn persist(self) -> Option<Persist> {
        Some(match self {
            Record::Append { index, epoch, kind, body, hash } => {
                Persist::Append(Entry { index, epoch, body: Body::decode(kind, body)?, hash: ChainHash(hash) })
            }
            Record::CutBack(from) => Persist::CutBack(from),
            Record::Promise(epoch) => Persist::Promise(epoch),
            Record::Cluster(cluster) => Persist::Cluster(cluster),
            Record::Known(member) => Persist::Known(member),
            Record::Repaired => Persist::Repaired,
        })
    }
}

/// The file, as its only writer.
#[derive(Debug)]
pub(super) struct Redo {
    file: DirectFile,
    tag: [u8; 32],
    /// The area that is written, and where in it the next frame goes.
    area: usize,
    at: u64,
    /// The number of the last frame; and that of the last one in each area.
    number: u64,
    ends: [u64; 2],
    /// The turn's frame.
    frame: Vec<u8>,
}

impl Redo {
    /// For a new process run, once the database holds durably what the file has of earlier ones. A file that is there is used again, if
    /// `is_readable`: a sector that cannot be read could not be written in part either.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn begin(directory: &DataDirectory, run: Member, is_readable: bool) -> io::Result<Redo> {
        let path = directory.redo();
        let is_long = |file: &File| file.metadata().is_ok_and(|file| file.len() == AREA * AREAS.len() as u64);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) if is_readable && is_long(&file) => {}
            Ok(_) => make(directory)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_unreadable(&error) => make(directory)?,
            Err(error) => return Err(error),
        }
        let file = DirectFile::open(&path)?;
        let frame = Vec::with_capacity(64 << 10);
        Ok(Redo { file, tag: tag(run), area: 0, at: 0, number: 0, ends: [0; 2], frame })
    }

    /// The number of the last turn.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Adds to the turn's frame.
    pub fn add(&mut self, what: &Persist) {
        if self.frame.is_empty() {
            self.frame.resize(HEADER, 0);
        }
        let frame = std::mem::take(&mut self.frame);
        self.frame = postcard::to_extend(&Record::of(what), frame).expect("records encode to memory");
    }

    /// Whether the turn has one.
    pub fn is_waiting(&self) -> bool {
        !self.frame.is_empty()
    }

    /// Whether an area waits for the database to hold durably what is in it. `durable`: the last turn of which that is so.
    pub fn is_full(&self, durable: u64) -> bool {
        self.ends[1 - self.area] > durable
    }

    /// Writes the turn's frame and syncs it. Where there is no room for it, it does neither, and returns `false`: the turn goes into the database.
    ///
    /// # Errors
    /// The file's. The process must end (rule 15).
    pub fn sync(&mut self, durable: u64) -> io::Result<bool> {
        self.number += 1;
        let length = self.frame.len();
        self.frame.resize(length.next_multiple_of(PAGE), 0);
        let room = |at: u64, frame: &[u8]| at + frame.len() as u64 <= AREA;
        let is_turn_of_other = !room(self.at, &self.frame);
        if is_turn_of_other && (self.is_full(durable) || !room(0, &self.frame)) {
            self.frame.clear();
            return Ok(false);
        }
        if is_turn_of_other {
            (self.area, self.at) = (1 - self.area, 0);
        }
        seal(&mut self.frame[..length], &self.tag, self.number);
        self.file.write_pages(&self.frame, AREAS[self.area] + self.at)?;
        self.file.sync()?;
        self.at += self.frame.len() as u64;
        self.ends[self.area] = self.number;
        self.frame.clear();
        Ok(true)
    }
}

/// What a file has of one process run.
#[derive(Debug)]
pub(super) struct Found {
    /// What the turns after the one that was asked for made durable, in order and without a gap.
    pub turns: Vec<Persist>,
    /// The number of the last of them.
    pub number: u64,
    /// More was durable than that: a frame beyond the last is sound, or a part of the file cannot be read.
    pub is_cut: bool,
    /// What such frames hold.
    pub beyond: Vec<Persist>,
    /// All of the file can be read, or there is none.
    pub is_readable: bool,
}

/// What the file at `path` has of this run after the turn with this number, or from the oldest on that is there. Without a file: nothing.
///
/// # Errors
/// If it cannot be opened, for another reason than damage.
pub(super) fn read(path: &Path, run: Member, after: Option<u64>) -> io::Result<Found> {
    let number = after.unwrap_or(0);
    let mut found = Found { turns: Vec::new(), number, is_cut: false, beyond: Vec::new(), is_readable: true };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) if is_unreadable(&error) => return Ok(Found { is_cut: true, is_readable: false, ..found }),
        file => file?,
    };
    let mut frames = Vec::new();
    for area in AREAS {
        let (bytes, is_all) = read_area(&file, area)?;
        found.is_readable &= is_all;
        frames.extend(frames_in(&bytes, &tag(run)));
    }
    found.is_cut = !found.is_readable;
    frames.sort_by_key(|(number, _)| *number);
    if let (None, Some((oldest, _))) = (after, frames.first()) {
        found.number = oldest.saturating_sub(1);
    }
    for (number, records) in frames {
        if number == found.number + 1 && found.beyond.is_empty() {
            found.number = number;
            found.turns.extend(records);
        } else if number > found.number {
            found.is_cut = true;
            found.beyond.extend(records);
        }
    }
    Ok(found)
}

/// Every sound frame of this run, wherever it is.
fn frames_in(bytes: &[u8], tag: &[u8; 32]) -> Vec<(u64, Vec<Persist>)> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= HEADER) {
        // Most of an area may never have been written.
        if rest.starts_with(&ZEROS) {
            at += ZEROS.len();
            continue;
        }
        // And what fills a frame's last page is as long as many small frames.
        let zeros = rest.iter().take_while(|byte| **byte == 0).count() / ALIGN * ALIGN;
        if zeros > 0 {
            at += zeros;
            continue;
        }
        match opened(rest, tag) {
            Some((number, length, records)) => {
                frames.push((number, records));
                at += length.next_multiple_of(ALIGN);
            }
            None => at += ALIGN,
        }
    }
    frames
}

/// Header and checksum of a frame whose records are there.
fn seal(frame: &mut [u8], tag: &[u8; 32], number: u64) {
    let length = frame.len() as u32;
    frame[..8].copy_from_slice(&tag[..8]);
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    frame[16..20].copy_from_slice(&length.to_le_bytes());
    let check = checksum(frame, tag);
    frame[20..HEADER].copy_from_slice(&check);
}

/// Number, length and records of the frame that begins here, if one does.
fn opened(bytes: &[u8], tag: &[u8; 32]) -> Option<(u64, usize, Vec<Persist>)> {
    if bytes[..8] != tag[..8] {
        return None;
    }
    let number = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
    let length = u32::from_le_bytes(bytes[16..20].try_into().ok()?) as usize;
    let frame = bytes.get(..length).filter(|frame| frame.len() >= HEADER)?;
    if frame[20..HEADER] != checksum(frame, tag) {
        return None;
    }
    let (mut rest, mut records) = (&frame[HEADER..], Vec::new());
    while !rest.is_empty() {
        let (record, after) = postcard::take_from_bytes::<Record>(rest).ok()?;
        records.push(record.persist()?);
        rest = after;
    }
    Some((number, length, records))
}

fn checksum(frame: &[u8], tag: &[u8; 32]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(tag);
    hasher.update(&frame[8..20]).update(&frame[HEADER..]);
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

fn tag(run: Member) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"redo log 1").update(&run.disk.0);
    hasher.update(&run.incarnation.count.to_le_bytes()).update(&run.incarnation.nonce.to_le_bytes());
    *hasher.finalize().as_bytes()
}

/// As much of an area as can be read, with zeros where it cannot, and whether all of it could.
fn read_area(file: &File, from: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = vec![0; AREA as usize];
    let mut is_all = true;
    for (part, at) in bytes.chunks_mut(PART).zip((from..).step_by(PART)) {
        match read_part(file, part, at) {
            Err(error) if is_unreadable(&error) => is_all = false,
            read => read?,
        }
    }
    Ok((bytes, is_all))
}

/// Where the file is shorter than it should be, it is as if nothing had been written there.
fn read_part(file: &File, part: &mut [u8], at: u64) -> io::Result<()> {
    let mut length = 0;
    while length < part.len() {
        match file.read_at(&mut part[length..], at + length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(())
}

/// A new file of zeros, durably, in the place of the one that is there.
fn make(directory: &DataDirectory) -> io::Result<()> {
    let path = directory.redo();
    let new = path.with_extension(NEW);
    let mut file = File::create(&new)?;
    for _ in AREAS {
        file.write_all(&vec![0; AREA as usize])?;
    }
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    directory.sync()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { round: 3, replica: ReplicaId(1) };

    fn run(count: u64) -> Member {
        Member { id: ReplicaId(1), disk: DiskId([8; 16]), incarnation: Incarnation { count, nonce: 17 } }
    }

    fn directory() -> (tempfile::TempDir, DataDirectory) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free");
        (dir, directory)
    }

    fn entry(index: u64, bytes: usize) -> Persist {
        let body = Body::Commands(vec![index as u8; bytes].into());
        Persist::Append(Entry::chained(ChainHash::default(), index, EPOCH, body))
    }

    fn write(redo: &mut Redo, turn: &[Persist], durable: u64) -> bool {
        turn.iter().for_each(|what| redo.add(what));
        redo.sync(durable).expect("written")
    }

    #[test]
    fn what_was_synced_is_read_again_from_where_the_database_is() {
        let (_dir, directory) = directory();
        let member = Member { id: ReplicaId(2), disk: DiskId([2; 16]), incarnation: run(5).incarnation };
        let view = View { epoch: EPOCH, primary: ReplicaId(1), members: vec![member] };
        let cluster = ClusterId([4; 16]);
        let founding = Body::Founding { cluster, view: view.clone() };
        let turns = [
            vec![Persist::Cluster(cluster), Persist::Append(Entry::chained(ChainHash::default(), 1, EPOCH, founding))],
            vec![Persist::Promise(EPOCH), Persist::Known(member)],
            vec![
                Persist::CutBack(7),
                entry(7, 100),
                Persist::Append(Entry::chained(ChainHash::default(), 8, EPOCH, Body::View(view))),
            ],
            vec![Persist::Repaired],
        ];
        assert!(read(&directory.redo(), run(1), Some(0)).expect("no file").turns.is_empty());
        let mut redo = Redo::begin(&directory, run(1), true).expect("made");
        for turn in &turns {
            assert!(write(&mut redo, turn, 0));
        }
        for after in 0..=turns.len() {
            let found = read(&directory.redo(), run(1), Some(after as u64)).expect("readable");
            assert_eq!(found.turns, turns[after..].concat());
            assert_eq!((found.number, found.is_cut, found.beyond.len()), (4, false, 0));
        }
        assert_eq!(read(&directory.redo(), run(1), None).expect("readable").turns, turns.concat());
        assert!(read(&directory.redo(), run(2), None).expect("readable").turns.is_empty(), "another process run");
        let mut redo = Redo::begin(&directory, run(2), true).expect("used again");
        assert!(write(&mut redo, &[entry(9, 10)], 0));
        let found = read(&directory.redo(), run(2), Some(0)).expect("readable");
        assert_eq!((found.turns, found.number, found.is_cut), (vec![entry(9, 10)], 1, false));
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let (_dir, directory) = directory();
        drop(Redo::begin(&directory, run(1), true).expect("made"));
        let file = OpenOptions::new().write(true).open(directory.redo()).expect("there");
        let (turns, mut at) = ([3, 5000, 77].map(|bytes| entry(1, bytes)), 0);
        for (turn, number) in turns.iter().zip(1..) {
            let mut frame = postcard::to_extend(&Record::of(turn), vec![0; HEADER]).expect("encoded");
            seal(&mut frame, &tag(run(1)), number);
            file.write_all_at(&frame, at as u64).expect("written");
            at += frame.len().next_multiple_of(ALIGN);
        }
        let found = read(&directory.redo(), run(1), Some(0)).expect("readable");
        assert_eq!((found.turns, found.number, found.is_cut), (turns.to_vec(), 3, false));
    }

    #[test]
    fn an_area_is_written_again_once_the_database_has_it() {
        const LARGE: usize = 3 << 20;
        let (_dir, directory) = directory();
        let mut redo = Redo::begin(&directory, run(1), true).expect("made");
        assert!(!write(&mut redo, &[entry(1, 9 << 20)], 0), "no area has room for it");
        for index in 2..=5 {
            assert!(write(&mut redo, &[entry(index, LARGE)], 1));
        }
        assert!(redo.is_full(1), "the first area waits");
        assert!(!write(&mut redo, &[entry(6, LARGE)], 1), "and the second has no more room");
        assert_eq!(redo.number(), 6, "which the database has taken in instead");
        assert!(!redo.is_full(6));
        for index in 7..=9 {
            assert!(write(&mut redo, &[entry(index, LARGE)], 6));
        }
        let found = read(&directory.redo(), run(1), Some(6)).expect("readable");
        assert_eq!((found.turns.len(), found.number, found.is_cut), (3, 9, false));
        let found = read(&directory.redo(), run(1), Some(7)).expect("readable");
        assert_eq!(found.turns, [entry(8, LARGE), entry(9, LARGE)]);
    }

    #[test]
    fn a_frame_beyond_one_that_is_damaged_tells_of_it() {
        let (_dir, directory) = directory();
        let path = directory.redo();
        let mut redo = Redo::begin(&directory, run(1), true).expect("made");
        let mut ends = Vec::new();
        for index in 1..=3 {
            assert!(write(&mut redo, &[entry(index, 50)], 0));
            ends.push(redo.at as usize);
        }
        let sound = std::fs::read(&path).expect("readable");
        let found_with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = sound.clone();
            change(&mut bytes);
            std::fs::write(&path, bytes).expect("written");
            read(&path, run(1), Some(0)).expect("readable")
        };
        for bit in [0, 77, 8 * HEADER + 5] {
            let found = found_with(&|bytes| bytes[ends[0] + bit / 8] ^= 1 << (bit % 8));
            assert_eq!(
                (found.turns, found.beyond, found.is_cut),
                (vec![entry(1, 50)], vec![entry(3, 50)], true),
                "bit {bit}"
            );
            let found = found_with(&|bytes| bytes[ends[1] + bit / 8] ^= 1 << (bit % 8));
            assert_eq!((found.number, found.is_cut), (2, false), "as if it had never been written: bit {bit}");
        }
        for kept in [0, 1, HEADER, 60] {
            let found = found_with(&|bytes| bytes[ends[1] + kept..].fill(0));
            assert_eq!((found.number, found.is_cut), (2, false), "torn after {kept} bytes");
        }
        let found = found_with(&|bytes| bytes.truncate(ends[1]));
        assert_eq!((found.number, found.is_cut), (2, false));
        drop(redo);
        Redo::begin(&directory, run(2), true).expect("made anew");
        assert_eq!(std::fs::metadata(&path).expect("there").len(), 2 * AREA);
    }
}
