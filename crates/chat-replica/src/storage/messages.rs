//! Messages as they are read: a mailbox forwards, a conversation backwards.

use super::state::{SqliteState, checked, corrupt, int, number};
use chat_core::{Account, AccountId, Message, MessageId, MessageText, Party, Timestamp, Username};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension as _, Result, Row, params_from_iter};
use std::ops::ControlFlow;
use std::sync::LazyLock;

const MESSAGE: &str = "SELECT m.id, m.seq, m.sender, s.name, m.recipient, r.name, m.text, m.sent_at, s.password IS NULL
    FROM messages m CROSS JOIN accounts s ON s.id = m.sender CROSS JOIN accounts r ON r.id = m.recipient
    WHERE m.id = ?1";
/// So many messages of a conversation are read by one run of a statement.
const TOGETHER: usize = 32;
/// The column of the text.
const TEXT: usize = 3;

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
            text: MessageText::new(self.text).map_err(|error| corrupt(TEXT, Type::Text, error))?,
            sent_at: self.sent_at,
            sender_deleted: self.from.deleted,
        })
    }
}

/// Messages by their ids, in the order in which these are given (a test holds SQLite to that): one run of a statement costs less than one for each
/// of them. Both ends of a conversation are looked up once, not with each row.
fn of_conversation() -> &'static str {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        let ids = Vec::from_iter((1..=TOGETHER).map(|at| format!("(?{at})"))).join(", ");
        format!(
            "WITH wanted (id) AS (VALUES {ids}) SELECT m.id, seq, sender, text, sent_at
            FROM wanted CROSS JOIN messages m ON m.id = wanted.id"
        )
    });
    &SQL
}

impl SqliteState<'_> {
    /// The messages of a mailbox with a `seq` above `seq`, ascending, at most `limit`.
    pub(super) fn mailbox(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>> {
        let ids = self.postings().mailbox_after(account.0, seq, limit)?;
        let mut statement = self.prepare(MESSAGE)?;
        let found = ids.into_iter().map(|id| statement.query_row([int(id)], message).optional());
        found.filter_map(Result::transpose).collect()
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

    /// Visits the messages with these ids, at most [`TOGETHER`]. How many there were, and whether more are wanted.
    fn these(
        &self,
        (a, b): (&Account, &Account),
        ids: &[u64],
        visit: &mut impl FnMut(Found<'_>) -> Result<bool>,
    ) -> Result<(usize, bool)> {
        if ids.is_empty() {
            return Ok((0, true));
        }
        let mut statement = self.prepare(of_conversation())?;
        // Nothing has no id.
        let ids = (0..TOGETHER).map(|at| ids.get(at).copied().map(int));
        let mut rows = statement.query(params_from_iter(ids))?;
        let mut found = 0;
        while let Some(row) = rows.next()? {
            let (from, to) = if number(row, 2)? == a.id.0 { (a, b) } else { (b, a) };
            let text = checked(row, TEXT, |text| MessageText::check(text).map(|()| text))?;
            found += 1;
            let sent_at = Timestamp(row.get(4)?);
            if !visit(Found { id: number(row, 0)?, seq: number(row, 1)?, from, to, text, sent_at })? {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }
}

fn party(account: &Account) -> Party {
    Party { id: account.id, name: account.name.clone() }
}

fn message(row: &Row<'_>) -> Result<Message> {
    Ok(Message {
        id: MessageId(number(row, 0)?),
        seq: number(row, 1)?,
        from: Party { id: AccountId(number(row, 2)?), name: checked(row, 3, Username::parse)? },
        to: Party { id: AccountId(number(row, 4)?), name: checked(row, 5, Username::parse)? },
        text: checked(row, 6, |text: &str| MessageText::new(text))?,
        sent_at: Timestamp(row.get(7)?),
        sender_deleted: row.get(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::migrations::migrate;
    use chat_core::DisplayName;
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
        connection.execute("DELETE FROM messages WHERE id = 270", []).unwrap();
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

    #[test]
    fn messages_are_found_one_after_the_other_by_their_ids() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", of_conversation())).unwrap();
        let parameters = params_from_iter(vec![1; TOGETHER]);
        let plan = statement.query_map(parameters, |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<_> = plan.map(Result::unwrap).collect();
        assert_eq!(plan[plan.len() - 2..], ["SCAN wanted", "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)"], "{plan:?}");
    }
}
