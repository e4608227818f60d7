//! Every acknowledged send is in the final state, exactly where its answer said.
//!
//! A replica is asked for what it applied; the one that applied most must have applied everything that was
//! acknowledged. Where the recipient asked to be deleted, what was not delivered may be gone; what was delivered may
//! not, if the replica's marks are known.

use std::collections::{HashMap, HashSet};

use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{Answer, CallId, History, Mailbox, Marks, Message, Outcome, Replica, Request};
use crate::requests::{Requests, Sent};

/// Looks at every replica of [`History::finals`]; without any there is nothing to complain of.
pub fn check(history: &History) -> Verdict {
    let requests = Requests::of(history);
    judge(history, &requests)
}

/// The same, with what is known already.
pub(crate) fn judge(history: &History, requests: &Requests) -> Verdict {
    let mut complaints = Complaints::new(history, Property::Acknowledged);
    let deleted: HashSet<&str> = requests
        .deletes
        .iter()
        .filter(|asked| asked.possible)
        .map(|asked| &*history.calls[asked.first().0].account)
        .collect();
    let most = history.finals.iter().map(|replica| replica.applied).max();
    let sends: Vec<_> = requests
        .sends
        .iter()
        .filter_map(|asked| Some((asked.send(history)?, asked.sent(history)?, asked.done?.1)))
        .collect();
    for &(_, Sent { index, .. }, call) in &sends {
        if let Some(applied) = most.filter(|&applied| index > applied) {
            complaints.add(Fault::NotApplied { index, applied }, [call]);
        }
    }
    for replica in &history.finals {
        let mailboxes: HashMap<&str, &Mailbox> =
            replica.mailboxes.iter().map(|mailbox| (&*mailbox.account, mailbox)).collect();
        for &((from, to, text), Sent { id, seq, index }, call) in &sends {
            let mailbox = mailboxes.get(&**to).copied();
            if index > replica.applied || deleted.contains(&**to) && can_be_gone(mailbox, seq) {
                continue;
            }
            let found = mailbox.and_then(|mailbox| place(mailbox, seq));
            if found.is_none_or(|found| (found.id, &found.from, &found.text) != (id, from, text)) {
                let (replica, account, found) = (replica.id, to.clone(), found.cloned());
                complaints.add(Fault::Lost { replica, account, seq, found }, [call]);
            }
        }
    }
    if let Some(replica) = history.finals.iter().max_by_key(|replica| replica.applied) {
        marks(history, replica, &mut complaints);
    }
    complaints.verdict()
}

fn can_be_gone(mailbox: Option<&Mailbox>, seq: u64) -> bool {
    mailbox.is_none_or(|mailbox| mailbox.deleted && mailbox.marks.is_none_or(|marks| seq > marks.delivered))
}

/// Found by its number where the mailbox is gapless, else by looking at all.
pub(crate) fn place(mailbox: &Mailbox, seq: u64) -> Option<&Message> {
    let direct = usize::try_from(seq).ok().and_then(|seq| mailbox.messages.get(seq.checked_sub(1)?));
    match direct {
        Some(message) if message.seq == seq => Some(message),
        _ => mailbox.messages.iter().find(|message| message.seq == seq),
    }
}

fn marks(history: &History, replica: &Replica, complaints: &mut Complaints<'_>) {
    let kept: HashMap<&str, Marks> =
        replica.mailboxes.iter().filter_map(|mailbox| Some((&*mailbox.account, mailbox.marks?))).collect();
    for (number, call) in history.calls.iter().enumerate() {
        if let (Outcome::Done(Answer::Marks(said)), Request::Acknowledge { .. }) = (&call.outcome, &call.request)
            && let Some(&found) = kept.get(&*call.account)
            && (found.read < said.read || found.delivered < said.delivered || found.last < said.last)
        {
            let account = call.account.clone();
            complaints.add(Fault::MarkLost { replica: replica.id, account, found }, [CallId(number)]);
        }
    }
}
