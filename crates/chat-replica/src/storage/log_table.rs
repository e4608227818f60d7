//! Rows of the log and of the protocol's durable facts.

use super::brief::{self, Batches};
use crate::protocol::*;
use bytes::Bytes;
use rusqlite::types::{Type, Value};
use rusqlite::{Connection, Error, OptionalExtension as _, Result, Row, params, params_from_iter};

/// Version 2 of the tables: the log and what PROTOCOL wants durable, in one file with the state that they describe.
pub(crate) const LOG_SCHEMA: &str = "
CREATE TABLE log (
    idx INTEGER PRIMARY KEY,
    round INTEGER NOT NULL,
    replica INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    body BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Entries that did not verify, kept for people: what was acknowledged is never thrown away.
CREATE TABLE log_set_aside (
    found_by INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    round INTEGER NOT NULL,
    replica INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    body BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE replica (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    id INTEGER NOT NULL,
    disk BLOB NOT NULL,
    cluster BLOB,
    starts INTEGER NOT NULL DEFAULT 0,
    nonce INTEGER NOT NULL DEFAULT 0,
    promised_round INTEGER NOT NULL DEFAULT 0,
    promised_replica INTEGER NOT NULL DEFAULT 0,
    committed INTEGER NOT NULL DEFAULT 0,
    applied INTEGER NOT NULL DEFAULT 0,
    impaired_until INTEGER
) STRICT;

-- The highest process run seen of each disk of the others (rule 12).
CREATE TABLE known (
    id INTEGER NOT NULL,
    disk BLOB NOT NULL,
    starts INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    PRIMARY KEY (id, disk)
) STRICT, WITHOUT ROWID;

-- What the log held when earlier process runs on this disk ended (rule 8).
CREATE TABLE deaths (
    starts INTEGER PRIMARY KEY,
    nonce INTEGER NOT NULL,
    views BLOB NOT NULL
) STRICT;
";

/// Version 3: what a start needs of the log's past, without reading it (`chain`).
pub(crate) const VIEWS_SCHEMA: &str = "
-- With all that is asked of it, so that only the newest view is looked up in the log itself.
CREATE INDEX log_views ON log (idx, round, replica, kind) WHERE kind <> 0;

-- How many entries up to `committed` are views. NULL: the chain of hashes has to be followed from its beginning.
ALTER TABLE replica ADD COLUMN views INTEGER;
";

/// Version 5: the database takes in later what the redo log has.
pub(crate) const REDO_SCHEMA: &str = "
-- The last turn of the process run `starts` that is in here (`redo`).
ALTER TABLE replica ADD COLUMN redo INTEGER NOT NULL DEFAULT 0;
-- How often all that is in here was synced.
ALTER TABLE replica ADD COLUMN syncs INTEGER NOT NULL DEFAULT 0;
";

/// The one row of `replica`.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub id: ReplicaId,
    pub disk: DiskId,
    pub cluster: Option<ClusterId>,
    pub incarnation: Incarnation,
    pub promised: Epoch,
    pub committed: u64,
    pub applied: u64,
    pub impaired_until: Option<u64>,
}

fn blob<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N]> {
    row.get(column)
}

fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    // SQLite's integers are signed; random bits are stored by their pattern.
    row.get::<_, i64>(column).map(|value| value as u64)
}

pub(crate) fn facts(connection: &Connection) -> Result<Option<Facts>> {
    let sql = "SELECT id, disk, cluster, starts, nonce, promised_round, promised_replica, committed, applied, \
               impaired_until FROM replica";
    connection
        .query_row(sql, [], |row| {
            Ok(Facts {
                id: ReplicaId(row.get(0)?),
                disk: DiskId(blob(row, 1)?),
                cluster: row.get::<_, Option<[u8; 16]>>(2)?.map(ClusterId),
                incarnation: Incarnation { count: unsigned(row, 3)?, nonce: unsigned(row, 4)? },
                promised: Epoch { round: unsigned(row, 5)?, replica: ReplicaId(row.get(6)?) },
                committed: unsigned(row, 7)?,
                applied: unsigned(row, 8)?,
                impaired_until: row.get::<_, Option<i64>>(9)?.map(|index| index as u64),
            })
        })
        .optional()
}

/// How many of the entries up to `committed` are views, if that is known. Databases that were not brought up to date do not say: salvage reads the facts
/// of those, too.
pub(crate) fn views(connection: &Connection) -> Result<Option<u64>> {
    connection
        .query_row("SELECT views FROM replica", [], |row| Ok(row.get::<_, Option<i64>>(0)?.map(|count| count as u64)))
}

