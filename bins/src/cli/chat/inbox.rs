//! `chat inbox`: what has arrived. A message is acknowledged once it is printed and flushed, not before: what the
//! reader of a broken pipe missed comes again.

use std::io::{self, Write};

use chat_client::{Error, Message, Session};

use super::Chat;
use crate::cli::{
    failure::Failure,
    output::{MessageLine, json, message},
};

/// Messages printed between two acknowledgements, at most.
const BATCH: u64 = 500;

impl Chat<'_> {
    pub(super) async fn inbox(&self, follow: bool) -> Result<(), Failure> {
        let (_, session) = self.session().await?;
        let out = io::BufWriter::new(io::stdout());
        let mut printer = Printer { json: self.arguments.json, session: &session, out, printed: 0, acknowledged: 0 };
        // At the beginning somebody must lead within the timeout; later on, a stream waits for whoever comes.
        let marks = session.whoami().await?.marks;
        if follow {
            return printer.follow().await;
        }
        if marks.delivered >= marks.last {
            return Ok(());
        }
        printer.acknowledged = marks.delivered;
        let mut inbox = session.inbox_after(marks.delivered);
        while printer.printed < marks.last {
            let next = inbox.next().await?;
            printer.print(&next)?;
            if printer.printed - printer.acknowledged >= BATCH {
                printer.acknowledge().await?;
            }
        }
        printer.acknowledge().await
    }
}

struct Printer<'a, W: Write> {
    json: bool,
    session: &'a Session,
    out: W,
    /// The last `seq` that was printed.
    printed: u64,
    acknowledged: u64,
}

impl<W: Write> Printer<'_, W> {
    async fn follow(&mut self) -> Result<(), Failure> {
        let mut inbox = self.session.inbox();
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                _ = &mut interrupted => return Ok(()),
                next = inbox.next() => self.print(&next?)?,
            }
            if inbox.buffered() > 0 && self.printed - self.acknowledged < BATCH {
                continue;
            }
            match self.acknowledge().await {
                // Without a leader for a while: the next acknowledgement covers this one.
                Err(Failure::Client(Error::NoLeader { .. })) => {}
                result => result?,
            }
        }
    }

    fn print(&mut self, shown: &Message) -> Result<(), Failure> {
        if self.json {
            json(&mut self.out, &MessageLine::from(shown))?;
        } else {
            message(&mut self.out, shown)?;
        }
        self.printed = shown.seq;
        Ok(())
    }

    /// Everything that was printed, once it is out of our hands.
    async fn acknowledge(&mut self) -> Result<(), Failure> {
        self.out.flush()?;
        if self.printed > self.acknowledged {
            self.session.acknowledge(self.printed).await?;
            self.acknowledged = self.printed;
        }
        Ok(())
    }
}
