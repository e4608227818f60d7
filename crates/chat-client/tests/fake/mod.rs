//! A cluster that obeys a script: real tonic servers on 127.0.0.1, one shared state behind them that stands for the
//! replicated log, and faults that a test asks for by name.
#![allow(dead_code, reason = "every test file uses its own part of it")]

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use chat_proto::HistoryPage;
use chat_proto::v1::{
    self,
    admin_service_server::{AdminService, AdminServiceServer},
    chat_service_server::{ChatService, ChatServiceServer},
};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};

/// What a replica does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Works,
    /// Accepts connections and calls, and never answers any, as if stopped.
    Hangs,
    /// Carries sends out and never answers them.
    SwallowsAnswers,
    /// Answers sends with OVERLOADED.
    Overloaded,
    /// Leaves out one message of an inbox stream, once.
    SkipsOne,
    /// Inbox streams that are open stay open and say nothing more; a new one works.
    MuteInbox,
    /// Told to hand over, says after a while that it still leads, and next time does it.
    HesitatesOnce,
    /// The same, but the next time it hangs.
    HesitatesThenHangs,
    /// Told to hand over, does so to another than was meant.
    HandsToAnother,
    /// Told to hand over, does so and does not answer.
    HandsOverInSilence,
}

/// A stream that is open.
struct Open(Arc<State>);

impl Open {
    fn count(state: &Arc<State>) -> Self {
        state.streams.send_modify(|streams| *streams += 1);
        Self(state.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.send_modify(|streams| *streams -= 1);
    }
}

#[derive(Debug, Default)]
pub struct Log {
    pub messages: Vec<v1::Message>,
    outcomes: HashMap<Vec<u8>, v1::SendResponse>,
    pub registrations: Vec<v1::RegisterRequest>,
    /// The delivered mark, of the one mailbox that there is.
    pub delivered: u64,
    /// Requests of SendStream, frame by frame.
    pub frames: usize,
}

pub struct Replica {
    pub id: u32,
    pub address: String,
    pub mood: watch::Sender<Mood>,
    pub asked: watch::Sender<usize>,
    server: Mutex<Option<JoinHandle<()>>>,
}

pub struct Cluster {
    pub replicas: Vec<Arc<Replica>>,
    pub state: Arc<State>,
}

pub struct State {
    pub log: Mutex<Log>,
    pub changed: watch::Sender<usize>,
    /// SendStreams that are open.
    pub streams: watch::Sender<usize>,
    /// Leader's id, round.
    pub leader: watch::Sender<(Option<u32>, u64)>,
    peers: Mutex<Vec<v1::Peer>>,
}

impl Cluster {
    pub async fn start(count: u32) -> Self {
        let state = Arc::new(State {
            log: Mutex::default(),
            changed: watch::Sender::new(0),
            streams: watch::Sender::new(0),
            leader: watch::Sender::new((Some(1), 1)),
            peers: Mutex::default(),
        });
        let mut replicas = Vec::new();
        for id in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            state.peers.lock().unwrap().push(v1::Peer { id, address: address.to_string() });
            let replica = Arc::new(Replica {
                id,
                address: address.to_string(),
                mood: watch::Sender::new(Mood::Works),
                asked: watch::Sender::new(0),
                server: Mutex::new(None),
            });
            serve(&replica, &state, listener);
            replicas.push(replica);
        }
        Self { replicas, state }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.address.clone()).collect()
    }

    pub fn replica(&self, id: u32) -> &Arc<Replica> {
        &self.replicas[id as usize - 1]
    }

    pub fn lead(&self, id: Option<u32>) {
        self.state.leader.send_modify(|leader| *leader = (id, leader.1 + 1));
    }

    /// Ends the process, so to speak: connections reset, the port refuses.
    pub async fn kill(&self, id: u32) {
        let server = self.replica(id).server.lock().unwrap().take().unwrap();
        server.abort();
        let _ = server.await;
    }

    pub async fn revive(&self, id: u32) {
        let replica = self.replica(id);
        let address: SocketAddr = replica.address.parse().unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        serve(replica, &self.state, socket.listen(64).unwrap());
    }

    pub fn texts(&self) -> Vec<String> {
        self.state.log.lock().unwrap().messages.iter().map(|message| message.text.clone()).collect()
    }

    /// Waits until so many messages are in the log.
    pub async fn has(&self, count: usize) {
        self.state.changed.subscribe().wait_for(|messages| *messages >= count).await.unwrap();
    }
}

