//! A conversation that goes on through power cuts, and its account of what was acknowledged.

use chat_client::{Client, Error, Reason, Sent, Session};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PASSWORD: &str = "correct horse battery staple";
const SENDER: &str = "ada";
const RECIPIENT: &str = "bob";
/// How long anything that must come about may take before it counts as not happening.
const WAIT: Duration = Duration::from_secs(30);

/// What was acknowledged: message number n, from 1, at n - 1; and the session that sent it. Can be gone on with.
#[derive(Clone, Default)]
pub struct Told {
    pub sent: Vec<Sent>,
    /// As `Session::export` gives it; empty before it is logged in.
    token: String,
    /// Bytes of padding in each message up to that number.
    padding: Vec<usize>,
}

/// Somebody who writes batch after batch, each once the one before is acknowledged, and repeats under the same key what got no answer.
pub struct Talk {
    told: Arc<Mutex<Told>>,
    count: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Talk {
    /// Goes on after `told`.
    pub fn begin(servers: &[String], told: Told, batch: usize, padding: usize) -> Talk {
        let client = client(servers);
        let (counted, count) = watch::channel(told.sent.len());
        let (stop, stopped) = watch::channel(false);
        let told = Arc::new(Mutex::new(told));
        let task = tokio::spawn(write(client, told.clone(), batch, padding, counted, stopped));
        Talk { told, count, stop, task }
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until so many are acknowledged.
    pub async fn reach(&mut self, count: usize) -> Result<(), String> {
        let reached = timeout(WAIT, self.count.wait_for(|now| *now >= count)).await;
        match reached.map(|seen| seen.map(drop)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(format!("the writer ended: {:?}", (&mut self.task).await)),
            Err(_) => Err(format!("{} of {count} messages acknowledged after {WAIT:?}", self.count())),
        }
    }

    /// Ends with the batch that is under way, and returns everything.
    pub async fn end(self) -> Result<Told, String> {
        self.stop.send_replace(true);
        match timeout(WAIT, self.task).await {
            Ok(Ok(Ok(()))) => Ok(open(&self.told).clone()),
            Ok(wrong) => Err(format!("the writer ended: {wrong:?}")),
            Err(_) => Err(format!("no answer to the last batch within {WAIT:?}")),
        }
    }

    /// Ends at once.
    pub fn abort(self) -> Told {
        self.task.abort();
        open(&self.told).clone()
    }
}

fn open(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client(servers: &[String]) -> Client {
    let servers = servers.iter().map(String::as_str);
    Client::builder().servers(servers).timeout(Duration::from_secs(120)).connect_lazy().expect("addresses")
}

async fn enter(client: &Client) -> Result<Session, Error> {
    for name in [SENDER, RECIPIENT] {
        match client.register(name, PASSWORD).await {
            Err(error) if error.reason() != Some(Reason::NameTaken) => return Err(error),
            _ => {}
        }
    }
    client.log_in(SENDER, PASSWORD).await
}

async fn write(
    client: Client,
    told: Arc<Mutex<Told>>,
    batch: usize,
    padding: usize,
    counted: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Error> {
    let token = open(&told).token.clone();
    let session = if token.is_empty() { enter(&client).await? } else { client.restore(&token)? };
    open(&told).token = session.export();
    while !*stopped.borrow() {
        let mut submitted = Vec::new();
        for next in 1..=batch {
            let number = *counted.borrow() + next;
            open(&told).padding.push(padding);
            submitted.push(session.submit(RECIPIENT, &text(number, padding)).await?);
        }
        for answer in submitted {
            let sent = answer.await?;
            let mut told = open(&told);
            told.sent.push(sent);
            counted.send_replace(told.sent.len());
        }
    }
    Ok(())
}

fn text(number: usize, padding: usize) -> String {
    format!("message {number} {}", ".".repeat(padding))
}

impl Told {
    /// That the service holds every acknowledged message once, in order, as it was acknowledged; and after them nothing but
    /// what was under way.
    pub async fn is_kept(&self, servers: &[String]) -> Result<(), String> {
        let look = async {
            let session = client(servers).restore(&self.token).map_err(|error| error.to_string())?;
            let (mut history, mut found) = (session.history(RECIPIENT).page_size(50), Vec::new());
            while let Some(page) = history.older().await.map_err(|error| error.to_string())? {
                found.extend(page.into_iter().rev());
            }
            found.reverse();
            for (number, sent) in (1..).zip(&self.sent) {
                let message = found.get(number - 1).ok_or_else(|| format!("acknowledged message {number} is lost"))?;
                let expected = (sent.id, number as u64, text(number, self.padding[number - 1]));
                if sent.seq != number as u64 || (message.id, message.seq, message.text.clone()) != expected {
                    let begin: String = message.text.chars().take(20).collect();
                    let (place, id) = (message.seq, message.id);
                    return Err(format!(
                        "in place of message {number}, acknowledged as {sent:?}: {begin:?}, {place}, {id}"
                    ));
                }
            }
            for (message, number) in found.iter().zip(1..).skip(self.sent.len()) {
                let begun = self.padding.get(number - 1).is_some_and(|padding| message.text == text(number, *padding));
                if !begun {
                    return Err(format!("after all messages there is one more, number {number}"));
                }
            }
            Ok(())
        };
        timeout(WAIT, look).await.unwrap_or_else(|_| Err(format!("no history within {WAIT:?}")))
    }
}
