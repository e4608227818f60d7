//! The replica's side of its clients: what `rpc/` does around the production desk, gate and subscribers.

use super::calls::{Called, Reply, Said, Wanted};
use super::streams::Listener;
use super::world::{Happening, World};
use chat_core::{
    AccountId, Command, DisplayName, Lookup as _, MemoryStore, Message, PasswordHash, Read as _, Rejection, RequestKey,
};
use chat_core::{Timestamp, TokenHash};
use chat_replica::desk::{BATCH, BATCH_BYTES, Desk, Request, size};
use chat_replica::handle::{Declined, Done, Gate, ReadPermit, Row};
use chat_replica::protocol::*;
use chat_replica::subscribers::Subscribers;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How long a login lasts, in milliseconds: 30 days.
const SESSION: i64 = 30 * 24 * 3600 * 1000;
/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// Nobody waits for it.
    Nobody,
    /// A send of this connection's stream.
    Send { connection: u64, key: RequestKey },
    /// A call on this connection.
    Call { connection: u64, called: Called },
}

/// Answers that the desk gave.
pub(crate) type Told = Vec<(Ask, Result<Done, Declined>)>;

/// What a read looks for.
#[derive(Clone, Debug)]
pub(crate) enum Look {
    Account {
        called: Called,
        key: RequestKey,
        name: chat_core::Username,
        token: TokenHash,
    },
    Marks {
        called: Called,
        token: TokenHash,
        delivered: Option<u64>,
        read: Option<u64>,
    },
    Conversation {
        called: Called,
        token: TokenHash,
        with: chat_core::Username,
        limit: usize,
    },
    /// A stream begins: whose mailbox is it?
    Owner {
        token: TokenHash,
        after: Option<u64>,
    },
    /// It listens: how far is the mailbox?
    Begin {
        token: TokenHash,
        account: AccountId,
        after: Option<u64>,
    },
    /// It is behind.
    Mailbox {
        account: AccountId,
        after: u64,
    },
}

/// A read that waits for leave, or for its turn.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub connection: u64,
    pub look: Look,
    /// Clients had been told of everything up to here when it was asked for.
    pub floor: u64,
    /// This replica had answered up to here when it was asked first: what the read must see.
    pub answered: Option<u64>,
}

impl Read {
    /// A read that nobody has been asked for yet.
    pub fn new(connection: u64, look: Look, floor: u64) -> Read {
        Read { connection, look, floor, answered: None }
    }
}

/// What a look saw.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    Rejected(Rejection),
    Account(AccountId),
    Marks(chat_core::Marks, chat_core::Marks),
    Page(Vec<Message>),
}

/// What a process keeps of its clients.
#[derive(Debug)]
pub(crate) struct Service {
    desk: Desk<Ask>,
    /// So many changes in line are worth a log entry beside those under way: `BATCH` in a real replica.
    full: usize,
    pub line: VecDeque<Request<Ask>>,
    pub gate: Gate,
    answered: u64,
    /// Reads that wait for leave.
    waiting: Vec<Read>,
    /// What came, or was to be done by other threads, while the process was paused.
    pub held: Vec<Happening>,
    pub subscribers: Arc<Subscribers>,
    pub listeners: BTreeMap<u64, Listener>,
    /// Up to where the state was last hashed.
    pub hashed: u64,
}

impl Service {
    pub fn new(min_copies: usize, full: usize, visible: u64) -> Service {
        Service {
            desk: Desk::new(min_copies),
            full,
            line: VecDeque::new(),
            gate: Gate::closed(visible),
            answered: visible,
            waiting: Vec::new(),
            held: Vec::new(),
            subscribers: Arc::new(Subscribers::new()),
            listeners: BTreeMap::new(),
            hashed: 0,
        }
    }

    pub fn has_work(&self, replica: &Replica) -> bool {
        !self.line.is_empty() && self.has_room(replica)
    }

    fn has_room(&self, replica: &Replica) -> bool {
        self.desk.has_room(replica, self.line_is_full())
    }

    fn line_is_full(&self) -> bool {
        let bytes = || self.line.iter().map(|request| size(&request.command)).sum::<usize>();
        self.line.len() >= self.full || bytes() >= BATCH_BYTES
    }

    /// What is in line becomes a batch, or is declined.
    pub fn propose(&mut self, replica: &Replica, told: &mut Told) -> Option<Input> {
        let some = if self.has_room(replica) { self.line.len().min(BATCH) } else { 0 };
        self.desk.propose(replica, self.line.drain(..some), &mut |ask, what| told.push((ask, what)))
    }

