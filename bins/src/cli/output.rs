//! What is written to standard output, for people and for programs.
//!
//! Texts and names come from others: written to a terminal as they are, they could move the cursor, recolour the
//! screen, or pass for another's message. For people, control characters are therefore shown as escapes, and the lines of
//! one message after its first are indented. JSON escapes by itself, and carries the text unchanged.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use chat_client::{Account, Message};
use jiff::Timestamp;
use serde::Serialize;

/// A sent or received message, for programs.
#[derive(Debug, Serialize)]
pub(super) struct MessageLine<'a> {
    pub id: u64,
    pub seq: u64,
    pub from: &'a str,
    pub to: &'a str,
    pub text: &'a str,
    pub sent_at: String,
}

impl<'a> From<&'a Message> for MessageLine<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            id: message.id,
            seq: message.seq,
            from: &message.from,
            to: &message.to,
            text: &message.text,
            sent_at: rfc3339(message.sent_at_ms),
        }
    }
}

/// An account, for programs.
#[derive(Debug, Serialize)]
pub(super) struct AccountLine<'a> {
    name: &'a str,
    display_name: &'a str,
    created_at: String,
}

impl<'a> From<&'a Account> for AccountLine<'a> {
    fn from(account: &'a Account) -> Self {
        Self { name: &account.name, display_name: &account.display_name, created_at: rfc3339(account.created_at_ms) }
    }
}

/// One object on a line of its own.
pub(super) fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

/// A message for people: when, who, and its text.
pub(super) fn message(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let gone = if message.sender_deleted { " (deleted)" } else { "" };
    let from = one_line(&message.from);
    writeln!(out, "{}  {from}{gone}: {}", clock(message.sent_at_ms), indented(&message.text))
}

/// RFC 3339, UTC, with milliseconds where there are some.
pub(super) fn rfc3339(ms: i64) -> String {
    timestamp(ms).to_string()
}

/// UTC, to the second.
pub(super) fn clock(ms: i64) -> String {
    timestamp(ms).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn timestamp(ms: i64) -> Timestamp {
    // A clock so wrong that no calendar has its date is shown as the bound that it passed.
    let bound = if ms < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(ms).unwrap_or(bound)
}

/// `text` on one line, harmless on a terminal.
pub(super) fn one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// As [`one_line`], but line breaks stay, followed by an indentation.
fn indented(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| one_line(line.strip_suffix('\r').unwrap_or(line))).collect();
    lines.join("\n    ")
}

/// Control characters, and those that reorder what stands around them or are read as line breaks.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_safe_from_texts() {
        assert_eq!(one_line("héllo ☃"), "héllo ☃");
        assert_eq!(one_line("\u{1b}[2Jx\u{7}\u{9b}1m"), r"\u{1b}[2Jx\u{7}\u{9b}1m");
        assert_eq!(one_line("a\nb\tc\u{202e}d"), r"a\nb\tc\u{202e}d");
    }

    #[test]
    fn a_text_cannot_pass_for_another_message() {
        let text = "hi\r\n2026-01-01 00:00:00Z  boss: you are fired".to_owned();
        let from = "ann".to_owned();
        let sent = Message {
            id: 1,
            seq: 1,
            from: from.into(),
            to: "bob".into(),
            text,
            sent_at_ms: 1500,
            sender_deleted: true,
        };
        let mut out = Vec::new();
        message(&mut out, &sent).unwrap();
        let expected = "1970-01-01 00:00:01Z  ann (deleted): hi\n    2026-01-01 00:00:00Z  boss: you are fired\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_lines_have_the_promised_keys() {
        let account =
            Account {
                id: 1, name: "ann".into(), display_name: "Ann \"☃\"\n".into(), created_at_ms: 1_700_000_000_123
            };
        let mut out = Vec::new();
        json(&mut out, &AccountLine::from(&account)).unwrap();
        let expected =
            r#"{"name":"ann","display_name":"Ann \"☃\"\n","created_at":"2023-11-14T22:13:20.123Z"}"#.to_owned() + "\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(rfc3339(i64::MAX), Timestamp::MAX.to_string());
    }
}
