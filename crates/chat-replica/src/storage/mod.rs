//! One SQLite file per replica: the log, the state, and what the protocol wants durable. A redo log beside it has what comes next.
//!
//! | file | what |
//! | --- | --- |
//! | `directory` | the data directory: whose it is, who uses it, where the files are |
//! | `disk` | the writer: one batch, one sync |
//! | `database` | the database, and who has the connection that writes |
//! | `redo` | the file that a turn is synced in |
//! | `direct` | writes to a file that go to the disk without a copy in the page cache |
//! | `intake` | how the database takes that in |
//! | `tail` | what is in there and not in the database yet |
//! | `log_table` | rows of the log and of the protocol's durable facts |
//! | `brief` | what the log's table keeps of a batch of commands that was carried out |
//! | `chain` | the log's chain of hashes, followed at a start and wherever entries are read |
//! | `recovery` | what is found when a process starts, and whether it is whole |
//! | `mark` | a second witness of what was acknowledged (rule 15) |
//! | `damage` | what a damaged disk looks like, and the note that tells the next start |
//! | `salvage` | a new database with what can be proven of a damaged one |
//! | `copy` | as much of a damaged database as can be read |
//! | `aside` | damaged databases that were set aside, and which of them go |
//! | `protect` | checksums for a database that comes without |
//! | `scrub` | reads the whole database in the background, slowly |
//! | `state` | the state that commands change |
//! | `messages` | the messages themselves, many to a row, and how they are read |
//! | `marks` | how far mailboxes have come |
//! | `postings` | where the messages of a mailbox and of a conversation are |
//! | `requests` | what each request has done, so that it is carried out once |
//! | `wal` | SQLite's write-ahead log: how long it gets, and how it goes into the database |
//! | `write_back` | what they changed and is not written yet |
//! | `known` | the rows that they look up again and again |
//! | `ahead` | what sends will need of those, looked up by a thread and between turns, once the replica is in the view after a start |
//! | `readers` | connections that look at the state beside the writer |
//! | `joined` | threads that are waited for |
//! | `migrations` | numbered changes of the schema |
//! | `varint` | numbers in blocks |
//! | `words` | SQLite's errors, in words that say what to do |

mod ahead;
pub(crate) mod aside;
mod brief;
mod chain;
mod copy;
pub(crate) mod damage;
mod database;
mod direct;
pub mod directory;
pub mod disk;
mod intake;
mod joined;
mod known;
pub(crate) mod log_table;
pub(crate) mod mark;
mod marks;
mod messages;
pub mod migrations;
mod postings;
mod protect;
pub mod readers;
pub(crate) mod recovery;
mod redo;
mod requests;
pub(crate) mod salvage;
pub(crate) mod scrub;
pub mod state;
mod tail;
mod varint;
pub(crate) mod wal;
mod words;
mod write_back;

pub use ahead::Progress;
pub use directory::{DataDirectory, DirectoryError};
pub use disk::{DiskError, SqliteDisk};
pub(crate) use messages::Found;
pub use readers::{Readers, look};
pub(crate) use recovery::random;
