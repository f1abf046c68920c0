//! The log between the listener and the sinks, with one writer and many independent readers.
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
mod reader;
mod recent;
mod replay;
mod resume;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, histogram, identity::SpoolId, record::Batch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use self::log::Log;
pub use self::{
    config::{DiskConfig, MemoryConfig, SpoolConfig, SyncPolicy, SyncPolicyError, WhenFull},
    disk::files::DiskError,
    reader::SpoolReader,
    recent::Recent,
    replay::{Position, PositionError, ReplayReader},
    resume::{MAX_RESUME_VALUE, ResumePaths, ResumeValue},
};

/// The log. Clones are handles to the same log, which lives as long as a handle or a reader.
///
/// Dropping the last handle of a log on disk blocks until pending events are written and the cursors are saved. Call
/// [`finish`](Self::finish) first to avoid that.
#[derive(Clone, Debug)]
pub struct Spool {
    log: Log,
}

/// The start position of a reader without a cursor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The next event that is appended.
    #[default]
    End,
    /// The oldest event of the log.
    Oldest,
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The sequence of the first event.
    pub first: Sequence,
    /// The number of events.
    pub events: u64,
}

/// A snapshot of the log's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolStatus {
    /// The kind, as in the configuration.
    pub kind: &'static str,
    /// The sequence of the oldest readable event, or of the next event if the log is empty.
    pub oldest_sequence: u64,
    /// The sequence of the last durable event, 0 before the first one. For a log in memory: the last appended event.
    pub durable_sequence: u64,
    /// The size of the log.
    pub size_bytes: u64,
    /// The size in bytes from the oldest event that a reader has not settled to the end of the log. Within a segment of a log
    /// on disk, an estimate by the number of events.
    pub pending_bytes: u64,
    /// The limit of the size.
    pub limit_bytes: u64,
    /// Events dropped because the log was full.
    pub dropped_events: u64,
    /// Events found unreadable since the log was opened.
    pub damaged_events: u64,
    /// Cursors found missing or damaged since the log was opened.
    pub damaged_cursors: u64,
    /// Whether an append waits for space.
    pub is_full: bool,
    /// Whether that append waits for space on the disk, although the limit is not reached.
    pub is_disk_full: bool,
    /// Whether an append waits for a resource of the system, such as open files or memory.
    pub is_retrying: bool,
    /// Whether a write has failed, so that the log rejects further events.
    pub has_failed: bool,
}

/// The reason why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The limit is too small for a batch.
    #[error(
        "spool.max_size is {found} bytes, expected at least {least}: the log could not hold two of the largest frames"
    )]
    TooSmall {
        /// The configured size.
        found: u64,
        /// The smallest valid size.
        least: u64,
    },
    /// Another process has opened the log.
    #[error("another process has the spool in {} open", folder.display())]
    Locked {
        /// The log's folder.
        folder: PathBuf,
    },
    /// A disk error.
    #[error("the spool cannot be opened")]
    Disk {
        /// The failed operation and its error.
        #[from]
        source: DiskError,
    },
    /// The log was written by another version of the program.
    #[error("{} has format version {found}, expected {expected}: {}", path.display(), advice(*found < *expected))]
    Version {
        /// The segment.
        path: PathBuf,
        /// The version of the segment.
        found: u32,
        /// The version that this program reads.
        expected: u32,
    },
}

/// Returns the operator's next step for a log of another version.
const fn advice(is_older: bool) -> &'static str {
    if is_older {
        "an older neurobridge wrote this file, and nothing was changed. Start the older version again, and stop it \
         while all sinks are up. When the ledger that the older version prints at its end has 0 pending for each \
         sink, move the folder of the spool away and start the new version"
    } else {
        "a newer neurobridge wrote this file, and nothing was changed; start the newer version"
    }
}

/// The reason why events were not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// [`Spool::close`] was called.
    #[error("the spool is closed")]
    Closed,
    /// A write has failed. The result of later writes would be uncertain, so the log rejects further events until it is
    /// opened again. Durable events can still be read.
    #[error("the spool rejects further events")]
    Failed {
        /// The failed operation and its error.
        source: DiskError,
    },
}

/// Returns the size in bytes of the file system of a log's folder; `None` if it is unknown. For a folder that does not exist,
/// the nearest existing parent is used.
pub fn file_system_size(folder: &Path) -> Option<u64> {
    let existing = folder.ancestors().find(|folder| folder.is_dir());
    disk::files::file_system_size(existing.unwrap_or_else(|| Path::new(".")))
}

