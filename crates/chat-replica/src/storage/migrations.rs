//! Numbered changes of the schema: `PRAGMA user_version` says how many have been made.

use rusqlite::{Connection, TransactionBehavior};
use thiserror::Error;

use super::brief::DISCARDED_SCHEMA;
use super::log_table::{LOG_SCHEMA, REDO_SCHEMA, VIEWS_SCHEMA};
use super::marks::{self, MARKS_SCHEMA};
use super::messages;
use super::postings::{self, POSTINGS_SCHEMA};
use super::requests;
use super::state::{ACCOUNTS_LISTED, STATE_SCHEMA};

/// Step n brings a file from version n-1 to version n. Released steps are never changed: new ones are appended.
const STEPS: &[Step] = &[
    Step::Sql(STATE_SCHEMA),
    Step::Sql(LOG_SCHEMA),
    Step::Sql(VIEWS_SCHEMA),
    Step::Sql(ACCOUNTS_LISTED),
    Step::Sql(REDO_SCHEMA),
    Step::Sql(POSTINGS_SCHEMA),
    Step::Code(postings::build),
    Step::Sql(MARKS_SCHEMA),
    Step::Code(requests::build),
    Step::Sql(DISCARDED_SCHEMA),
    Step::Code(marks::build),
    Step::Code(postings::rebuild),
    Step::Code(messages::build),
];

/// What brings a file one version further.
#[derive(Clone, Copy)]
enum Step {
    Sql(&'static str),
    Code(fn(&Connection) -> rusqlite::Result<()>),
}

impl Step {
    fn take(self, connection: &Connection) -> rusqlite::Result<()> {
        match self {
            Step::Sql(sql) => connection.execute_batch(sql),
            Step::Code(code) => code(connection),
        }
    }
}

/// A file could not be brought up to date. It is as it was.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// A newer version of this software has written it.
    #[error("the data was written by a newer version: its schema is {found}, and this software knows up to {known}")]
    Newer {
        /// The file's version.
        found: i64,
        /// The newest version that is known here.
        known: i64,
    },
    /// SQLite's own error.
    #[error("the schema could not be brought up to date")]
    Sqlite(#[from] rusqlite::Error),
}

/// Brings the file up to date, in one transaction: all missing steps or none. Only reads if it is already.
pub fn migrate(connection: &mut Connection) -> Result<(), MigrationError> {
    migrate_by(connection, STEPS)
}

/// Refuses a file that newer software has written; one that cannot be read passes.
pub(crate) fn refuse_newer(connection: &Connection) -> Result<(), MigrationError> {
    match missing(connection, STEPS) {
        Err(newer @ MigrationError::Newer { .. }) => Err(newer),
        _ => Ok(()),
    }
}

/// As an earlier version left a file.
#[cfg(test)]
pub(super) fn migrate_to(connection: &mut Connection, version: usize) -> Result<(), MigrationError> {
    migrate_by(connection, &STEPS[..version])
}

fn migrate_by(connection: &mut Connection, steps: &[Step]) -> Result<(), MigrationError> {
    if missing(connection, steps)?.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Looked at again: another process can have done it while this one waited for the lock.
    let missing = missing(&transaction, steps)?;
    if missing.len() < steps.len() {
        tracing::warn!("the database is of an earlier version, and is brought up to date: a large one takes some time");
    }
    for step in missing {
        step.take(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", steps.len() as i64)?;
    Ok(transaction.commit()?)
}

fn missing<'s>(connection: &Connection, steps: &'s [Step]) -> Result<&'s [Step], MigrationError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found).ok();
    done.and_then(|done| steps.get(done..)).ok_or(MigrationError::Newer { found, known: steps.len() as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    fn tables(connection: &Connection) -> i64 {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_new_file_gets_every_step_and_a_second_time_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        assert_eq!(version(&connection), STEPS.len() as i64);
        let before = tables(&connection);
        migrate(&mut connection).unwrap();
        assert_eq!(tables(&connection), before);
    }

    #[test]
    fn only_what_is_missing_is_done() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate_by(&mut connection, &[Step::Sql("CREATE TABLE a (x)")]).unwrap();
        migrate_by(&mut connection, &[Step::Sql("CREATE TABLE a (x)"), Step::Sql("CREATE TABLE b (x)")]).unwrap();
        assert_eq!((version(&connection), tables(&connection)), (2, 2));
    }

    #[test]
    fn a_failed_step_leaves_the_file_as_it_was() {
        let mut connection = Connection::open_in_memory().unwrap();
        let error = migrate_by(&mut connection, &[Step::Sql("CREATE TABLE a (x)"), Step::Sql("CREATE TABLE a (y)")])
            .unwrap_err();
        assert!(matches!(error, MigrationError::Sqlite(_)));
        assert_eq!((version(&connection), tables(&connection)), (0, 0));
    }

    #[test]
    fn a_newer_file_is_refused_untouched() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(matches!(error, MigrationError::Newer { found: 99, .. }), "{error}");
        assert_eq!((version(&connection), tables(&connection)), (99, 0));
    }
}
