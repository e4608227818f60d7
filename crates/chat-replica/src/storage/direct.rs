//! Writes to a file that go to the disk without a copy in the page cache (`O_DIRECT`), where the file system can do that.
//!
//! They are synced as others are. But there is nothing left to be written then, so a sync takes less of the processor. Readers of the file see them: the
//! kernel forgets what the page cache had in their place.

use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The pieces in which files are written, in bytes.
pub(super) const PAGE: usize = 4096;

/// A file that exists and has its length, as its only writer.
#[derive(Debug)]
pub(super) struct DirectFile {
    file: File,
    /// What is written is copied here first: the beginning must be aligned in memory, too. `None`: the page cache is used.
    aligned: Option<Vec<u8>>,
}

impl DirectFile {
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<DirectFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(path)?;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let direct = options.custom_flags(flags).open(path).ok().filter(reads_pages);
        Ok(match direct {
            Some(file) => DirectFile { file, aligned: Some(Vec::new()) },
            None => DirectFile { file, aligned: None },
        })
    }

    /// Writes whole pages at the beginning of a page.
    ///
    /// # Errors
    /// The file's.
    pub fn write_pages(&mut self, pages: &[u8], at: u64) -> io::Result<()> {
        match &mut self.aligned {
            Some(aligned) => self.file.write_all_at(copied(aligned, pages), at),
            None => self.file.write_all_at(pages, at),
        }
    }

    /// # Errors
    /// The file's. What was written since the last sync may be lost then.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Whether a page is enough for the file system: some want larger pieces, or will not have it at all.
fn reads_pages(file: &File) -> bool {
    let mut room = vec![0; 2 * PAGE];
    let begin = room.as_ptr().align_offset(PAGE);
    room.get_mut(begin..begin + PAGE).is_some_and(|page| file.read_exact_at(page, 0).is_ok())
}

/// A copy that begins at a page in memory.
fn copied<'a>(aligned: &'a mut Vec<u8>, bytes: &[u8]) -> &'a [u8] {
    if aligned.len() < bytes.len() + PAGE {
        aligned.resize(bytes.len() + PAGE, 0);
    }
    let begin = aligned.as_ptr().align_offset(PAGE);
    let copy = &mut aligned[begin..begin + bytes.len()];
    copy.copy_from_slice(bytes);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_with_and_without_the_page_cache() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 16 * PAGE]).expect("written");
        let mut file = DirectFile::open(&path).expect("opened");
        println!("direct: {}", file.aligned.is_some());
        let mut expected = std::fs::read(&path).expect("readable");
        for (number, pages) in [(1, 2), (0, 1), (8, 8), (3, 1), (15, 1)] {
            let bytes: Vec<u8> = (0..pages * PAGE).map(|at| (number + at / 100) as u8).collect();
            file.write_pages(&bytes, (number * PAGE) as u64).expect("written");
            file.sync().expect("synced");
            expected[number * PAGE..][..bytes.len()].copy_from_slice(&bytes);
            assert!(std::fs::read(&path).expect("readable") == expected, "page {number}");
        }
        file.aligned = None;
        let mut file = DirectFile { file: File::options().write(true).open(&path).expect("opened"), ..file };
        file.write_pages(&[9; PAGE], 0).expect("written");
        expected[..PAGE].fill(9);
        assert!(std::fs::read(&path).expect("readable") == expected, "through the page cache");
    }

    #[test]
    fn copies_begin_at_a_page_however_often_they_grow() {
        let mut aligned = Vec::new();
        for size in [PAGE, 100 * PAGE, 3 * PAGE, 2000 * PAGE] {
            let bytes = vec![size as u8; size];
            let copy = copied(&mut aligned, &bytes);
            assert!(copy == bytes && copy.as_ptr().align_offset(PAGE) == 0);
        }
    }
}
