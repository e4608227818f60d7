//! Rule 15 in whole clusters: a disk that rots under a replica is found, and the replica becomes what it was, from what is sound and from its peers.

use chat_client::{Client, Session};
use chat_core::state_hash;
use chat_replica::node::Disk as _;
use chat_replica::protocol::{LogRead as _, ReplicaId};
use chat_replica::storage::{DataDirectory, SqliteDisk};
use chat_sqlite_checksum::{PAGE, VFS};
use chat_testkit::Cluster;
use rusqlite::{Connection, OpenFlags};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

const PASSWORD: &str = "correct horse battery";

async fn two(client: &Client) -> (Session, Session) {
    for name in ["ada", "bob"] {
        client.register(name, PASSWORD).await.expect("registered");
    }
    let ada = client.log_in("ada", PASSWORD).await.expect("logged in");
    let bob = client.log_in("bob", PASSWORD).await.expect("logged in");
    (ada, bob)
}

fn text(number: usize) -> String {
    format!("{number} {}", "and so on ".repeat(200))
}

fn flip(file: &Path, byte: u64) {
    let open = OpenOptions::new().read(true).write(true).open(file).expect("there");
    let mut was = [0];
    open.read_exact_at(&mut was, byte).expect("within");
    open.write_all_at(&[was[0] ^ 16], byte).expect("written");
}

/// Brings everything into the database, and flips so many bits of the middle one of the pages of this table.
fn rot(data: &Path, table: &str, bits: u64) {
    let path = data.join("replica.db");
    let connection = Connection::open_with_flags_and_vfs(&path, OpenFlags::default(), VFS).expect("opened");
    while connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).expect("checkpointed")
        != 0
    {}
    let mut statement =
        connection.prepare("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'").expect("compiled in");
    let pages: Vec<u32> =
        statement.query_map([table], |row| row.get(0)).expect("readable").map(|page| page.expect("a number")).collect();
    let page = u64::from(pages[pages.len() / 2]);
    println!("{table}: page {page} of {pages:?}, {bits} bits");
    (0..bits).for_each(|bit| flip(&path, (page - 1) * PAGE as u64 + 90 + bit * 97));
}

/// What a stopped replica's disk says: its id, the state's hash, and the chain at each of its entries up to `last`.
fn contents(data: &Path, id: u32, last: u64) -> (chat_replica::protocol::DiskId, [u8; 32], Vec<String>) {
    let directory = Arc::new(DataDirectory::take(data, ReplicaId(id)).expect("free"));
    let (mut disk, member, found) = SqliteDisk::open(directory, ReplicaId(id)).expect("opened");
    assert_eq!(found.impaired_until, None);
    let entries = disk.read(1, usize::MAX);
    for entry in entries.iter().filter(|entry| (disk.applied() + 1..=last).contains(&entry.index)).collect::<Vec<_>>() {
        disk.apply(entry).expect("carried out, as a start does");
    }
    disk.commit().expect("committed");
    disk.show().expect("shown");
    let chain = entries.iter().filter(|entry| entry.index <= last).map(|entry| format!("{:?}", entry.hash)).collect();
    (member.disk, state_hash(&disk.state()).expect("readable"), chain)
}

fn set_aside(data: &Path) -> usize {
    let names = std::fs::read_dir(data).expect("readable").map(|file| file.expect("readable").file_name());
    let number = |name: &str| name.strip_prefix("replica.db.damaged-").and_then(|number| number.parse::<u32>().ok());
    names.filter(|name| name.to_str().and_then(number).is_some()).count()
}