pub(crate) fn insert_replica(connection: &Connection, id: ReplicaId, disk: DiskId) -> Result<()> {
    connection.execute("INSERT INTO replica (only, id, disk) VALUES (1, ?, ?)", params![id.0, disk.0])?;
    Ok(())
}

/// The entry in a row, whole.
pub(super) fn entry(row: &Row<'_>, batches: &mut Batches<'_>) -> Result<Entry> {
    let epoch = Epoch { round: unsigned(row, 1)?, replica: ReplicaId(row.get(2)?) };
    let (kind, stored) = (row.get(3)?, stored(row)?);
    let bytes = if kind == 0 { batches.whole(stored)? } else { Bytes::copy_from_slice(stored) };
    let body = Body::decode(kind, bytes).ok_or_else(|| undecodable(4))?;
    Ok(Entry { index: unsigned(row, 0)?, epoch, body, hash: ChainHash(blob(row, 5)?) })
}

/// What of the entry's body is in the log's own row.
pub(super) fn stored<'r>(row: &'r Row<'_>) -> Result<&'r [u8]> {
    row.get_ref(4)?.as_blob().map_err(|_| undecodable(4))
}

/// What follows an entry has to know of it.
pub(crate) fn index_and_hash(row: &Row<'_>) -> Result<(u64, ChainHash)> {
    Ok((unsigned(row, 0)?, ChainHash(blob(row, 5)?)))
}

/// Bytes that nobody wrote: the file is not what it was.
pub(super) fn undecodable(column: usize) -> Error {
    Error::FromSqlConversionFailure(column, Type::Blob, "these bytes mean nothing".into())
}

/// The entry that should be here is missing, or is not the one that was appended: the log is not what it was.
pub(crate) fn unchained(index: u64) -> Error {
    Error::FromSqlConversionFailure(5, Type::Blob, format!("the log's chain of hashes breaks at entry {index}").into())
}

pub(crate) const SELECT_FROM: &str =
    "SELECT idx, round, replica, kind, body, hash FROM log WHERE idx >= ? ORDER BY idx";

/// The chain's hash at this entry, or at 0 of the empty log.
pub(crate) fn hash_at(connection: &Connection, index: u64) -> Result<ChainHash> {
    if index == 0 {
        return Ok(ChainHash::default());
    }
    let sql = "SELECT hash FROM log WHERE idx = ?";
    connection.prepare_cached(sql)?.query_row([index as i64], |row| Ok(ChainHash(blob(row, 0)?)))
}

/// The entry at this index, if there is one.
pub(crate) fn entry_at(connection: &Connection, index: u64) -> Result<Option<Entry>> {
    let sql = "SELECT idx, round, replica, kind, body, hash FROM log WHERE idx = ?";
    connection.query_row(sql, [index as i64], |row| entry(row, &mut Batches::new(connection))).optional()
}

/// Epoch and hash of the entry at this index, if there is one; those of the empty log at 0.
pub(crate) fn place_at(connection: &Connection, index: u64) -> Result<Option<(Epoch, ChainHash)>> {
    if index == 0 {
        return Ok(Some(Default::default()));
    }
    let sql = "SELECT round, replica, hash FROM log WHERE idx = ?";
    let place = connection.query_row(sql, [index as i64], |row| {
        Ok((Epoch { round: unsigned(row, 0)?, replica: ReplicaId(row.get(1)?) }, ChainHash(blob(row, 2)?)))
    });
    place.optional()
}

/// By the index, which alone has no more than these.
const VIEWS_UP_TO: &str =
    "SELECT idx, round, replica FROM log INDEXED BY log_views WHERE kind <> 0 AND idx <= ? ORDER BY idx";

/// Index and epoch of every entry up to here that is a view, as the index says.
pub(crate) fn views_up_to(connection: &Connection, index: u64) -> Result<Vec<(u64, Epoch)>> {
    let mut statement = connection.prepare(VIEWS_UP_TO)?;
    let rows = statement.query_map([index as i64], |row| {
        Ok((unsigned(row, 0)?, Epoch { round: unsigned(row, 1)?, replica: ReplicaId(row.get(2)?) }))
    })?;
    rows.collect()
}

/// The last turn of the process run that the facts name which is in here. Databases that were not brought up to date do not say.
pub(crate) fn redo(connection: &Connection) -> Result<u64> {
    connection.query_row("SELECT redo FROM replica", [], |row| unsigned(row, 0))
}

