//! What each request has done: many records in a row, in a tree whose leaves are these rows.
//!
//! A record is some 28 bytes where it stands among its neighbours (`block`), and twice that or more as a row of its own. All are kept for ever, so that a
//! request that is repeated gets its first answer, however late. Keys begin with the time, so nearly all come at the end or close to it; but a client can
//! send any key, and none makes work for the others: a record is in the one block that begins at its place or last before it, no block is longer than a
//! page, and to insert a record changes that block, at most the next one, and adds at most two (`insert`).
//!
//! Blocks are never removed or joined, as records are not. The rows themselves are in the order in which the blocks were made, and an index says where each
//! begins: SQLite's tables without row ids would keep whole blocks in the upper nodes of their trees, which would then be many levels deep.

mod block;
mod gaps;
mod insert;
#[cfg(test)]
mod tests;

pub(super) use block::{Entry, Place, place};
pub(super) use gaps::{Gap, Gaps};

use super::state::{corrupt, number};
use block::{Entries, damaged};
use chat_core::{BodyHash, RequestKey, RequestRecord, Scope, codec};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Result, Row};

/// Version 9 of the table. Its first block is there from the beginning, and begins before every key.
const REQUESTS_SCHEMA: &str = "
CREATE TABLE request_blocks (
    number INTEGER PRIMARY KEY,
    -- All records from this key and scope on are in it, up to where the next block begins.
    first BLOB NOT NULL,
    records BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX request_blocks_by_first ON request_blocks (first);
INSERT INTO request_blocks (first, records) VALUES (zeroblob(24), x'');
";

/// The block that a place is in.
pub(super) const AT: &str =
    "SELECT number, records, first FROM request_blocks WHERE first <= ?1 ORDER BY first DESC LIMIT 1";
/// Where the next block begins.
pub(super) const AFTER: &str = "SELECT first FROM request_blocks WHERE first > ?1 ORDER BY first LIMIT 1";
const ALL: &str = "SELECT number, records, first FROM request_blocks ORDER BY first";

/// What a look at a place has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Record(RequestRecord),
    /// Nothing there, nor around it.
    Nothing(Gap),
}

impl Found {
    pub fn record(self) -> Option<RequestRecord> {
        match self {
            Found::Record(record) => Some(record),
            Found::Nothing(_) => None,
        }
    }
}

/// The records of all requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requests<'c> {
    connection: &'c Connection,
}

impl<'c> Requests<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Requests { connection }
    }

    /// What a request has done; if that is not known, where it would be.
    ///
    /// # Errors
    /// SQLite's own, and damage.
    pub(super) fn find(self, wanted: Place) -> Result<Found> {
        let found = self.at(wanted, |row| {
            let mut after = first(row, 2)?;
            for entry in Entries::new(records(row)?) {
                let entry = entry?;
                let place = entry.place();
                if place == wanted {
                    return Ok(Ok(entry.record));
                }
                if place > wanted {
                    return Ok(Err((after, Some(place))));
                }
                after = place;
            }
            Ok(Err((after, None)))
        })?;
        Ok(match found {
            Ok(record) => Found::Record(record),
            Err((after, Some(before))) => Found::Nothing(Gap { after, before: Some(before) }),
            Err((after, None)) => Found::Nothing(Gap { after, before: self.after(wanted)? }),
        })
    }

    /// Shows every record, in the order of keys and scopes.
    ///
    /// # Errors
    /// SQLite's own, and damage.
    pub(super) fn for_each(self, mut visit: impl FnMut(&RequestKey, Scope, &RequestRecord)) -> Result<()> {
        let mut statement = self.connection.prepare_cached(ALL)?;
        let mut rows = statement.query([])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let first = first(row, 2)?;
            if last.is_some_and(|last| last >= first) {
                return Err(damaged("a block of requests with some that belong to the next"));
            }
            for entry in Entries::new(records(row)?) {
                let entry = entry?;
                if entry.place() < first {
                    return Err(damaged("a block of requests with some that belong before it"));
                }
                last = Some(entry.place());
                visit(&entry.key, entry.scope, &entry.record);
            }
        }
        Ok(())
    }

    /// Reads the block that a place is in.
    fn at<T>(self, place: Place, read: impl FnOnce(&Row<'_>) -> Result<T>) -> Result<T> {
        let mut statement = self.connection.prepare_cached(AT)?;
        let found = statement.query_row([first_bytes(place)], read).optional()?;
        found.ok_or_else(|| damaged("the first block of requests is missing"))
    }

    /// Where the block behind a place begins, if there is one.
    fn after(self, place: Place) -> Result<Option<Place>> {
        let mut statement = self.connection.prepare_cached(AFTER)?;
        statement.query_row([first_bytes(place)], |row| first(row, 0)).optional()
    }
}

/// The records of a row's block.
fn records<'r>(row: &'r Row<'_>) -> Result<&'r [u8]> {
    row.get_ref(1)?.as_blob().map_err(|error| corrupt(1, Type::Blob, error))
}

/// Where a row's block begins.
fn first(row: &Row<'_>, column: usize) -> Result<Place> {
    let bytes: [u8; 24] = row.get(column)?;
    let (mut key, mut scope) = ([0; 16], [0; 8]);
    key.copy_from_slice(&bytes[..16]);
    scope.copy_from_slice(&bytes[16..]);
    Ok((u128::from_be_bytes(key), u64::from_be_bytes(scope)))
}

/// A place as bytes, which are in the same order.
fn first_bytes((key, scope): Place) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&key.to_be_bytes());
    bytes[16..].copy_from_slice(&scope.to_be_bytes());
    bytes
}

/// Makes the blocks of a database of an earlier version, from its table of single records, and removes that.
///
/// # Errors
/// SQLite's own, and damage.
pub(super) fn build(connection: &Connection) -> Result<()> {
    connection.execute_batch(REQUESTS_SCHEMA)?;
    let requests = Requests::new(connection);
    {
        let mut statement = connection.prepare("SELECT key, scope, body, answer FROM requests ORDER BY key, scope")?;
        let mut rows = statement.query([])?;
        let mut portion = Vec::new();
        loop {
            let row = rows.next()?;
            let is_end = row.is_none();
            portion.extend(row.map(single).transpose()?);
            if is_end || portion.len() == PORTION {
                requests.insert(portion.drain(..))?;
            }
            if is_end {
                break;
            }
        }
    }
    connection.execute_batch("DROP TABLE requests")
}

/// So many records of an earlier version's are moved at once.
const PORTION: usize = 16 * 1024;

/// A record of an earlier version.
fn single(row: &Row<'_>) -> Result<Entry> {
    let answer = row.get_ref(3)?.as_blob().map_err(|error| corrupt(3, Type::Blob, error))?;
    let answer = codec::decode_answer(answer).map_err(|error| corrupt(3, Type::Blob, error))?;
    // It had a longer beginning of the same hash.
    let long: [u8; 16] = row.get(2)?;
    let mut body = BodyHash([0; 8]);
    body.0.copy_from_slice(&long[..8]);
    let record = RequestRecord { body, answer };
    Ok(Entry { key: RequestKey(row.get(0)?), scope: Scope::from_u64(number(row, 1)?), record })
}
