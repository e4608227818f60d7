//! Lines of standard input, of which none is kept in memory beyond what a message may have: input without line breaks
//! has no end.

use std::io;

use chat_client::MOST_TEXT;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// A line, or why it cannot be a message.
pub(super) type Line = Result<String, String>;

pub(super) struct Lines<R> {
    input: R,
    begun: Vec<u8>,
    /// Bytes of the line that were too many to keep.
    dropped: usize,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub(super) fn of(input: R) -> Self {
        Self { input, begun: Vec::new(), dropped: 0 }
    }

    /// The next line, without its end. `None`: there is none. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let read = self.input.fill_buf().await?;
            if read.is_empty() {
                let nothing = self.begun.is_empty() && self.dropped == 0;
                return Ok(if nothing { None } else { Some(self.take()) });
            }
            let end = read.iter().position(|byte| *byte == b'\n');
            let part = &read[..end.unwrap_or(read.len())];
            // One more than the text: of a line that ends in CR LF, the CR goes.
            let room = part.len().min(MOST_TEXT + 1 - self.begun.len());
            self.begun.extend_from_slice(&part[..room]);
            self.dropped += part.len() - room;
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                return Ok(Some(self.take()));
            }
        }
    }

    fn take(&mut self) -> Line {
        let (mut line, dropped) = (std::mem::take(&mut self.begun), std::mem::take(&mut self.dropped));
        if dropped == 0 && line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.len() + dropped > MOST_TEXT {
            return Err(format!("a text may have {MOST_TEXT} bytes; this one has {}", line.len() + dropped));
        }
        String::from_utf8(line).map_err(|_| "a text must be UTF-8; this one is not".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn lines(input: &[u8]) -> Vec<Line> {
        // A small buffer: lines come in pieces.
        let mut lines = Lines::of(BufReader::with_capacity(7, input));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn lines_end_with_lf_or_crlf_or_the_input() {
        let expected = ["one", "", "two\rhalf", "a longer line than the buffer"].map(|line| Ok(line.to_owned()));
        assert_eq!(lines(b"one\n\r\ntwo\rhalf\r\na longer line than the buffer").await, expected);
        assert_eq!(lines(b"").await, []);
        assert_eq!(lines(b"x\n").await, [Ok("x".to_owned())]);
    }

    #[tokio::test]
    async fn what_is_no_text_stops_no_other_line() {
        let most = "x".repeat(MOST_TEXT);
        let input = format!("{most}\r\n{most}y\n{most}{most}\nlast");
        let read = lines(input.as_bytes()).await;
        assert_eq!((read[0].as_deref(), read[3].as_deref()), (Ok(most.as_str()), Ok("last")));
        for (line, bytes) in [(&read[1], "has 65537"), (&read[2], "has 131072")] {
            assert!(line.as_ref().is_err_and(|why| why.ends_with(bytes)), "{line:?}");
        }
        let read = lines(b"a\n\xff\xfe\nb\n").await;
        assert!(read.len() == 3 && read[1].as_ref().is_err_and(|why| why.contains("UTF-8")), "{read:?}");
    }
}
