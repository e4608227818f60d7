//! Two accounts that hold the service to its promises: every message that was acknowledged is there, once, in order,
//! on the live stream, in the mailbox and in the history; and service goes on within a few seconds of any fault.

use crate::processes::Broken;
use crate::processes::cluster::Cluster;
use chat_client::{Inbox, Message, Sent, Session, Submitted};
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Within this, service must go on after any fault that leaves enough replicas.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Calls wait for longer than any outage that the scripts make on purpose, so that none is given up.
const CALL: Duration = Duration::from_secs(60);
/// Between two messages while something goes on beside them.
const PACE: Duration = Duration::from_millis(5);

const PASSWORD: &str = "correct horse battery staple";
const SENDER: &str = "ada";
const RECIPIENT: &str = "bob";

/// Message number n has the text `message n`, and must get the position n in the recipient's mailbox.
pub(super) struct Conversation {
    sender: Session,
    recipient: Session,
    /// The recipient's live stream, open from the beginning to the end.
    live: Inbox,
    submitted: u64,
    acknowledged: Vec<Sent>,
    received: u64,
    /// The id of the newest message up to which the history was compared.
    compared: u64,
}

impl Conversation {
    /// Registers the two, who must be new.
    pub async fn open(cluster: &Cluster) -> Result<Self, Broken> {
        let client = cluster.client(CALL)?;
        client.register(SENDER, PASSWORD).await?;
        client.register(RECIPIENT, PASSWORD).await?;
        let sender = client.log_in(SENDER, PASSWORD).await?;
        // A client of its own: the stream must find the next leader by itself.
        let recipient = cluster.client(CALL)?.log_in(RECIPIENT, PASSWORD).await?;
        let live = recipient.inbox_after(0);
        let (submitted, acknowledged, received, compared) = (0, Vec::new(), 0, 0);
        Ok(Self { sender, recipient, live, submitted, acknowledged, received, compared })
    }

    /// Sends a message without waiting for anything.
    pub async fn submit(&mut self) -> Result<Submitted, Broken> {
        self.submitted += 1;
        Ok(self.sender.submit(RECIPIENT, &text(self.submitted)).await?)
    }

    /// Waits until a message, the oldest without an answer, is acknowledged.
    pub async fn settle(&mut self, submitted: Submitted) -> Result<(), Broken> {
        let number = self.acknowledged.len() as u64 + 1;
        let Ok(answer) = timeout(PATIENCE, submitted).await else {
            return Err(Broken(format!("message {number} was not acknowledged within {PATIENCE:?}")));
        };
        let sent = answer.map_err(|error| Broken(format!("message {number} was not accepted: {error}")))?;
        if sent.seq != number {
            return Err(Broken(format!("message {number} got position {} in the mailbox", sent.seq)));
        }
        self.acknowledged.push(sent);
        Ok(())
    }

    /// Sends one message after the other while `fault` goes on, and one more after it. Returns the longest time between
    /// two acknowledgements.
    pub async fn during(&mut self, fault: impl Future<Output = Result<(), Broken>>) -> Result<Duration, Broken> {
        let mut fault = pin!(fault);
        let (mut over, mut last, mut longest) = (false, Instant::now(), Duration::ZERO);
        loop {
            let last_one = over;
            let submitted = self.submit().await?;
            {
                let mut answer = pin!(self.settle(submitted));
                loop {
                    tokio::select! {
                        // First, so that it is struck while the first message is on its way.
                        biased;
                        done = &mut fault, if !over => {
                            done?;
                            over = true;
                        }
                        settled = &mut answer => break settled?,
                    }
                }
            }
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if last_one {
                return Ok(longest);
            }
            if !over {
                tokio::select! {
                    done = &mut fault => {
                        done?;
                        over = true;
                    }
                    () = sleep(PACE) => {}
                }
            }
        }
    }

    /// The service works: a message is acknowledged, arrives on the live stream with all before it, and stands in the
    /// history with all since the last comparison.
    pub async fn works(&mut self) -> Result<(), Broken> {
        let submitted = self.submit().await?;
        self.settle(submitted).await?;
        self.receive().await?;
        self.compare_history(self.compared).await
    }

    /// Everything that was ever acknowledged is there: in the mailbox from its beginning, and in the whole history.
    pub async fn everything(&mut self) -> Result<(), Broken> {
        self.receive().await?;
        let mut mailbox = self.recipient.inbox_after(0);
        for number in 1..=self.acknowledged.len() as u64 {
            let message = next(&mut mailbox, number).await?;
            self.expect(&message, number, "the mailbox")?;
        }
        self.compare_history(0).await
    }

    /// Receives on the live stream all that was acknowledged, and not a message more or less.
    async fn receive(&mut self) -> Result<(), Broken> {
        while self.received < self.acknowledged.len() as u64 {
            let number = self.received + 1;
            let message = next(&mut self.live, number).await?;
            self.expect(&message, number, "the live stream")?;
            self.received = number;
        }
        Ok(())
    }

    /// The history from the newest message back to the one with this id, as the sender sees it.
    async fn compare_history(&mut self, down_to: u64) -> Result<(), Broken> {
        let mut history = self.sender.history(RECIPIENT).page_size(1000);
        let mut expected = self.acknowledged.len() as u64;
        while let Some(page) = history.older().await? {
            for message in page.iter().rev() {
                if message.id <= down_to {
                    self.compared = self.acknowledged.last().map_or(0, |sent| sent.id);
                    return Ok(());
                }
                if expected == 0 {
                    return Err(Broken(format!("the history has a message too many: {:?}", message.text)));
                }
                self.expect(message, expected, "the history")?;
                expected -= 1;
            }
        }
        if expected > 0 {
            return Err(Broken(format!("the history ends before message {expected}, which was acknowledged")));
        }
        self.compared = self.acknowledged.last().map_or(0, |sent| sent.id);
        Ok(())
    }

    fn expect(&self, message: &Message, number: u64, place: &str) -> Result<(), Broken> {
        let sent = usize::try_from(number).ok().and_then(|number| self.acknowledged.get(number - 1));
        let id = sent.map(|sent| sent.id);
        if (message.text.as_str(), message.seq, Some(message.id)) == (text(number).as_str(), number, id) {
            return Ok(());
        }
        let Message { text, seq, id: found, .. } = message;
        Err(Broken(format!(
            "{place} has {text:?} (position {seq}, id {found}) in place of message {number}, which was acknowledged with id {id:?}"
        )))
    }
}

fn text(number: u64) -> String {
    format!("message {number}")
}

async fn next(inbox: &mut Inbox, number: u64) -> Result<Message, Broken> {
    match timeout(PATIENCE, inbox.next()).await {
        Ok(message) => Ok(message?),
        Err(_) => Err(Broken(format!("message {number} was acknowledged, but did not arrive within {PATIENCE:?}"))),
    }
}
