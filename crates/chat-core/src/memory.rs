//! The state in memory: for tests and the simulation, and the reference that the other stores are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use crate::{
    Account, AccountId, Counters, Lookup, Marks, Message, MessageId, MessageText, Party, PasswordHash, Pattern, Read,
    RequestKey, RequestRecord, Row, Scope, Session, Store, Timestamp, TokenHash, Username,
};

/// Everything in ordered maps. A clone is a snapshot.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    counters: Counters,
    accounts: BTreeMap<AccountId, Account>,
    names: BTreeMap<Username, AccountId>,
    passwords: BTreeMap<AccountId, PasswordHash>,
    sessions: BTreeMap<TokenHash, Session>,
    mailboxes: BTreeMap<AccountId, Marks>,
    messages: BTreeMap<MessageId, Stored>,
    by_mailbox: BTreeMap<(AccountId, u64), MessageId>,
    by_conversation: BTreeSet<(AccountId, AccountId, MessageId)>,
    requests: BTreeMap<(RequestKey, Scope), RequestRecord>,
}

#[derive(Clone, Debug)]
struct Stored {
    seq: u64,
    from: AccountId,
    to: AccountId,
    text: MessageText,
    sent_at: Timestamp,
}

impl MemoryStore {
    fn message(&self, id: MessageId) -> Option<Message> {
        let Stored { seq, from, to, text, sent_at } = self.messages.get(&id)?.clone();
        let (sender, recipient) = (self.accounts.get(&from)?, self.accounts.get(&to)?);
        Some(Message {
            id,
            seq,
            from: Party { id: from, name: sender.name.clone() },
            to: Party { id: to, name: recipient.name.clone() },
            text,
            sent_at,
            sender_deleted: sender.deleted,
        })
    }

    fn sessions_by_number(&self) -> Vec<&Session> {
        let mut sessions: Vec<_> = self.sessions.values().collect();
        sessions.sort_by_key(|session| session.number);
        sessions
    }
}

fn pair(a: AccountId, b: AccountId) -> (AccountId, AccountId) {
    (a.min(b), a.max(b))
}

impl Lookup for MemoryStore {
    type Error = Infallible;

    fn account(&self, id: AccountId) -> Result<Option<Account>, Infallible> {
        Ok(self.accounts.get(&id).cloned())
    }

    fn account_by_name(&self, name: &Username) -> Result<Option<Account>, Infallible> {
        Ok(self.names.get(name).and_then(|id| self.accounts.get(id)).cloned())
    }

    fn session(&self, token: &TokenHash) -> Result<Option<Session>, Infallible> {
        Ok(self.sessions.get(token).cloned())
    }

    fn sessions_of(&self, account: AccountId) -> Result<Vec<Session>, Infallible> {
        Ok(self.sessions_by_number().into_iter().filter(|session| session.account == account).cloned().collect())
    }

    fn expired_sessions(&self, at: Timestamp, limit: usize) -> Result<Vec<Session>, Infallible> {
        let mut expired: Vec<_> = self.sessions.values().filter(|session| !session.valid_at(at)).cloned().collect();
        expired.sort_by_key(|session| (session.expires_at, session.number));
        expired.truncate(limit);
        Ok(expired)
    }

    fn request(&self, key: &RequestKey, scope: Scope) -> Result<Option<RequestRecord>, Infallible> {
        Ok(self.requests.get(&(*key, scope)).cloned())
    }

    fn marks(&self, account: AccountId) -> Result<Marks, Infallible> {
        Ok(self.mailboxes.get(&account).copied().unwrap_or_default())
    }

    fn counters(&self) -> Result<Counters, Infallible> {
        Ok(self.counters)
    }
}

impl Read for MemoryStore {
    fn password(&self, id: AccountId) -> Result<Option<PasswordHash>, Infallible> {
        Ok(self.passwords.get(&id).cloned())
    }

