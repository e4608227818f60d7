//! Messages as they are read: a mailbox forwards, a conversation backwards.

use super::state::{SqliteState, checked, int, number, page};
use chat_core::{Account, AccountId, Lookup as _, Message, MessageId, MessageText, Party, Timestamp, Username};
use rusqlite::{Result, Row};

// Their work does not grow with history either, as a test in `state` checks.
// CROSS JOIN keeps the order of the tables: the messages first, by their index.
pub(super) const MAILBOX: &str =
    "SELECT m.id, m.seq, m.sender, s.name, m.recipient, r.name, m.text, m.sent_at, s.password IS NULL
    FROM messages m CROSS JOIN accounts s ON s.id = m.sender CROSS JOIN accounts r ON r.id = m.recipient
    WHERE m.recipient = ?1 AND m.seq > ?2 ORDER BY m.seq LIMIT ?3";
// Its two ends are looked up once, not with each row.
pub(super) const CONVERSATION: &str = "SELECT id, seq, sender, text, sent_at FROM messages
    WHERE min(sender, recipient) = ?1 AND max(sender, recipient) = ?2 AND id < ?3 ORDER BY id DESC LIMIT ?4";

impl SqliteState<'_> {
    /// The messages of a mailbox with a `seq` above `seq`, ascending, at most `limit`.
    pub(super) fn mailbox(&self, account: AccountId, seq: u64, limit: usize) -> Result<Vec<Message>> {
        self.all(MAILBOX, (int(account.0), int(seq), page(limit)), message)
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
        let before = before.map_or(i64::MAX, |id| int(id.0));
        let mut statement = self.prepare(CONVERSATION)?;
        let mut rows = statement.query((int(a.id.min(b.id).0), int(a.id.max(b.id).0), before, page(limit)))?;
        while let Some(row) = rows.next()? {
            let (from, to) = if number(row, 2)? == a.id.0 { (&a, &b) } else { (&b, &a) };
            let message = Message {
                id: MessageId(number(row, 0)?),
                seq: number(row, 1)?,
                from: party(from),
                to: party(to),
                text: checked(row, 3, |text: &str| MessageText::new(text))?,
                sent_at: Timestamp(row.get(4)?),
                sender_deleted: from.deleted,
            };
            if !visit(message) {
                break;
            }
        }
        Ok(())
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
