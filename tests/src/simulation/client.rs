//! A simulated person and their program, which does as `chat-client` does: every change has a key and keeps it through all its
//! repetitions, sends go out in order, and the inbox goes on where it was.

use super::MS;
use super::calls::{Called, Reply, Said, Wanted};
use super::violation::Broken;
use super::world::{Happening, World, host_of};
use chat_check::{Answer, CallId, ClientId, Outcome, Reason, Request, StreamId};
use chat_core::{Message, MessageText, Rejection, RequestKey, TokenHash, Username};
use chat_replica::handle::Declined;
use std::collections::VecDeque;
use std::sync::Arc;

/// A call, or the oldest send, that has no answer for so long is asked again elsewhere.
const PATIENCE: u64 = 1500 * MS;
/// A stream that is silent for so long is dead.
const SILENCE: u64 = 2500 * MS;
/// Sends without an answer at most.
const WINDOW: usize = 8;

/// How far a client has come with its account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Register(RequestKey),
    LogIn(RequestKey),
    Active,
}

/// A call under way.
#[derive(Debug)]
struct Running {
    called: Called,
    recorded: Option<CallId>,
    since: u64,
}

/// A message on its way.
#[derive(Debug)]
struct Outgoing {
    key: RequestKey,
    to: Username,
    text: MessageText,
    /// On the present connection, since when.
    sent: Option<(CallId, u64)>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    name: Username,
    stage: Stage,
    token: TokenHash,
    /// Where it looks for the leader.
    host: usize,
    connection: Option<u64>,
    call: Option<Running>,
    outbox: VecDeque<Outgoing>,
    sent: u64,
    stream: Option<StreamId>,
    listening: bool,
    heard_at: u64,
    /// The mailbox was received up to here.
    position: Option<u64>,
    acknowledged: u64,
    /// The highest log index that it was told of.
    seen: u64,
    retry_at: u64,
    wake: u64,
    pause: u64,
    /// Connections in a row that brought nothing.
    failures: u64,
}

fn name(client: usize) -> Username {
    Username::parse(&format!("person-{client}")).expect("a name")
}

impl World {
    /// A client begins; how long it pauses between two things at most is its character.
    pub(crate) fn start_client(&mut self, pause: u64) {
        let number = self.clients.len();
        let client = Client {
            name: name(number),
            stage: Stage::Register(RequestKey(self.random.bytes16())),
            token: self.token(),
            host: self.random.below(self.settings.n as u64) as usize,
            connection: None,
            call: None,
            outbox: VecDeque::new(),
            sent: 0,
            stream: None,
            listening: false,
            heard_at: 0,
            position: self.random.chance(500).then_some(0),
            acknowledged: 0,
            seen: 0,
            retry_at: 0,
            wake: 0,
            pause,
            failures: 0,
        };
        self.clients.push(client);
        self.client_cuts.push(vec![[false; 2]; self.settings.n]);
        self.wake_client(number, 1 + pause);
    }

    fn token(&mut self) -> TokenHash {
        let mut token = [0; 32];
        token[..16].copy_from_slice(&self.random.bytes16());
        TokenHash(token)
    }

    fn wake_client(&mut self, client: usize, delay: u64) {
        let at = self.now + delay;
        self.clients[client].wake = at;
        self.at(at, Happening::Client { client, at });
    }

    /// The client does what is next.
    pub(crate) fn client(&mut self, client: usize, at: u64) {
        let now = self.now;
        let it = &mut self.clients[client];
        if it.wake != at {
            return;
        }
        let oldest = it.outbox.front().and_then(|first| first.sent).map(|(_, since)| since);
        let call = it.call.as_ref().map(|call| call.since);
        let waited = oldest.into_iter().chain(call).min().map_or(0, |since| now - since);
        let silent = it.listening && now - it.heard_at > SILENCE;
        if waited > PATIENCE || silent {
            self.hang_up_on(client, None);
        }
        if now >= self.clients[client].retry_at {
            self.go_on(client);
        }
        let pause = 1 + self.random.below(self.clients[client].pause);
        self.wake_client(client, pause);
    }

