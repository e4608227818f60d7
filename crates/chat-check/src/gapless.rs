//! Places ascend from 1 without a gap, in final mailboxes and on streams.
//!
//! A stream begins right after the position that was asked for; where none was, right after where the `delivered` mark
//! can have been by then. What a stream has not delivered by the end is no gap. What comes twice is for
//! [`crate::duplicates`].

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{History, Mailbox};
use crate::levels::Levels;

/// Looks at all final mailboxes and all streams.
pub fn check(history: &History) -> Verdict {
    let mut complaints = Complaints::new(history, Property::Gapless);
    for replica in &history.finals {
        for mailbox in &replica.mailboxes {
            if let Some((expected, found)) = gap(mailbox) {
                let (account, replica) = (mailbox.account.clone(), replica.id);
                complaints.add(Fault::MailboxGap { account, replica, expected, found }, []);
            }
        }
    }
    let levels = Levels::of(history);
    let mut next: Vec<Option<u64>> = vec![None; history.streams.len()];
    for delivery in &history.deliveries {
        let Some(stream) = history.streams.get(delivery.stream.0) else { continue };
        let position = &mut next[delivery.stream.0];
        let expected = position
            .unwrap_or_else(|| 1 + stream.after.unwrap_or_else(|| levels.possible(&stream.account, delivery.at)));
        let found = delivery.message.seq;
        if found > expected {
            let (stream, account) = (delivery.stream, stream.account.clone());
            complaints.add(Fault::StreamGap { stream, account, expected, found }, []);
        }
        // After a repetition, where it was.
        *position = Some(position.unwrap_or(0).max(found + 1));
    }
    complaints.verdict()
}

/// What should come next, and what does; 0 for the end.
fn gap(mailbox: &Mailbox) -> Option<(u64, u64)> {
    let mut expected = 1;
    for message in &mailbox.messages {
        if message.seq != expected {
            return Some((expected, message.seq));
        }
        expected += 1;
    }
    let marks = mailbox.marks?;
    let last = if mailbox.deleted { marks.delivered } else { marks.last };
    (expected - 1 < last).then_some((expected, 0))
}
