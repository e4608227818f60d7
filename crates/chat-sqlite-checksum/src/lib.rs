//! A layer between SQLite and the operating system (a "VFS") that finds flipped bits.
//!
//! Every page of a database that is opened by it carries a checksum of its content and of its place in 8 reserved bytes at its end. It is
//! written with the page and verified when the page is read from the disk: one that does not verify is an error
//! (`SQLITE_IOERR_DATA`), never data. Pages that are read from the write-ahead log are verified by the checksums that SQLite itself
//! writes there, which SQLite compares only when it starts. What did not verify is noted, durably, in a file beside the database.
//!
//! The layer is C, in `checked_vfs.c`: it registers itself when the process starts, so that no foreign function is called from Rust. A
//! database is opened by it with [`VFS`] as the name of the VFS. Any SQLite reads such a file; one without the layer that *writes* to it leaves
//! pages that no longer verify.

#![forbid(unsafe_code)]

pub mod page;

// The C code calls it: without this, it would not be linked.
use libsqlite3_sys as _;

/// The name under which SQLite knows the layer. Opening by a name that is not registered is an error, so nothing is unprotected by mistake.
pub const VFS: &std::ffi::CStr = c"chat-checked";

/// Bytes of a page. Databases of any other page size are refused.
pub const PAGE: usize = 4096;

/// Bytes at the end of each page that hold its checksum: what the header of a protected database says in its byte 20.
pub const RESERVED: usize = 8;

/// What is appended to the name of the database for the file in which damage is noted: one line each.
pub const DAMAGE_SUFFIX: &str = "-damage";

/// SQLite's extended error code for a page that does not verify.
pub const IOERR_DATA: i32 = libsqlite3_sys::SQLITE_IOERR_DATA;
