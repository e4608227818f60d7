//! One SQLite file per replica: the log, the state, and what the protocol wants durable.
//!
//! | file | what |
//! | --- | --- |
//! | `directory` | the data directory: whose it is, who uses it, where the files are |
//! | `disk` | the writer: one batch, one transaction, one sync |
//! | `log_table` | rows of the log and of the protocol's durable facts |
//! | `recovery` | what is found when a process starts, and whether it is whole |
//! | `mark` | a second witness of what was acknowledged (rule 15) |
//! | `state` | the state that commands change |
//! | `readers` | connections that look at the state beside the writer |
//! | `migrations` | numbered changes of the schema |

pub mod directory;
pub mod disk;
pub(crate) mod log_table;
pub(crate) mod mark;
pub mod migrations;
pub mod readers;
pub(crate) mod recovery;
pub mod state;

pub use directory::{DataDirectory, DirectoryError};
pub use disk::{DiskError, SqliteDisk};
pub use readers::{Readers, look};
pub(crate) use recovery::random;
