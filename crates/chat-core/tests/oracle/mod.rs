//! The rules once more, as plainly as possible: lists, searched from the start. Shares only the types with the crate.

use chat_core::{Account, AccountId, Command, Marks, MessageId, Outcome, Provenance, Rejection, Timestamp, TokenHash};

pub struct User {
    pub account: Account,
    pub marks: Marks,
}

pub struct Mail {
    pub id: u64,
    pub seq: u64,
    pub from: usize,
    pub to: usize,
    pub text: String,
    pub at: Timestamp,
}

struct Login {
    token: TokenHash,
    user: usize,
    expires_at: Timestamp,
}

struct Done {
    key: [u8; 16],
    sender: Option<usize>,
    body: String,
    outcome: Outcome,
}

#[derive(Default)]
pub struct Oracle {
    pub users: Vec<User>,
    pub mail: Vec<Mail>,
    logins: Vec<Login>,
    done: Vec<Done>,
    sent: u64,
}

impl Oracle {
    pub fn step(&mut self, provenance: Provenance, command: &Command) -> Result<Outcome, Rejection> {
        let sender = match command {
            Command::Send { session, at, .. } => Some(self.user_of(session, *at)?),
            _ => None,
        };
        let body = body(command);
        if let Some(key) = command.key()
            && let Some(done) = self.done.iter().find(|done| done.key == key.0 && done.sender == sender)
        {
            return if done.body == body { Ok(self.first(&done.outcome)) } else { Err(Rejection::KeyConflict) };
        }
        let outcome = self.new_command(provenance, sender, command)?;
        if let Some(key) = command.key() {
            self.done.push(Done { key: key.0, sender, body, outcome: outcome.clone() });
        }
        Ok(outcome)
    }

    fn first(&self, outcome: &Outcome) -> Outcome {
        let mut outcome = outcome.clone();
        match &mut outcome {
            Outcome::Registered { account, duplicate } | Outcome::SessionOpened { account, duplicate, .. } => {
                *account = self.users[account.id.0 as usize - 1].account.clone();
                *duplicate = true;
            }
            Outcome::Sent { duplicate, .. } | Outcome::Deleted { duplicate, .. } => *duplicate = true,
            Outcome::SessionClosed | Outcome::Marked(_) => {}
        }
        outcome
    }

    fn user_of(&self, token: &TokenHash, at: Timestamp) -> Result<usize, Rejection> {
        let login = self.logins.iter().find(|login| login.token == *token && at < login.expires_at);
        login.map(|login| login.user).ok_or(Rejection::SessionInvalid)
    }

    fn new_command(&mut self, log: Provenance, sender: Option<usize>, command: &Command) -> Result<Outcome, Rejection> {
        match command {
            Command::Register { name, display_name, at, .. } => {
                if self.users.iter().any(|user| user.account.name == *name) {
                    return Err(Rejection::NameTaken { name: name.clone() });
                }
                let (name, display_name) = (name.clone(), display_name.clone());
                let id = AccountId(self.users.len() as u64 + 1);
                let account = Account { id, name, display_name, created_at: *at, deleted: false };
                self.users.push(User { account: account.clone(), marks: Marks::default() });
                Ok(Outcome::Registered { account, duplicate: false })
            }
            Command::OpenSession { account, token, at, expires_at, .. } => {
                let found = self.users.iter().position(|user| user.account.id == *account && !user.account.deleted);
                let user = found.ok_or(Rejection::WrongCredentials)?;
                if self.logins.iter().any(|login| login.token == *token) {
                    return Err(Rejection::TokenInvalid);
                }
                self.clear_four_expired(*at);
                self.logins.push(Login { token: *token, user, expires_at: *expires_at });
                let account = self.users[user].account.clone();
                Ok(Outcome::SessionOpened { account, expires_at: *expires_at, duplicate: false })
            }
            Command::CloseSession { token, .. } => {
                self.logins.retain(|login| login.token != *token);
                Ok(Outcome::SessionClosed)
            }
            Command::Send { to, text, at, .. } => {
                let from = sender.ok_or(Rejection::SessionInvalid)?;
                let found = self.users.iter().position(|user| user.account.name == *to && !user.account.deleted);
                let to = found.ok_or(Rejection::NoSuchRecipient { name: to.clone() })?;
                self.sent += 1;
                self.users[to].marks.last += 1;
                let (id, seq) = (self.sent, self.users[to].marks.last);
                self.mail.push(Mail { id, seq, from, to, text: text.as_str().into(), at: *at });
                Ok(Outcome::Sent { id: MessageId(id), seq, at: *at, provenance: log, duplicate: false })
            }
            Command::Acknowledge { session, delivered, read, at } => {
                let user = self.user_of(session, *at)?;
                self.acknowledge(user, delivered.unwrap_or(0), read.unwrap_or(0))
            }
            Command::DeleteAccount { session, refuse_if_undelivered, at, .. } => {
                let user = self.user_of(session, *at)?;
                self.delete(user, *refuse_if_undelivered)
            }
        }
    }

    fn clear_four_expired(&mut self, now: Timestamp) {
        for _ in 0..4 {
            // Of those that expire together, the first in the list was opened first.
            let expired = self.logins.iter().enumerate().filter(|(_, login)| login.expires_at <= now);
            let Some((first, _)) = expired.min_by_key(|(_, login)| login.expires_at) else { return };
            self.logins.remove(first);
        }
    }

    fn acknowledge(&mut self, user: usize, delivered: u64, read: u64) -> Result<Outcome, Rejection> {
        let marks = &mut self.users[user].marks;
        let mark = delivered.max(read);
        if mark > marks.last {
            return Err(Rejection::MarkBeyondLast { mark, last: marks.last });
        }
        if read > marks.read {
            marks.read = read;
        }
        if mark > marks.delivered {
            marks.delivered = mark;
        }
        Ok(Outcome::Marked(*marks))
    }

    fn delete(&mut self, user: usize, refuse_if_undelivered: bool) -> Result<Outcome, Rejection> {
        let delivered = self.users[user].marks.delivered;
        let waiting = |mail: &Mail| mail.to == user && mail.seq > delivered;
        let count = self.mail.iter().filter(|mail| waiting(mail)).count() as u64;
        if refuse_if_undelivered && count > 0 {
            return Err(Rejection::UndeliveredMessages { count });
        }
        self.mail.retain(|mail| !waiting(mail));
        self.logins.retain(|login| login.user != user);
        self.users[user].account.deleted = true;
        Ok(Outcome::Deleted { discarded: count, duplicate: false })
    }
}

/// What the client asked for, without what the primary adds.
fn body(command: &Command) -> String {
    match command {
        Command::Register { name, display_name, .. } => format!("register {name:?} {display_name:?}"),
        Command::OpenSession { account, token, .. } => format!("open {account} {:?}", token.0),
        Command::Send { to, text, .. } => format!("send {to:?} {:?}", text.as_str()),
        Command::DeleteAccount { session, refuse_if_undelivered, .. } => {
            format!("delete {:?} {refuse_if_undelivered}", session.0)
        }
        Command::CloseSession { .. } | Command::Acknowledge { .. } => String::new(),
    }
}
