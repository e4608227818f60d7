//! What operators ask of the leader: to hand over to another replica.

use chat_proto::v1::{self, admin_service_client::AdminServiceClient};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::{
    call::{Outcome, pause},
    client::Client,
    error::{Error, Reason, Refusal, Verdict, explain, judge},
    model::{Epoch, Leader},
    owner::{Route, Stale, find_leader},
};

/// What came of [`Client::transfer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// The replica that was named, which leads now.
    pub leader: Leader,
    /// Id of the replica that was asked to hand over to it. `None`: it led already, so that nobody was asked.
    pub from: Option<u32>,
}

/// What one request to hand over came to.
enum Asked {
    /// The leadership of the one that was asked is over, or may be.
    Over(Stale),
    /// It was not the leader: nothing was done.
    Elsewhere(Stale),
    /// It leads still, and may be asked again.
    NotYet(Refusal),
    /// The service will not.
    Refused(Refusal),
    /// The deadline passed before it answered.
    Unanswered,
}

impl Client {
    /// Has the leader hand over to replica `id`, and waits until that one leads: a planned change, in which no process
    /// ends and nothing is lost. Sends wait for it: some milliseconds, or half a second each time that the successor is not ready. It is asked again until the deadline while it
    /// is not ready. Replicas that were started with a secret refuse, unless it is
    /// [this client's](crate::Builder::cluster_secret) too.
    ///
    /// # Errors
    /// [`Error::Refused`] when replica `id` cannot take over, when it was not ready until the deadline, when another one
    /// leads after the leader was asked, or without the secret; the message says which. [`Error::NoLeader`] when none was
    /// found, or the one that was asked did not answer: then it may still hand over.
    ///
    /// # Cancellation safety
    /// Dropping the future may leave the leader handing over.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut cluster = chat_testkit::Cluster::builder().replicas(3).start().await; cluster.whole().await;
    /// # let servers = cluster.addresses();
    /// # let client = chat_client::Client::builder().servers(servers).connect().await?;
    /// let before = client.find_leader().await?.id;
    /// let next = 1 + before % 3;
    /// let done = client.transfer(next).await?;
    /// assert_eq!((done.leader.id, done.from), (next, Some(before)));
    /// assert_eq!(client.transfer(next).await?.from, None);
    /// # Ok(()) }
    /// ```
    pub async fn transfer(&self, id: u32) -> Result<Transferred, Error> {
        // To the service, that is whoever is fit.
        if id == 0 {
            return Err(Error::Refused(refusal("there is no replica 0")));
        }
        let deadline = self.deadline();
        let mut stale = Stale::default();
        let mut asked: Option<u32> = None;
        let mut not_yet = None;
        for failures in 0.. {
            pause(failures, deadline).await;
            if Instant::now() >= deadline {
                break;
            }
            let Some(route) = self.finder.route(&stale, deadline).await else { break };
            if route.replica == id {
                if let Some(epoch) = self.serves_in(&route).await {
                    return Ok(Transferred { leader: Leader { epoch, ..leader(&route) }, from: asked });
                }
                stale = beyond(&route);
                continue;
            }
            if let Some(before) = asked.filter(|before| *before != route.replica) {
                return Err(another_leads(before, &route, id));
            }
            match self.ask_to_hand_over(&route, id, deadline).await {
                Asked::Over(next) => (asked, stale, not_yet) = (Some(route.replica), next, None),
                Asked::Elsewhere(next) => stale = next,
                Asked::NotYet(refusal) => (asked, not_yet) = (Some(route.replica), Some(refusal)),
                Asked::Refused(refusal) => return Err(Error::Refused(refusal)),
                Asked::Unanswered => {
                    if let Some(Refusal { message, .. }) = &mut not_yet {
                        message.push_str("; asked again, it did not answer in time: it may still do so");
                    }
                    break;
                }
            }
        }
        Err(not_yet.map_or_else(|| self.finder.no_leader(), Error::Refused))
    }

    /// The epoch in which that replica leads, if it does: what this client knows of it may be old.
    async fn serves_in(&self, route: &Route) -> Option<Epoch> {
        match find_leader(route.channel.clone()).await {
            Ok(answer) if answer.serving && answer.replica == route.replica => {
                Some(answer.epoch.unwrap_or_default().into())
            }
            Ok(_) => None,
            Err(why) => {
                self.finder.note(&route.address, why);
                None
            }
        }
    }

    async fn ask_to_hand_over(&self, route: &Route, id: u32, deadline: Instant) -> Asked {
        let mut admin = AdminServiceClient::new(route.channel.clone());
        let mut request = Request::new(v1::TransferRequest { id });
        if let Some(secret) = &self.secret {
            secret.attach(request.metadata_mut());
        }
        let status = match self.finder.attend(route, deadline, admin.transfer(request)).await {
            Outcome::Answer(Ok(_)) | Outcome::Moved => return Asked::Over(beyond(route)),
            Outcome::Answer(Err(status)) => status,
            Outcome::Expired => {
                let why = "was asked to hand over, and did not answer in time: it may still do so";
                self.finder.note(&route.address, why.to_owned());
                return Asked::Unanswered;
            }
        };
        // No deadline goes along with the request: it is the leader's own that has passed.
        if status.code() == Code::DeadlineExceeded {
            return Asked::NotYet(refusal(status.message()));
        }
        match judge(&status) {
            Verdict::Refused(refusal) => Asked::Refused(refusal),
            Verdict::Later(refusal) => Asked::NotYet(refusal),
            Verdict::Elsewhere { hint, done } => {
                self.finder.note(&route.address, explain(&status));
                let stale = Stale { generation: route.generation, hint };
                if done { Asked::Over(stale) } else { Asked::Elsewhere(stale) }
            }
        }
    }
}

fn beyond(route: &Route) -> Stale {
    Stale { generation: route.generation, hint: None }
}

fn leader(route: &Route) -> Leader {
    Leader { id: route.replica, address: route.address.to_string(), epoch: route.epoch }
}

fn refusal(message: impl Into<String>) -> Refusal {
    Refusal { reason: Reason::Other, message: message.into(), limit: None, undelivered: None }
}

fn another_leads(before: u32, route: &Route, id: u32) -> Error {
    let (now, address) = (route.replica, &route.address);
    Error::Refused(refusal(format!(
        "replica {before} was asked to hand over to replica {id}, but now replica {now} leads, at {address}"
    )))
}
