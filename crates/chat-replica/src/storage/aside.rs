//! Damaged databases that were set aside: what came of each, and which go.
//!
//! The files of one are `replica.db.damaged-N`, `-wal` and `-journal` after that where there were such, and `-outcome`, a text that says what came
//! of it. Numbers rise. The first one ever and the newest three stay: the first shows how it began, before anything was made anew, and the newest how
//! it goes on. Of the others those go of which nothing is needed any more. If so many are left all the same, the disk must not be trusted with more.

use super::directory::DataDirectory;
use super::disk::DiskError;
use std::fs::File;
use std::io::{self, Write as _};

const KEPT_NEWEST: usize = 3;
/// With so many that stay, no further one is set aside, and so nothing starts.
const MOST: usize = 8;
const PREFIX: &str = "replica.db.damaged-";
const OUTCOME: &str = "-outcome";
/// The files of a database, in the order in which they change places: its name comes last, so a crash on the way does not change the number.
const FILES: [&str; 3] = ["-journal", "-wal", ""];

/// What came of a database that was set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All that it held and that counts was taken over.
    Recovered,
    /// Entries of its log were not. They come from a peer: once the disk counts as whole again, it is as above.
    Lacking,
    /// Perhaps nobody else has all that it holds: it became another disk, or what had been set aside in it cannot be read.
    Kept,
}

const WORDS: [(Outcome, &str); 3] = [
    (
        Outcome::Recovered,
        "recovered: all that this database held was taken over by its successor. It is kept to be looked at.\n",
    ),
    (Outcome::Lacking, "lacking: entries of its log could not be read. Its successor repairs itself from its peers.\n"),
    (Outcome::Kept, "kept: it may hold what nobody else has. It is not deleted.\n"),
];

fn files(directory: &DataDirectory, number: u64) -> impl Iterator<Item = std::path::PathBuf> {
    FILES.into_iter().map(move |end| directory.beside(&format!(".damaged-{number}{end}")))
}

