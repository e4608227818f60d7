//! Messages as they are read: a mailbox forwards, a conversation backwards.

use super::Stored;
use crate::storage::state::{SqliteState, corrupt};
use chat_core::{Account, AccountId, Lookup as _, Message, MessageId, MessageText, Party, Timestamp};
use rusqlite::Result;
use rusqlite::types::Type;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// So many messages of a conversation are looked for together.
const TOGETHER: usize = 64;

/// A message of a conversation, where it lies. Not copied: whoever looks at it takes what is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub id: u64,
    pub seq: u64,
    pub from: &'a Account,
    pub to: &'a Account,
    /// As [`MessageText`] takes it.
    pub text: &'a str,
    pub sent_at: Timestamp,
}

impl Found<'_> {
    /// A copy.
    ///
    /// # Errors
    /// If the text is none, which was looked at already.
    pub fn message(&self) -> Result<Message> {
        Ok(Message {
            id: MessageId(self.id),
            seq: self.seq,
            from: party(self.from),
            to: party(self.to),
            text: text(self.text)?,
            sent_at: self.sent_at,
            sender_deleted: self.from.deleted,
        })
    }
}

impl SqliteState<'_> {
    /// The messages of a mailbox with a `seq` above `seq`, ascending, at most `limit`.
    pub(in crate::storage) fn mailbox(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>> {
        let mut ids = self.postings().mailbox_after(account.0, seq, limit)?;
        ids.reverse();
        let Some(to) = self.account(account)?.as_ref().map(party) else { return Ok(Vec::new()) };
        let (mut senders, mut messages) = (HashMap::new(), Vec::with_capacity(ids.len()));
        let _ = self.messages().visit_back(&ids, |stored| {
            let sender = match senders.get(&stored.from) {
                Some(sender) => sender,
                None => senders.entry(stored.from).or_insert(self.account(AccountId(stored.from))?),
            };
            if let Some(sender) = sender {
                messages.push(Message {
                    id: MessageId(stored.id),
                    seq: stored.seq,
                    from: party(sender),
                    to: to.clone(),
                    text: text(stored.text)?,
                    sent_at: Timestamp(stored.sent_at),
                    sender_deleted: sender.deleted,
                });
            }
            Ok(ControlFlow::Continue(()))
        })?;
        messages.reverse();
        Ok(messages)
    }

    /// The messages between two accounts with an id below `before`, the newest first, at most `limit`, and only for as long as `visit` says that it
    /// wants more.
    ///
    /// # Errors
    /// SQLite's own.
    pub(crate) fn conversation_back(
        &self,
        (a, b): (&Account, &Account),
        before: Option<MessageId>,
        limit: usize,
        mut visit: impl FnMut(Found<'_>) -> Result<bool>,
    ) -> Result<()> {
        let pair = [a.id.min(b.id).0, a.id.max(b.id).0];
        let before = before.map_or(u64::MAX, |id| id.0);
        let (mut ids, mut left) = (Vec::with_capacity(TOGETHER), limit);
        self.postings().conversation_back(pair, before, |id| {
            if left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            ids.push(id);
            if ids.len() < left.min(TOGETHER) {
                return Ok(ControlFlow::Continue(()));
            }
            let (found, more) = self.these((a, b), &ids, &mut visit)?;
            ids.clear();
            left -= found;
            Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        self.these((a, b), &ids, &mut visit).map(drop)
    }

    /// Visits the messages with these ids, which descend. How many there were, and whether more are wanted.
    fn these(
        &self,
        (a, b): (&Account, &Account),
        ids: &[u64],
        visit: &mut impl FnMut(Found<'_>) -> Result<bool>,
    ) -> Result<(usize, bool)> {
        let mut found = 0;
        let more = self.messages().visit_back(ids, |Stored { id, seq, from, to: _, sent_at, text }| {
            let (from, to) = if from == a.id.0 { (a, b) } else { (b, a) };
            found += 1;
            let wants_more = visit(Found { id, seq, from, to, text, sent_at: Timestamp(sent_at) })?;
            Ok(if wants_more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok((found, more.is_continue()))
    }
}

fn party(account: &Account) -> Party {
    Party { id: account.id, name: account.name.clone() }
}

/// A copy of a text.
pub(in crate::storage) fn text(text: &str) -> Result<MessageText> {
    MessageText::new(text).map_err(|error| corrupt(super::COLUMN, Type::Text, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations::migrate;
    use chat_core::{DisplayName, Username};
    use rusqlite::Connection;
    use std::sync::Arc;

    fn account(id: u64) -> Account {
        let name = Username::parse(&format!("user{id}")).unwrap();
        let display_name = DisplayName::of(&name);
        Account { id: AccountId(id), name, display_name, created_at: Timestamp(0), deleted: id == 2 }
    }

    /// 300 messages; every third is between 1 and 2, to each of them in turn.
    fn messages() -> Vec<Arc<Message>> {
        let ends = |id: u64| match id % 6 {
            0 => (1, 2),
            3 => (2, 1),
            _ => (1, 3),
        };
        let message = |id: u64| {
            let ((from, to), text) = (ends(id), "so ".repeat(1 + id as usize % 90));
            Arc::new(Message {
                id: MessageId(id),
                seq: id,
                from: party(&account(from)),
                to: party(&account(to)),
                text: MessageText::new(text).unwrap(),
                sent_at: Timestamp(id as i64),
                sender_deleted: from == 2,
            })
        };
        (1..=300).map(message).collect()
    }

    #[test]
    fn a_conversation_is_read_backwards_as_far_as_is_wanted() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let mut state = SqliteState::new(&connection);
        let all = messages();
        all.chunks(70).for_each(|batch| state.insert_messages(batch).unwrap());
        // One that is not there any more, as if it had never been.
        state.messages().remove(&[270], |_| Ok(())).unwrap();
        let (one, two) = (account(1), account(2));
        let sizes = [0, 1, TOGETHER - 1, TOGETHER, TOGETHER + 1, 2 * TOGETHER, 2 * TOGETHER + 1, 99, 100, 1000];
        for (before, limit) in
            [None, Some(290), Some(271), Some(3), Some(1)].into_iter().flat_map(|b| sizes.map(|l| (b, l)))
        {
            for most in sizes {
                let mut seen = Vec::new();
                let visit = |found: Found<'_>| {
                    seen.push(found.message()?);
                    Ok(seen.len() < most)
                };
                state.conversation_back((&two, &one), before.map(MessageId), limit, visit).unwrap();
                let wanted = all.iter().rev().filter(|message| message.id.0 % 3 == 0 && message.id.0 != 270);
                let wanted = wanted.filter(|message| before.is_none_or(|before| message.id.0 < before));
                let wanted: Vec<_> = wanted.take(limit.min(most.max(1))).map(|message| (**message).clone()).collect();
                assert_eq!(seen, wanted, "before {before:?}, at most {limit}, or {most}");
            }
        }
    }
}
