//! Reading: pages of a long conversation at random places, and the first page of a listing.

use super::fill::{Crowd, LONG_CONVERSATION, Size};
use super::load::{closed_loop, positive, tasks_each};
use super::people::clients;
use super::report::{Line, Report};
use super::stage::Stage;
use crate::processes::Broken;
use chat_client::Session;
use chat_proto::v1::HistoryRequest;
use chat_proto::v1::chat_service_client::ChatServiceClient;
use clap::Args;
use futures_util::future::BoxFuture;
use rand::RngExt as _;
use std::iter::repeat_n;
use std::time::Duration;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

/// Messages in a page.
const PAGE: u32 = 50;
/// A page of long messages is larger than gRPC's usual bound.
const MOST_DECODED: usize = 128 << 20;

#[derive(Debug, Args)]
pub(super) struct Flags {
    #[command(flatten)]
    size: Size,
    /// So many read at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,64", value_parser = positive, value_name = "N,…")]
    clients: Vec<usize>,
    /// They share so many clients, with a connection each. Must divide every number of readers. Default: a client each
    #[arg(long, value_parser = positive, value_name = "H")]
    handles: Option<usize>,
    /// For so many seconds each
    #[arg(long, default_value_t = 5, value_parser = positive, value_name = "S")]
    secs: usize,
}

/// One read on its way.
type Reading = BoxFuture<'static, Result<(), Broken>>;
/// Somebody who reads again and again.
type Reader = Box<dyn FnMut() -> Reading + Send>;

impl Flags {
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), String> {
        if self.size.accounts < 2 || self.size.messages < least() {
            return Err(format!("a conversation needs 2 --accounts, and a page of it {} --messages", least()));
        }
        self.clients.iter().try_for_each(|clients| tasks_each(*clients, self.handles).map(drop))
    }
}

/// So many messages make a page of the long conversation.
fn least() -> usize {
    PAGE as usize * LONG_CONVERSATION as usize
}

pub(super) async fn run(stage: &mut Stage, report: &mut Report, flags: &Flags) -> Result<(), Broken> {
    let crowd = stage.filled(&flags.size).await?;
    let time = Duration::from_secs(flags.secs as u64);
    let (with, token) = (crowd.name(1), crowd.token(0));
    let places = (least() as u64, flags.size.messages as u64);
    for readers in &flags.clients {
        let (handles, tasks) = tasks_each(*readers, flags.handles).map_err(Broken)?;
        let clients = clients(&stage.servers(), handles).await?;
        let each = clients.iter().flat_map(|client| repeat_n(client, tasks));
        let sessions = each.map(|client| client.restore(&token)).collect::<Result<Vec<_>, _>>()?;
        let once = async || {
            let callers = sessions.iter().map(|session| history(session.clone(), with.clone(), places));
            measure(stage, "read-history", handles, callers.collect(), time).await
        };
        report.measure(once).await?;
        let backups = Backups::connect(stage, handles, &crowd).await?;
        let once = async || {
            measure(stage, "read-history-anywhere", handles, backups.callers(tasks, &with, places), time).await
        };
        report.measure(once).await?;
        let once = async || {
            let callers = sessions.iter().cloned().map(listing);
            measure(stage, "read-accounts", handles, callers.collect(), time).await
        };
        report.measure(once).await?;
    }
    Ok(())
}

async fn measure(
    stage: &Stage,
    name: &'static str,
    handles: usize,
    callers: Vec<Reader>,
    time: Duration,
) -> Result<Line, Broken> {
    let readers = callers.len();
    let before = stage.own().map(|cluster| cluster.cpu_seconds());
    let loaded = closed_loop(callers, time).await?;
    let cpu = stage.own().zip(before).map(|(cluster, before)| cluster.cpu_seconds() - before);
    let mut line = Line::new(name, readers).timed(&loaded.times).with("handles", handles as f64);
    line.per_second = Some(loaded.per_second());
    line.cpu_per_1000 = cpu.map(|cpu| cpu / loaded.times.count().max(1) as f64 * 1000.0);
    Ok(line)
}

/// Pages from the leader, before ids between `least` and `most`.
fn history(session: Session, with: String, (least, most): (u64, u64)) -> Reader {
    Box::new(move || {
        let before = rand::rng().random_range(least..=most) + 1;
        let mut history = session.history(&with).before(before).page_size(PAGE);
        Box::pin(async move { full(history.older().await?.map_or(0, |page| page.len())) })
    })
}

/// First pages of a listing from the leader.
fn listing(session: Session) -> Reader {
    Box::new(move || {
        let mut accounts = session.accounts("a*");
        Box::pin(async move { Ok(accounts.next().await.map(drop)?) })
    })
}

/// The client library reads from the leader only: this asks every replica, as the wire allows.
struct Backups {
    connections: Vec<ChatServiceClient<Channel>>,
    bearer: MetadataValue<Ascii>,
}

impl Backups {
    /// So many connections, to all replicas in turn.
    async fn connect(stage: &Stage, n: usize, crowd: &Crowd) -> Result<Backups, Broken> {
        let servers = stage.servers();
        let mut connections = Vec::new();
        for server in servers.iter().cycle().take(n) {
            let lost = |error: tonic::transport::Error| Broken(format!("no connection to {server}: {error}"));
            let channel = Endpoint::from_shared(format!("http://{server}")).map_err(lost)?.connect().await;
            let client = ChatServiceClient::new(channel.map_err(lost)?).max_decoding_message_size(MOST_DECODED);
            connections.push(client);
        }
        let bearer = format!("Bearer {}", crowd.token(0)).parse();
        let bearer = bearer.map_err(|_| Broken("a token is not fit for metadata".into()))?;
        Ok(Backups { connections, bearer })
    }

    /// So many on each connection.
    fn callers(&self, tasks: usize, with: &str, places: (u64, u64)) -> Vec<Reader> {
        let caller = |connection: &ChatServiceClient<Channel>| anywhere(connection.clone(), &self.bearer, with, places);
        self.connections.iter().flat_map(|connection| repeat_n(connection, tasks)).map(caller).collect()
    }
}

/// Pages as `history` has them, from the replica at the other end of the connection.
fn anywhere(
    connection: ChatServiceClient<Channel>,
    bearer: &MetadataValue<Ascii>,
    with: &str,
    (least, most): (u64, u64),
) -> Reader {
    let (bearer, with) = (bearer.clone(), with.to_owned());
    Box::new(move || {
        let before = Some(rand::rng().random_range(least..=most) + 1);
        let mut request = Request::new(HistoryRequest { with: with.clone(), before, limit: PAGE, min_index: Some(1) });
        request.metadata_mut().insert("authorization", bearer.clone());
        let mut connection = connection.clone();
        Box::pin(async move {
            let page = connection.history(request).await;
            full(page.map_err(|status| Broken(status.to_string()))?.get_ref().messages.len())
        })
    })
}

/// A page with less on it would have been cheaper.
fn full(messages: usize) -> Result<(), Broken> {
    if messages == PAGE as usize { Ok(()) } else { Err(Broken(format!("a page has {messages} messages, not {PAGE}"))) }
}
