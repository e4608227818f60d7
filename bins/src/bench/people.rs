//! Accounts for a measurement, each with a client and a connection of its own.

use super::stage::Stage;
use crate::processes::Broken;
use chat_client::{Client, Key, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Passwords are hashed on the leader: as many at a time as it does not refuse.
const AT_A_TIME: usize = 4;

/// Somebody who sends, and the names of those to whom they send, in turn.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub session: Session,
    pub friends: Arc<[String]>,
}

/// `n` people with names that no earlier measurement used.
pub(super) async fn people(stage: &Stage, n: usize) -> Result<Vec<Person>, Broken> {
    let servers = stage.servers();
    let run = Key::generate().as_bytes().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut found: Vec<Option<Person>> = (0..n).map(|_| None).collect();
    let mut joining = JoinSet::new();
    let mut next = 0;
    while next < n || !joining.is_empty() {
        if next < n && joining.len() < AT_A_TIME {
            let (servers, own, friend) = (servers.clone(), name(&run, next), name(&run, (next + 1) % n));
            let at = next;
            joining.spawn(async move { Ok::<_, Broken>((at, join(&servers, &own, friend).await?)) });
            next += 1;
        } else if let Some(joined) = joining.join_next().await {
            let (at, person) = joined.map_err(|error| Broken(error.to_string()))??;
            found[at] = Some(person);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn name(run: &str, at: usize) -> String {
    format!("bench-{run}-{at}")
}

async fn join(servers: &[String], name: &str, friend: String) -> Result<Person, Broken> {
    let client = Client::builder().servers(servers).timeout(Duration::from_secs(30)).connect().await?;
    client.register(name, "a password for benchmarks").await?;
    let session = client.log_in(name, "a password for benchmarks").await?;
    Ok(Person { session, friends: [friend].into() })
}
