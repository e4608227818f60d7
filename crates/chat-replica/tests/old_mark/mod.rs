//! A mark that a power failure has set back.

use chat_replica::protocol::Entry;
use std::path::Path;

/// As it is after a power failure that took what the mark said since the log ended at this entry.
pub fn set_back(path: &Path, to: &Entry, another_boot: bool) {
    let mut mark = std::fs::read(path.join("replica.mark")).expect("readable");
    for at in [0, 4096] {
        mark[at..at + 8].copy_from_slice(&to.index.to_le_bytes());
        mark[at + 8..at + 40].copy_from_slice(&to.hash.0);
        if another_boot {
            mark[at + 100..at + 116].copy_from_slice(&[9; 16]);
        }
        let check = blake3::hash(&mark[at..at + 116]);
        mark[at + 116..at + 132].copy_from_slice(&check.as_bytes()[..16]);
    }
    std::fs::write(path.join("replica.mark"), mark).expect("written");
}
