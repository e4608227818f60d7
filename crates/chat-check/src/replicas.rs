//! Replicas that applied the same hold the same, and who applied less holds what the others held then.
//!
//! Every replica is compared with the one that applied most. Of a mailbox that is deleted there, only what both have is
//! compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::acknowledged::place;
use crate::complaint::{Complaints, Fault, Property, Verdict};
use crate::history::{History, Mailbox, Name, Replica};
use crate::places::furthest;

/// Compares the replicas of [`History::finals`]; with fewer than two there is nothing to complain of.
pub fn check(history: &History) -> Verdict {
    let mut complaints = Complaints::new(history, Property::Replicas);
    let Some(most) = furthest(history) else { return Ok(()) };
    hashes(history, &mut complaints);
    for replica in history.finals.iter().filter(|replica| replica.id != most.id) {
        compare(replica, most, &mut complaints);
    }
    complaints.verdict()
}

fn hashes(history: &History, complaints: &mut Complaints<'_>) {
    let mut first: BTreeMap<u64, (u32, &str)> = BTreeMap::new();
    for replica in &history.finals {
        let Some(hash) = replica.hash.as_deref() else { continue };
        let &mut (other, expected) = first.entry(replica.applied).or_insert((replica.id, hash));
        if hash != expected {
            let (first, second, applied) = (other, replica.id, replica.applied);
            complaints.add(Fault::HashesDiffer { first, second, applied }, []);
        }
    }
}

fn compare(less: &Replica, most: &Replica, complaints: &mut Complaints<'_>) {
    let (ours, theirs) = (by_account(less), by_account(most));
    let accounts: BTreeSet<&Name> = ours.keys().chain(theirs.keys()).copied().collect();
    let empty = Mailbox::default();
    for account in accounts {
        let (a, b) = (*ours.get(account).unwrap_or(&&empty), *theirs.get(account).unwrap_or(&&empty));
        let equal = less.applied == most.applied;
        if let Some(seq) = first_difference(a, b, equal) {
            complaints.add(
                Fault::MailboxesDiffer {
                    account: account.clone(),
                    seq,
                    first: less.id,
                    at_first: place(a, seq).cloned(),
                    second: most.id,
                    at_second: place(b, seq).cloned(),
                },
                [],
            );
        }
        let marks_differ = a.marks.zip(b.marks).is_some_and(|(a, b)| a != b);
        if equal && (marks_differ || a.deleted != b.deleted) {
            complaints.add(Fault::MarksDiffer { account: account.clone(), first: less.id, second: most.id }, []);
        }
    }
}

fn by_account(replica: &Replica) -> BTreeMap<&Name, &Mailbox> {
    replica.mailboxes.iter().map(|mailbox| (&mailbox.account, mailbox)).collect()
}

/// The `seq` where `less` is no prefix of `most`, or, where they must be equal, no equal.
fn first_difference(less: &Mailbox, most: &Mailbox, equal: bool) -> Option<u64> {
    let pairs = less.messages.iter().zip(&most.messages);
    if let Some((a, b)) = pairs.clone().find(|(a, b)| a != b) {
        return Some(a.seq.min(b.seq));
    }
    let (a, b) = (less.messages.len(), most.messages.len());
    let longer_is_allowed = most.deleted && !less.deleted;
    if a > b && (equal || !longer_is_allowed) {
        return Some(less.messages[b].seq);
    }
    (equal && b > a).then(|| most.messages[a].seq)
}
