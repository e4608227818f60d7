//! What a checker says.

use std::fmt;

use thiserror::Error;

use crate::history::{CallId, ClientId, History, Message, Name, StreamId};

/// A checker stops after so many complaints: what comes after that is seldom news.
pub const MAX_COMPLAINTS: usize = 100;

/// What a checker answers: the complaints in the order in which they were found, at most [`MAX_COMPLAINTS`].
pub type Verdict = Result<(), Vec<Complaint>>;

/// What a history must have. One module each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Property {
    /// The history says what the other checkers rely on: [`crate::well_formed`].
    WellFormed,
    /// [`crate::linearizable`].
    Linearizable,
    /// [`crate::acknowledged`].
    Acknowledged,
    /// [`crate::replicas`].
    Replicas,
    /// [`crate::gapless`].
    Gapless,
    /// [`crate::client_order`].
    ClientOrder,
    /// [`crate::duplicates`].
    Duplicates,
    /// [`crate::deletion`].
    Deletion,
}

impl Property {
    /// All of them, in the order in which [`crate::check_all`] looks.
    pub const ALL: [Property; 8] = [
        Property::WellFormed,
        Property::Linearizable,
        Property::Acknowledged,
        Property::Replicas,
        Property::Gapless,
        Property::ClientOrder,
        Property::Duplicates,
        Property::Deletion,
    ];
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Property::WellFormed => "the history is well formed",
            Property::Linearizable => "accounts and mailboxes are linearizable",
            Property::Acknowledged => "what was acknowledged is kept",
            Property::Replicas => "replicas agree",
            Property::Gapless => "mailboxes and streams have no gaps",
            Property::ClientOrder => "a client's sends keep their order",
            Property::Duplicates => "nothing is doubled or made up",
            Property::Deletion => "a deleted account is gone",
        })
    }
}

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which property does not hold.
    pub property: Property,
    /// How.
    pub fault: Fault,
    /// The calls concerned, if any: which, and in words.
    pub calls: Vec<(CallId, String)>,
}

impl Complaint {
    /// Complains, quoting `calls` from `history`.
    fn new(history: &History, property: Property, fault: Fault, calls: impl IntoIterator<Item = CallId>) -> Self {
        let quote = |id: CallId| history.calls.get(id.0).map(|call| (id, call.to_string()));
        Complaint { property, fault, calls: calls.into_iter().filter_map(quote).collect() }
    }
}

/// Complaints of one checker, as they gather.
pub(crate) struct Complaints<'a> {
    history: &'a History,
    property: Property,
    found: Vec<Complaint>,
}

impl<'a> Complaints<'a> {
    pub fn new(history: &'a History, property: Property) -> Self {
        Complaints { history, property, found: Vec::new() }
    }

    /// Adds one, unless there are enough.
    pub fn add(&mut self, fault: Fault, calls: impl IntoIterator<Item = CallId>) {
        if self.found.len() < MAX_COMPLAINTS {
            self.found.push(Complaint::new(self.history, self.property, fault, calls));
        }
    }

    pub fn verdict(self) -> Verdict {
        if self.found.is_empty() { Ok(()) } else { Err(self.found) }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not so: {}: {}", self.property, self.fault)?;
        self.calls.iter().try_for_each(|(id, words)| write!(f, "\n    {id}: {words}"))
    }
}

/// Where a message was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In the answer to its send, or on a page.
    By(CallId),
    /// Delivered to an application.
    On(StreamId),
    /// In the final state of this replica.
    At(u32),
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::By(call) => write!(f, "in {call}"),
            Seen::On(stream) => write!(f, "on {stream}"),
            Seen::At(replica) => write!(f, "at replica {replica}"),
        }
    }
}