    /// As the driver: before any answer leaves, it is known what readers must wait for.
    pub fn applied(
        &mut self,
        index: u64,
        epoch: Epoch,
        results: Vec<chat_core::Applied>,
        copies: usize,
        told: &mut Told,
    ) {
        self.answered = index;
        let events = self.desk.applied(index, epoch, results, copies, &mut |ask, what| told.push((ask, what)));
        self.subscribers.tell(events);
    }

    pub fn stepped_down(&mut self, told: &mut Told) {
        (self.gate.serving, self.gate.lease_until) = (None, None);
        self.desk.stepped_down(&mut |ask, what| told.push((ask, what)));
    }

    pub fn turned(&mut self, turned: &chat_replica::node::Turned, told: &mut Told) {
        self.desk.turned(turned, &mut |ask, what| told.push((ask, what)));
    }

    /// Tells readers where this replica stands; whether that is news.
    pub fn publish(&mut self, replica: &Replica, visible: u64) -> bool {
        let gate = self.desk.gate(replica, visible);
        std::mem::replace(&mut self.gate, gate) != gate
    }

    /// Up to where a read that is given leave now would see; `None`: there is no leave now.
    pub fn may_read(&self, now: Time) -> Option<u64> {
        self.gate.permit(self.answered, now).ok().flatten().map(|permit| permit.index)
    }
}

/// Where commands and their answers carry passwords: nobody looks at this one.
fn password() -> PasswordHash {
    PasswordHash::new("$simulated").expect("a PHC string")
}

impl World {
    /// The wall's clock at a host: it jumps.
    pub(crate) fn wall(&self, host: usize) -> Timestamp {
        Timestamp(1_800_000_000_000 + (self.now / 1000) as i64 + self.hosts[host].wall_offset)
    }

    /// A request has arrived at a running process.
    pub(crate) fn serve(&mut self, host: usize, connection: u64, wanted: Wanted) {
        let at = self.wall(host);
        let look = match wanted {
            Wanted::Register { called, key, name } => {
                let display_name = DisplayName::of(&name);
                let command = Command::Register { key, name, display_name, password: password(), at };
                return self.line_up(host, command, None, Ask::Call { connection, called });
            }
            Wanted::Send { key, token, to, text } => {
                let command = Command::Send { key, session: token, to, text, at };
                return self.line_up_send(host, connection, key, command);
            }
            Wanted::Close => {
                if let Some(process) = &mut self.hosts[host].process {
                    process.service.listeners.remove(&connection);
                }
                return;
            }
            Wanted::LogIn { called, key, name, token } => Look::Account { called, key, name, token },
            Wanted::Acknowledge { called, token, delivered, read } => Look::Marks { called, token, delivered, read },
            Wanted::Conversation { called, token, with, limit, at_least } => {
                let look = Look::Conversation { called, token, with, limit };
                match at_least {
                    Some(index) => return self.read_here(host, connection, look, index),
                    None => look,
                }
            }
            Wanted::Listen { token, after } => Look::Owner { token, after },
        };
        let floor = self.truth.acknowledged();
        self.read(host, Read::new(connection, look, floor));
    }

    fn line_up(&mut self, host: usize, command: Command, row: Option<Row>, answer: Ask) {
        if let Some(process) = &mut self.hosts[host].process {
            process.service.line.push_back(Request { command, row, answer });
            self.schedule_turn(host);
        }
    }

    /// The sends of one connection are a row, in the epoch in which its first came.
    fn line_up_send(&mut self, host: usize, connection: u64, key: RequestKey, command: Command) {
        let serving = self.hosts[host].process.as_ref().and_then(|process| process.service.gate.serving);
        let Some(on) = self.connections.get_mut(&connection) else { return };
        if on.sends_over {
            return;
        }
        let Some(row) = on.row.clone().or_else(|| serving.map(Row::new)) else {
            return self.end_sends(host, connection, key, Declined::NotServing);
        };
        on.row = Some(row.clone());
        self.line_up(host, command, Some(row), Ask::Send { connection, key });
    }

    /// The stream ends with the first send that is declined; what is behind it gets no answer.
    fn end_sends(&mut self, host: usize, connection: u64, key: RequestKey, why: Declined) {
        let leader = self.process(host).and_then(|process| process.replica().status().leader);
        let Some(on) = self.connections.get_mut(&connection) else { return };
        if !std::mem::replace(&mut on.sends_over, true) {
            self.say(connection, Said::SendsOver { key, why, leader });
        }
    }