impl Spool {
    /// Opens the configured log. Relative paths are below `data_dir`.
    ///
    /// For a log on disk, blocks until the last segment is read, which takes some tenths of a second at most. The other
    /// segments are checked in the background.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &SpoolConfig, data_dir: &Path) -> Result<Self, OpenError> {
        Self::open_resuming(config, data_dir, &ResumePaths::new())
    }

    /// Opens the log like [`open`](Self::open), and recovers for each source in `paths` the resume value of its last stored
    /// event, even if that event has been deleted since. Values of other sources are removed.
    ///
    /// For a log on disk, also blocks until the records after the last save of the values are read: those of half a minute at
    /// most, or of the last segment with [`SyncPolicy::Never`]. Without usable saved values, reads backwards from the newest
    /// record until each source has a value.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_resuming(
        config: &SpoolConfig,
        data_dir: &Path,
        paths: &ResumePaths,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            log: Log::open(config, data_dir, paths)?,
        })
    }

    /// Returns the id of the log. Together with a sequence it identifies an event.
    pub fn id(&self) -> SpoolId {
        self.log.id()
    }

    /// Assigns sequences to the events of a batch and stores them; `None` for an empty batch. Waits while the log is full,
    /// unless it is configured to drop the oldest events. Concurrent appends are stored together, in the order in which they
    /// were first polled.
    ///
    /// If the future is dropped before it is ready, a log in memory stores nothing, and a log on disk stores all or nothing.
    ///
    /// # Errors
    /// See [`AppendError`]. After [`AppendError::Failed`] the events may still be found when the log is opened again; after
    /// the other errors nothing was stored.
    pub async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        self.append_resuming(batch, Vec::new()).await
    }

    /// Appends like [`append`](Self::append), and sets the resume values of sources together with the events: for each
    /// source the value of the last event that was received with the batch, whether the event is stored or not. A batch
    /// without events sets them after all earlier appends are stored.
    ///
    /// After a crash the values are those of the last stored events, as far as the events contain them; a value of an event
    /// that was not stored may be up to some seconds old.
    ///
    /// # Errors
    /// As [`append`](Self::append); after an error the values are not set.
    pub async fn append_resuming(
        &self,
        batch: Batch,
        values: Vec<ResumeValue>,
    ) -> Result<Option<Stored>, AppendError> {
        self.log.append(batch, values).await
    }

    /// Returns the resume value of a source as the JSON that its feed wrote: the last value that an append has set or that
    /// the opening has recovered. `None` if the source has no value.
    pub fn resume_value(&self, source: &str) -> Option<Arc<str>> {
        self.log.resume_values().get(source)
    }

    /// Returns the resume values of all sources, by name.
    pub fn resume_values(&self) -> BTreeMap<Arc<str>, Arc<str>> {
        self.log.resume_values().map().clone()
    }

    /// Returns a receiver of the sequence of the last durable event, 0 before the first one.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.log.durable()
    }

    /// Creates the reader with this name, which starts at its cursor, or with the next appended event if it has none. From
    /// now on the log retains the events that the reader has not settled.
    ///
    /// Dropping the reader ends the retention in a log in memory; a log on disk continues to retain the events.
    pub fn reader(&self, name: &str) -> SpoolReader {
        self.reader_from(name, Start::End)
    }

    /// Creates a reader like [`reader`](Self::reader); `start` is the start position if it has no cursor.
    pub fn reader_from(&self, name: &str, start: Start) -> SpoolReader {
        SpoolReader::start(self.log.clone(), name, start)
    }

    /// Creates a reader for observers, which starts with the next appended event. A log on disk stores no cursor for it and
    /// may delete events before it reads them; such events are reported as skipped. A log in memory retains the events that
    /// it has not committed, until it is dropped.
    pub fn observer_reader(&self) -> SpoolReader {
        SpoolReader::observer(self.log.clone())
    }

    /// Ends the retention of events for readers that have a cursor on disk and were not created since the log was opened.
    /// Returns their names. If such a reader is created later, it continues at its cursor and skips deleted events.
    ///
    /// To be called once all readers are created. Without this call, the log retains everything that any of them has not
    /// settled.
    pub fn release_unopened_readers(&self) -> Vec<String> {
        self.log.release_unopened_readers()
    }

    /// Ends the retention of events for the reader with this name, which must be dropped: its sink was removed. If the
    /// reader is created again, it continues at its cursor and skips deleted events.
    pub fn release(&self, name: &str) {
        self.log.release(name);
    }

    /// Returns the most recent events, at most `max_events`.
    pub fn recent(&self, max_events: u64) -> Recent {
        Recent::new(self.log.clone(), max_events)
    }

    /// Closes the log. Later appends and those that wait for space fail, and readers end after the last event.
    pub fn close(&self) {
        self.log.close();
    }

    /// Closes the log, saves all cursors, and unlocks the folder. To be called last, since later commits are lost.
    ///
    /// # Errors
    /// Returns an error if a write has failed, now or before.
    pub async fn finish(&self) -> Result<(), DiskError> {
        self.log.finish().await
    }

    /// Waits until the log fails, which may happen without an append. Never returns while the log has not failed, also
    /// after it was closed.
    pub async fn failed(&self) -> DiskError {
        self.log.failed().await
    }

    /// Returns a snapshot of the state.
    pub fn status(&self) -> SpoolStatus {
        self.log.status()
    }

    /// Returns the durations of syncs; empty for a log in memory.
    pub fn sync_duration(&self) -> histogram::Snapshot {
        self.log.sync_duration()
    }

    /// Returns the time of receipt of an event, or of the first later event in the log; `None` if there is none. Does not read
    /// the disk: for an event that is not in memory, returns the time of one of the some hundred events before it.
    pub fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        self.log.received_at(sequence)
    }
}
