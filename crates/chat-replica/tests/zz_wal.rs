//! Temporary.
use chat_replica::node::Disk as _;
use chat_replica::protocol::*;
use chat_replica::storage::{DataDirectory, Readers, SqliteDisk};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("1");
    let directory = Arc::new(DataDirectory::take(&path, ReplicaId(1)).unwrap());
    let (mut disk, _, _) = SqliteDisk::open(directory.clone(), ReplicaId(1)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let readers = Readers::new(directory);
    let busy = std::env::var("READERS").ok().map_or(8, |n| n.parse().unwrap());
    for _ in 0..busy {
        let (readers, stop, count) = (readers.clone(), stop.clone(), count.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                readers.read(|state| {
                    let began = std::time::Instant::now();
                    while began.elapsed() < std::time::Duration::from_millis(2) {
                        state.applied()?;
                    }
                    Ok(())
                }).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let epoch = Epoch { round: 1, replica: ReplicaId(1) };
    let mut hash = ChainHash::default();
    tokio::task::spawn_blocking(move || {
        for index in 1..=2000 {
            let entry = Entry::chained(hash, index, epoch, Body::Commands(vec![7; 100_000].into()));
            hash = entry.hash;
            disk.begin(true).unwrap();
            disk.persist(&Persist::Append(entry)).unwrap();
            disk.commit().unwrap();
            if index % 200 == 0 {
                println!("{index}: wal {} MiB, {} reads", std::fs::metadata(path.join("replica.db-wal")).unwrap().len() >> 20, count.load(Ordering::Relaxed));
            }
        }
        stop.store(true, Ordering::Relaxed);
    }).await.unwrap();
}
