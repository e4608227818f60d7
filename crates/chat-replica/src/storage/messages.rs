//! Messages as they are read: a mailbox forwards, a conversation backwards.

use super::state::{SqliteState, checked, corrupt, int, number, valid};
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

/// Messages by their ids, in the order in which these are given: one run of a statement costs less than one for each of them. Both ends of a
/// conversation are looked up once, not with each row.
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
            let text = valid(row, TEXT, MessageText::check)?;
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