/// The turns up to this one are in here.
pub(crate) fn set_redo(connection: &Connection, number: u64) -> Result<()> {
    connection.prepare_cached("UPDATE replica SET redo = ?")?.execute([number as i64]).map(drop)
}

/// Changes something: a transaction that leaves every row as it was writes nothing, and so it syncs nothing either.
pub(crate) fn count_sync(connection: &Connection) -> Result<()> {
    connection.prepare_cached("UPDATE replica SET syncs = syncs + 1")?.execute([]).map(drop)
}

/// The index of the last entry; 0 without one.
pub(crate) fn last(connection: &Connection) -> Result<u64> {
    let sql = "SELECT coalesce(max(idx), 0) FROM log";
    connection.query_row(sql, [], |row| unsigned(row, 0))
}

/// Appends an entry, with this for its body if it is kept in brief.
pub(crate) fn append(connection: &Connection, entry: &Entry, brief: Option<&[u8]>) -> Result<()> {
    let sql = "INSERT INTO log (idx, round, replica, kind, body, hash) VALUES (?, ?, ?, ?, ?, ?)";
    let (kind, whole) = entry.body.encode();
    let escaped = brief::escaped(&whole).filter(|_| kind == 0);
    let body = brief.or(escaped.as_deref()).unwrap_or(&whole);
    let (index, round, replica) = (entry.index as i64, entry.epoch.round as i64, entry.epoch.replica.0);
    connection.prepare_cached(sql)?.execute(params![index, round, replica, kind, body, entry.hash.0])?;
    Ok(())
}

/// Removes the entries from this index on.
pub(crate) fn cut_back(connection: &Connection, from: u64) -> Result<()> {
    connection.prepare_cached("DELETE FROM log WHERE idx >= ?")?.execute([from as i64]).map(drop)
}

/// Keeps an entry that does not belong to the log as it is, for people.
pub(crate) fn set_aside(connection: &Connection, found_by: Incarnation, entry: &Entry) -> Result<()> {
    let sql = "INSERT INTO log_set_aside VALUES (?, ?, ?, ?, ?, ?, ?)";
    let (kind, body) = entry.body.encode();
    let (by, index, round) = (found_by.count as i64, entry.index as i64, entry.epoch.round as i64);
    connection.execute(sql, params![by, index, round, entry.epoch.replica.0, kind, &body[..], entry.hash.0])?;
    Ok(())
}