/// The numbers of those that are there, from the first on.
fn numbers(directory: &DataDirectory) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for file in std::fs::read_dir(directory.path())? {
        let name = file?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn next(directory: &DataDirectory) -> io::Result<u64> {
    Ok(numbers(directory)?.last().map_or(1, |last| last + 1))
}

/// `None` for one of an earlier version.
fn outcome(directory: &DataDirectory, number: u64) -> Option<Outcome> {
    let text = std::fs::read_to_string(directory.beside(&format!(".damaged-{number}{OUTCOME}"))).ok()?;
    WORDS.into_iter().find(|(_, words)| *words == text).map(|(outcome, _)| outcome)
}

fn note(directory: &DataDirectory, number: u64, outcome: Outcome) -> io::Result<()> {
    let words = WORDS.into_iter().find(|(other, _)| *other == outcome).map_or("", |(_, words)| words);
    let mut file = File::create(directory.beside(&format!(".damaged-{number}{OUTCOME}")))?;
    file.write_all(words.as_bytes())?;
    file.sync_all()
}

/// The disk counted as whole: what earlier ones lacked is there, or was never acknowledged (rule 15).
pub(crate) fn all_recovered(directory: &DataDirectory) -> io::Result<()> {
    change(directory, Outcome::Recovered)
}

/// It becomes another disk: what earlier ones lack may never come.
pub(crate) fn not_recovered(directory: &DataDirectory) -> io::Result<()> {
    change(directory, Outcome::Kept)
}

/// Says what comes of the one that is set aside next.
pub(crate) fn announce(directory: &DataDirectory, outcome: Outcome) -> io::Result<()> {
    if outcome == Outcome::Kept {
        not_recovered(directory)?;
    }
    note(directory, next(directory)?, outcome)?;
    directory.sync()
}

fn change(directory: &DataDirectory, to: Outcome) -> io::Result<()> {
    for number in numbers(directory)? {
        if outcome(directory, number) == Some(Outcome::Lacking) {
            note(directory, number, to)?;
        }
    }
    Ok(())
}

/// Sets the database aside, if it is still there. A crash can leave every prefix of it; then it is done again.
pub(crate) fn put(directory: &DataDirectory) -> io::Result<()> {
    let number = next(directory)?;
    let mut moved = false;
    for (from, to) in FILES.into_iter().zip(files(directory, number)) {
        let path = directory.beside(from);
        if path.exists() {
            std::fs::rename(path, to)?;
            moved = true;
        }
    }
    if moved {
        let path = directory.beside(&format!(".damaged-{number}"));
        tracing::error!(path = %path.display(), "the damaged database is kept for people; nothing reads it any more");
    }
    Ok(())
}

/// Deletes those that nobody needs, as far as that is possible.
pub(crate) fn prune(directory: &DataDirectory) {
    if let Err(error) = try_prune(directory) {
        tracing::warn!(%error, "damaged databases that nobody needs any more are not deleted");
    }
}

fn try_prune(directory: &DataDirectory) -> io::Result<()> {
    let numbers = numbers(directory)?;
    let between = numbers.get(1..numbers.len().saturating_sub(KEPT_NEWEST)).unwrap_or_default();
    for number in between.iter().copied().filter(|number| outcome(directory, *number) == Some(Outcome::Recovered)) {
        let path = directory.beside(&format!(".damaged-{number}"));
        for file in files(directory, number).chain([directory.beside(&format!(".damaged-{number}{OUTCOME}"))]) {
            remove_file(&file)?;
        }
        tracing::warn!(path = %path.display(), "deleted: all of it had been recovered, and the first and the newest are kept");
    }
    Ok(())
}

/// Whether there may be one more.
pub(crate) fn room(directory: &DataDirectory) -> Result<(), DiskError> {
    prune(directory);
    let count = numbers(directory).map_err(DiskError::File)?.len();
    if count < MOST { Ok(()) } else { Err(DiskError::NoMoreSetAside { path: directory.database(), count }) }
}

pub(crate) fn remove_file(path: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ReplicaId;

    fn set_aside(directory: &DataDirectory, outcome: Outcome) {
        for end in FILES {
            std::fs::write(directory.beside(end), "damaged").expect("written");
        }
        announce(directory, outcome).expect("said");
        put(directory).expect("renamed");
        prune(directory);
    }

    #[test]
    fn the_first_and_the_newest_stay_and_what_was_not_recovered() {
        use Outcome::{Kept, Lacking, Recovered};
        let dir = tempfile::tempdir().expect("a temporary directory");
        let directory = DataDirectory::take(&dir.path().join("1"), ReplicaId(1)).expect("free");
        for outcome in [Recovered, Recovered, Lacking, Recovered, Kept, Recovered, Recovered] {
            set_aside(&directory, outcome);
        }
        assert_eq!(numbers(&directory).expect("readable"), [1, 3, 5, 6, 7], "2 and 4 had been recovered");
        assert!(!directory.beside(".damaged-2-wal").exists() && !directory.beside(".damaged-2-outcome").exists());
        assert_eq!(outcome(&directory, 3), Some(Kept), "it became another disk before it was repaired");

        set_aside(&directory, Lacking);
        std::fs::write(directory.beside(".damaged-9"), "as an earlier version left it").expect("written");
        for _ in 0..2 {
            set_aside(&directory, Recovered);
        }
        assert_eq!(numbers(&directory).expect("readable"), [1, 3, 5, 8, 9, 10, 11]);
        all_recovered(&directory).expect("noted");
        room(&directory).expect("there is");
        assert_eq!(numbers(&directory).expect("readable"), [1, 3, 5, 9, 10, 11], "8 was repaired from a peer");
        for _ in 0..4 {
            room(&directory).expect("there is");
            set_aside(&directory, Kept);
        }
        assert_eq!(numbers(&directory).expect("readable"), [1, 3, 5, 9, 12, 13, 14, 15]);
        let said = room(&directory).expect_err("as many as may be").to_string();
        assert!(said.contains("replica.db") && said.contains('8'), "{said}");
        assert_eq!(numbers(&directory).expect("readable").len(), MOST, "nothing else is deleted");
    }
}
