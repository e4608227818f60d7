//! The same question by trying every order, with `stateright`'s tester: exact, and exponential in what overlaps.

use std::collections::{BTreeMap, BTreeSet};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use thiserror::Error;

use crate::history::{Answer, History, Marks, Message, Micros, Name, Outcome, Reason, Request};
use crate::requests::{Asked, Requests};

/// More is not tried: a history that has no order can take (number of overlapping calls)! steps to refute.
pub const MAX_OPERATIONS: usize = 24;

/// The history has more than [`MAX_OPERATIONS`] that must be ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{operations} operations are too many to try every order of, at most {MAX_OPERATIONS} can be")]
pub struct TooLarge {
    /// How many there are.
    pub operations: usize,
}

/// What the service does, one request after another: begins empty, but for accounts that exist from the start.
#[derive(Clone, Debug, Default)]
pub struct Service {
    accounts: BTreeMap<Name, Holder>,
    messages: Vec<Message>,
    last_id: u64,
}

#[derive(Clone, Debug, Default)]
struct Holder {
    deleted: bool,
    marks: Marks,
}

/// One request, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// In whose name.
    pub account: Name,
    /// What is asked for.
    pub request: Request,
}

impl Service {
    /// With these accounts, and no messages.
    pub fn with_accounts(names: impl IntoIterator<Item = Name>) -> Self {
        let accounts = names.into_iter().map(|name| (name, Holder::default())).collect();
        Service { accounts, ..Service::default() }
    }

    /// All mailboxes: whose, deleted or not, marks, and messages by `seq`.
    pub fn mailboxes(&self) -> Vec<crate::Mailbox> {
        let mailbox = |(name, holder): (&Name, &Holder)| crate::Mailbox {
            account: name.clone(),
            deleted: holder.deleted,
            marks: Some(holder.marks),
            messages: self.messages.iter().filter(|message| message.to == *name).cloned().collect(),
        };
        self.accounts.iter().map(mailbox).collect()
    }

    fn alive(&mut self, name: &Name) -> Option<&mut Holder> {
        self.accounts.get_mut(name).filter(|holder| !holder.deleted)
    }

    fn send(&mut self, from: &Name, to: &Name, text: &std::sync::Arc<str>) -> Outcome {
        let id = self.last_id + 1;
        let Some(recipient) = self.alive(to) else { return Outcome::Rejected(Reason::NoSuchRecipient) };
        recipient.marks.last += 1;
        let seq = recipient.marks.last;
        self.last_id = id;
        self.messages.push(Message { id, seq, from: from.clone(), to: to.clone(), text: text.clone() });
        Outcome::Done(Answer::Sent { id, seq, index: id })
    }

    fn conversation(&self, a: &Name, b: &Name, before: Option<u64>, limit: u32) -> Vec<Message> {
        let ours =
            |message: &&Message| (&message.from, &message.to) == (a, b) || (&message.from, &message.to) == (b, a);
        let mut page: Vec<Message> = self
            .messages
            .iter()
            .filter(ours)
            .filter(|message| before.is_none_or(|before| message.id < before))
            .cloned()
            .collect();
        page.split_off(page.len().saturating_sub(limit as usize))
    }

    fn mailbox(&self, account: &Name, after: u64, limit: u32) -> Vec<Message> {
        let ours = self.messages.iter().filter(|message| message.to == *account && message.seq > after);
        ours.take(limit as usize).cloned().collect()
    }
}

impl SequentialSpec for Service {
    type Op = Operation;
    type Ret = Outcome;

    fn invoke(&mut self, Operation { account, request }: &Operation) -> Outcome {
        if let Request::Register { .. } = request {
            if self.accounts.contains_key(account) {
                return Outcome::Rejected(Reason::NameTaken);
            }
            self.accounts.insert(account.clone(), Holder::default());
            return Outcome::Done(Answer::Registered);
        }
        let Some(holder) = self.accounts.get_mut(account) else {
            return Outcome::Rejected(Reason::SessionInvalid);
        };
        if holder.deleted {
            return Outcome::Rejected(Reason::AccountDeleted);
        }
        let marks = &mut holder.marks;
        match *request {
            Request::Register { .. } => Outcome::Rejected(Reason::NameTaken),
            Request::Acknowledge { delivered, read } => {
                let asked = delivered.max(read).unwrap_or(0);
                if asked > marks.last {
                    return Outcome::Rejected(Reason::MarkBeyondLast { last: marks.last });
                }
                marks.delivered = marks.delivered.max(asked);
                marks.read = marks.read.max(read.unwrap_or(0));
                Outcome::Done(Answer::Marks(*marks))
            }
            Request::Delete { refuse_if_undelivered, .. } => {
                let (kept, discarded) = (marks.delivered, marks.last - marks.delivered);
                if refuse_if_undelivered && discarded > 0 {
                    return Outcome::Rejected(Reason::UndeliveredMessages { count: discarded });
                }
                holder.deleted = true;
                self.messages.retain(|message| message.to != *account || message.seq <= kept);
                Outcome::Done(Answer::Deleted { discarded })
            }
            Request::Send { ref to, ref text, .. } => self.send(account, to, text),
            Request::ReadConversation { ref with, before, limit, .. } => {
                Outcome::Done(Answer::Page(self.conversation(account, with, before, limit)))
            }
            Request::ReadMailbox { after, limit } => Outcome::Done(Answer::Page(self.mailbox(account, after, limit))),
        }
    }