    fn go_on(&mut self, client: usize) {
        let active = self.clients[client].stage == Stage::Active;
        if !active {
            return self.begin_call(client);
        }
        if !self.quiet {
            self.write_some(client);
            if self.clients[client].call.is_none() && self.random.chance(250) {
                self.begin_call(client);
            }
            if self.random.chance(4) {
                self.hang_up_on(client, None);
            }
        }
        self.flush(client);
        self.listen_again(client);
    }

    fn connected(&mut self, client: usize) -> u64 {
        if let Some(connection) = self.clients[client].connection {
            return connection;
        }
        let connection = self.connect(client, self.clients[client].host);
        self.clients[client].connection = Some(connection);
        connection
    }

    /// One or a few new messages.
    fn write_some(&mut self, client: usize) {
        let people = self.clients.len() as u64;
        for _ in 0..self.random.pick(&[0, 1, 1, 1, 3]) {
            if self.clients[client].outbox.len() >= WINDOW {
                return;
            }
            let to = name(self.random.below(people) as usize);
            let key = RequestKey(self.random.bytes16());
            let it = &mut self.clients[client];
            it.sent += 1;
            let text = MessageText::new(format!("{} of {client}", it.sent)).expect("a text");
            it.outbox.push_back(Outgoing { key, to, text, sent: None });
        }
    }

    /// Everything that waits goes out, in order; only the first where nobody has answered yet.
    fn flush(&mut self, client: usize) {
        let now = self.now;
        if self.clients[client].outbox.iter().all(|outgoing| outgoing.sent.is_some()) {
            return;
        }
        let connection = self.connected(client);
        let most = if self.clients[client].failures > 0 { 1 } else { WINDOW };
        for place in 0..self.clients[client].outbox.len().min(most) {
            let it = &mut self.clients[client];
            let Some(Outgoing { key, to, text, sent: None }) = it.outbox.get(place) else { continue };
            let (key, token, to, text) = (*key, it.token, to.clone(), text.clone());
            let request = Request::Send { key: Some(key.0.into()), to: to.as_str().into(), text: text.shared() };
            let call = self.history.begin(ClientId(client as u64), self.clients[client].name.as_str(), now, request);
            self.clients[client].outbox[place].sent = Some((call, now));
            self.sends += 1;
            self.ask(connection, Wanted::Send { key, token, to, text });
        }
    }

    /// The inbox goes on where it was.
    fn listen_again(&mut self, client: usize) {
        let now = self.now;
        if self.clients[client].listening {
            return;
        }
        let connection = self.connected(client);
        let it = &mut self.clients[client];
        (it.listening, it.heard_at) = (true, now);
        let (token, after) = (it.token, it.position);
        if it.stream.is_none() {
            it.stream = Some(self.history.open(ClientId(client as u64), it.name.as_str(), now, after));
        }
        self.ask(connection, Wanted::Listen { token, after });
    }

    /// One of the calls that wait for their answer: registering, logging in, reading, acknowledging.
    fn begin_call(&mut self, client: usize) {
        if self.clients[client].call.is_some() {
            return;
        }
        let connection = self.connected(client);
        self.calls += 1;
        let called = Called(self.calls);
        let with = name(self.random.below(self.clients.len() as u64) as usize);
        let (acknowledge, anywhere, limit) =
            (self.random.chance(500), self.random.chance(300), self.random.pick(&[1, 5, 20]));
        let it = &self.clients[client];
        let (token, own, position) = (it.token, it.name.clone(), it.position.unwrap_or(0));
        let (wanted, request) = match it.stage {
            Stage::Register(key) => {
                (Wanted::Register { called, key, name: own }, Some(Request::Register { key: Some(key.0.into()) }))
            }
            Stage::LogIn(key) => (Wanted::LogIn { called, key, name: own, token }, None),
            Stage::Active if acknowledge && position > it.acknowledged => {
                let (delivered, read) = (Some(position), None);
                (Wanted::Acknowledge { called, token, delivered, read }, Some(Request::Acknowledge { delivered, read }))
            }
            Stage::Active => {
                let at_least = anywhere.then_some(it.seen);
                let (before, stale) = (None, at_least.is_some());
                let asked = Request::ReadConversation { with: with.as_str().into(), before, limit, stale };
                (Wanted::Conversation { called, token, with, limit: limit as usize, at_least }, Some(asked))
            }
        };
        let (now, name) = (self.now, self.clients[client].name.clone());
        let recorded = request.map(|request| self.history.begin(ClientId(client as u64), name.as_str(), now, request));
        self.clients[client].call = Some(Running { called, recorded, since: now });
        self.ask(connection, wanted);
    }

