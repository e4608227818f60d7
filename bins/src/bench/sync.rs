//! The disk's yardstick: how long a write takes until it is durable, without anything of ours in between.

use super::figures::Times;
use super::load::positive;
use super::report::{Line, Report};
use crate::processes::Broken;
use clap::Args;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What is written at a time.
const BLOCK: usize = 4096;
/// The size of a preallocated file: what is written begins again at its start.
const PREALLOCATED: usize = 4096 * BLOCK;
/// As many replicas as share the disk of a machine when a cluster is measured on one.
const AT_ONCE: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

/// Where the next block goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// To the end of a file that grows.
    Appended,
    /// Over what is there: the file's length does not change.
    Preallocated,
}

pub(super) async fn run(report: &mut Report, folder: &Path, flags: &Flags) -> Result<(), Broken> {
    let time = Duration::from_secs(flags.secs as u64);
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))?;
    for (place, one, three) in [
        (Place::Appended, "sync-appended", "sync-appended-3"),
        (Place::Preallocated, "sync-preallocated", "sync-preallocated-3"),
    ] {
        for (name, files) in [(one, 1), (three, AT_ONCE)] {
            let once = async || {
                let folder = folder.to_path_buf();
                let work = move || syncs(&folder, files, place, time).map_err(|error| failed(&folder, &error));
                let synced = tokio::task::spawn_blocking(work).await;
                let times = synced.map_err(|error| Broken(error.to_string()))??;
                let mut line = Line::new(name, files).timed(&times);
                line.per_second = Some(times.count() as f64 / time.as_secs_f64());
                Ok(line)
            };
            report.measure(once).await?;
        }
    }
    Ok(())
}

fn failed(folder: &Path, error: &io::Error) -> Broken {
    Broken(format!("{} cannot be written: {error}", folder.display()))
}

/// How long it takes from a common start until all files are synced, each by a thread of its own, over and over.
fn syncs(folder: &Path, files: usize, place: Place, time: Duration) -> io::Result<Times> {
    let mut opened = (0..files).map(|_| open(folder, place)).collect::<io::Result<Vec<_>>>()?;
    let Some(mut first) = opened.pop() else { return Ok(Times::default()) };
    std::thread::scope(|scope| {
        let (done, synced) = mpsc::channel();
        let starts: Vec<mpsc::Sender<()>> = opened
            .into_iter()
            .map(|mut file| {
                let (start, started) = mpsc::channel();
                let done = done.clone();
                scope.spawn(move || {
                    // Ends when nobody starts it any more.
                    while started.recv().is_ok() {
                        let _ = done.send(write(&mut file, place));
                    }
                });
                start
            })
            .collect();
        let (mut times, end) = (Vec::new(), Instant::now() + time);
        while Instant::now() < end {
            let begun = Instant::now();
            for start in &starts {
                start.send(()).map_err(io::Error::other)?;
            }
            write(&mut first, place)?;
            for _ in &starts {
                synced.recv().map_err(io::Error::other)??;
            }
            times.push(begun.elapsed());
        }
        Ok(Times::of(times))
    })
}

fn open(folder: &Path, place: Place) -> io::Result<File> {
    let mut file = tempfile::tempfile_in(folder)?;
    if place == Place::Preallocated {
        file.write_all(&vec![0; PREALLOCATED])?;
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(file)
}

/// One block, durable when this returns.
fn write(file: &mut File, place: Place) -> io::Result<()> {
    if place == Place::Preallocated && file.stream_position()? >= PREALLOCATED as u64 {
        file.seek(SeekFrom::Start(0))?;
    }
    file.write_all(&[b'x'; BLOCK])?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preallocated_file_keeps_its_length_and_another_grows() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        for (place, length) in [(Place::Preallocated, PREALLOCATED), (Place::Appended, PREALLOCATED + BLOCK)] {
            let mut file = open(folder.path(), place).expect("it can be made");
            file.set_len(PREALLOCATED as u64).expect("it can be made longer");
            file.seek(SeekFrom::Start(PREALLOCATED as u64)).expect("there is a place");
            write(&mut file, place).expect("it can be written");
            assert_eq!(file.metadata().expect("it is there").len(), length as u64, "{place:?}");
        }
    }

    #[test]
    fn three_at_once_are_measured_as_one() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let times = syncs(folder.path(), 3, Place::Appended, Duration::from_millis(20)).expect("it can be written");
        assert!(times.count() > 0 && times.at(0.5) > Duration::ZERO);
    }
}
