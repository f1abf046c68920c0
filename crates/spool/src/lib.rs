//! The log between the listener and the sinks: one writer, many readers, each at its own pace.
//!
//! ```
//! use neurobridge_core::{reader::{Cursor, Read, Reader}, record::Batch};
//! use neurobridge_spool::{Spool, SpoolConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spool = Spool::open(&SpoolConfig::default(), "data".as_ref())?;
//! let mut reader = spool.reader("kafka");
//! let batch = Batch::default(); // filled by the intake
//! if let Some(stored) = spool.append(batch).await? {
//!     println!("stored as {}", stored.first);
//! }
//! spool.close();
//! assert!(matches!(reader.next().await?, Read::End));
//! # Ok(())
//! # }
//! ```

mod config;
mod disk;
pub mod format;
pub mod inspect;
mod log;
mod memory;
mod newest;
mod reader;
mod replay;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, histogram, identity::SpoolId, record::Batch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::log::Log;
pub use self::{
    config::{DiskConfig, MemoryConfig, SpoolConfig, SyncPolicy, SyncPolicyError, WhenFull},
    disk::files::DiskError,
    newest::Newest,
    reader::SpoolReader,
    replay::{Place, PlaceError, ReplayReader},
};

/// The log. Clones are handles to the same log; it lives as long as one of them, or of its readers.
///
/// Dropping the last one of a log on disk blocks until what is on its way is written and the cursors are saved; call
/// [`finish`](Self::finish) first where that matters.
#[derive(Clone, Debug)]
pub struct Spool {
    log: Log,
}

/// Where a reader begins that the log does not know yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With what is appended next.
    #[default]
    End,
    /// With the oldest event that the log has.
    Oldest,
}

/// What an append stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The sequence of the first event.
    pub first: Sequence,
    /// How many events.
    pub events: u64,
}

/// What the log holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolStatus {
    /// The kind, as in the configuration.
    pub kind: &'static str,
    /// The number of the oldest event that can be read; that of the next one when there is none.
    pub oldest_sequence: u64,
    /// The number of the last durable event, 0 before the first. For the log in memory: the last one appended.
    pub durable_sequence: u64,
    /// Bytes held.
    pub size_bytes: u64,
    /// Bytes that may be held.
    pub limit_bytes: u64,
    /// Events dropped because the log was full.
    pub dropped_events: u64,
    /// Events found unreadable since the log was opened.
    pub damaged_events: u64,
    /// Cursors found missing or damaged since the log was opened.
    pub damaged_cursors: u64,
    /// An append waits for room.
    pub is_full: bool,
    /// An append waits until the system has a resource again: open files, memory.
    pub is_retrying: bool,
    /// The disk refused a write: the log takes no more events.
    pub has_failed: bool,
}

/// Why the log can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It could not hold a single batch.
    #[error(
        "spool.max_size is {found} bytes, expected at least {least}: the log could not hold two of the largest frames"
    )]
    TooSmall {
        /// The size configured.
        found: u64,
        /// The smallest that works.
        least: u64,
    },
    /// Another process has the log.
    #[error("another process has the spool in {} open", folder.display())]
    Locked {
        /// The log's folder.
        folder: PathBuf,
    },
    /// The disk says no.
    #[error("the spool can't be opened")]
    Disk {
        /// To what, and why.
        #[from]
        source: DiskError,
    },
    /// The log was written by another version of the program.
    #[error("{} has format version {found}, expected 1: it was written by a newer neurobridge, which can read it", path.display())]
    Version {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Why events were not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// [`Spool::close`] was called.
    #[error("the spool is closed")]
    Closed,
    /// The disk refused a write, and after that nothing is certain of what it is asked to write: the log takes no more
    /// until it is opened again. Events that are durable are still read.
    #[error("the spool takes no more events")]
    Failed {
        /// What was refused, and why.
        source: DiskError,
    },
}

/// The size of the file system on which a log is or will be, in bytes; `None` where that can't be told. A folder that is not
/// there yet is on the file system of the nearest one above it that is.
pub fn file_system_size(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.is_dir());
    disk::files::file_system_size(existing.unwrap_or_else(|| Path::new(".")))
}

impl Spool {
    /// Opens the log that the configuration describes; a relative path in it is below `data_dir`.
    ///
    /// A log on disk blocks until its last segment is read, some tenths of a second at most; the rest is checked in the
    /// background.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &SpoolConfig, data_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            log: Log::open(config, data_dir)?,
        })
    }

    /// The log's id: with an event's sequence it names an event for ever.
    pub fn id(&self) -> SpoolId {
        self.log.id()
    }

    /// Numbers a batch's events and stores them; `None` for an empty batch. Waits while the log is full, unless it is
    /// to drop the oldest. Several that wait are stored together, in the order in which they were first polled.
    ///
    /// Dropping the future before it is ready: a log in memory stores nothing, one on disk all or nothing.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was stored as far as is known. After [`AppendError::Failed`] events may be found
    /// when the log is opened again.
    pub async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        self.log.append(batch).await
    }

    /// The number of the last event that is as durable as this kind of log makes it, 0 before the first.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.log.durable()
    }

    /// A reader of this name: where its cursor on the disk is, or with what is appended next. From now on its cursor
    /// keeps what it has not settled.
    ///
    /// Dropping the reader releases a log in memory from it; on disk it still holds what it has not settled.
    pub fn reader(&self, name: &str) -> SpoolReader {
        self.reader_from(name, Start::End)
    }

    /// As [`reader`](Self::reader), and where a reader begins that the log does not know yet.
    pub fn reader_from(&self, name: &str, start: Start) -> SpoolReader {
        SpoolReader::start(self.log.clone(), name, start)
    }

    /// A reader of what is appended from now on, for whoever only looks on: a log on disk keeps no cursor of it, and deletes
    /// under it what no other reader needs, which it is told as skipped. One in memory keeps what it has not committed, until
    /// it is dropped.
    pub fn passing_reader(&self) -> SpoolReader {
        SpoolReader::passing(self.log.clone())
    }

    /// Lets go of the readers that the disk knows and that were not made since the log was opened: they hold nothing back
    /// any more. Their names. Should one come back it goes on at its cursor, and what was deleted meanwhile it skips.
    ///
    /// To be called once all readers are made; without it nothing is deleted that any of them has not settled.
    pub fn release_others(&self) -> Vec<String> {
        self.log.release_others()
    }

    /// The newest events, `max_events` at most.
    pub fn newest(&self, max_events: u64) -> Newest {
        Newest::new(self.log.clone(), max_events)
    }

    /// Ends the log: no more appends, and readers end when they have read all. Appends that wait for room fail.
    pub fn close(&self) {
        self.log.close();
    }

    /// Closes the log, saves all cursors, and gives its folder free. To be called last: commits after it are lost.
    ///
    /// # Errors
    /// The disk has refused a write, now or before.
    pub async fn finish(&self) -> Result<(), DiskError> {
        self.log.finish().await
    }

    /// Waits until the log fails, which may happen while nothing is appended; for ever if it does not, or is closed in order.
    pub async fn failed(&self) -> DiskError {
        self.log.failed().await
    }

    /// What it holds now.
    pub fn status(&self) -> SpoolStatus {
        self.log.status()
    }

    /// How long syncs took; none of a log in memory.
    pub fn sync_duration(&self) -> histogram::Snapshot {
        self.log.sync_duration()
    }

    /// When the event of a sequence was received, or the first after it that the log still has; `None` when it has none.
    /// Does not read a disk: for an event that is not in memory, the time of one of the some hundred before it.
    pub fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        self.log.received_at(sequence)
    }
}
