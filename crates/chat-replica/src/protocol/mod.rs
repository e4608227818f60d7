//! The replication protocol as a pure state machine.
//!
//! Primary-backup over a log, with heartbeats, elections and a chain of views. `docs/protocol.md` has the rules; the
//! code cites them by number. [`Replica::step`] takes what happened (messages, sessions that began or ended, refused connections,
//! the passing of time) and returns [`Effects`] in the order in which they must happen: send what does not depend on
//! the disk, persist, send what does, then apply what has committed.
//!
//! | file | rules |
//! | --- | --- |
//! | `quorum` | 4: who may act on behalf of a view |
//! | `election` | 3, 5, 9, 10: polling, standing, voting, taking over |
//! | `primary` | 1, 5, 13: writing, committing |
//! | `replication` | 1: entries on their way to members and learners |
//! | `membership` | 6, 7: changing the view |
//! | `handover` | 5, 7, 8: handing over, leaving |
//! | `follower` | 1, 2, 5: accepting the primary's log |
//! | `lease`, `peer` | 7, 8, 11: leases, proof of crashes, when reads may be answered |
//! | `founding`, `replica` | 12: the first start, and who is listened to |
//! | `log` | the views in force, and where each epoch starts |
//! | `rules` | those that carry safety, by name; tests can switch them off |
//!
//! The rest of rule 15 (a failed sync ends the process, a broken chain is corrupt) is the disk's, in `storage`. Left out:
//! snapshots (rule 14), adding and removing replicas, `recover` (rule 10's last part).

mod config;
mod effects;
mod election;
mod follower;
mod founding;
mod handover;
mod lease;
mod log;
mod membership;
mod message;
mod peer;
mod primary;
mod quorum;
mod replica;
mod replication;
mod rules;
mod status;
mod types;

pub use config::{Config, Recovered};
pub use effects::{Effects, Event, Input, Persist};
pub use log::{Log, LogRead, RecoveredLog};
pub use message::{Append, Envelope, Hello, Message, Ping, Pong};
pub use primary::NotAccepting;
pub use replica::Replica;
pub use rules::{Rule, Rules};
pub use status::{Standing, Status};
pub use types::*;
