//! The log between the listener and the sinks: one writer, many readers, each at its own pace.
//!
//! ```
//! use neurobridge_core::{reader::{Cursor, Read, Reader}, record::Batch};
//! use neurobridge_spool::{Spool, SpoolConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spool = Spool::open(&SpoolConfig::default())?;
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
mod memory;
mod reader;

use std::sync::Arc;

use jiff::Timestamp;
use neurobridge_core::{event::Sequence, identity::SpoolId, record::Batch};
use tokio::sync::watch;

use self::memory::Memory;
pub use self::{
    config::{MemoryConfig, SpoolConfig, WhenFull},
    reader::SpoolReader,
};

/// The log. Clones are handles to the same log; it lives as long as one of them, or of its readers.
#[derive(Clone, Debug)]
pub struct Spool {
    log: Arc<Memory>,
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
    /// The number of the last durable event, 0 before the first. For the log in memory: the last one appended.
    pub durable_sequence: u64,
    /// Bytes held.
    pub size_bytes: u64,
    /// Bytes that may be held.
    pub limit_bytes: u64,
    /// Events dropped because the log was full.
    pub dropped_events: u64,
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
}

/// Why events were not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// [`Spool::close`] was called.
    #[error("the spool is closed")]
    Closed,
}

impl Spool {
    /// Opens the log that the configuration describes.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &SpoolConfig) -> Result<Self, OpenError> {
        match config {
            SpoolConfig::Memory(config) => Ok(Self {
                log: Arc::new(Memory::new(config)?),
            }),
        }
    }

    /// The log's id: with an event's sequence it names an event for ever.
    pub fn id(&self) -> SpoolId {
        self.log.id()
    }

    /// Numbers a batch's events and stores them; `None` for an empty batch. Waits while the log is full, unless it is
    /// to drop the oldest. Only one append at a time: the log has one writer.
    ///
    /// Dropping the future before it is ready stores nothing.
    ///
    /// # Errors
    /// See [`AppendError`]; nothing was stored.
    pub async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        self.log.append(batch).await
    }

    /// The number of the last event that is as durable as this kind of log makes it, 0 before the first.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.log.durable()
    }

    /// A reader that begins with what is appended next. From now on its cursor keeps what it has not settled.
    ///
    /// Dropping the reader releases the log from it.
    pub fn reader(&self, name: &str) -> SpoolReader {
        SpoolReader::start(Arc::clone(&self.log), name)
    }

    /// Ends the log: no more appends, and readers end when they have read all.
    pub fn close(&self) {
        self.log.close();
    }

    /// What it holds now.
    pub fn status(&self) -> SpoolStatus {
        self.log.status()
    }

    /// When the event of a sequence was received, or the first after it that the log still has; `None` when it has none.
    pub fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        self.log.received_at(sequence)
    }
}
