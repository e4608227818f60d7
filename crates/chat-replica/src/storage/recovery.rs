//! What is found when a process starts on a disk, and whether it is whole (rules 9, 12, 15).

use super::chain::{self, Followed, Views};
use super::directory::{DataDirectory, Identity};
use super::disk::DiskError;
use super::log_table::{self, Facts};
use super::mark::{Mark, Run};
use super::tail::{self, Replay};
use super::{aside, protect};
use crate::failpoint::{Point, reach};
use crate::protocol::*;
use rusqlite::{Connection, ErrorCode, params};

/// Stands for the end of a log of which nobody knows where it was: only what is committed in a later epoch says that it is whole again.
pub(crate) const UNKNOWN_END: u64 = i64::MAX as u64;

/// Where the state stands.
#[derive(Debug)]
pub(super) struct Standing {
    /// The last entry that was carried out.
    pub applied: u64,
    /// `None`: the next start follows the whole chain.
    pub views: Option<Views>,
    /// The redo log can be used again.
    pub redo_is_readable: bool,
}

/// Reads the disk, begins a new process run on it, and makes that durable: nothing may be said before (rule 8).
pub(super) fn start(
    connection: &mut Connection,
    directory: &DataDirectory,
    id: ReplicaId,
    mark: Option<Mark>,
) -> Result<(Member, Recovered, Standing), DiskError> {
    let mut facts = facts_or_new(connection, directory, id)?;
    let Replay { is_cut, is_readable, .. } = replay(connection, directory, &mut facts, mark)?;
    // A new disk acknowledged nothing: a mark that is there is that of a database that somebody took away.
    let mark = mark.filter(|_| facts.incarnation.count > 0);
    let is_another = is_unproven(connection, directory, facts.disk, mark)?;
    if is_another {
        tracing::error!("nothing says that what the database has promised is all: this is another disk from now on");
        // It has acknowledged nothing, and will not be repaired as what it was.
        aside::not_recovered(directory).map_err(DiskError::File)?;
        (facts.disk, facts.impaired_until) = (DiskId(random()), None);
    }
    let mark = mark.filter(|_| !is_another);
    let behind = mark.and_then(|mark| later_run(&facts, &mark));
    if let Some(run) = behind {
        // A process run never comes twice.
        facts.incarnation = run.incarnation;
        facts.impaired_until = facts.impaired_until.max(run.impaired_until);
    }
    reach(Point::StartVerify);
    let found = follow(connection, &facts, mark, behind.is_some() || is_cut)?;
    if let Some((from, _)) = found.broken.filter(|(from, _)| *from <= facts.applied) {
        // The state was made of what is not there any more, or lacks what that entry tells of: it is to be made anew, by a salvage.
        return Err(DiskError::Database(log_table::unchained(from)));
    }
    reach(Point::StartVerified);
    // Where the end of the log was lost, the promise was lost with it (rule 2).
    facts.promised = facts.promised.max(mark.map(|mark| mark.promised).unwrap_or_default());
    let whole = facts.impaired_until.is_none();
    let impaired_until = impairment(&facts, &found, mark, behind.is_some() || is_cut);
    let incarnation = Incarnation { count: facts.incarnation.count + 1, nonce: u64::from_le_bytes(random()) >> 1 };
    let transaction = connection.transaction().map_err(DiskError::Database)?;
    if is_another {
        transaction.execute("UPDATE replica SET disk = ?", [facts.disk.0])?;
        transaction.execute("DELETE FROM deaths", [])?;
    }
    // What a damaged log held is not known: it is no word of a successor's. Nor is it of another disk.
    let whole = whole && behind.is_none() && impaired_until.is_none() && !is_another;
    begin_run(&transaction, &facts, &found, incarnation, impaired_until, whole)?;
    reach(Point::StartBegun);
    transaction.commit()?;
    reach(Point::StartDurable);
    move_log(connection)?;
    let known = log_table::known(connection)?;
    let deaths = log_table::deaths(connection)?;
    let identity = Identity { replica: facts.id, disk: facts.disk, cluster: facts.cluster };
    directory.identify(&identity).map_err(DiskError::File)?;
    reach(Point::StartIdentified);
    let member = Member { id, disk: facts.disk, incarnation };
    let standing = Standing { applied: facts.applied, views: Views::of(&found), redo_is_readable: is_readable };
    let recovered =
        Recovered { cluster: facts.cluster, promised: facts.promised, log: found.log, deaths, known, impaired_until };
    Ok((member, recovered, standing))
}

/// The database takes in what the redo log has of the last process run.
fn replay(
    connection: &mut Connection,
    directory: &DataDirectory,
    facts: &mut Facts,
    mark: Option<Mark>,
) -> Result<Replay, DiskError> {
    let transaction = connection.transaction()?;
    let redo = log_table::redo(&transaction)?;
    let replayed = tail::replay(directory, &transaction, &runs(facts, Some(redo), mark), facts)?;
    if replayed.number > redo {
        log_table::set_redo(&transaction, replayed.number)?;
    }
    transaction.commit()?;
    Ok(replayed)
}

/// The process runs of which the redo log may have what the database has not: the one that the facts name, with the last turn that the database has,
/// if that is known; and the one that only the mark knows of.
pub(super) fn runs(facts: &Facts, redo: Option<u64>, mark: Option<Mark>) -> Vec<(Member, Option<u64>)> {
    let member = Member { id: facts.id, disk: facts.disk, incarnation: facts.incarnation };
    let later = mark.and_then(|mark| later_run(facts, &mark));
    let later = later.map(|run| (Member { incarnation: run.incarnation, ..member }, Some(0)));
    [(member, redo)].into_iter().chain(later).collect()
}