/// What is wrong. Times are microseconds since the history began.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A call ends before it begins.
    #[error("a call ends before it begins")]
    EndsBeforeItBegins,
    /// The outcome belongs to another kind of request, or came without an end.
    #[error("the outcome does not fit the request")]
    OutcomeDoesNotFit,
    /// A delivery names a stream that there is not, or comes before its stream was asked for.
    #[error("{message} was delivered on {stream}, which was not open then")]
    NoSuchStream {
        /// The stream that it names.
        stream: StreamId,
        /// What was delivered.
        message: Message,
    },
    /// Two sets of final contents for one replica.
    #[error("replica {replica} is listed twice in the final state")]
    ReplicaTwice {
        /// Which.
        replica: u32,
    },
    /// One request got two different results.
    #[error("one request got two different results")]
    AnswersDiffer,
    /// Two different requests under one key were both done.
    #[error("two different requests were done under one key")]
    KeyDoneTwice,
    /// Two requests registered, or two deleted, the same account.
    #[error("account {account} was registered or deleted by two requests")]
    DoneTwice {
        /// Which account.
        account: Name,
    },
    /// No moment is left for a call: something that must come before it happened only after it had ended.
    #[error(
        "{what} cannot have happened by {latest} µs: something that came before it happened only from {earliest} µs on"
    )]
    TooLate {
        /// What had to happen.
        what: String,
        /// When at the latest it has to have happened.
        latest: u64,
        /// When at the earliest it can have happened.
        earliest: u64,
    },
    /// Things would have had to happen before each other.
    #[error("{what} would have had to happen before itself")]
    BeforeItself {
        /// One of them.
        what: String,
    },
    /// Places in a mailbox and ids do not ascend together.
    #[error("{earlier} stands before {later} in the mailbox, but not in the order of ids")]
    IdsOutOfOrder {
        /// The lower `seq`.
        earlier: Message,
        /// The higher `seq`.
        later: Message,
    },
    /// Ids and log indexes do not ascend together.
    #[error("message {earlier} has a lower id than message {later}, but stands after it in the log")]
    IndexesOutOfOrder {
        /// The lower id.
        earlier: u64,
        /// The higher id.
        later: u64,
    },
    /// Two messages in one place.
    #[error("{first} {seen_first} and {second} {seen_second} claim the same place")]
    SamePlace {
        /// One.
        first: Message,
        /// Where it was seen.
        seen_first: Seen,
        /// The other.
        second: Message,
        /// Where it was seen.
        seen_second: Seen,
    },
    /// A place in a mailbox that no send can have taken.
    #[error("no send can have taken place {seq} of {account}'s mailbox")]
    NothingSentThere {
        /// Whose mailbox.
        account: Name,
        /// Which place.
        seq: u64,
    },
    /// A page lacks a message between those that it has, or before its end.
    #[error("the page lacks {missing}")]
    PageLacks {
        /// The message.
        missing: Message,
    },
    /// A page has something that was not asked for, too much, or not in order.
    #[error("the page has {message}, which was not asked for there")]
    PageHas {
        /// The message.
        message: Message,
    },
    /// A mark stands where nobody can have put it.
    #[error("the mark of {account}'s mailbox is {mark}, and nobody can have put it there")]
    MarkFromNowhere {
        /// Whose mailbox.
        account: Name,
        /// The mark.
        mark: u64,
    },
    /// The answer contradicts what was asked, or itself.
    #[error("the answer contradicts itself")]
    Contradiction,
    /// Something took effect on an account that did not exist, or a refusal says so and nobody deleted it.
    #[error("{account} is gone, but nobody can have deleted it")]
    GoneFromNowhere {
        /// Which account.
        account: Name,
    },
    /// Something was done for an account that nobody can have registered.
    #[error("{account} exists, but nobody can have registered it")]
    ExistsFromNowhere {
        /// Which account.
        account: Name,
    },
    /// Deletion discarded, or refused because of, a number of messages that cannot have been there.
    #[error("{count} undelivered messages were counted, where there were {least} to {most}")]
    Miscounted {
        /// The number in the answer.
        count: u64,
        /// The lowest possible.
        least: u64,
        /// The highest possible.
        most: u64,
    },
    /// An acknowledged message is not where its answer said.
    #[error("replica {replica} has {} in place {seq} of {account}'s mailbox", found.as_ref().map_or("nothing".into(), Message::to_string))]
    Lost {
        /// Which replica.
        replica: u32,
        /// Whose mailbox.
        account: Name,
        /// Which place.
        seq: u64,
        /// What is there instead.
        found: Option<Message>,
    },
    /// An acknowledged message is in a log entry that no replica has applied.
    #[error("the answer names log entry {index}, but no replica has applied more than {applied}")]
    NotApplied {
        /// The entry.
        index: u64,
        /// The highest applied.
        applied: u64,
    },
    /// A mark that was acknowledged is not kept.
    #[error("replica {replica} has {found:?} for {account}'s mailbox, which is behind what was acknowledged")]
    MarkLost {
        /// Which replica.
        replica: u32,
        /// Whose mailbox.
        account: Name,
        /// What it has.
        found: crate::Marks,
    },
    /// Replicas that applied the same have other hashes.
    #[error("replicas {first} and {second} both applied {applied} entries, but their states have other hashes")]
    HashesDiffer {
        /// One.
        first: u32,
        /// The other.
        second: u32,
        /// How far both are.
        applied: u64,
    },
    /// Replicas hold other things in the same mailbox.
    #[error(
        "{account}'s mailbox differs in place {seq}: replica {first} has {}, replica {second} has {}",
        at_first.as_ref().map_or("nothing".into(), Message::to_string),
        at_second.as_ref().map_or("nothing".into(), Message::to_string)
    )]
    MailboxesDiffer {
        /// Whose mailbox.
        account: Name,
        /// In which place.
        seq: u64,
        /// The replica that applied less, or as much.
        first: u32,
        /// What it has there.
        at_first: Option<Message>,
        /// The other replica.
        second: u32,
        /// What that one has there.
        at_second: Option<Message>,
    },
    /// Replicas that applied the same have other marks, or disagree on whether an account is deleted.
    #[error("replicas {first} and {second} disagree on the marks of {account}'s mailbox, or on its deletion")]
    MarksDiffer {
        /// Whose mailbox.
        account: Name,
        /// One replica.
        first: u32,
        /// The other.
        second: u32,
    },
    /// A place is skipped, or comes back, in a final mailbox.
    #[error("{account}'s mailbox at replica {replica} has place {found} where {expected} should be")]
    MailboxGap {
        /// Whose mailbox.
        account: Name,
        /// Which replica.
        replica: u32,
        /// The next place.
        expected: u64,
        /// What comes instead; 0 for the end.
        found: u64,
    },
    /// A stream skipped a message.
    #[error("{stream} of {account} went on with place {found}, where {expected} was next")]
    StreamGap {
        /// Which stream.
        stream: StreamId,
        /// Whose mailbox.
        account: Name,
        /// The next place.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Two sends in a row arrived the other way round.
    #[error(
        "{client} sent to {to} twice in a row, but what it sent second has place {second}, after which came {first}"
    )]
    OutOfOrder {
        /// Whose sends.
        client: ClientId,
        /// The recipient.
        to: Name,
        /// The place of what was sent first.
        first: u64,
        /// The place of what was sent second.
        second: u64,
    },
    /// A stream gave the application what it had, and what it had not asked for again.
    #[error("{stream} delivered {message} again")]
    DeliveredAgain {
        /// Which stream.
        stream: StreamId,
        /// What.
        message: Message,
    },
    /// Something that nobody sent, or not yet.
    #[error("{message} was seen {seen}, but nobody can have sent it by then")]
    NeverSent {
        /// What.
        message: Message,
        /// Where.
        seen: Seen,
    },
    /// More messages than requests.
    #[error("{message} was seen {seen}; that makes {messages} messages of {requests} requests")]
    Doubled {
        /// The last of them.
        message: Message,
        /// Where it was seen.
        seen: Seen,
        /// How many there are.
        messages: usize,
        /// How many there can be.
        requests: usize,
    },
    /// A stream carried a message of another mailbox.
    #[error("{message} came on {stream}, which is of {account}'s mailbox")]
    Misdelivered {
        /// Which stream.
        stream: StreamId,
        /// Whose it is.
        account: Name,
        /// What.
        message: Message,
    },
    /// Something was delivered after its account was gone.
    #[error("{stream} delivered {message} at {at} µs, though {account} was gone at {gone} µs")]
    DeliveredAfterDeletion {
        /// Which stream.
        stream: StreamId,
        /// Whose mailbox.
        account: Name,
        /// What.
        message: Message,
        /// When it left the replica, or when the stream was asked for.
        at: u64,
        /// When the deletion was answered.
        gone: u64,
    },
    /// Something was done for, or to, an account that was gone.
    #[error("a request that began at {at} µs was done, though {account} was gone at {gone} µs")]
    DoneAfterDeletion {
        /// Which account.
        account: Name,
        /// When the request was first made.
        at: u64,
        /// When the deletion was answered.
        gone: u64,
    },
    /// A deleted mailbox holds what it should have discarded.
    #[error("replica {replica} still holds {message}, which was not delivered when {account} was deleted")]
    NotDiscarded {
        /// Which replica.
        replica: u32,
        /// Whose mailbox.
        account: Name,
        /// What.
        message: Message,
    },
}
