//! The words of the protocol: who, when, and what is in the log.

use bytes::Bytes;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A replica's number in its cluster, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ReplicaId(pub u32);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Drawn at random when a disk is first used; tells a replaced or re-numbered disk from the one that a view names (rule 12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiskId(pub [u8; 16]);

/// Drawn at random when a cluster is founded (rule 12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..4], f)
    }
}

/// One process run of a replica: a counter made durable before its first message, plus random bits that tell a
/// clone from the original.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation {
    /// Starts on this disk, from 1.
    pub count: u64,
    /// Random.
    pub nonce: u64,
}

/// A replica as a view names it: the very process run on the very disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: ReplicaId,
    /// Its disk.
    pub disk: DiskId,
    /// Its process run.
    pub incarnation: Incarnation,
}

impl Member {
    /// Same replica and same disk, whatever the process run: "its disk has spoken" (rule 4).
    pub fn same_disk(&self, other: &Member) -> bool {
        self.id == other.id && self.disk == other.disk
    }

    /// Whether this is a later process run on the same disk (rule 8).
    pub fn succeeds(&self, other: &Member) -> bool {
        self.same_disk(other) && self.incarnation.count > other.incarnation.count
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.id, self.incarnation.count)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Unique to one proposer, ordered by round, then replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Grows with every candidacy.
    pub round: u64,
    /// The only replica that may propose in it.
    pub replica: ReplicaId,
}

impl Epoch {
    /// Before all others; nobody's.
    pub const ZERO: Epoch = Epoch { round: 0, replica: ReplicaId(0) };

    /// The first epoch of `replica` above this one.
    pub fn next(self, replica: ReplicaId) -> Epoch {
        Epoch { round: self.round.saturating_add(1), replica }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.replica)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The replicas in sync, as an entry of the log names them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct View {
    /// Whose proposal it is.
    pub epoch: Epoch,
    /// Who leads in it; always a member.
    pub primary: ReplicaId,
    /// Sorted by id, no id twice.
    pub members: Vec<Member>,
}

impl View {
    /// The member with this number.
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.members.iter().find(|m| m.id == id)
    }

    /// Whether it names this very process run.
    pub fn names(&self, member: &Member) -> bool {
        self.members.contains(member)
    }
}

/// A view and its place in the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ViewAt {
    /// Its log index.
    pub index: u64,
    /// The view.
    pub view: View,
}

/// The views that a log held when one process run on it ended (rule 8: what a successor tells).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Death {
    /// The run that ended.
    pub incarnation: Incarnation,
    /// The newest committed view and all after it.
    pub views: Vec<ViewAt>,
}

/// A place in the log; `index` 0 with [`Epoch::ZERO`] is the beginning.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Place {
    /// From 1.
    pub index: u64,
    /// Of the entry there.
    pub epoch: Epoch,
}

impl Default for Epoch {
    fn default() -> Self {
        Epoch::ZERO
    }
}

impl Place {
    /// Rule 3's comparison: by the epoch of the last entry, then the length.
    pub fn at_least(&self, other: &Place) -> bool {
        (self.epoch, self.index) >= (other.epoch, other.index)
    }
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// A batch of commands, opaque to the protocol.
    Commands(Bytes),
    /// A change of the view.
    View(View),
    /// The first entry of every log (rule 12).
    Founding {
        /// The cluster's id from now on.
        cluster: ClusterId,
        /// Its first view.
        view: View,
    },
}

impl Body {
    /// The view that it brings into force, if it does.
    pub fn view(&self) -> Option<&View> {
        match self {
            Body::Commands(_) => None,
            Body::View(view) | Body::Founding { view, .. } => Some(view),
        }
    }

    /// For the disk and for the chain of hashes: a kind and its bytes.
    pub fn encode(&self) -> (u8, Bytes) {
        let encoded = |value: Result<Vec<u8>, postcard::Error>| Bytes::from(value.expect("views encode to memory"));
        match self {
            Body::Commands(bytes) => (0, bytes.clone()),
            Body::View(view) => (1, encoded(postcard::to_stdvec(view))),
            Body::Founding { cluster, view } => (2, encoded(postcard::to_stdvec(&(cluster, view)))),
        }
    }

    /// The inverse of [`Body::encode`]; `None` for bytes that it does not make.
    pub fn decode(kind: u8, bytes: Bytes) -> Option<Body> {
        match kind {
            0 => Some(Body::Commands(bytes)),
            1 => postcard::from_bytes(&bytes).ok().map(Body::View),
            2 => postcard::from_bytes(&bytes).ok().map(|(cluster, view)| Body::Founding { cluster, view }),
            _ => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Body::Commands(bytes) => bytes.len(),
            Body::View(view) | Body::Founding { view, .. } => 64 + 64 * view.members.len(),
        }
    }
}

/// The chain of hashes up to and including an entry (rule 15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChainHash(pub [u8; 32]);

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0[..4], f)
    }
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entry {
    /// Its place, from 1.
    pub index: u64,
    /// Of its proposer.
    pub epoch: Epoch,
    /// What it holds.
    pub body: Body,
    /// Over the previous entry's hash and this entry.
    pub hash: ChainHash,
}

impl Entry {
    /// An entry chained to the one before it.
    pub fn chained(previous: ChainHash, index: u64, epoch: Epoch, body: Body) -> Entry {
        let hash = Entry::hash(previous, index, epoch, &body);
        Entry { index, epoch, body, hash }
    }

    /// Whether its hash follows from the previous entry's.
    pub fn follows(&self, previous: ChainHash) -> bool {
        self.hash == Entry::hash(previous, self.index, self.epoch, &self.body)
    }

    /// About how many bytes it takes on the wire.
    pub fn size(&self) -> usize {
        64 + self.body.len()
    }

    fn hash(previous: ChainHash, index: u64, epoch: Epoch, body: &Body) -> ChainHash {
        let (kind, bytes) = body.encode();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&previous.0);
        hasher.update(&index.to_le_bytes());
        hasher.update(&epoch.round.to_le_bytes());
        hasher.update(&epoch.replica.0.to_le_bytes());
        hasher.update(&[kind]);
        hasher.update(&bytes);
        ChainHash(*hasher.finalize().as_bytes())
    }
}

/// A reading of this process's monotonic clock, in microseconds from an origin of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// `duration` later.
    pub fn after(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(duration.as_micros() as u64))
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
