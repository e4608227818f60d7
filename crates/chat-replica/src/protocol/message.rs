//! What replicas say to each other.

use super::types::*;

/// A message with what identifies its ends; what does not match is refused (rule 12).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Envelope {
    /// The sender's cluster; `None` before the founding.
    pub cluster: Option<ClusterId>,
    /// The sender.
    pub from: Member,
    /// The very process run that it is meant for.
    pub to: Member,
    /// What it says.
    pub message: Message,
}

/// One message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// The first of every session.
    Hello(Hello),
    /// The addressee's disk has been seen further on than it is now (rule 12).
    Unwelcome {
        /// The newest process run seen of it.
        known: Incarnation,
    },
    /// Asks for the lease, and says who the sender follows.
    Ping(Ping),
    /// Answers a ping.
    Pong(Pong),
    /// Would you vote for me? (rule 3)
    Poll {
        /// Returned with the answer.
        ballot: u64,
        /// The end of the asker's log.
        last: Place,
    },
    /// Answers a poll.
    PollReply {
        /// The poll's.
        ballot: u64,
        /// It would.
        willing: bool,
        /// The answerer's promise.
        promised: Epoch,
    },
    /// Vote for me.
    RequestVote {
        /// The candidate's epoch.
        epoch: Epoch,
        /// The end of its log.
        last: Place,
    },
    /// Answers a request for a vote; sent once the promise is durable (rule 2).
    Vote {
        /// The candidate's epoch.
        epoch: Epoch,
        /// Whether it has the vote.
        granted: bool,
        /// The voter's promise.
        promised: Epoch,
        /// The end of the voter's log.
        last: Place,
    },
    /// Entries of the primary's log.
    Append(Append),
    /// Answers an append; sent once the entries are durable.
    AppendReply {
        /// The primary's epoch.
        epoch: Epoch,
        /// The answerer's promise; above `epoch`, the append was refused (rule 2).
        promised: Epoch,
        /// Equal to the primary's log and durable up to here; with `conflict`: try again after this index.
        matched: u64,
        /// The logs differ at the place that the append names.
        conflict: bool,
    },
    /// From the primary: stand now, I hand over.
    Transfer {
        /// The primary's epoch.
        epoch: Epoch,
    },
    /// From a member: leave me out. It relies on no lease any more, so none has to run out first.
    Leave {
        /// The primary's epoch.
        epoch: Epoch,
    },
}

/// What a replica says of itself when a session begins.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Hello {
    /// Its promise.
    pub promised: Epoch,
    /// The end of its log.
    pub last: Place,
    /// Known committed up to here.
    pub committed: u64,
    /// What its disk held when earlier process runs ended (rule 8).
    pub deaths: Vec<Death>,
    /// Its disk counts for nothing (rule 15).
    pub impaired: bool,
    /// The ids of the list that it was started with (rule 12); sorted.
    pub founders: Vec<ReplicaId>,
}

/// Asks for a lease.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Ping {
    /// The sender's clock; the lease counts from here (rule 7).
    pub sent_at: Time,
    /// The sender's promise.
    pub promised: Epoch,
    /// The sender's newest view.
    pub view: Place,
    /// Known committed up to here.
    pub committed: u64,
    /// The sender leads in epoch `promised`.
    pub primary: bool,
}

/// Answers a ping.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Pong {
    /// The ping's.
    pub sent_at: Time,
    /// For T from now the sender proposes no view without the asker, unless the asker is proven crashed.
    pub granted: bool,
    /// The sender's promise.
    pub promised: Epoch,
    /// The process runs that it has sessions with (rule 8).
    pub contacts: Vec<Member>,
}

/// Entries of the primary's log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Append {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The place before the first entry.
    pub prev: Place,
    /// The chain at `prev`.
    pub prev_hash: ChainHash,
    /// In order, gapless from `prev.index + 1`; may be empty.
    pub entries: Vec<Entry>,
    /// Committed up to here.
    pub committed: u64,
}