fn serve(replica: &Arc<Replica>, state: &Arc<State>, listener: TcpListener) {
    let service = Service { replica: replica.clone(), state: state.clone() };
    // A runtime of its own per replica: aborting a tonic server does not end its connections, dropping this does.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let listener = listener.into_std().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder()
                .add_service(ChatServiceServer::new(service.clone()))
                .add_service(AdminServiceServer::new(service))
                .serve_with_incoming(
                    incoming.map(|connection| connection.inspect(|connection| connection.set_nodelay(true).unwrap())),
                );
            tokio::select! { _ = server => {}, _ = stopped => {} }
        });
        drop(runtime);
        let _ = ended.send(());
    });
    /// Stops the server when the task that holds it is aborted.
    struct Stop(Option<tokio::sync::oneshot::Sender<()>>, Option<tokio::sync::oneshot::Receiver<()>>);
    impl Drop for Stop {
        fn drop(&mut self) {
            drop(self.0.take());
            let ended = self.1.take().unwrap();
            std::thread::spawn(move || ended.blocking_recv()).join().unwrap().ok();
        }
    }
    let stop = Stop(Some(stop), Some(end));
    let task = tokio::spawn(async move {
        let _stop = stop;
        std::future::pending::<()>().await;
    });
    *replica.server.lock().unwrap() = Some(task);
}

#[derive(Clone)]
struct Service {
    replica: Arc<Replica>,
    state: Arc<State>,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub fn refuse(reason: v1::Reason, leader: Option<v1::Peer>) -> Status {
    let detail = v1::ErrorDetail { reason: reason.into(), leader, ..Default::default() };
    chat_proto::to_status(Code::FailedPrecondition, format!("scripted: {}", reason.as_str_name()), &detail)
}

fn name_of<T>(request: &Request<T>) -> Result<String, Status> {
    let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
    let token = token.and_then(|token| token.strip_prefix("Bearer "));
    // Every session holds, and its account is named like its token, so that a log-in needs no table.
    let token = token.filter(|token| *token != "f".repeat(64)).ok_or(refuse(v1::Reason::SessionInvalid, None))?;
    Ok(token.to_owned())
}

impl Service {
    /// Waits for as long as the replica hangs, and refuses unless it leads.
    async fn lead(&self) -> Result<u64, Status> {
        self.awake().await;
        let (leader, round) = *self.state.leader.borrow();
        if leader == Some(self.replica.id) {
            return Ok(round);
        }
        let peers = self.state.peers.lock().unwrap();
        let leader = leader.and_then(|id| peers.iter().find(|peer| peer.id == id).cloned());
        let reason = if leader.is_some() { v1::Reason::NotLeader } else { v1::Reason::NoLeader };
        Err(refuse(reason, leader))
    }

    /// Waits for the end of this leadership; its status.
    async fn deposed(&self, round: u64) -> Status {
        let own = (Some(self.replica.id), round);
        let _ = self.state.leader.subscribe().wait_for(|leader| *leader != own).await;
        self.lead().await.err().unwrap_or(refuse(v1::Reason::NotLeader, None))
    }

    async fn awake(&self) {
        self.replica.mood.subscribe().wait_for(|mood| *mood != Mood::Hangs).await.unwrap();
    }

    fn carry_out(&self, from: &str, round: u64, send: v1::SendRequest) -> v1::SendResponse {
        let mut log = self.state.log.lock().unwrap();
        if let Some(outcome) = log.outcomes.get(send.key.as_ref()) {
            return v1::SendResponse { duplicate: true, ..*outcome };
        }
        let seq = log.messages.len() as u64 + 1;
        let outcome = v1::SendResponse {
            id: seq,
            seq,
            epoch: Some(v1::Epoch { round, replica: self.replica.id }),
            index: seq,
            copies: 2,
            duplicate: false,
            sent_at_ms: 0,
        };
        log.outcomes.insert(send.key.to_vec(), outcome);
        let message =
            v1::Message { id: seq, seq, from: from.into(), to: send.to, text: send.text, ..Default::default() };
        log.messages.push(message);
        self.state.changed.send_replace(log.messages.len());
        outcome
    }