    /// Something came from a replica.
    pub(crate) fn heard(&mut self, client: usize, connection: u64, said: Said) {
        let now = self.now;
        if self.clients[client].connection != Some(connection) {
            return;
        }
        if matches!(said, Said::Done { .. } | Said::Sent { .. } | Said::Messages { .. }) {
            self.clients[client].failures = 0;
        }
        match said {
            Said::StreamOver(Some(Rejection::SessionInvalid)) => self.log_in_again(client),
            Said::Reset | Said::StreamOver(_) => self.hang_up_on(client, None),
            Said::SendsOver { key, why, leader } => {
                let declined = self.clients[client].outbox.iter_mut().find(|outgoing| outgoing.key == key);
                let call = declined.and_then(|outgoing| outgoing.sent.take()).map(|(call, _)| call);
                self.declined(call, why);
                self.hang_up_on(client, leader.map(host_of));
            }
            Said::Declined { called, why, leader } => {
                if let Some(call) = self.clients[client].call.take_if(|call| call.called == called) {
                    self.declined(call.recorded, why);
                    self.hang_up_on(client, leader.map(host_of));
                }
            }
            Said::Done { called, reply } => {
                let it = &mut self.clients[client];
                if let Some(call) = it.call.take_if(|call| call.called == called) {
                    self.called_back(client, call, reply);
                }
            }
            Said::Sent { key, result } => self.was_sent(client, key, result),
            Said::Messages { from, messages, left } => {
                self.clients[client].heard_at = now;
                self.receive(client, from, messages, left);
            }
        }
    }

    /// A call was not carried out, or nobody knows.
    fn declined(&mut self, call: Option<CallId>, why: Declined) {
        let outcome = match why {
            Declined::Unknown => Outcome::Unknown,
            why => Outcome::Rejected(Reason::NotDone(why.to_string())),
        };
        if let Some(call) = call {
            self.history.end(call, self.now, outcome);
        }
    }

    fn called_back(&mut self, client: usize, call: Running, reply: Result<Reply, Rejection>) {
        let now = self.now;
        let it = &mut self.clients[client];
        let outcome = match reply {
            Ok(Reply::Page(page)) => {
                self.reads_answered += 1;
                Outcome::Done(Answer::Page(page.iter().map(told).collect()))
            }
            Ok(Reply::Outcome(chat_core::Outcome::Registered { .. })) => {
                it.stage = Stage::LogIn(RequestKey(self.random.bytes16()));
                Outcome::Done(Answer::Registered)
            }
            Ok(Reply::Outcome(chat_core::Outcome::SessionOpened { .. })) => {
                it.stage = Stage::Active;
                return;
            }
            Ok(Reply::Outcome(chat_core::Outcome::Marked(marks))) => {
                it.acknowledged = marks.delivered;
                let chat_core::Marks { read, delivered, last } = marks;
                Outcome::Done(Answer::Marks(chat_check::Marks { read, delivered, last }))
            }
            Ok(Reply::Outcome(other)) => unreachable!("{other:?} answers no call of this client"),
            Err(rejection) => {
                if rejection == Rejection::SessionInvalid {
                    self.log_in_again(client);
                } else if !matches!(rejection, Rejection::NoSuchAccount { .. }) {
                    let what = format!("was refused: {rejection}");
                    self.violate(Broken::FreshReads, name(client), what);
                }
                Outcome::Rejected(reason(rejection))
            }
        };
        if let Some(recorded) = call.recorded {
            self.history.end(recorded, now, outcome);
        }
    }

    /// The session has expired: a wall clock jumped.
    fn log_in_again(&mut self, client: usize) {
        let key = RequestKey(self.random.bytes16());
        let token = self.token();
        self.note(|| format!("client {client} must log in again"));
        self.hang_up_on(client, Some(self.clients[client].host));
        let it = &mut self.clients[client];
        // What went out under the old session goes out again under the new one, with the keys that it has.
        (it.stage, it.token) = (Stage::LogIn(key), token);
    }

