//! Accounts, sessions and messages by the million, without hashing a password for each.
//!
//! The replicas that are measured are child processes of this program. [`attend`] makes such a child listen on a socket that only
//! its parent knows; told there what is wanted, the one that leads proposes it as what it is: commands, through the log, to all
//! replicas' disks, and applied like any others. Only the network and the hashing of passwords are left out.
//!
//! Millions of commands take a quarter of an hour, in which leadership can be lost. Then whoever leads next is told how much is surely done,
//! and goes on from there: what is proposed again is the same command, under the same key.

mod order;
mod proposer;

pub(super) use order::{Crowd, LONG_CONVERSATION, Order};
pub(super) use proposer::{SOCKET, attend};

use super::load::positive;
use crate::processes::{Broken, Cluster};
use clap::Args;
use proposer::{End, Errand, Progress};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Leaders that come no further are asked so often in a row.
const TRIES: u32 = 100;
/// Between two of them: leadership takes about that long to go from one to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// What is there before anything is measured, as command lines have it.
#[derive(Debug, Args)]
pub(super) struct Size {
    /// So many messages are there; one of ten belongs to one long conversation
    #[arg(long, default_value_t = 1_000_000, value_parser = positive, value_name = "N")]
    pub messages: usize,
    /// And so many accounts
    #[arg(long, default_value_t = 10_000, value_parser = positive, value_name = "N")]
    pub accounts: usize,
}

/// Where the replica `id` listens for orders.
pub(super) fn socket(folder: &Path, id: u32) -> PathBuf {
    folder.join(format!("orders-{id}"))
}

/// Has an order carried out by whichever replica leads, and waits until every replica has applied it. Where leadership is lost in the middle,
/// the next leader goes on. `sockets` is the folder of [`socket`]. `progress` hears how much is done.
pub(super) async fn carry_out(
    cluster: &mut Cluster,
    sockets: &Path,
    order: &Order,
    mut progress: impl FnMut(u64),
) -> Result<(), Broken> {
    let mut errand = Errand { order: order.clone(), done: 0 };
    let mut in_vain = 0;
    loop {
        // All of them: one that is away has to catch up with what is filled meanwhile.
        cluster.whole().await?;
        let leader = cluster.leader().await?;
        let before = errand.done;
        let asked = ask(socket(sockets, leader), errand.clone(), |done| {
            // Whoever goes on begins a little before.
            if done > errand.done {
                errand.done = done;
                progress(done);
            }
        });
        // If it does not answer because its process has ended, the cluster will say so.
        match asked.await.unwrap_or_else(|error| End::Lost(error.to_string())) {
            End::Finished => break,
            End::Lost(why) if in_vain == 0 => {
                eprintln!("filling: replica {leader} leaves off ({why}); whoever leads goes on after {}", errand.done);
            }
            End::Lost(_) if in_vain < TRIES => {}
            End::Lost(why) | End::Failed(why) => {
                return Err(Broken(format!("replica {leader} could not be filled: {why}")));
            }
        }
        in_vain = if errand.done > before { 0 } else { in_vain + 1 };
        tokio::time::sleep(PAUSE).await;
    }
    cluster.all_applied().await
}

/// Tells one replica what to do. `done` hears how far it comes; returns what it says last.
async fn ask(socket: PathBuf, errand: Errand, mut done: impl FnMut(u64)) -> std::io::Result<End> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(&errand)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answers = BufReader::new(stream).lines();
    while let Some(answer) = answers.next_line().await? {
        match serde_json::from_str(&answer)? {
            Progress::Done(commands) => done(commands),
            Progress::Over(end) => return Ok(end),
        }
    }
    Err(ErrorKind::UnexpectedEof.into())
}