    fn answer(&self, from: &str, round: u64, tagged: v1::TaggedSend) -> Option<v1::TaggedResult> {
        let send = tagged.send.unwrap();
        let mood = *self.replica.mood.borrow();
        let result = if mood == Mood::Overloaded || send.to == "nobody" {
            let reason = if mood == Mood::Overloaded { v1::Reason::Overloaded } else { v1::Reason::NoSuchRecipient };
            let detail = v1::ErrorDetail { reason: reason.into(), ..Default::default() };
            let message = format!("scripted: {}", reason.as_str_name());
            v1::tagged_result::Result::Failure(v1::Failure { code: 9, message, detail: Some(detail) })
        } else {
            v1::tagged_result::Result::Sent(self.carry_out(from, round, send))
        };
        (mood != Mood::SwallowsAnswers).then_some(v1::TaggedResult { tag: tagged.tag, result: Some(result) })
    }
}

#[tonic::async_trait]
impl ChatService for Service {
    async fn find_leader(&self, _: Request<v1::FindLeaderRequest>) -> Result<Response<v1::FindLeaderResponse>, Status> {
        self.replica.asked.send_modify(|asked| *asked += 1);
        self.awake().await;
        let (leader, round) = *self.state.leader.borrow();
        let peers = self.state.peers.lock().unwrap().clone();
        Ok(Response::new(v1::FindLeaderResponse {
            replica: self.replica.id,
            epoch: Some(v1::Epoch { round, replica: leader.unwrap_or_default() }),
            leader: leader.and_then(|id| peers.iter().find(|peer| peer.id == id).cloned()),
            serving: leader == Some(self.replica.id),
            waiting_for: if leader.is_none() { vec![7] } else { vec![] },
            replicas: peers,
        }))
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        self.lead().await?;
        let request = request.into_inner();
        let mut log = self.state.log.lock().unwrap();
        let duplicate = log.registrations.iter().any(|other| other.key == request.key);
        let account = v1::Account { id: 1, name: request.name.clone(), ..Default::default() };
        log.registrations.push(request);
        if *self.replica.mood.borrow() == Mood::SwallowsAnswers && !duplicate {
            return Err(refuse(v1::Reason::UnknownOutcome, None));
        }
        Ok(Response::new(v1::RegisterResponse { account: Some(account), duplicate }))
    }

    async fn log_in(&self, request: Request<v1::LogInRequest>) -> Result<Response<v1::LogInResponse>, Status> {
        self.lead().await?;
        if request.get_ref().password != "correct horse" {
            return Err(refuse(v1::Reason::WrongCredentials, None));
        }
        let account = v1::Account { id: 1, name: request.into_inner().name, ..Default::default() };
        Ok(Response::new(v1::LogInResponse { account: Some(account), expires_at_ms: 0 }))
    }

    async fn log_out(&self, _: Request<v1::LogOutRequest>) -> Result<Response<v1::LogOutResponse>, Status> {
        self.lead().await?;
        Ok(Response::new(v1::LogOutResponse {}))
    }

    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::WhoAmIResponse>, Status> {
        self.lead().await?;
        let account = v1::Account { id: 1, name: name_of(&request)?, ..Default::default() };
        let log = self.state.log.lock().unwrap();
        let marks = v1::Marks { read: 0, delivered: log.delivered, last: log.messages.len() as u64 };
        Ok(Response::new(v1::WhoAmIResponse { account: Some(account), marks: Some(marks) }))
    }

    async fn list_accounts(
        &self,
        request: Request<v1::ListAccountsRequest>,
    ) -> Result<Response<v1::ListAccountsResponse>, Status> {
        self.lead().await?;
        // 2500 accounts.
        let request = request.into_inner();
        let names = (0..2500).map(|number| format!("a{number:04}")).filter(|name| *name > request.after);
        let accounts = names.map(|name| v1::Account { name, ..Default::default() });
        let accounts: Vec<_> = accounts.take(request.limit as usize).collect();
        let more = accounts.last().is_some_and(|last| last.name != "a2499");
        Ok(Response::new(v1::ListAccountsResponse { accounts, more, applied_index: 0 }))
    }

    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let round = self.lead().await?;
        let from = name_of(&request)?;
        Ok(Response::new(self.carry_out(&from, round, request.into_inner())))
    }

