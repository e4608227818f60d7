//! `chat send`: one message, or each line of standard input as one, many on their way at a time.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, Write as _},
};

use chat_client::{Error, Sent, Session, Submitted};
use tokio::io::BufReader;

use super::{Again, Chat, lines::Lines};
use crate::cli::{
    failure::{Failure, code_of, complain},
    output::{MessageLine, json, one_line, rfc3339},
};

/// Lines on their way at a time.
const MOST: usize = 1024;

struct Pending {
    line: u64,
    text: String,
    result: Result<Submitted, NotSent>,
}

/// Why a line is not sent.
enum NotSent {
    Client(Error),
    /// It is no text.
    Text(String),
}

impl NotSent {
    fn code(&self) -> u8 {
        match self {
            Self::Client(error) => code_of(error),
            Self::Text(_) => 1,
        }
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Text(why) => f.write_str(why),
        }
    }
}

impl Chat<'_> {
    pub(super) async fn send(&self, to: &str, text: Option<&str>, again: &Again) -> Result<(), Failure> {
        let text = text.filter(|text| *text != "-");
        if text.is_none() && again.key.is_some() {
            return Err(Failure::Usage("--key is for one message: give its text as an argument".to_owned()));
        }
        if text.is_none() && self.arguments.password.password_stdin {
            let message = "standard input cannot have both the password and the messages: set CHAT_PASSWORD";
            return Err(Failure::Usage(message.to_owned()));
        }
        let (user, session) = self.session().await?;
        match text {
            Some(text) => {
                let sent = session.send_with_key(again.key(), to, text).await?;
                let mut out = io::stdout();
                self.print_sent(&mut out, &user, to, text, &sent)?;
                Ok(out.flush()?)
            }
            None => self.send_lines(&user, &session, to).await,
        }
    }

    /// Results come in the order of the lines. A line that is refused does not stop the others; a cluster that does
    /// not answer does.
    async fn send_lines(&self, user: &str, session: &Session, to: &str) -> Result<(), Failure> {
        let mut lines = Lines::of(BufReader::new(tokio::io::stdin()));
        let mut out = io::BufWriter::new(io::stdout());
        let mut pending: VecDeque<Pending> = VecDeque::new();
        let (mut open, mut number, mut worst) = (true, 0, 0);
        while open || !pending.is_empty() {
            tokio::select! {
                biased;
                sent = first(&mut pending), if !pending.is_empty() => {
                    let (line, text, sent) = sent;
                    match sent {
                        Ok(sent) => self.print_sent(&mut out, user, to, &text, &sent)?,
                        Err(error) => {
                            complain("chat", &format!("line {line}: {error}"));
                            worst = worst.max(error.code());
                            open &= error.code() == 1;
                        }
                    }
                    if pending.is_empty() {
                        out.flush()?;
                    }
                }
                line = lines.next(), if open && pending.len() < MOST => match line {
                    Ok(Some(line)) => {
                        number += 1;
                        let (text, result) = match line {
                            Ok(text) => {
                                let result = session.submit(to, &text).await.map_err(NotSent::Client);
                                (text, result)
                            }
                            Err(why) => (String::new(), Err(NotSent::Text(why))),
                        };
                        pending.push_back(Pending { line: number, text, result });
                    }
                    Ok(None) => open = false,
                    Err(error) => {
                        complain("chat", &format!("standard input cannot be read after line {number}: {error}"));
                        worst = worst.max(1);
                        open = false;
                    }
                },
            }
        }
        out.flush()?;
        if worst == 0 { Ok(()) } else { Err(Failure::Told(worst)) }
    }

    fn print_sent(&self, out: &mut impl io::Write, user: &str, to: &str, text: &str, sent: &Sent) -> io::Result<()> {
        let to = &to.to_lowercase();
        if self.arguments.json {
            let sent_at = rfc3339(sent.sent_at_ms);
            return json(out, &MessageLine { id: sent.id, seq: sent.seq, from: user, to, text, sent_at });
        }
        let copies = if sent.copies == 1 { "1 copy" } else { &format!("{} copies", sent.copies) };
        let known = if sent.duplicate { ", had been sent before" } else { "" };
        writeln!(out, "sent message {} to {}, {copies}{known}", sent.id, one_line(to))
    }
}

/// The result of the first of `pending`, which is taken out. Dropped half way, it takes out nothing.
async fn first(pending: &mut VecDeque<Pending>) -> (u64, String, Result<Sent, NotSent>) {
    let Some(front) = pending.front_mut() else { return std::future::pending().await };
    let sent = match &mut front.result {
        Ok(submitted) => Some(submitted.await),
        Err(_) => None,
    };
    let Some(Pending { line, text, result }) = pending.pop_front() else { return std::future::pending().await };
    match (sent, result) {
        (Some(sent), _) => (line, text, sent.map_err(NotSent::Client)),
        (None, Err(error)) => (line, text, Err(error)),
        (None, Ok(submitted)) => (line, text, submitted.await.map_err(NotSent::Client)),
    }
}
