//! The child's end: what it is told to propose, it proposes.

use super::order::Order;
use chat_core::{Command, Outcome, Rejection, Timestamp};
use chat_replica::handle::{Declined, Done, Handle};
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
/// The parent hears of every so many.
const REPORT: u64 = 100_000;

/// What the parent is told: one per line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Progress {
    /// So many commands are done.
    Done(u64),
    /// All of them are.
    Finished,
    /// No more will be.
    Failed(String),
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
    let mut answers = Answers { write, done: 0 };
    let Some(line) = BufReader::new(read).lines().next_line().await? else { return Ok(()) };
    let last = match serde_json::from_str::<Order>(&line) {
        Err(error) => Progress::Failed(format!("the order cannot be read: {error}")),
        Ok(order) => match carry_out(replica, &order, &mut answers).await {
            Ok(()) => Progress::Finished,
            Err(why) => Progress::Failed(why),
        },
    };
    answers.say(&last).await
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

    async fn one_more(&mut self) -> Result<(), String> {
        self.done += 1;
        if self.done.is_multiple_of(REPORT) {
            self.say(&Progress::Done(self.done)).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

async fn carry_out(replica: &Handle, order: &Order, answers: &mut Answers) -> Result<(), String> {
    let crowd = &order.crowd;
    let registrations = (0..crowd.accounts).map(|number| crowd.register(number, now()));
    let registered = propose(replica, registrations, answers).await?;
    let sessions = (0..).zip(registered).map(|(number, outcome)| match outcome {
        Outcome::Registered { account, .. } => Ok(crowd.open_session(number, account.id, now())),
        // Answers come in the order in which they were asked for.
        _ => Err(Rejection::SessionInvalid),
    });
    propose(replica, sessions, answers).await?;
    propose(replica, order.sends(now), answers).await.map(drop)
}

type Answer = oneshot::Receiver<Result<Done, Declined>>;

/// Proposes all of them, in this order, and returns what came of those that make something of an account.
async fn propose(
    replica: &Handle,
    commands: impl Iterator<Item = Result<Command, Rejection>>,
    answers: &mut Answers,
) -> Result<Vec<Outcome>, String> {
    let (mut under_way, mut outcomes) = (VecDeque::new(), Vec::new());
    for command in commands {
        if under_way.len() >= UNDER_WAY {
            take(&mut under_way, &mut outcomes, answers).await?;
        }
        let command = command.map_err(|why| why.to_string())?;
        under_way.push_back(replica.submit(command, None).await.map_err(|why| why.to_string())?);
    }
    while !under_way.is_empty() {
        take(&mut under_way, &mut outcomes, answers).await?;
    }
    Ok(outcomes)
}

/// Waits for the oldest answer.
async fn take(
    under_way: &mut VecDeque<Answer>,
    outcomes: &mut Vec<Outcome>,
    answers: &mut Answers,
) -> Result<(), String> {
    let Some(answer) = under_way.pop_front() else { return Ok(()) };
    let done = answer.await.unwrap_or(Err(Declined::Stopped)).map_err(|why| why.to_string())?;
    let outcome = done.result.map_err(|why| why.to_string())?;
    if matches!(outcome, Outcome::Registered { .. }) {
        outcomes.push(outcome);
    }
    answers.one_more().await
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
