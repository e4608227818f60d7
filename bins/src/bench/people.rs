//! Accounts for a measurement, each with a client and a connection of its own.

use super::fill::Crowd;
use super::stage::Stage;
use crate::processes::Broken;
use chat_client::{Client, Session};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Passwords are hashed on the leader: as many at a time as it does not refuse.
const AT_A_TIME: usize = 4;
/// Longer than a failover, or a queue behind hundreds of others.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody who sends, and the names of those to whom they send, in turn.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub session: Session,
    pub friends: Arc<[String]>,
}

/// `n` people with names that no earlier measurement used, each of whom sends to the next.
pub(super) async fn people(stage: &mut Stage, n: usize) -> Result<Vec<Person>, Broken> {
    let servers = stage.servers();
    let Some(crowd) = stage.crowd(n as u64).await? else { return register(&servers, n).await };
    let mut people = Vec::new();
    for (number, next) in (0..n as u64).map(|number| (number, (number + 1) % n as u64)) {
        let session = client(&servers).await?.restore(&crowd.token(number))?;
        people.push(Person { session, friends: [crowd.name(next)].into() });
    }
    Ok(people)
}

/// A client with connections of its own.
pub(super) async fn client(servers: &[String]) -> Result<Client, Broken> {
    Ok(Client::builder().servers(servers).timeout(TIMEOUT).connect().await?)
}

/// The long way, which is open to everybody: each is registered and logs in.
async fn register(servers: &[String], n: usize) -> Result<Vec<Person>, Broken> {
    let crowd = Crowd::new(n as u64);
    let mut found: Vec<Option<Person>> = (0..n).map(|_| None).collect();
    let mut joining = JoinSet::new();
    let mut next = 0;
    while next < n || !joining.is_empty() {
        if next < n && joining.len() < AT_A_TIME {
            let names = [next, (next + 1) % n].map(|number| crowd.name(number as u64));
            let (servers, at) = (servers.to_vec(), next);
            joining.spawn(async move { Ok::<_, Broken>((at, join(&servers, names).await?)) });
            next += 1;
        } else if let Some(joined) = joining.join_next().await {
            let (at, person) = joined.map_err(|error| Broken(error.to_string()))??;
            found[at] = Some(person);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

async fn join(servers: &[String], [name, friend]: [String; 2]) -> Result<Person, Broken> {
    let client = client(servers).await?;
    client.register(&name, "a password for benchmarks").await?;
    let session = client.log_in(&name, "a password for benchmarks").await?;
    Ok(Person { session, friends: [friend].into() })
}