#[tokio::test]
async fn a_replica_whose_disk_rotted_becomes_what_it_was() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    for number in 0..40 {
        ada.send("bob", &text(number)).await.expect("sent");
    }
    cluster.whole().await;
    let leader = cluster.leader().await;
    let rotten = leader % 3 + 1;
    let first = {
        cluster.kill(rotten).await;
        let found = contents(&cluster.data(rotten), rotten, 0).0;
        cluster.restart(rotten).await;
        cluster.whole().await;
        found
    };
    // What rots, how many bits of it, whether it is the same disk afterwards, and how many damaged databases are kept: the first, the newest
    // three, and those of which not all could be read that had been set aside in them.
    let kinds: [(&[&str], u64, bool, usize); 7] = [
        (&["log"], 1, true, 1),
        (&["log"], 9, true, 2),
        (&["replica"], 9, true, 3),
        (&["sqlite_schema"], 9, true, 4),
        (&["known"], 9, true, 4),
        (&["replica", "one copy of the mark"], 9, true, 4),
        // With the mark, too, nothing is left that says what this disk had promised.
        (&["replica", "mark"], 9, false, 5),
    ];
    let mut sent = 40;
    for (tables, bits, same, kept) in kinds {
        println!("{tables:?}");
        cluster.kill(rotten).await;
        let data = cluster.data(rotten);
        for table in tables {
            match *table {
                "one copy of the mark" => flip(&data.join("replica.mark"), 3),
                "mark" => [3, 4096 + 3].into_iter().for_each(|byte| flip(&data.join("replica.mark"), byte)),
                table => rot(&data, table, bits),
            }
        }
        ada.send("bob", &text(sent)).await.expect("the others go on");
        sent += 1;
        cluster.restart(rotten).await;
        if set_aside(&data) < kept {
            // A start reads only the end of the log. In the background, all of it is.
            assert_eq!(tables, ["log"]);
            let (ended, how) = cluster.one_ends().await;
            assert_eq!(ended, rotten, "{how:?}");
            cluster.restart(rotten).await;
        }
        cluster.whole().await;
        assert_eq!(set_aside(&data), kept, "{tables:?}");
        let index = ada.send("bob", &text(sent)).await.expect("sent").index;
        sent += 1;
        cluster.wait_until("all have applied it", |states| states.values().all(|state| state.committed >= index)).await;
        let leader = cluster.leader().await;
        cluster.kill(rotten).await;
        cluster.kill(leader).await;
        let (mut here, mut there) = (contents(&data, rotten, index), contents(&cluster.data(leader), leader, index));
        assert_eq!(here.0 == first, same, "{tables:?}: the same disk as ever");
        (here.0, there.0) = (first, first);
        assert!(here == there, "{tables:?}: the same log and the same state");
        cluster.restart(leader).await;
        cluster.restart(rotten).await;
        cluster.whole().await;
    }
    let mut inbox = bob.inbox_after(0);
    for number in 0..sent {
        assert_eq!(inbox.next().await.expect("the inbox goes on").text, text(number));
    }
}

#[tokio::test]
async fn a_leader_whose_disk_rots_ends_rather_than_answer_and_comes_back_whole() {
    let mut cluster = Cluster::builder().replicas(3).start().await;
    let (ada, bob) = two(&cluster.client().await).await;
    for number in 0..40 {
        ada.send("bob", &text(number)).await.expect("sent");
    }
    cluster.whole().await;
    let leader = cluster.leader().await;
    rot(&cluster.data(leader), "message_blocks", 1);
    // Read by a call or by the scrubbing, whichever comes first: what is answered is right.
    let mut inbox = bob.inbox_after(0);
    for number in 0..40 {
        assert_eq!(inbox.next().await.expect("the inbox goes on").text, text(number));
    }
    cluster.wait_until("another leads", |states| states.iter().any(|(id, state)| *id != leader && state.serving)).await;
    let note = std::fs::read_to_string(cluster.data(leader).join("replica.db-damage")).expect("it is noted");
    assert!(note.contains("checksum"), "{note}");
    cluster.kill(leader).await;
    cluster.restart(leader).await;
    cluster.whole().await;
    assert_eq!(set_aside(&cluster.data(leader)), 1);
    assert!(!cluster.data(leader).join("replica.db-damage").exists());
    ada.send("bob", "and all is well").await.expect("sent");
}