/// The process run that only the mark knows of: the database lost that start, and what it found, with the end of its write-ahead log.
fn later_run(facts: &Facts, mark: &Mark) -> Option<Run> {
    let is_later = |run: &Run| run.disk == facts.disk && run.incarnation.count > facts.incarnation.count;
    mark.run.filter(is_later)
}

/// Moves the write-ahead log into the database. A power cut within a checkpoint has left torn pages there, which SQLite reads from the log; whoever
/// looks at the file itself would take them for damage (`scrub`).
fn move_log(connection: &Connection) -> rusqlite::Result<()> {
    match connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        // A full disk is for the first commit to tell that finds no room: until then, there is something to read here.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Ok(()),
        moved => moved,
    }
}

/// Whether nothing proves that the facts in the database, which are of this disk, are the last (rule 12): the mark that it once had is gone, so
/// a write-ahead log that lost its end cannot be told from a whole one; or the mark is another disk's, so one of the two is not from here. A
/// database of an earlier version never had a mark, and a copy that somebody put into an empty directory has it not yet.
pub(crate) fn is_unproven(
    connection: &Connection,
    directory: &DataDirectory,
    disk: DiskId,
    mark: Option<Mark>,
) -> rusqlite::Result<bool> {
    match mark {
        Some(mark) => Ok(mark.run.is_some_and(|run| run.disk != disk)),
        None => Ok(directory.has_identity() && application(connection)? == protect::MARKED),
    }
}

/// Remembers in the database that it has a mark beside it.
pub(crate) fn remember_mark(connection: &Connection) -> rusqlite::Result<()> {
    if application(connection)? != protect::MARKED {
        connection.pragma_update(None, "application_id", protect::MARKED)?;
        // Not to be lost with the end of a log.
        move_log(connection)?;
    }
    Ok(())
}

fn application(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "application_id", |row| row.get(0))
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn facts_or_new(connection: &Connection, directory: &DataDirectory, id: ReplicaId) -> Result<Facts, DiskError> {
    if let Some(facts) = log_table::facts(connection)? {
        return if facts.id == id {
            Ok(facts)
        } else {
            Err(DiskError::OtherReplica { path: directory.database(), found: facts.id, wanted: id })
        };
    }
    log_table::insert_replica(connection, id, DiskId(random()))?;
    log_table::facts(connection)?.ok_or(DiskError::Database(rusqlite::Error::QueryReturnedNoRows))
}

/// The log, followed as far as anything rests on that.
///
/// From what was committed when the state was written, if nothing is in doubt: what lies before was followed when it was new, and has a checksum in
/// every page since.
/// From the beginning, if the disk is impaired or is about to be: it counts again by how much of a log it holds, so all of that must be proven;
/// and what breaks must be found where it breaks, to be set aside from there. And where `chain` has nothing to begin with: after a salvage (which
/// proved the log while it copied it, but makes the state anew, from 0), the first time, or if that entry is gone.
fn follow(connection: &Connection, facts: &Facts, mark: Option<Mark>, is_behind: bool) -> Result<Followed, DiskError> {
    if facts.impaired_until.is_none()
        && let Some(found) = chain::from_state(connection, facts, mark)?
        && impairment(facts, &found, mark, is_behind).is_none()
    {
        return Ok(found);
    }
    let found = chain::whole(connection, facts, mark)?;
    tracing::info!(entries = found.log.last, "the whole log was followed");
    Ok(found)
}

/// Rule 15: a log that is shorter than what was acknowledged, or whose chain breaks, is corrupt, not short. `is_behind`: the mark knows of a
/// later process run than the database, or the redo log went on beyond what can be read of it.
fn impairment(facts: &Facts, found: &Followed, mark: Option<Mark>, is_behind: bool) -> Option<u64> {
    let broken = found.broken.map(|(_, last)| last);
    let lost = mark.filter(|mark| found.at_mark != Some(mark.hash) || (is_behind && !mark.is_last));
    // After a power failure, more may have been acknowledged than the mark says.
    let lost = lost.map(|mark| if mark.is_last { mark.index } else { UNKNOWN_END });
    let behind = Some(facts.committed.max(facts.applied)).filter(|index| *index > found.log.last);
    let new = broken.max(lost).max(behind);
    new.max(facts.impaired_until)
}

fn begin_run(
    connection: &Connection,
    facts: &Facts,
    found: &Followed,
    incarnation: Incarnation,
    impaired_until: Option<u64>,
    whole: bool,
) -> Result<(), DiskError> {
    if facts.incarnation.count > 0 && whole {
        let death = Death { incarnation: facts.incarnation, views: found.log.views.clone() };
        log_table::record_death(connection, &death)?;
    }
    if let Some((from, _)) = found.broken {
        log_table::set_aside_from(connection, incarnation, from)?;
    }
    log_table::persist(connection, &Persist::Promise(facts.promised))?;
    let sql = "UPDATE replica SET starts = ?, nonce = ?, impaired_until = ?, views = ?, redo = 0";
    let [until, views] = [impaired_until, found.views].map(|number| number.map(|number| number as i64));
    connection.execute(sql, params![incarnation.count as i64, incarnation.nonce as i64, until, views])?;
    Ok(())
}