    fn was_sent(&mut self, client: usize, key: RequestKey, result: Result<chat_core::Outcome, Rejection>) {
        let now = self.now;
        let it = &mut self.clients[client];
        let first = it.outbox.front().filter(|first| first.key == key);
        let Some((call, _)) = first.and_then(|first| first.sent) else {
            let what = format!("{key} was answered, and it was not next");
            return self.violate(Broken::OnceInOrder, name(client), what);
        };
        let outcome = match result {
            Ok(chat_core::Outcome::Sent { id, seq, provenance, .. }) => {
                self.acknowledged_sends += 1;
                it.seen = it.seen.max(provenance.index);
                Outcome::Done(Answer::Sent { id: id.0, seq, index: provenance.index })
            }
            Ok(other) => unreachable!("{other:?} answers no send"),
            Err(Rejection::SessionInvalid) => {
                self.history.end(call, now, Outcome::Rejected(Reason::SessionInvalid));
                self.clients[client].outbox[0].sent = None;
                return self.log_in_again(client);
            }
            Err(rejection) => Outcome::Rejected(reason(rejection)),
        };
        it.outbox.pop_front();
        self.history.end(call, now, outcome);
    }

    fn receive(&mut self, client: usize, from: u64, messages: Vec<Arc<Message>>, left: u64) {
        let now = self.now;
        let it = &mut self.clients[client];
        let position = *it.position.get_or_insert(from);
        let Some(stream) = it.stream else { return };
        if position != from {
            let what = format!("the stream goes on after {from}, and {position} was received");
            return self.violate(Broken::OnceInOrder, name(client), what);
        }
        for (message, next) in messages.iter().zip(from + 1..) {
            if message.seq != next {
                let what = format!("received {} after {}", message.seq, next - 1);
                return self.violate(Broken::OnceInOrder, name(client), what);
            }
            self.history.deliver(stream, now, Some(left), told(message));
            self.clients[client].position = Some(next);
        }
    }

    /// Gives the connection up; what had no answer is unknown, and is asked again, elsewhere perhaps.
    fn hang_up_on(&mut self, client: usize, hint: Option<usize>) {
        let (now, n) = (self.now, self.settings.n);
        let longest = (40 * MS) << self.clients[client].failures.min(3);
        let pause = self.random.below(longest);
        self.note(|| format!("client {client} hangs up"));
        let it = &mut self.clients[client];
        it.failures += 1;
        it.host = hint.unwrap_or((it.host + 1) % n);
        it.listening = false;
        it.retry_at = now + pause;
        let connection = it.connection.take();
        let unknown = it.outbox.iter_mut().filter_map(|outgoing| outgoing.sent.take()).map(|(call, _)| call);
        let unknown: Vec<CallId> = unknown.chain(it.call.take().and_then(|call| call.recorded)).collect();
        unknown.into_iter().for_each(|call| self.history.end(call, now, Outcome::Unknown));
        if let Some(connection) = connection {
            self.disconnect(connection);
        }
    }

    /// Every message is answered, and every mailbox received to its end.
    pub(crate) fn clients_are_done(&self) -> bool {
        let ends = self.truth.mailbox_ends();
        self.clients.iter().all(|it| {
            let last = ends.get(&it.name).copied().unwrap_or(0);
            it.stage == Stage::Active && it.outbox.is_empty() && it.position.unwrap_or(0) == last
        })
    }
}

/// A message as a history has it.
pub(crate) fn told(message: &Message) -> chat_check::Message {
    let Message { id, seq, from, to, text, .. } = message;
    let (from, to) = (from.name.as_str().into(), to.name.as_str().into());
    chat_check::Message { id: id.0, seq: *seq, from, to, text: text.shared() }
}

fn reason(rejection: Rejection) -> Reason {
    match rejection {
        Rejection::NameTaken { .. } => Reason::NameTaken,
        Rejection::NoSuchRecipient { .. } | Rejection::NoSuchAccount { .. } => Reason::NoSuchRecipient,
        Rejection::AccountDeleted => Reason::AccountDeleted,
        Rejection::SessionInvalid => Reason::SessionInvalid,
        Rejection::MarkBeyondLast { last, .. } => Reason::MarkBeyondLast { last },
        Rejection::KeyConflict => Reason::KeyConflict,
        other => Reason::NotDone(other.to_string()),
    }
}
