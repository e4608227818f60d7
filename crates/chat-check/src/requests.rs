//! Calls with one key are one request.

use std::collections::HashMap;

use crate::history::{Answer, CallId, History, Key, Micros, Name, Outcome, Request};

/// All attempts to have one thing done.
pub(crate) struct Asked {
    /// The calls that make it, as they stand in the history: at least one.
    pub calls: Vec<CallId>,
    /// When the first of those attempts began that can have done it.
    pub begun: Micros,
    /// When the first answer came that said that it is done, and to which call.
    pub done: Option<(Micros, CallId)>,
    /// It was done, or can have been.
    pub possible: bool,
}

/// The requests of a history that are done once: registering, deleting, sending.
#[derive(Default)]
pub(crate) struct Requests {
    pub registers: Vec<Asked>,
    pub deletes: Vec<Asked>,
    pub sends: Vec<Asked>,
    /// Calls that were answered otherwise than an earlier one of the same request.
    pub differing: Vec<(CallId, CallId)>,
    /// Done calls with the same key and other bodies.
    pub key_twice: Vec<(CallId, CallId)>,
}

/// An answer to a send.
#[derive(Clone, Copy)]
pub(crate) struct Sent {
    pub id: u64,
    pub seq: u64,
    pub index: u64,
}

impl Asked {
    /// The first of its calls.
    pub fn first(&self) -> CallId {
        self.calls[0]
    }

    /// What it sent, if it is a send.
    pub fn send<'a>(&self, history: &'a History) -> Option<(&'a Name, &'a Name, &'a std::sync::Arc<str>)> {
        let call = &history.calls[self.first().0];
        match &call.request {
            Request::Send { to, text, .. } => Some((&call.account, to, text)),
            _ => None,
        }
    }

    /// The answer, if it is a send that was done.
    pub fn sent(&self, history: &History) -> Option<Sent> {
        match history.calls[self.done?.1.0].outcome {
            Outcome::Done(Answer::Sent { id, seq, index }) => Some(Sent { id, seq, index }),
            _ => None,
        }
    }

    fn add(&mut self, history: &History, id: CallId) {
        let call = &history.calls[id.0];
        let can_have = !matches!(call.outcome, Outcome::Rejected(_));
        if can_have {
            self.begun = if self.possible { self.begun.min(call.begun) } else { call.begun };
            self.possible = true;
        }
        if let (Outcome::Done(_), Some(ended)) = (&call.outcome, call.ended)
            && self.done.is_none_or(|(at, _)| ended < at)
        {
            self.done = Some((ended, id));
        }
        self.calls.push(id);
    }
}

impl Requests {
    pub fn of(history: &History) -> Self {
        let mut all = Requests::default();
        // By scope and key; several only where a key was used for several things.
        let mut known: HashMap<(&str, Key), Vec<usize>> = HashMap::new();
        for (place, call) in history.calls.iter().enumerate() {
            let id = CallId(place);
            let (kind, scope, key) = match &call.request {
                Request::Register { key } => (&mut all.registers, "", key),
                Request::Delete { key, .. } => (&mut all.deletes, "", key),
                Request::Send { key, .. } => (&mut all.sends, &*call.account, key),
                _ => continue,
            };
            let Some(key) = *key else {
                kind.push(Asked::new(history, id));
                continue;
            };
            let same = known.entry((scope, key)).or_default();
            let fits = |asked: &Asked| {
                let first = &history.calls[asked.first().0];
                first.account == call.account && first.request == call.request
            };
            match same.iter().find(|&&place| kind.get(place).is_some_and(fits)) {
                Some(&place) => {
                    let asked = &mut kind[place];
                    if let (Outcome::Done(answer), Some((_, earlier))) = (&call.outcome, asked.done)
                        && history.calls[earlier.0].outcome != Outcome::Done(answer.clone())
                    {
                        all.differing.push((earlier, id));
                    }
                    asked.add(history, id);
                }
                None => {
                    kind.push(Asked::new(history, id));
                    same.push(kind.len() - 1);
                }
            }
        }
        all.key_twice = keys_done_twice(history);
        all
    }
}

impl Asked {
    fn new(history: &History, id: CallId) -> Self {
        let mut asked = Asked { calls: Vec::with_capacity(1), begun: 0, done: None, possible: false };
        asked.add(history, id);
        asked
    }
}

fn keys_done_twice(history: &History) -> Vec<(CallId, CallId)> {
    let mut first_done: HashMap<(&str, Key), CallId> = HashMap::new();
    let mut twice = Vec::new();
    for (place, call) in history.calls.iter().enumerate() {
        let (scope, key) = match &call.request {
            Request::Register { key: Some(key) } | Request::Delete { key: Some(key), .. } => ("", *key),
            Request::Send { key: Some(key), .. } => (&*call.account, *key),
            _ => continue,
        };
        if !matches!(call.outcome, Outcome::Done(_)) {
            continue;
        }
        let first = *first_done.entry((scope, key)).or_insert(CallId(place));
        let other = &history.calls[first.0];
        if other.request != call.request || other.account != call.account {
            twice.push((first, CallId(place)));
        }
    }
    twice
}
