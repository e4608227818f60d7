//! Memory for tables in which each look goes to another place.

use memmap2::MmapMut;
use std::io;

/// Four numbers, all 0 at first.
pub(super) type Row = [u32; 4];
const ROW: usize = size_of::<Row>();
/// No page of memory is smaller.
const PAGE: usize = 4096;
/// Of rows that share a cache line: a table begins with one.
pub(super) const IN_LINE: usize = 64 / ROW;

/// Rows by their numbers.
#[derive(Debug)]
pub(super) struct Table {
    memory: MmapMut,
}

impl Table {
    /// So many rows. A page of it is in memory once it is used.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(rows: usize) -> io::Result<Table> {
        MmapMut::map_anon(rows * ROW).map(|memory| Table { memory })
    }

    /// The same where most of the rows will be used: in large pages if the operating system knows such, as with small ones each look waits for where the page
    /// is, too. All of it is in memory once this returns, which takes milliseconds for each large page.
    ///
    /// # Errors
    /// There is no memory.
    pub fn filled(rows: usize) -> io::Result<Table> {
        let mut table = Table::new(rows)?;
        ask_for_large_pages(&table.memory);
        table.memory.chunks_mut(PAGE).for_each(|page| page[0] = 0);
        Ok(table)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.memory.len() / ROW
    }

    /// One of them.
    ///
    /// # Panics
    /// There are not so many.
    #[inline]
    pub fn row(&self, at: usize) -> Row {
        row(&self.memory[at * ROW..][..ROW])
    }

    /// Some of them, one after the other.
    ///
    /// # Panics
    /// There are not so many.
    #[inline]
    pub fn rows(&self, first: usize, count: usize) -> impl Iterator<Item = Row> {
        self.memory[first * ROW..][..count * ROW].chunks_exact(ROW).map(row)
    }

    /// Makes it this one.
    ///
    /// # Panics
    /// There are not so many.
    pub fn set(&mut self, at: usize, row: Row) {
        let numbers = self.memory[at * ROW..][..ROW].chunks_exact_mut(4);
        numbers.zip(row).for_each(|(bytes, number)| bytes.copy_from_slice(&number.to_ne_bytes()));
    }
}

/// Without them it works all the same.
fn ask_for_large_pages(memory: &MmapMut) {
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

#[inline]
fn row(bytes: &[u8]) -> Row {
    let mut row = [0; 4];
    for (number, bytes) in row.iter_mut().zip(bytes.chunks_exact(4)) {
        *number = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_it_was_made_and_nothing_at_first() {
        for table in [Table::new(1000), Table::filled(1000)] {
            let mut table = table.expect("there is memory");
            assert_eq!((table.len(), table.row(0), table.row(999)), (1000, [0; 4], [0; 4]));
            table.set(999, [1, 2, 3, u32::MAX]);
            table.set(7, [4; 4]);
            assert_eq!((table.row(999), table.row(998)), ([1, 2, 3, u32::MAX], [0; 4]));
            assert_eq!(table.rows(6, 3).collect::<Vec<_>>(), [[0; 4], [4; 4], [0; 4]]);
        }
    }
}
