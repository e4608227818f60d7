//! Between clients and replicas: what is asked, what is said, and the connections that carry it.
//!
//! A connection is TCP's: in order, each way, whole or broken. While a client is cut off, what is sent on it is lost, and so is all that
//! would come after it.

use super::world::{Happening, World};
use chat_core::{Message, MessageText, Outcome, Rejection, RequestKey, TokenHash, Username};
use chat_replica::handle::{Declined, Row};
use chat_replica::protocol::ReplicaId;
use std::sync::Arc;

/// Tells one call of a client from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Called(pub u64);

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    Register {
        called: Called,
        key: RequestKey,
        name: Username,
    },
    LogIn {
        called: Called,
        key: RequestKey,
        name: Username,
        token: TokenHash,
    },
    Send {
        key: RequestKey,
        token: TokenHash,
        to: Username,
        text: MessageText,
    },
    Acknowledge {
        called: Called,
        token: TokenHash,
        delivered: Option<u64>,
        read: Option<u64>,
    },
    /// From the leader, or from any replica that has applied so much.
    Conversation {
        called: Called,
        token: TokenHash,
        with: Username,
        limit: usize,
        at_least: Option<u64>,
    },
    Listen {
        token: TokenHash,
        after: Option<u64>,
    },
    /// The client has given the connection up.
    Close,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Outcome(Outcome),
    Page(Vec<Message>),
}

/// What a replica says.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Done {
        called: Called,
        reply: Result<Reply, Rejection>,
    },
    Declined {
        called: Called,
        why: Declined,
        leader: Option<ReplicaId>,
    },
    Sent {
        key: RequestKey,
        result: Result<Outcome, Rejection>,
    },
    /// This send was declined, and nothing that follows it is carried out.
    SendsOver {
        key: RequestKey,
        why: Declined,
        leader: Option<ReplicaId>,
    },
    /// What follows `from` in the mailbox; nothing: the stream lives. Left the replica then.
    Messages {
        from: u64,
        messages: Vec<Arc<Message>>,
        left: u64,
    },
    /// The stream ends; with a reason where another replica would say the same.
    StreamOver(Option<Rejection>),
    /// Refused, or reset.
    Reset,
}

/// One connection of a client to a host.
#[derive(Debug)]
pub(crate) struct Connection {
    client: usize,
    host: usize,
    /// The process at the other end, once it was reached.
    run: Option<u64>,
    /// Nothing arrives before this: at the replica, at the client.
    arrivals: [u64; 2],
    /// Something was lost, and so is all that comes after: towards the replica, towards the client.
    broken: [bool; 2],
    /// The client still uses it.
    open: bool,
    pub row: Option<Row>,
    pub sends_over: bool,
}

/// Towards the replica.
const UP: usize = 0;
/// Towards the client.
const DOWN: usize = 1;

impl World {
    /// A client begins a connection.
    pub(crate) fn connect(&mut self, client: usize, host: usize) -> u64 {
        self.number += 1;
        let arrivals = [self.now; 2];
        let broken = [false; 2];
        let connection =
            Connection { client, host, run: None, arrivals, broken, open: true, row: None, sends_over: false };
        self.connections.insert(self.number, connection);
        self.number
    }

    /// A client gives a connection up; what is under way to the replica still arrives.
    pub(crate) fn disconnect(&mut self, connection: u64) {
        self.ask(connection, Wanted::Close);
        if let Some(on) = self.connections.get_mut(&connection) {
            on.open = false;
        }
    }

    /// When something that is sent now arrives, if it does.
    fn arrival(&mut self, connection: u64, way: usize) -> Option<u64> {
        let delay = self.random.within(self.settings.delay);
        let now = self.now;
        let on = self.connections.get_mut(&connection)?;
        on.broken[way] |= self.client_cuts[on.client][on.host][way];
        if on.broken[way] {
            return None;
        }
        on.arrivals[way] = (on.arrivals[way] + 1).max(now + delay);
        Some(on.arrivals[way])
    }

    pub(crate) fn ask(&mut self, connection: u64, wanted: Wanted) {
        if let Some(at) = self.arrival(connection, UP) {
            self.at(at, Happening::Asked { connection, wanted });
        }
    }

    pub(crate) fn say(&mut self, connection: u64, said: Said) {
        if let Some(at) = self.arrival(connection, DOWN) {
            self.at(at, Happening::Told { connection, said });
        }
    }

    /// A request arrives at its host.
    pub(crate) fn asked(&mut self, connection: u64, wanted: Wanted) {
        let Some(on) = self.connections.get_mut(&connection) else { return };
        let host = on.host;
        let Some(process) = &mut self.hosts[host].process else {
            return self.say(connection, Said::Reset);
        };
        if *on.run.get_or_insert(process.run) != process.run {
            return self.say(connection, Said::Reset);
        }
        if process.paused {
            return process.service.held.push(Happening::Asked { connection, wanted });
        }
        if matches!(wanted, Wanted::Close) {
            self.serve(host, connection, wanted);
            self.connections.remove(&connection);
        } else {
            self.serve(host, connection, wanted);
        }
    }

    /// Something that a replica said arrives at its client.
    pub(crate) fn told(&mut self, connection: u64, said: Said) {
        if let Some(on) = self.connections.get(&connection).filter(|on| on.open) {
            self.heard(on.client, connection, said);
        }
    }

    /// A process is gone: its kernel resets its clients' connections.
    pub(crate) fn reset_connections(&mut self, run: u64) {
        let of_run = self.connections.iter().filter(|(_, on)| on.run == Some(run));
        let (open, closed): (Vec<_>, Vec<_>) =
            of_run.map(|(number, on)| (*number, on.open)).partition(|(_, open)| *open);
        closed.into_iter().for_each(|(number, _)| drop(self.connections.remove(&number)));
        open.into_iter().for_each(|(number, _)| self.say(number, Said::Reset));
    }

    /// From now on, what goes this way between a client and a host is lost.
    pub(crate) fn cut_client(&mut self, client: usize, host: usize, up: bool, down: bool) {
        self.note(|| format!("client {client} and host {} are cut, to it {up}, from it {down}", host + 1));
        self.client_cuts[client][host] = [up, down];
    }

    pub(crate) fn heal_clients(&mut self) {
        for client in &mut self.client_cuts {
            client.iter_mut().for_each(|cut| *cut = [false; 2]);
        }
    }
}
