//! Accounts for a measurement, each with a client and a connection of its own.

use super::fill::Crowd;
use super::stage::Stage;
use crate::processes::Broken;
use chat_client::{Client, Session};
use rand::RngExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Passwords are hashed on the leader: as many at a time as it does not refuse.
const AT_A_TIME: usize = 4;
/// Longer than a failover, or a queue behind hundreds of others.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub name: String,
    pub session: Session,
    pub friends: Friends,
}

/// To whom somebody sends.
#[derive(Clone, Debug)]
pub(super) enum Friends {
    /// Always to the same one.
    One(String),
    /// To anybody, at random.
    Anyone(Arc<Crowd>),
}

impl Person {
    /// The name of whom to send to next.
    pub fn friend(&self) -> String {
        match &self.friends {
            Friends::One(name) => name.clone(),
            Friends::Anyone(crowd) => crowd.name(rand::rng().random_range(0..crowd.accounts.max(1))),
        }
    }
}

/// `n` people with names that no earlier measurement used, each of whom sends to the next. They share so many clients.
pub(super) async fn people(stage: &mut Stage, n: usize, clients: usize) -> Result<Vec<Person>, Broken> {
    let clients = self::clients(&stage.servers(), clients.min(n)).await?;
    match stage.crowd(n as u64).await? {
        Some(crowd) => (0..n as u64)
            .map(|number| {
                let friends = Friends::One(crowd.name((number + 1) % n as u64));
                member(&clients, &crowd, number, friends)
            })
            .collect(),
        None => register(&clients, n).await,
    }
}

/// `n` of a crowd, far from each other, with a client each: they send to each other, or to anybody.
pub(super) async fn some_of(stage: &Stage, crowd: &Crowd, n: usize, to_anybody: bool) -> Result<Vec<Person>, Broken> {
    let clients = clients(&stage.servers(), n).await?;
    let all = Arc::new(crowd.clone());
    let step = (crowd.accounts / n as u64).max(1);
    let place = |number: u64| number % n as u64 * step % crowd.accounts.max(1);
    (0..n as u64)
        .map(|number| {
            let next = Friends::One(crowd.name(place(number + 1)));
            member(&clients, crowd, place(number), if to_anybody { Friends::Anyone(all.clone()) } else { next })
        })
        .collect()
}

fn member(clients: &[Client], crowd: &Crowd, number: u64, friends: Friends) -> Result<Person, Broken> {
    let session = clients[number as usize % clients.len()].restore(&crowd.token(number))?;
    Ok(Person { name: crowd.name(number), session, friends })
}

/// Clients with connections of their own, at least one.
pub(super) async fn clients(servers: &[String], n: usize) -> Result<Vec<Client>, Broken> {
    let mut clients = Vec::new();
    for _ in 0..n.max(1) {
        clients.push(Client::builder().servers(servers).timeout(TIMEOUT).connect().await?);
    }
    Ok(clients)
}

/// The long way, which is open to everybody: each is registered and logs in.
async fn register(clients: &[Client], n: usize) -> Result<Vec<Person>, Broken> {
    let crowd = Crowd::new(n as u64);
    let mut found: Vec<Option<Person>> = (0..n).map(|_| None).collect();
    let mut joining = JoinSet::new();
    let mut next = 0;
    while next < n || !joining.is_empty() {
        if next < n && joining.len() < AT_A_TIME {
            let names = [next, (next + 1) % n].map(|number| crowd.name(number as u64));
            let (client, at) = (clients[next % clients.len()].clone(), next);
            joining.spawn(async move { Ok::<_, Broken>((at, join(&client, names).await?)) });
            next += 1;
        } else if let Some(joined) = joining.join_next().await {
            let (at, person) = joined.map_err(|error| Broken(error.to_string()))??;
            found[at] = Some(person);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

async fn join(client: &Client, [name, friend]: [String; 2]) -> Result<Person, Broken> {
    client.register(&name, "a password for benchmarks").await?;
    let session = client.log_in(&name, "a password for benchmarks").await?;
    Ok(Person { name, session, friends: Friends::One(friend) })
}