    fn is_valid_step(&mut self, operation: &Operation, outcome: &Outcome) -> bool {
        match (self.invoke(operation), outcome) {
            // How many messages share a log entry is not the state's.
            (Outcome::Done(Answer::Sent { id, seq, .. }), Outcome::Done(Answer::Sent { id: said, seq: place, .. })) => {
                (id, seq) == (*said, *place)
            }
            (is, said) => is == *said,
        }
    }
}

/// Whether there is an order of all calls, each at a moment of its own, that the service could have answered like this.
/// Looks at calls only, of a service that was empty at the beginning, so that ids begin at 1.
pub fn is_linearizable(history: &History) -> Result<bool, TooLarge> {
    let operations = operations(history);
    if operations.len() > MAX_OPERATIONS {
        return Err(TooLarge { operations: operations.len() });
    }
    // What ends as another begins overlaps it: beginnings first.
    let mut events = BTreeSet::new();
    for (number, timed) in operations.iter().enumerate() {
        events.insert((timed.begun, false, number));
        if let Some((ended, _)) = timed.done {
            events.insert((ended, true, number));
        }
    }
    let mut tester = LinearizabilityTester::new(Service::with_accounts(from_the_start(history)));
    for (_, is_end, number) in events {
        let Timed { operation, done, .. } = &operations[number];
        // Each operation is a thread of its own, so these succeed.
        let recorded = match done {
            Some((_, outcome)) if is_end => tester.on_return(number, outcome.clone()).is_ok(),
            _ => tester.on_invoke(number, operation.clone()).is_ok(),
        };
        if !recorded {
            return Ok(false);
        }
    }
    Ok(tester.is_consistent())
}

/// An operation, and when it was done, if it was.
struct Timed {
    operation: Operation,
    begun: Micros,
    done: Option<(Micros, Outcome)>,
}

fn operations(history: &History) -> Vec<Timed> {
    let requests = Requests::of(history);
    let all = requests.registers.iter().chain(&requests.deletes).chain(&requests.sends);
    let once = all.filter(|asked| asked.possible).map(|asked| timed(history, asked));
    let others = history.calls.iter().filter_map(|call| {
        let keyed = matches!(call.request, Request::Register { .. } | Request::Delete { .. } | Request::Send { .. });
        let tells = match &call.outcome {
            Outcome::Done(_) => !keyed && !matches!(call.request, Request::ReadConversation { stale: true, .. }),
            Outcome::Rejected(reason) => {
                !matches!(reason, Reason::NotDone(_) | Reason::SessionInvalid | Reason::KeyConflict)
            }
            Outcome::Unknown => matches!(call.request, Request::Acknowledge { .. }),
        };
        let operation = Operation { account: call.account.clone(), request: call.request.clone() };
        let known = call.outcome != Outcome::Unknown;
        let done = call.ended.filter(|_| known).map(|ended| (ended, call.outcome.clone()));
        tells.then_some(Timed { operation, begun: call.begun, done })
    });
    once.chain(others).collect()
}

fn timed(history: &History, asked: &Asked) -> Timed {
    let call = &history.calls[asked.first().0];
    let done = asked.done.map(|(ended, call)| (ended, history.calls[call.0].outcome.clone()));
    let operation = Operation { account: call.account.clone(), request: call.request.clone() };
    Timed { operation, begun: asked.begun, done }
}

/// Accounts that somebody uses and nobody tries to register.
fn from_the_start(history: &History) -> BTreeSet<Name> {
    let (mut used, mut registered) = (BTreeSet::new(), BTreeSet::new());
    for call in &history.calls {
        match (&call.request, &call.outcome) {
            (Request::Register { .. }, _) => {
                registered.insert(call.account.clone());
            }
            (Request::Send { to, .. }, Outcome::Done(_)) => {
                used.extend([call.account.clone(), to.clone()]);
            }
            _ => {
                used.insert(call.account.clone());
            }
        }
    }
    used.difference(&registered).cloned().collect()
}