    /// Answers of the desk leave.
    pub(crate) fn answer(&mut self, host: usize, told: Told) {
        for (ask, what) in told {
            match (ask, what) {
                (Ask::Nobody, _) => {}
                (Ask::Call { connection, called }, Ok(done)) => {
                    self.say(connection, Said::Done { called, reply: done.result.map(Reply::Outcome) });
                }
                (Ask::Call { connection, called }, Err(why)) => self.decline(host, connection, Some(called), why),
                (Ask::Send { connection, key }, Err(why)) => self.end_sends(host, connection, key, why),
                (Ask::Send { connection, key }, Ok(done)) => {
                    if let Ok(chat_core::Outcome::Sent { id, seq, .. }) = &done.result {
                        let verdict = self.truth.sent(key, id.0, *seq);
                        self.judge("an answer", verdict);
                    }
                    if self.connections.get(&connection).is_some_and(|on| !on.sends_over) {
                        self.say(connection, Said::Sent { key, result: done.result });
                    }
                }
            }
        }
    }

    fn decline(&mut self, host: usize, connection: u64, called: Option<Called>, why: Declined) {
        let leader = self.process(host).and_then(|process| process.replica().status().leader);
        match called {
            Some(called) => self.say(connection, Said::Declined { called, why, leader }),
            None => self.say(connection, Said::StreamOver(None)),
        }
    }

    /// A read on any replica, as it is there.
    fn read_here(&mut self, host: usize, connection: u64, look: Look, at_least: u64) {
        let Some(process) = self.process(host) else { return };
        let visible = process.service.gate.visible;
        let read = Read::new(connection, look, at_least);
        if visible < at_least {
            return self.decline(host, connection, called(&read.look), Declined::NotServing);
        }
        self.begin_look(host, read, None);
    }

    /// Rule 11: a read waits for leave.
    pub(super) fn read(&mut self, host: usize, mut read: Read) {
        let now = self.now;
        let Some(process) = &mut self.hosts[host].process else { return };
        let (service, time) = (&mut process.service, process.clock.at(now));
        let answered = *read.answered.get_or_insert(service.answered);
        match service.gate.permit(answered, time) {
            Err(why) => self.decline(host, read.connection, called(&read.look), why),
            Ok(Some(permit)) => self.begin_look(host, read, Some(permit)),
            Ok(None) => {
                let (leased, wanted) = (service.gate.is_leased(time), service.gate.wanted(answered));
                service.waiting.push(read);
                if leased {
                    process.node.show(wanted);
                    self.schedule_turn(host);
                } else {
                    self.input(host, Input::Confirm);
                }
            }
        }
    }

    fn begin_look(&mut self, host: usize, read: Read, permit: Option<ReadPermit>) {
        let Some(run) = self.process(host).map(|process| process.run) else { return };
        let soon = 5 + self.random.below(300);
        self.after(soon, Happening::Look { host, run, read: Box::new(read), permit });
    }