    type SendStreamStream = Streamed<v1::SendStreamResponse>;
    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let round = self.lead().await?;
        let from = name_of(&request)?;
        let mut frames = request.into_inner();
        let (results, outgoing) = mpsc::channel(16);
        let service = self.clone();
        let open = Open::count(&self.state);
        tokio::spawn(async move {
            let _open = open;
            loop {
                let frame = tokio::select! {
                    biased;
                    status = service.deposed(round) => {
                        let _ = results.send(Err(status)).await;
                        return;
                    }
                    frame = frames.message() => frame,
                };
                let Ok(Some(frame)) = frame else { return };
                service.awake().await;
                service.state.log.lock().unwrap().frames += 1;
                let answers = frame.sends.into_iter().filter_map(|send| service.answer(&from, round, send));
                let answer = v1::SendStreamResponse { results: answers.collect() };
                if results.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    type InboxStream = Streamed<v1::InboxResponse>;
    async fn inbox(&self, request: Request<v1::InboxRequest>) -> Result<Response<Self::InboxStream>, Status> {
        let round = self.lead().await?;
        name_of(&request)?;
        self.replica.mood.send_if_modified(|mood| {
            let muted = *mood == Mood::MuteInbox;
            if muted {
                *mood = Mood::Works;
            }
            muted
        });
        let delivered = self.state.log.lock().unwrap().delivered;
        let mut position = request.into_inner().after.unwrap_or(delivered);
        let (passed_on, outgoing) = mpsc::channel(16);
        let service = self.clone();
        let mut changed = self.state.changed.subscribe();
        tokio::spawn(async move {
            loop {
                changed.borrow_and_update();
                if *service.replica.mood.borrow() == Mood::MuteInbox {
                    passed_on.closed().await;
                    return;
                }
                let mut messages: Vec<_> = service.state.log.lock().unwrap().messages[position as usize..].to_vec();
                let last = position + messages.len() as u64;
                position = last;
                if messages.len() > 1 && *service.replica.mood.borrow() == Mood::SkipsOne {
                    service.replica.mood.send_replace(Mood::Works);
                    messages.remove(messages.len() / 2);
                }
                if passed_on.send(Ok(v1::InboxResponse { messages, last })).await.is_err() {
                    return;
                }
                tokio::select! {
                    status = service.deposed(round) => {
                        let _ = passed_on.send(Err(status)).await;
                        return;
                    }
                    _ = changed.changed() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }

    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeResponse>, Status> {
        self.lead().await?;
        let delivered = request.into_inner().delivered.unwrap_or(0);
        self.state.log.lock().unwrap().delivered = delivered;
        Ok(Response::new(v1::AcknowledgeResponse { marks: Some(v1::Marks { read: 0, delivered, last: delivered }) }))
    }

    async fn history(&self, request: Request<v1::HistoryRequest>) -> Result<Response<HistoryPage>, Status> {
        self.lead().await?;
        let request = request.into_inner();
        let messages = self.state.log.lock().unwrap().messages.clone();
        let older: Vec<_> = messages.into_iter().filter(|m| request.before.is_none_or(|id| m.id < id)).collect();
        let start = older.len().saturating_sub(request.limit as usize);
        let response = v1::HistoryResponse { messages: older[start..].to_vec(), more: start > 0, applied_index: 0 };
        Ok(Response::new(response.into()))
    }

    async fn delete_account(
        &self,
        _: Request<v1::DeleteAccountRequest>,
    ) -> Result<Response<v1::DeleteAccountResponse>, Status> {
        self.lead().await?;
        Ok(Response::new(v1::DeleteAccountResponse { discarded: 3, duplicate: false }))
    }
}

#[tonic::async_trait]
impl AdminService for Service {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.awake().await;
        let (leader, round) = *self.state.leader.borrow();
        let role = if leader == Some(self.replica.id) { "primary" } else { "backup" };
        Ok(Response::new(v1::StatusResponse {
            id: self.replica.id,
            address: self.replica.address.clone(),
            role: role.into(),
            epoch: Some(v1::Epoch { round, replica: 1 }),
            in_view: vec![1, 2, 3],
            replicas: self.state.peers.lock().unwrap().clone(),
            ..Default::default()
        }))
    }

    async fn declare_crashed(
        &self,
        request: Request<v1::DeclareCrashedRequest>,
    ) -> Result<Response<v1::DeclareCrashedResponse>, Status> {
        if self.replica.id == 2 {
            return Err(Status::failed_precondition(format!("in contact with {}", request.get_ref().id)));
        }
        Ok(Response::new(v1::DeclareCrashedResponse { incarnation: Some(v1::Incarnation { count: 4, nonce: 1 }) }))
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::TransferResponse>, Status> {
        self.lead().await?;
        let (id, mood) = (request.get_ref().id, *self.replica.mood.borrow());
        let others: Vec<_> = self.state.peers.lock().unwrap().iter().map(|peer| peer.id).collect();
        if id != 0 && !others.contains(&id) {
            return Err(Status::not_found(format!("scripted: no replica {id}")));
        }
        let another = others.into_iter().find(|other| ![id, self.replica.id].contains(other));
        let next = match mood {
            Mood::HesitatesOnce | Mood::HesitatesThenHangs => {
                let next = if mood == Mood::HesitatesOnce { Mood::Works } else { Mood::Hangs };
                self.replica.mood.send_replace(next);
                return Err(Status::deadline_exceeded("scripted: still leads"));
            }
            Mood::HandsToAnother => another,
            // Whoever is fit.
            _ if id == 0 => another,
            _ => Some(id),
        };
        self.state.leader.send_modify(|leader| *leader = (next, leader.1 + 1));
        if mood == Mood::HandsOverInSilence {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::TransferResponse {}))
    }
}
