//! Accounts, sessions and messages by the million, without hashing a password for each.
//!
//! The replicas that are measured are child processes of this program. [`attend`] makes such a child listen on a socket that only
//! its parent knows; told there what is wanted, the one that leads proposes it as what it is: commands, through the log, to all
//! replicas' disks, and applied like any others. Only the network and the hashing of passwords are left out.

mod order;
mod proposer;

pub(super) use order::{Crowd, LONG_CONVERSATION, Order};
pub(super) use proposer::{SOCKET, attend};

use crate::processes::{Broken, Cluster};
use proposer::Progress;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Where the replica `id` listens for orders.
pub(super) fn socket(folder: &Path, id: u32) -> PathBuf {
    folder.join(format!("orders-{id}"))
}

/// Has an order carried out by whichever replica leads, and waits until every replica has applied it. `sockets` is the folder of
/// [`socket`]. `progress` hears how much is done.
pub(super) async fn carry_out(
    cluster: &mut Cluster,
    sockets: &Path,
    order: &Order,
    progress: impl Fn(u64),
) -> Result<(), Broken> {
    let leader = cluster.leader().await?;
    let lost = |error: std::io::Error| Broken(format!("replica {leader} takes no orders to be filled: {error}"));
    let mut stream = UnixStream::connect(socket(sockets, leader)).await.map_err(lost)?;
    let mut line = serde_json::to_vec(order).map_err(|error| lost(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(lost)?;
    let mut answers = BufReader::new(stream).lines();
    loop {
        let Some(answer) = answers.next_line().await.map_err(lost)? else {
            return Err(Broken(format!("replica {leader} ended while it was filled")));
        };
        match serde_json::from_str(&answer).map_err(|error| lost(error.into()))? {
            Progress::Done(commands) => progress(commands),
            Progress::Finished => break,
            Progress::Failed(why) => return Err(Broken(format!("replica {leader} could not be filled: {why}"))),
        }
    }
    cluster.all_applied().await
}