    /// A reader looks at the state.
    pub(crate) fn look(&mut self, host: usize, run: u64, read: Box<Read>, permit: Option<ReadPermit>) {
        let wall = self.wall(host);
        let soon = 1 + self.random.below(200);
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            return process.service.held.push(Happening::Look { host, run, read, permit });
        }
        let state = process.node.disk().state();
        let (seen, applied) = (look(&state.store, &read.look, wall), state.applied);
        self.after(soon, Happening::Recheck { host, run, read, permit, seen: Box::new(seen), applied });
    }

    /// Rule 11: what was read counts if leadership was not in doubt meanwhile.
    pub(crate) fn recheck(
        &mut self,
        host: usize,
        run: u64,
        read: Box<Read>,
        permit: Option<ReadPermit>,
        seen: Box<Seen>,
        applied: u64,
    ) {
        let now = self.now;
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            return process.service.held.push(Happening::Recheck { host, run, read, permit, seen, applied });
        }
        let (member, gate, time) = (process.member, process.service.gate, process.clock.at(now));
        match permit {
            Some(permit) if !gate.still_holds(&permit, time) => return self.read(host, *read),
            // A login that has not come here yet looks the same: only the leader knows, when it sees all that is committed.
            None if matches!(*seen, Seen::Rejected(Rejection::SessionInvalid)) => return self.read(host, *read),
            _ => {}
        }
        let verdict = self.truth.read(member, applied, read.floor);
        self.judge(member, verdict);
        self.has_read(host, *read, *seen);
    }

    fn has_read(&mut self, host: usize, read: Read, seen: Seen) {
        let at = self.wall(host);
        let Read { connection, look, .. } = read;
        match (look, seen) {
            (Look::Account { called, key, token, .. }, Seen::Account(account)) => {
                let expires_at = Timestamp(at.0 + SESSION);
                let command = Command::OpenSession { key, account, token, at, expires_at };
                self.line_up(host, command, None, Ask::Call { connection, called });
            }
            (Look::Marks { called, token, delivered, read }, Seen::Marks(before, after)) => {
                if before == after {
                    let reply = Ok(Reply::Outcome(chat_core::Outcome::Marked(before)));
                    return self.say(connection, Said::Done { called, reply });
                }
                let command = Command::Acknowledge { session: token, delivered, read, at };
                self.line_up(host, command, None, Ask::Call { connection, called });
            }
            (Look::Conversation { called, .. }, Seen::Page(page)) => {
                self.say(connection, Said::Done { called, reply: Ok(Reply::Page(page)) });
            }
            (Look::Owner { token, after }, Seen::Account(account)) => {
                self.listen(host, connection, token, account, after);
            }
            (Look::Begin { after, .. }, Seen::Marks(marks, _)) => {
                self.begin_stream(host, connection, after.unwrap_or(marks.delivered), marks.last);
            }
            (Look::Mailbox { .. }, Seen::Page(page)) => {
                if let Some(listener) = self.listener(host, connection) {
                    listener.reading = false;
                    self.hand_on(host, connection, page.into_iter().map(Arc::new).collect());
                    self.pump(host, connection);
                }
            }
            (look, Seen::Rejected(rejection)) => match called(&look) {
                Some(called) => self.say(connection, Said::Done { called, reply: Err(rejection) }),
                None => self.say(connection, Said::StreamOver(Some(rejection))),
            },
            (look, seen) => unreachable!("{look:?} does not see {seen:?}"),
        }
    }

    /// The gate has moved: reads that wait look again, and streams end with their term.
    pub(crate) fn gate_moved(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let waiting = std::mem::take(&mut process.service.waiting);
        waiting.into_iter().for_each(|read| self.read(host, read));
        self.pump_all(host);
    }

    /// A batch that nobody waits for, through the line as all others.
    pub(crate) fn burst(&mut self, host: usize) {
        let command = self.no_change();
        self.line_up(host, command, None, Ask::Nobody);
    }
}

fn called(look: &Look) -> Option<Called> {
    match look {
        Look::Account { called, .. } | Look::Marks { called, .. } | Look::Conversation { called, .. } => Some(*called),
        Look::Owner { .. } | Look::Begin { .. } | Look::Mailbox { .. } => None,
    }
}

/// Looks at a state, as the handlers in `rpc/` do.
fn look(store: &MemoryStore, look: &Look, now: Timestamp) -> Seen {
    let valid = |token: &TokenHash| {
        let Ok(session) = store.session(token);
        session.filter(|session| session.valid_at(now)).ok_or(Rejection::SessionInvalid)
    };
    let marks = |account| {
        let Ok(marks) = store.marks(account);
        marks
    };
    let seen = match look {
        Look::Account { name, .. } => {
            let Ok(found) = store.account_by_name(name);
            found.map(|account| Seen::Account(account.id)).ok_or(Rejection::WrongCredentials)
        }
        Look::Marks { token, delivered, read, .. } => valid(token).and_then(|session| {
            let before = marks(session.account);
            Ok(Seen::Marks(before, before.acknowledged(*delivered, *read)?))
        }),
        Look::Conversation { token, with, limit, .. } => valid(token).and_then(|session| {
            let Ok(other) = store.account_by_name(with);
            let other = other.ok_or_else(|| Rejection::NoSuchAccount { name: with.clone() })?;
            let Ok(page) = store.conversation(session.account, other.id, None, *limit);
            Ok(Seen::Page(page))
        }),
        Look::Owner { token, .. } => valid(token).map(|session| Seen::Account(session.account)),
        Look::Begin { token, account, .. } => valid(token).map(|_| Seen::Marks(marks(*account), marks(*account))),
        Look::Mailbox { account, after } => {
            let Ok(page) = store.messages_after(*account, *after, 100);
            Ok(Seen::Page(page))
        }
    };
    seen.unwrap_or_else(Seen::Rejected)
}
