//! Live streams of mailboxes, as `rpc/inbox` does them, on production's subscribers.

use super::calls::Said;
use super::service::{Look, Read};
use super::violation::Broken;
use super::world::{Happening, World};
use chat_core::{AccountId, Message, Rejection, TokenHash};
use chat_replica::protocol::*;
use chat_replica::subscribers::{Batch, Subscription};
use std::sync::Arc;

/// How often a silent stream says that it lives, in microseconds.
const HEARTBEAT: u64 = 1_500_000;

/// One live stream of a mailbox.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) account: AccountId,
    pub(super) epoch: Epoch,
    pub(super) subscription: Subscription,
    /// `None` until the stream has begun.
    pub(super) position: Option<u64>,
    /// It reads on from the state.
    pub(super) reading: bool,
    pub(super) last_said: u64,
}

impl World {
    pub(super) fn listener(&mut self, host: usize, connection: u64) -> Option<&mut Listener> {
        self.hosts[host].process.as_mut().and_then(|process| process.service.listeners.get_mut(&connection))
    }

    /// As `rpc/inbox`: listens first, and reads then, so that nothing falls between.
    pub(super) fn listen(
        &mut self,
        host: usize,
        connection: u64,
        token: TokenHash,
        account: AccountId,
        after: Option<u64>,
    ) {
        let (floor, now) = (self.truth.acknowledged(), self.now);
        let Some(process) = &mut self.hosts[host].process else { return };
        let Some(epoch) = process.service.gate.serving else {
            return self.say(connection, Said::StreamOver(None));
        };
        let Ok(subscription) = process.service.subscribers.subscribe(account, token) else {
            return self.say(connection, Said::StreamOver(None));
        };
        let listener = Listener { account, epoch, subscription, position: None, reading: true, last_said: now };
        process.service.listeners.insert(connection, listener);
        self.read(host, Read::new(connection, Look::Begin { token, account, after }, floor));
    }

    pub(super) fn begin_stream(&mut self, host: usize, connection: u64, position: u64, last: u64) {
        if position > last {
            let what = format!("a client has received {position}, and the mailbox ends at {last}");
            return self.violate(Broken::FreshReads, "a stream", what);
        }
        let Some(run) = self.process(host).map(|process| process.run) else { return };
        let Some(listener) = self.listener(host, connection) else { return };
        listener.subscription.learn(last);
        (listener.position, listener.reading) = (Some(position), false);
        self.say(connection, Said::Messages { from: position, messages: Vec::new(), left: self.now });
        self.after(HEARTBEAT, Happening::Beat { host, run, connection });
        self.pump(host, connection);
    }

    /// A stream that was silent says that it lives.
    pub(crate) fn beat(&mut self, host: usize, run: u64, connection: u64) {
        let now = self.now;
        let Some(process) = self.running(host, run) else { return };
        if process.paused {
            return process.service.held.push(Happening::Beat { host, run, connection });
        }
        let Some(listener) = process.service.listeners.get_mut(&connection) else { return };
        let (position, due) = (listener.position.unwrap_or(0), listener.last_said + HEARTBEAT);
        if now >= due {
            listener.last_said = now;
            self.say(connection, Said::Messages { from: position, messages: Vec::new(), left: self.now });
        }
        self.at(due.max(now + 1), Happening::Beat { host, run, connection });
    }

    pub(crate) fn pump_all(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        let all: Vec<u64> = process.service.listeners.keys().copied().collect();
        all.into_iter().for_each(|connection| self.pump(host, connection));
    }

    /// Sends on what there is for a stream.
    pub(super) fn pump(&mut self, host: usize, connection: u64) {
        let floor = self.truth.acknowledged();
        let Some(process) = &mut self.hosts[host].process else { return };
        let serving = process.service.gate.serving;
        let Some(listener) = process.service.listeners.get_mut(&connection) else { return };
        let Some(position) = listener.position.filter(|_| !listener.reading) else { return };
        if serving != Some(listener.epoch) {
            process.service.listeners.remove(&connection);
            return self.say(connection, Said::StreamOver(None));
        }
        match listener.subscription.take(position) {
            Batch::Live(messages) => {
                self.hand_on(host, connection, messages);
                self.pump(host, connection);
            }
            Batch::Behind => {
                listener.reading = true;
                let look = Look::Mailbox { account: listener.account, after: position };
                self.read(host, Read::new(connection, look, floor));
            }
            Batch::Idle => {}
            Batch::Ended(_) => {
                process.service.listeners.remove(&connection);
                self.say(connection, Said::StreamOver(Some(Rejection::SessionInvalid)));
            }
        }
    }

    pub(super) fn hand_on(&mut self, host: usize, connection: u64, messages: Vec<Arc<Message>>) {
        let now = self.now;
        let Some(listener) = self.listener(host, connection) else { return };
        let (account, from) = (listener.account, listener.position.unwrap_or(0));
        listener.position = messages.last().map(|message| message.seq).or(listener.position);
        listener.last_said = now;
        for message in &messages {
            let verdict = self.truth.delivered(account, message);
            self.judge("a stream", verdict);
        }
        if !messages.is_empty() {
            self.say(connection, Said::Messages { from, messages, left: now });
        }
    }
}
