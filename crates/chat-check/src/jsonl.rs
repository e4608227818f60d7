//! Histories as JSON lines: a header, then one line for each call, stream, delivery and replica.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::history::{Call, Delivery, History, Replica, Stream};

/// What [`History::write`] writes, and all that [`History::read`] reads.
pub const VERSION: u32 = 1;

/// Why a history could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The source failed.
    #[error("the history could not be read")]
    Io(#[from] io::Error),
    /// The first line is not a header.
    #[error("the first line is not the header of a history")]
    NoHeader,
    /// Written by another version.
    #[error("the history has version {found}, only {VERSION} can be read")]
    Version {
        /// The one in the header.
        found: u32,
    },
    /// Not a line of a history: cut off, or written by something else.
    #[error("line {line} of the history is not understood")]
    Line {
        /// From 1.
        line: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    chat_history: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Call(Call),
    Stream(Stream),
    Delivery(Delivery),
    Final(Replica),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum LineRef<'a> {
    Call(&'a Call),
    Stream(&'a Stream),
    Delivery(&'a Delivery),
    Final(&'a Replica),
}

impl History {
    /// Writes it as JSON lines under a version header. Give it a buffered writer.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        line(&mut to, &Header { chat_history: VERSION })?;
        self.calls.iter().try_for_each(|call| line(&mut to, &LineRef::Call(call)))?;
        self.streams.iter().try_for_each(|stream| line(&mut to, &LineRef::Stream(stream)))?;
        self.deliveries.iter().try_for_each(|delivery| line(&mut to, &LineRef::Delivery(delivery)))?;
        self.finals.iter().try_for_each(|replica| line(&mut to, &LineRef::Final(replica)))?;
        to.flush()
    }

    /// Reads what [`write`](Self::write) wrote. Lines may come in any order, each kind in its own.
    pub fn read(from: impl BufRead) -> Result<History, ReadError> {
        let mut lines = from.lines();
        let header = lines.next().ok_or(ReadError::NoHeader)??;
        let Header { chat_history } = serde_json::from_str(&header).map_err(|_| ReadError::NoHeader)?;
        if chat_history != VERSION {
            return Err(ReadError::Version { found: chat_history });
        }
        let mut history = History::default();
        for (number, text) in lines.enumerate() {
            match serde_json::from_str(&text?).map_err(|source| ReadError::Line { line: number + 2, source })? {
                Line::Call(call) => history.calls.push(call),
                Line::Stream(stream) => history.streams.push(stream),
                Line::Delivery(delivery) => history.deliveries.push(delivery),
                Line::Final(replica) => history.finals.push(replica),
            }
        }
        Ok(history)
    }
}

fn line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}
