//! The child's end: what it is told to propose, it proposes.

use super::order::{Order, Planned};
use chat_core::{AccountId, Outcome, Rejection, Timestamp};
use chat_replica::handle::{Declined, Done, Handle, Row};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;

/// Where a child finds the path of its socket, in its environment. Nobody but this program's own children has it.
pub(in crate::bench) const SOCKET: &str = "CHAT_BENCH_ORDERS";
/// Commands that wait for their answers at most: several full log entries.
const UNDER_WAY: usize = 8192;
/// The parent hears of every so many. Where leadership is lost, what came after the last that it heard of comes again.
const REPORT: u64 = 4096;

/// What a replica is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    pub order: Order,
    /// So many of its commands are done already.
    pub done: u64,
}

/// What the parent is told: one per line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Progress {
    /// So many commands are done, all of those that come first.
    Done(u64),
    /// This is the last.
    Over(End),
}

/// How an errand ends.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum End {
    /// All commands are done.
    Finished,
    /// This replica can do no more, since it does not lead: whoever does can go on.
    Lost(String),
    /// No more will be.
    Failed(String),
}

impl From<Declined> for End {
    fn from(why: Declined) -> End {
        End::Lost(why.to_string())
    }
}

impl From<Rejection> for End {
    fn from(why: Rejection) -> End {
        End::Failed(why.to_string())
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> End {
        End::Failed(error.to_string())
    }
}

/// Listens for orders for as long as this process lives, if its parent gives any.
pub(in crate::bench) fn attend(replica: Handle) {
    let Some(path) = std::env::var_os(SOCKET).map(PathBuf::from) else { return };
    // An earlier run of this replica has left it behind. If it cannot be taken away, binding fails and says so.
    let _ = std::fs::remove_file(&path);
    match UnixListener::bind(&path) {
        Ok(listener) => drop(tokio::spawn(listen(listener, replica))),
        Err(error) => eprintln!("chat-bench: no orders can be taken at {}: {error}", path.display()),
    }
}

async fn listen(listener: UnixListener, replica: Handle) {
    while let Ok((stream, _)) = listener.accept().await {
        if let Err(error) = take_order(stream, &replica).await {
            eprintln!("chat-bench: an order broke off: {error}");
        }
    }
}

async fn take_order(stream: UnixStream, replica: &Handle) -> std::io::Result<()> {
    let (read, write) = stream.into_split();
    let Some(line) = BufReader::new(read).lines().next_line().await? else { return Ok(()) };
    let mut answers = Answers { write, done: 0 };
    let end = match serde_json::from_str::<Errand>(&line) {
        Err(error) => End::Failed(format!("the order cannot be read: {error}")),
        Ok(errand) => match carry_out(replica, &errand, &mut answers).await {
            Ok(()) => End::Finished,
            Err(end) => end,
        },
    };
    answers.say(&Progress::Over(end)).await
}

struct Answers {
    write: tokio::net::unix::OwnedWriteHalf,
    done: u64,
}

impl Answers {
    async fn say(&mut self, progress: &Progress) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(progress)?;
        line.push(b'\n');
        self.write.write_all(&line).await
    }

    async fn one_more(&mut self) -> std::io::Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(REPORT) {
            self.say(&Progress::Done(self.done)).await?;
        }
        Ok(())
    }
}

/// The error is how it ends otherwise.
async fn carry_out(replica: &Handle, Errand { order, done }: &Errand, answers: &mut Answers) -> Result<(), End> {
    let epoch = replica.gate().borrow().serving.ok_or(Declined::NotServing)?;
    // So that what is done has no gaps, and the first that is declined ends it.
    let row = Row::new(epoch);
    let line = Line { replica, row };
    for (place, part) in order.parts_after(*done) {
        answers.done = place;
        let ids = line.propose(order.registrations(part.clone(), now), answers).await?;
        line.propose(order.sessions(part, ids, now), answers).await?;
    }
    let place = order.messages_after(*done);
    answers.done = place;
    line.propose(order.sends(place, now), answers).await.map(drop)
}

type Answer = oneshot::Receiver<Result<Done, Declined>>;

/// Where commands are proposed in a row.
struct Line<'r> {
    replica: &'r Handle,
    row: Row,
}

impl Line<'_> {
    /// Proposes all of them, in this order, and returns the accounts that they registered.
    async fn propose(
        &self,
        commands: impl Iterator<Item = Planned>,
        answers: &mut Answers,
    ) -> Result<Vec<AccountId>, End> {
        let (mut under_way, mut registered) = (VecDeque::new(), Vec::new());
        for command in commands {
            if under_way.len() >= UNDER_WAY {
                take(&mut under_way, &mut registered, answers).await?;
            }
            under_way.push_back(self.replica.submit(command?, Some(self.row.clone())).await?);
        }
        while !under_way.is_empty() {
            take(&mut under_way, &mut registered, answers).await?;
        }
        Ok(registered)
    }
}

/// Waits for the oldest answer.
async fn take(
    under_way: &mut VecDeque<Answer>,
    registered: &mut Vec<AccountId>,
    answers: &mut Answers,
) -> Result<(), End> {
    let Some(answer) = under_way.pop_front() else { return Ok(()) };
    let done = answer.await.unwrap_or(Err(Declined::Stopped))?;
    if let Outcome::Registered { account, .. } = done.result? {
        registered.push(account.id);
    }
    Ok(answers.one_more().await?)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