    fn accounts(&self, pattern: &Pattern, after: Option<&Username>, limit: usize) -> Result<Vec<Account>, Infallible> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let matching =
            self.names.range::<Username, _>((start, Bound::Unbounded)).filter(|(name, _)| pattern.matches(name));
        let accounts = matching.filter_map(|(_, id)| self.accounts.get(id)).filter(|account| !account.deleted);
        Ok(accounts.take(limit).cloned().collect())
    }

    fn messages_after(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>, Infallible> {
        let range = (Bound::Excluded((account, seq)), Bound::Included((account, u64::MAX)));
        // A range must not begin after its end, and nothing comes after the last number.
        if seq == u64::MAX {
            return Ok(Vec::new());
        }
        Ok(self.by_mailbox.range(range).filter_map(|(_, id)| self.message(*id)).take(limit).collect())
    }

    fn conversation(
        &self,
        a: AccountId,
        b: AccountId,
        before: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Message>, Infallible> {
        let (low, high) = pair(a, b);
        let before = before.unwrap_or(MessageId(u64::MAX));
        let range = self.by_conversation.range((low, high, MessageId(0))..(low, high, before));
        let mut page: Vec<_> = range.rev().filter_map(|(_, _, id)| self.message(*id)).take(limit).collect();
        page.reverse();
        Ok(page)
    }

    fn for_each_row(&self, visit: &mut dyn FnMut(Row<'_>)) -> Result<(), Infallible> {
        for (id, account) in &self.accounts {
            visit(Row::Account { account, password: self.passwords.get(id) });
        }
        self.sessions_by_number().into_iter().for_each(|session| visit(Row::Session(session)));
        for (&account, &marks) in &self.mailboxes {
            visit(Row::Mailbox { account, marks });
        }
        for (&id, &Stored { seq, from, to, ref text, sent_at }) in &self.messages {
            visit(Row::Message { id, seq, from, to, text, sent_at });
        }
        for ((key, scope), record) in &self.requests {
            visit(Row::Request { key, scope: *scope, record });
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn set_counters(&mut self, counters: Counters) -> Result<(), Infallible> {
        self.counters = counters;
        Ok(())
    }

    fn insert_account(&mut self, account: &Account, password: &PasswordHash) -> Result<(), Infallible> {
        self.names.insert(account.name.clone(), account.id);
        self.passwords.insert(account.id, password.clone());
        self.mailboxes.insert(account.id, Marks::default());
        self.accounts.insert(account.id, account.clone());
        Ok(())
    }

    fn bury_account(&mut self, id: AccountId) -> Result<(), Infallible> {
        self.passwords.remove(&id);
        if let Some(account) = self.accounts.get_mut(&id) {
            account.deleted = true;
        }
        Ok(())
    }

    fn insert_session(&mut self, session: &Session) -> Result<(), Infallible> {
        self.sessions.insert(session.token, session.clone());
        Ok(())
    }

    fn remove_session(&mut self, token: &TokenHash) -> Result<(), Infallible> {
        self.sessions.remove(token);
        Ok(())
    }

    fn set_marks(&mut self, account: AccountId, marks: Marks) -> Result<(), Infallible> {
        self.mailboxes.insert(account, marks);
        Ok(())
    }

    fn insert_message(&mut self, message: &Arc<Message>) -> Result<(), Infallible> {
        let Message { id, seq, from, to, text, sent_at, sender_deleted: _ } = &**message;
        let (low, high) = pair(from.id, to.id);
        self.by_mailbox.insert((to.id, *seq), *id);
        self.by_conversation.insert((low, high, *id));
        let stored = Stored { seq: *seq, from: from.id, to: to.id, text: text.clone(), sent_at: *sent_at };
        self.messages.insert(*id, stored);
        Ok(())
    }

    fn discard_after(&mut self, account: AccountId, seq: u64) -> Result<(), Infallible> {
        let mut gone = self.by_mailbox.split_off(&(account, seq.saturating_add(1)));
        let mut others = gone.split_off(&(AccountId(account.0.saturating_add(1)), 0));
        self.by_mailbox.append(&mut others);
        for id in gone.into_values() {
            if let Some(Stored { from, to, .. }) = self.messages.remove(&id) {
                let (low, high) = pair(from, to);
                self.by_conversation.remove(&(low, high, id));
            }
        }
        Ok(())
    }

    fn insert_request(&mut self, key: &RequestKey, scope: Scope, record: &RequestRecord) -> Result<(), Infallible> {
        self.requests.insert((*key, scope), record.clone());
        Ok(())
    }
}
