//! The end of a round: everything comes to rest, and what clients saw is held against what replicas hold.

use super::load::Load;
use super::record::{marks_of, short};
use crate::processes::Broken;
use crate::processes::cluster::{Cluster, describe};
use chat_check::{Mailbox, Message, Replica, Report};
use chat_client::Role;
use chat_core::{Lookup as _, Pattern, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Within this, when everything is mended, every send is answered, every stream is at its end, and replicas are alike.
const REST: Duration = Duration::from_secs(20);
/// Messages that are read at a time.
const PAGE: usize = 1000;
/// Accounts of a round at most.
const ACCOUNTS: usize = 1000;

/// Waits until all clients have heard everything and all replicas hold the same; then looks at what they hold.
pub(super) async fn rest(cluster: &mut Cluster, load: &mut Load) -> Result<(), Broken> {
    cluster.whole().await?;
    load.drain(REST).await?;
    let last = load.marks().await?;
    let begun = Instant::now();
    while load.recipients().iter().zip(&last).any(|(recipient, last)| recipient.received() < *last) {
        load.check()?;
        if begun.elapsed() > REST {
            let behind = load.recipients().iter().zip(&last).find(|(recipient, last)| recipient.received() < **last);
            let words = behind.map(|(recipient, last)| {
                format!("the stream of {} is at {} of {last}", recipient.name, recipient.received())
            });
            return Err(Broken(format!("{REST:?} after everything was mended, {}", words.unwrap_or_default())));
        }
        sleep(Duration::from_millis(5)).await;
    }
    let alike = cluster.until("all replicas have applied everything", |states| {
        states.iter().all(|state| state.role != Role::Unreachable && state.applied == state.last)
            && states.windows(2).all(|pair| pair[0].last == pair[1].last)
    });
    let states = alike.await?;
    let mut replicas = Vec::new();
    for id in cluster.ids() {
        replicas.push((id, cluster.replica(id)?.data().join("replica.db")));
    }
    let look =
        move || replicas.into_iter().map(|(id, database)| contents(id, &database)).collect::<Result<Vec<_>, _>>();
    let finals = blocking(look).await??;
    if finals.iter().any(|replica| Some(replica.applied) != states.first().map(|state| state.applied)) {
        return Err(Broken(format!("replicas at rest went on: {}", describe(&states))));
    }
    load.record().open().finals = finals;
    Ok(())
}

/// Holds everything that was recorded against each other. Takes it out of the record.
pub(super) async fn judge(load: &Load, folder: PathBuf) -> Result<Report, Broken> {
    let history = std::mem::take(&mut *load.record().open());
    blocking(move || {
        let report = chat_check::check_all(&history);
        if !report.is_good() {
            save(&history, &folder);
        }
        report
    })
    .await
}

/// What was recorded so far goes to a file in this folder.
pub(super) fn save(history: &chat_check::History, folder: &Path) {
    let path = folder.join("history.jsonl");
    let saved = std::fs::File::create(&path).map(std::io::BufWriter::new).and_then(|file| history.write(file));
    if let Err(error) = saved {
        eprintln!("chat-torture: {} cannot be written: {error}", path.display());
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Broken> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Broken(error.to_string()))
}

/// What the database of a replica holds.
fn contents(id: u32, database: &Path) -> Result<Replica, Broken> {
    let all = Pattern::parse("*").map_err(|error| Broken(error.to_string()))?;
    let held = chat_replica::storage::look(database, |state| {
        let mut mailboxes = Vec::new();
        for account in state.accounts(&all, None, ACCOUNTS)? {
            let mut messages: Vec<Message> = Vec::new();
            loop {
                let after = messages.last().map_or(0, |message| message.seq);
                let page = state.messages_after(account.id, after, PAGE)?;
                if page.is_empty() {
                    break;
                }
                messages.extend(page.iter().map(|message| Message {
                    id: message.id.0,
                    seq: message.seq,
                    from: message.from.name.as_str().into(),
                    to: message.to.name.as_str().into(),
                    text: short(message.text.as_str()),
                }));
            }
            let marks = Some(marks_of(&state.marks(account.id)?));
            mailboxes.push(Mailbox { account: account.name.as_str().into(), deleted: false, marks, messages });
        }
        let hash = chat_core::state_hash(state)?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Replica { id, applied: state.applied()?, hash: Some(hash), mailboxes })
    });
    held.map_err(|error| Broken(format!("{}: {error}", database.display())))
}
