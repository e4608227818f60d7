//! The database, and who has the connection that writes: a turn, or the thread beside the turns.

use super::directory::DataDirectory;
use super::disk::DiskError;
use super::intake::{self, Batch, Intake};
use super::readers;
use super::tail::Tail;
use super::wal::Checkpointer;
use rusqlite::Connection;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// As its only writer.
#[derive(Debug)]
pub(super) struct Database {
    /// First, so that its thread has ended before anything else goes.
    intake: Intake,
    /// `None` while the intake has it.
    writer: Option<Connection>,
    /// For looking at the database meanwhile.
    reader: Connection,
    /// What the intake is writing.
    leaving: Option<Arc<Batch>>,
    /// The last log entry that it has carried out.
    visible: u64,
    /// The last turn that it holds durably.
    durable: u64,
    directory: Arc<DataDirectory>,
    checkpointer: Checkpointer,
}

impl Database {
    /// # Errors
    /// If there can be no more threads or file handles.
    pub fn new(
        writer: Connection,
        checkpointer: Checkpointer,
        directory: Arc<DataDirectory>,
        applied: u64,
    ) -> Result<Database, DiskError> {
        Ok(Database {
            intake: Intake::start(directory.clone()).map_err(DiskError::File)?,
            writer: Some(writer),
            reader: readers::open(&directory.database())?,
            leaving: None,
            visible: applied,
            durable: 0,
            directory,
            checkpointer,
        })
    }

    /// The last log entry that it has carried out.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// The last turn that it holds durably.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Whether the intake is at work.
    pub fn is_busy(&self) -> bool {
        self.leaving.is_some()
    }

    /// Whether the turn changes it.
    pub fn is_in_transaction(&self) -> bool {
        !self.connection().is_autocommit()
    }

    /// The end of the log that the intake is writing.
    pub fn leaving(&self) -> Option<&Tail> {
        self.leaving.as_ref().map(|leaving| &leaving.tail)
    }

    /// Told whenever the intake is done.
    pub fn taken(&self) -> Arc<Notify> {
        self.intake.taken.clone()
    }

    /// To look with: the writer, or the reader while that is away.
    pub fn connection(&self) -> &Connection {
        self.writer.as_ref().unwrap_or(&self.reader)
    }

    /// To write with. The intake must be done.
    ///
    /// # Errors
    /// If its thread is gone; the process must end.
    pub fn writer(&mut self) -> Result<&mut Connection, DiskError> {
        self.writer.as_mut().ok_or_else(|| DiskError::File(intake::ended()))
    }

    /// Opens the turn's transaction, unless it is open. The intake must be done.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn begin(&mut self) -> rusqlite::Result<()> {
        if self.is_in_transaction() { Ok(()) } else { intake::run(self.connection(), "BEGIN IMMEDIATE") }
    }

    /// Takes a batch in, here and now; how long that took. The intake must be done.
    ///
    /// # Errors
    /// SQLite's own; the process must end.
    pub fn take_in(&mut self, batch: &Batch) -> Result<Duration, DiskError> {
        self.begin()?;
        let written = batch.write(self.connection(), &self.directory);
        self.taken_in(batch, written)
    }

    /// Has the intake take a batch in. It must be done with the one before.
    ///
    /// # Errors
    /// If its thread is gone; the process must end.
    pub fn hand_over(&mut self, batch: Batch) -> Result<(), DiskError> {
        let writer = self.writer.take().ok_or_else(|| DiskError::File(intake::ended()))?;
        let batch = Arc::new(batch);
        self.leaving = Some(batch.clone());
        self.intake.begin(writer, batch).map_err(DiskError::File)
    }

    /// Takes note of what the intake has done, or waits until it is done. If a batch was taken in: how long that took.
    ///
    /// # Errors
    /// What came of the batch; the process must end.
    pub fn settle(&mut self, wait: bool) -> Result<Option<Duration>, DiskError> {
        if self.leaving.is_none() {
            return Ok(None);
        }
        let Some((writer, written)) = self.intake.done(wait).map_err(DiskError::File)? else { return Ok(None) };
        self.writer = Some(writer);
        let Some(batch) = self.leaving.take() else { return Ok(None) };
        self.taken_in(&batch, written).map(Some)
    }

    fn taken_in(&mut self, batch: &Batch, written: rusqlite::Result<Duration>) -> Result<Duration, DiskError> {
        let took = written.map_err(|error| self.checkpointer.reason().unwrap_or(error))?;
        self.visible = batch.applied;
        if batch.durably {
            self.durable = batch.number;
        }
        Ok(took)
    }
}
