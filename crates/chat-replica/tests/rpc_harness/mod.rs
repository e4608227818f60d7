//! One replica in this process, and people who use it through generated clients.

use chat_proto::v1::chat_service_client::ChatServiceClient;
use chat_proto::v1::{self, Reason};
use chat_replica::options::{Config, Listen, Options};
use chat_replica::server::{EventLoops, Server};
use chat_replica::transport::Tcp;
use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

pub const PASSWORD: &str = "correct horse";

/// A running replica and a connection to it.
pub struct Replica {
    pub server: Server,
    pub channel: Channel,
    _data: TempDir,
}

/// A cluster of one, which serves.
pub async fn alone() -> Replica {
    alone_on(EventLoops::here()).await
}

/// The same, with these event loops.
pub async fn alone_on(loops: EventLoops) -> Replica {
    let replica = start_on(loops, &[]).await;
    let mut gate = replica.server.handle().gate();
    soon(gate.wait_for(|gate| gate.serving.is_some())).await.unwrap();
    let mut status = replica.server.handle().status();
    soon(status.wait_for(|status| status.serving)).await.unwrap();
    replica
}

/// Replica 1 of a cluster with these others, which are not there.
pub async fn start(others: &[u32]) -> Replica {
    start_on(EventLoops::here(), others).await
}

async fn start_on(loops: EventLoops, others: &[u32]) -> Replica {
    let data = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let absent = others.iter().map(|id| (*id, "127.0.0.1:1".to_owned()));
    let config = Config {
        id: 1,
        listen: Listen::Bound(listener),
        data: data.path().join("1"),
        replicas: std::iter::once((1, address.to_string())).chain(absent).collect(),
        options: Options::default(),
    };
    let server = Server::start_on(loops, config, Arc::new(Tcp)).await.unwrap();
    let channel = dial(&server).await;
    Replica { server, channel, _data: data }
}

/// A connection of its own.
pub async fn dial(server: &Server) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.address())).unwrap().connect().await.unwrap()
}

/// Nothing in these tests takes long.
pub async fn soon<F: Future>(wait: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it takes too long")
}

/// A key that was not used before.
pub fn key() -> Vec<u8> {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let mut key = LAST.fetch_add(1, Ordering::Relaxed).to_be_bytes().to_vec();
    key.resize(16, 0);
    key
}

pub fn reason(status: &Status) -> (Code, Reason) {
    let detail = chat_proto::from_status(status).unwrap_or_else(|| panic!("no detail: {status:?}"));
    (status.code(), detail.reason())
}

/// The code and reason of a call that must fail.
pub async fn refusal<T: std::fmt::Debug>(call: impl Future<Output = Result<T, Status>>) -> (Code, Reason) {
    reason(&soon(call).await.expect_err("it should have been refused"))
}

pub async fn ok<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> T {
    soon(call).await.unwrap().into_inner()
}

pub fn registration(name: &str) -> v1::RegisterRequest {
    v1::RegisterRequest { key: key().into(), name: name.into(), display_name: String::new(), password: PASSWORD.into() }
}

pub fn login(name: &str, token: [u8; 32]) -> v1::LogInRequest {
    v1::LogInRequest { key: key().into(), name: name.into(), password: PASSWORD.into(), token: token.to_vec().into() }
}

pub fn text(to: &str, text: &str) -> v1::SendRequest {
    v1::SendRequest { key: key().into(), to: to.into(), text: text.into() }
}

/// Somebody who has registered and logged in.
#[derive(Clone)]
pub struct User {
    pub client: ChatServiceClient<Channel>,
    token: [u8; 32],
}

impl User {
    pub async fn new(replica: &Replica, name: &str) -> User {
        let mut client = ChatServiceClient::new(replica.channel.clone());
        ok(client.register(registration(name))).await;
        User::again(replica, name).await
    }

    /// Another session of somebody who has registered.
    pub async fn again(replica: &Replica, name: &str) -> User {
        let mut client = ChatServiceClient::new(replica.channel.clone());
        let mut token = [7; 32];
        token[..16].copy_from_slice(&key());
        ok(client.log_in(login(name, token))).await;
        User { client, token }
    }

    /// The same session, on another connection.
    pub fn by(&self, channel: Channel) -> User {
        User { client: ChatServiceClient::new(channel), token: self.token }
    }

    /// A call of theirs.
    pub fn asks<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let hex: String = self.token.iter().map(|byte| format!("{byte:02x}")).collect();
        request.metadata_mut().insert("authorization", format!("Bearer {hex}").parse().unwrap());
        request
    }

    pub async fn send(&self, request: v1::SendRequest) -> Result<v1::SendResponse, Status> {
        let call = self.asks(request);
        soon(self.client.clone().send(call)).await.map(tonic::Response::into_inner)
    }

    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse, Status> {
        let call = self.asks(v1::WhoAmIRequest {});
        soon(self.client.clone().who_am_i(call)).await.map(tonic::Response::into_inner)
    }

    pub async fn marks(&self) -> (u64, u64, u64) {
        let marks = self.who_am_i().await.unwrap().marks.unwrap();
        (marks.read, marks.delivered, marks.last)
    }

    pub async fn acknowledge(&self, delivered: Option<u64>, read: Option<u64>) -> Result<v1::Marks, Status> {
        let call = self.asks(v1::AcknowledgeRequest { delivered, read });
        Ok(soon(self.client.clone().acknowledge(call)).await?.into_inner().marks.unwrap())
    }

    pub async fn inbox(&self, after: Option<u64>) -> Result<Inbox, Status> {
        let call = self.asks(v1::InboxRequest { after });
        Ok(Inbox { stream: soon(self.client.clone().inbox(call)).await?.into_inner() })
    }
}

/// A stream of messages.
#[derive(Debug)]
pub struct Inbox {
    pub stream: Streaming<v1::InboxResponse>,
}

impl Inbox {
    /// The next messages, at least so many.
    pub async fn messages(&mut self, count: usize) -> Vec<v1::Message> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let response = soon(self.stream.message()).await.unwrap().expect("the stream goes on");
            messages.extend(response.messages);
        }
        messages
    }

    /// The error that it ends with.
    pub async fn end(&mut self) -> (Code, Reason) {
        loop {
            match soon(self.stream.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without an error"),
                Err(status) => return reason(&status),
            }
        }
    }
}
