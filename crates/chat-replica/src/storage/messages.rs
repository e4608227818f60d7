//! Messages as they are read: a mailbox forwards, a conversation backwards.

use super::state::{SqliteState, checked, int, number};
use chat_core::{Account, AccountId, Lookup as _, Message, MessageId, MessageText, Party, Timestamp, Username};
use rusqlite::{OptionalExtension as _, Result, Row};
use std::ops::ControlFlow;

const MESSAGE: &str = "SELECT m.id, m.seq, m.sender, s.name, m.recipient, r.name, m.text, m.sent_at, s.password IS NULL
    FROM messages m CROSS JOIN accounts s ON s.id = m.sender CROSS JOIN accounts r ON r.id = m.recipient
    WHERE m.id = ?1";
// Both ends of a conversation are looked up once, not with each row.
const OF_CONVERSATION: &str = "SELECT seq, sender, text, sent_at FROM messages WHERE id = ?1";

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
        a: AccountId,
        b: AccountId,
        before: Option<MessageId>,
        limit: usize,
        mut visit: impl FnMut(Message) -> bool,
    ) -> Result<()> {
        let (Some(a), Some(b)) = (self.account(a)?, self.account(b)?) else { return Ok(()) };
        let pair = [a.id.min(b.id).0, a.id.max(b.id).0];
        let before = before.map_or(u64::MAX, |id| id.0);
        let mut statement = self.prepare(OF_CONVERSATION)?;
        let mut left = limit;
        self.postings().conversation_back(pair, before, |id| {
            if left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            let read = |row: &Row<'_>| {
                let (from, to) = if number(row, 1)? == a.id.0 { (&a, &b) } else { (&b, &a) };
                Ok(Message {
                    id: MessageId(id),
                    seq: number(row, 0)?,
                    from: party(from),
                    to: party(to),
                    text: checked(row, 2, |text: &str| MessageText::new(text))?,
                    sent_at: Timestamp(row.get(3)?),
                    sender_deleted: from.deleted,
                })
            };
            let Some(message) = statement.query_row([int(id)], read).optional()? else {
                return Ok(ControlFlow::Continue(()));
            };
            left -= 1;
            Ok(if visit(message) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })
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