/// Moves the entries from this index on there, as they are in the table; those in brief whole, if that is possible.
pub(crate) fn set_aside_from(connection: &Connection, found_by: Incarnation, from: u64) -> Result<()> {
    let mut statement = connection.prepare(SELECT_FROM)?;
    let mut rows = statement.query([from as i64])?;
    let mut insert = connection.prepare("INSERT INTO log_set_aside VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    let mut batches = Batches::new(connection);
    while let Some(row) = rows.next()? {
        let mut values: Vec<Value> = (0..6).map(|column| row.get(column)).collect::<Result<_>>()?;
        if let (Value::Integer(0), Value::Blob(stored)) = (&values[3], &values[4]) {
            match batches.whole(stored) {
                Ok(whole) => values[4] = Value::Blob(whole.into()),
                Err(error @ Error::SqliteFailure(..)) => return Err(error),
                Err(_) => {}
            }
        }
        insert.execute(params_from_iter([Value::Integer(found_by.count as i64)].into_iter().chain(values)))?;
    }
    cut_back(connection, from)
}

/// Carries out what the protocol wants durable, within the open transaction.
pub(crate) fn persist(connection: &Connection, what: &Persist) -> Result<()> {
    match what {
        Persist::Append(entry) => append(connection, entry, None)?,
        Persist::CutBack(from) => cut_back(connection, *from)?,
        Persist::Promise(epoch) => {
            let sql = "UPDATE replica SET promised_round = ?, promised_replica = ?";
            connection.prepare_cached(sql)?.execute(params![epoch.round as i64, epoch.replica.0])?;
        }
        Persist::Cluster(cluster) => {
            connection.prepare_cached("UPDATE replica SET cluster = ?")?.execute([cluster.0])?;
        }
        Persist::Known(member) => {
            let sql = "INSERT OR REPLACE INTO known (id, disk, starts, nonce) VALUES (?, ?, ?, ?)";
            let run = member.incarnation;
            connection.prepare_cached(sql)?.execute(params![
                member.id.0,
                member.disk.0,
                run.count as i64,
                run.nonce as i64
            ])?;
        }
        Persist::Repaired => {
            connection.prepare_cached("UPDATE replica SET impaired_until = NULL")?.execute([])?;
        }
    }
    Ok(())
}

/// Where the state stands, what is committed, how many views there are up to there, if that is known, and the last turn that is in here.
pub(crate) fn set_progress(
    connection: &Connection,
    committed: u64,
    applied: u64,
    views: Option<u64>,
    redo: u64,
) -> Result<()> {
    let sql = "UPDATE replica SET committed = ?, applied = ?, views = ?, redo = ?";
    let views = views.map(|count| count as i64);
    connection.prepare_cached(sql)?.execute(params![committed as i64, applied as i64, views, redo as i64])?;
    Ok(())
}

/// The facts that a new database takes over from the one before it, but for the log itself and what a start changes.
pub(crate) fn restore(connection: &Connection, facts: &Facts) -> Result<()> {
    insert_replica(connection, facts.id, facts.disk)?;
    let sql = "UPDATE replica SET cluster = ?, starts = ?, nonce = ?, promised_round = ?, promised_replica = ?, \
               committed = ?, applied = ?, impaired_until = ?";
    let (run, promised) = (facts.incarnation, facts.promised);
    connection.execute(
        sql,
        params![
            facts.cluster.map(|cluster| cluster.0),
            run.count as i64,
            run.nonce as i64,
            promised.round as i64,
            promised.replica.0,
            facts.committed as i64,
            facts.applied as i64,
            facts.impaired_until.map(|index| index as i64)
        ],
    )?;
    Ok(())
}

/// Copies the entries that were set aside for people.
pub(crate) fn copy_set_aside(old: &Connection, new: &Connection) -> Result<()> {
    let mut statement = old.prepare("SELECT found_by, idx, round, replica, kind, body, hash FROM log_set_aside")?;
    let mut rows = statement.query([])?;
    let mut insert = new.prepare("INSERT INTO log_set_aside VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> = (0..7).map(|column| row.get(column)).collect::<Result<_>>()?;
        insert.execute(params_from_iter(values))?;
    }
    Ok(())
}

pub(crate) fn known(connection: &Connection) -> Result<Vec<Member>> {
    let mut statement = connection.prepare("SELECT id, disk, starts, nonce FROM known")?;
    let rows = statement.query_map([], |row| {
        let incarnation = Incarnation { count: unsigned(row, 2)?, nonce: unsigned(row, 3)? };
        Ok(Member { id: ReplicaId(row.get(0)?), disk: DiskId(blob(row, 1)?), incarnation })
    })?;
    rows.collect()
}

/// How many earlier process runs are remembered: a view that names an older one than that has no use for its word.
const DEATHS: i64 = 32;

pub(crate) fn record_death(connection: &Connection, death: &Death) -> Result<()> {
    let views = postcard::to_stdvec(&death.views).map_err(|_| Error::InvalidQuery)?;
    let run = death.incarnation;
    // A run that is there already was told of before its end was lost: that word stays.
    let sql = "INSERT OR IGNORE INTO deaths (starts, nonce, views) VALUES (?, ?, ?)";
    connection.execute(sql, params![run.count as i64, run.nonce as i64, views])?;
    connection.execute("DELETE FROM deaths WHERE starts <= ?", [run.count as i64 - DEATHS])?;
    Ok(())
}

pub(crate) fn deaths(connection: &Connection) -> Result<Vec<Death>> {
    let mut statement = connection.prepare("SELECT starts, nonce, views FROM deaths ORDER BY starts")?;
    let rows = statement.query_map([], |row| {
        let views: Vec<u8> = row.get(2)?;
        Ok(Death {
            incarnation: Incarnation { count: unsigned(row, 0)?, nonce: unsigned(row, 1)? },
            views: postcard::from_bytes(&views).map_err(|_| undecodable(2))?,
        })
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_found_by_their_index_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::storage::migrations::migrate(&mut connection).unwrap();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {VIEWS_UP_TO}")).unwrap();
        let plan = statement.query_map([1], |row| row.get::<_, String>(3)).unwrap();
        let plan: Vec<_> = plan.map(Result::unwrap).collect();
        assert_eq!(plan, ["SEARCH log USING COVERING INDEX log_views (idx<?)"], "neither the log itself nor a sort");
    }
}
