//! The protocol's values in a script's words.

use chat_replica::protocol::*;
use std::collections::HashMap;

/// Names processes: 2 is the first process run at host 2, 2' the second, 2'' the third, 2#4 the fourth.
#[derive(Debug, Default)]
pub struct Names {
    known: HashMap<Member, String>,
}

impl Names {
    pub fn add(&mut self, member: Member, starts: u32) -> String {
        let name = match starts {
            1..=3 => format!("{}{}", member.id, "'".repeat(starts as usize - 1)),
            more => format!("{}#{more}", member.id),
        };
        self.known.insert(member, name.clone());
        name
    }

    pub fn of(&self, member: &Member) -> String {
        self.known.get(member).cloned().unwrap_or_else(|| format!("{member:?}"))
    }

    pub fn all<'m>(&self, members: impl IntoIterator<Item = &'m Member>) -> String {
        members.into_iter().map(|member| self.of(member)).collect::<Vec<_>>().join(" ")
    }

    pub fn members(&self, view: &View) -> String {
        format!("{{{}}}", self.all(&view.members))
    }

    pub fn view(&self, view: &View) -> String {
        format!("view {} {}", view.epoch, self.members(view))
    }

    /// An entry without its epoch, which the sentence around it gives.
    pub fn entry(&self, entry: &Entry) -> String {
        format!("{} {}", entry.index, self.body(entry))
    }

    pub fn body(&self, entry: &Entry) -> String {
        match &entry.body {
            Body::Commands(bytes) => format!("\"{}\"", String::from_utf8_lossy(bytes).trim_end()),
            Body::View(view) => format!("view {}", self.members(view)),
            Body::Founding { view, .. } => format!("founding {}", self.members(view)),
        }
    }

    pub fn message(&self, message: &Message) -> String {
        match message {
            Message::Hello(hello) => self.hello(hello),
            Message::Unwelcome { known } => format!("your disk has been seen further on, in its start {}", known.count),
            Message::Ping(ping) => {
                let lead = if ping.primary { ", I lead" } else { "" };
                let Place { index, epoch } = ping.view;
                format!("ping: promised {}, view {epoch} at {index}, committed {}{lead}", ping.promised, ping.committed)
            }
            Message::Pong(pong) => {
                let lease = if pong.granted { "lease" } else { "no lease" };
                let mut contacts = pong.contacts.clone();
                contacts.sort_unstable();
                contacts.dedup();
                format!("pong: {lease}, in contact with {}", self.all(&contacts))
            }
            Message::Poll { last, .. } => format!("poll: {}", log_to(last)),
            Message::PollReply { willing: true, .. } => "willing".into(),
            Message::PollReply { willing: false, .. } => "unwilling".into(),
            Message::RequestVote { epoch, last } => format!("vote for me in {epoch}: {}", log_to(last)),
            Message::Vote { epoch, granted: true, last, .. } => format!("vote in {epoch}: {}", log_to(last)),
            Message::Vote { epoch, promised, last, .. } => {
                format!("no vote in {epoch}: promised {promised}, {}", log_to(last))
            }
            Message::Append(append) => self.append(append),
            Message::AppendReply { epoch, promised, .. } if promised > epoch => {
                format!("refuses epoch {epoch}: promised {promised}")
            }
            Message::AppendReply { matched, conflict: true, .. } => format!("differs: try after {matched}"),
            Message::AppendReply { matched, .. } => format!("holds to {matched}"),
            Message::Transfer { epoch } => format!("stand now, I hand over {epoch}"),
            Message::Leave { .. } => "leave me out".into(),
        }
    }

    fn hello(&self, hello: &Hello) -> String {
        let list = hello.founders.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
        if hello.last.index == 0 && hello.promised == Epoch::ZERO && hello.deaths.is_empty() {
            return format!("hello: empty, of the list {list}");
        }
        let mut text =
            format!("hello: promised {}, {}, committed {}", hello.promised, log_to(&hello.last), hello.committed);
        for death in &hello.deaths {
            let views = death.views.iter().map(|at| self.view(&at.view)).collect::<Vec<_>>().join(", ");
            text += &format!(", start {} ended with {views}", death.incarnation.count);
        }
        if hello.impaired {
            text += ", impaired";
        }
        text
    }

    fn append(&self, append: &Append) -> String {
        let entries = append.entries.iter().map(|entry| self.entry(entry)).collect::<Vec<_>>().join(", ");
        let what = if entries.is_empty() { "nothing".into() } else { entries };
        let (prev, committed) = (append.prev.index, append.committed);
        format!("append {what} after {prev}; epoch {}, committed {committed}", append.epoch)
    }

    /// One transaction; what is not worth a line is left out.
    pub fn transaction(&self, persist: &[Persist], with_known: bool) -> Option<String> {
        let mut parts: Vec<String> = Vec::new();
        for what in persist {
            match what {
                Persist::Promise(epoch) => parts.push(format!("promise {epoch}")),
                Persist::Cluster(_) => parts.push("the cluster's id".into()),
                Persist::Known(member) if with_known => parts.push(format!("having met {}", self.of(member))),
                Persist::Known(_) => {}
                Persist::CutBack(from) => parts.push(format!("cut back from {from}")),
                Persist::Append(entry) => parts.push(format!("{} of {}", self.entry(entry), entry.epoch)),
                Persist::Repaired => parts.push("repaired".into()),
            }
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

fn log_to(last: &Place) -> String {
    if last.index == 0 { "empty log".into() } else { format!("log to {} of {}", last.index, last.epoch) }
}

/// The name by which commands call a message.
pub fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Unwelcome { .. } => "unwelcome",
        Message::Ping(_) => "ping",
        Message::Pong(_) => "pong",
        Message::Poll { .. } => "poll",
        Message::PollReply { .. } => "poll-reply",
        Message::RequestVote { .. } => "request",
        Message::Vote { .. } => "vote",
        Message::Append(_) => "append",
        Message::AppendReply { .. } => "ack",
        Message::Transfer { .. } => "transfer",
        Message::Leave { .. } => "leave",
    }
}

/// All that [`kind`] says, and what commands may name beside it.
pub const KINDS: [&str; 14] = [
    "hello",
    "unwelcome",
    "ping",
    "pong",
    "poll",
    "poll-reply",
    "request",
    "vote",
    "append",
    "ack",
    "transfer",
    "leave",
    "known",
    "end",
];
