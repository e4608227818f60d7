//! The steady conversation that the watcher sees: one account writes, the other reads along.

use super::ledger::Ledger;
use crate::processes::Broken;
use crate::processes::cluster::Cluster;
use chat_client::{Error, Inbox, Reason, Session, Submitted};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Between two messages.
const PACE: Duration = Duration::from_millis(50);
/// Between two marks of what has arrived.
const MARK: Duration = Duration::from_secs(1);
/// Messages without an answer, beyond which no more are written.
const MOST: usize = 1000;
/// Somebody may keep all replicas down for as long as he likes.
const CALL: Duration = Duration::from_secs(24 * 3600);

const PASSWORD: &str = "wherefore art thou";
const SENDER: &str = "romeo";
const RECIPIENT: &str = "juliet";

/// A conversation that goes on by itself. Dropping it ends it.
pub(super) struct Chatter {
    ledger: Arc<Mutex<Ledger>>,
    writing: JoinSet<()>,
    _reading: JoinSet<()>,
}

impl Chatter {
    /// Opens the accounts, or uses those of an earlier run, and begins. `say` gets a line for what goes wrong.
    pub async fn begin(cluster: &Cluster, say: mpsc::UnboundedSender<String>) -> Result<Self, Broken> {
        let client = cluster.client(CALL)?;
        for name in [SENDER, RECIPIENT] {
            match client.register(name, PASSWORD).await {
                Err(error) if error.reason() != Some(Reason::NameTaken) => return Err(error.into()),
                _ => {}
            }
        }
        let sender = client.log_in(SENDER, PASSWORD).await?;
        // A client of its own: the stream must find the next leader by itself.
        let recipient = cluster.client(CALL)?.log_in(RECIPIENT, PASSWORD).await?;
        let last = recipient.whoami().await?.marks.last;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        // Tells the messages of this run from those that an earlier one left on their way.
        let run = format!("{:x}", jiff::Timestamp::now().as_millisecond());
        let (submitted, answers) = mpsc::channel(MOST);
        let (mut writing, mut reading) = (JoinSet::new(), JoinSet::new());
        writing.spawn(write(sender, run.clone(), ledger.clone(), submitted));
        reading.spawn(settle(answers, ledger.clone(), say.clone()));
        reading.spawn(read(recipient.clone(), recipient.inbox_after(last), run, ledger.clone(), say));
        Ok(Self { ledger, writing, _reading: reading })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        open(&self.ledger)
    }

    /// No message is written any more; those that were are still answered and delivered.
    pub fn fall_silent(&mut self) {
        self.writing.abort_all();
    }
}

fn open(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write(sender: Session, run: String, ledger: Arc<Mutex<Ledger>>, submitted: mpsc::Sender<Submitted>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        pace.tick().await;
        // The place for its answer first, so that the message and its count are never apart.
        let Ok(place) = submitted.reserve().await else { return };
        let number = open(&ledger).sent + 1;
        let Ok(answer) = sender.submit(RECIPIENT, &format!("{run} {number}")).await else { return };
        open(&ledger).send();
        place.send(answer);
    }
}

async fn settle(
    mut answers: mpsc::Receiver<Submitted>,
    ledger: Arc<Mutex<Ledger>>,
    say: mpsc::UnboundedSender<String>,
) {
    while let Some(answer) = answers.recv().await {
        match answer.await {
            Ok(_) => open(&ledger).acknowledge(Instant::now()),
            Err(error) => {
                let _ = say.send(format!("{SENDER} cannot send any more: {error}"));
                return;
            }
        }
    }
}

async fn read(
    recipient: Session,
    mut inbox: Inbox,
    run: String,
    ledger: Arc<Mutex<Ledger>>,
    say: mpsc::UnboundedSender<String>,
) {
    let (mut mark, mut seen, mut marked) = (interval(MARK), 0, 0);
    loop {
        let ended: Error = tokio::select! {
            message = inbox.next() => match message {
                Ok(message) => {
                    seen = message.seq;
                    let number = message.text.strip_prefix(&run).and_then(|rest| rest.trim().parse().ok());
                    if let Some(number) = number {
                        open(&ledger).receive(number);
                    }
                    continue;
                }
                Err(error) => error,
            },
            _ = mark.tick(), if seen > marked => match recipient.acknowledge(seen).await {
                Ok(marks) => {
                    marked = marks.delivered;
                    continue;
                }
                Err(error) => error,
            },
        };
        let _ = say.send(format!("{RECIPIENT} receives nothing any more: {ended}"));
        return;
    }
}
