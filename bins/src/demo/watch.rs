//! `chat-demo`: three replicas, a conversation on them, and somebody who kills and revives them.

use super::chatter::Chatter;
use super::keyboard::{Keyboard, Order};
use super::operator::operate;
use super::screen::Screen;
use super::{Common, interrupted};
use crate::processes::Broken;
use crate::processes::cluster::{Cluster, leader_of};
use crate::processes::replica::Said;
use chat_client::{Client, ReplicaStatus};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(200);
/// At the end: for what is on its way.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs until somebody ends it, or for so long. What was promised must have been kept.
pub(super) async fn run(common: &Common, limit: Option<Duration>) -> ExitCode {
    let folder = common.data.clone().unwrap_or_else(|| PathBuf::from("chat-data"));
    let mut screen = Screen::new(common.json);
    let mut end = pin!(async {
        match limit {
            None => interrupted().await,
            Some(limit) => drop(timeout(limit, interrupted()).await),
        }
    });
    let result = match begin(&folder, &mut screen, end.as_mut()).await {
        Ok(Some(running)) => running.watch(&mut screen, end).await,
        Ok(None) => Ok(true),
        Err(broken) => Err(broken),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(broken) => {
            eprintln!("chat-demo: {broken}");
            ExitCode::FAILURE
        }
    }
}

struct Running {
    cluster: Cluster,
    chatter: Chatter,
    /// What happens, for the screen.
    said: mpsc::UnboundedReceiver<String>,
    say: mpsc::UnboundedSender<String>,
}

/// Starts everything. `None`: it was ended before.
async fn begin(folder: &Path, screen: &mut Screen, end: impl Future<Output = ()>) -> Result<Option<Running>, Broken> {
    let (voice, mut voices) = mpsc::unbounded_channel::<Said>();
    let (say, mut said) = mpsc::unbounded_channel();
    let words = say.clone();
    tokio::spawn(async move {
        while let Some((id, line)) = voices.recv().await {
            let line = line.strip_prefix("chatd: ").unwrap_or(&line);
            let _ = words.send(format!("replica {id}: {line}"));
        }
    });
    let mut cluster = Cluster::new(folder, 3, &[], Some(voice))?;
    let chatter = {
        let mut starting = pin!(async {
            cluster.up().await?;
            Chatter::begin(&cluster, say.clone()).await
        });
        let mut end = pin!(end);
        loop {
            tokio::select! {
                chatter = &mut starting => break chatter?,
                Some(line) = said.recv() => screen.event(&line),
                () = &mut end => return Ok(None),
            }
        }
    };
    while let Ok(line) = said.try_recv() {
        screen.event(&line);
    }
    let leader = cluster.leader().await?;
    screen.introduce(&cluster.servers(), leader, folder);
    Ok(Some(Running { cluster, chatter, said, say }))
}

impl Running {
    /// Until the end. Returns whether every promise was kept.
    async fn watch(self, screen: &mut Screen, mut end: impl Future<Output = ()> + Unpin) -> Result<bool, Broken> {
        let Running { cluster, mut chatter, mut said, say } = self;
        let (statuses, status) = watch::channel(Vec::new());
        let looking = tokio::spawn(look(cluster.admin(), cluster.servers(), statuses));
        let (orders, taken) = mpsc::unbounded_channel();
        let mut operator = tokio::spawn(operate(cluster, taken, say));
        let mut keyboard = Keyboard::open();
        let mut frame = interval(screen.pace());
        frame.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = &mut end => break,
                order = keyboard.next() => match order {
                    Some(Order::Quit) => break,
                    Some(Order::Status) => screen.status(&status.borrow()),
                    Some(order) => drop(orders.send(order)),
                    None if screen.shows_keys() => {
                        screen.line(&chatter.ledger(), &status.borrow(), keyboard.typed());
                    }
                    None => {}
                },
                Some(line) = said.recv() => screen.event(&line),
                _ = frame.tick() => screen.line(&chatter.ledger(), &status.borrow(), keyboard.typed()),
            }
        }
        drop(keyboard);
        chatter.fall_silent();
        drain(&chatter, leader_of(&status.borrow()).is_some()).await;
        screen.line(&chatter.ledger(), &status.borrow(), "");
        looking.abort();
        let ended = Instant::now();
        drop(orders);
        loop {
            tokio::select! {
                _ = &mut operator => break,
                Some(line) = said.recv() => screen.event(&line),
            }
        }
        Ok(screen.totals(&chatter.ledger(), ended))
    }
}

/// Waits a little for what is on its way, if somebody leads.
async fn drain(chatter: &Chatter, led: bool) {
    let arrived = || {
        let ledger = chatter.ledger();
        ledger.acknowledged == ledger.sent && ledger.missing() == 0
    };
    let begun = Instant::now();
    while led && !arrived() && begun.elapsed() < DRAIN {
        sleep(Duration::from_millis(10)).await;
    }
}

async fn look(admin: Client, servers: Vec<String>, statuses: watch::Sender<Vec<ReplicaStatus>>) {
    let mut pace = interval(LOOK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let mut states = admin.status_of_all().await;
        for state in &mut states {
            // When nobody answers, nobody says whose address that is.
            let known = (1..).zip(&servers).find(|(_, server)| **server == state.address);
            state.id = state.id.or(known.map(|(id, _)| id));
        }
        statuses.send_replace(states);
    }
}
