//! The two kinds of log behind one face.

use std::{path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use neurobridge_core::{
    epoch::Epochs,
    event::Sequence,
    histogram,
    identity::SpoolId,
    os_error::ErrorClass,
    reader::{Cursor, ReadError},
    record::{Batch, SealedBatch},
};
use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::warn;

use crate::{
    AppendError, OpenError, SpoolConfig, SpoolStatus, Start, Stored,
    disk::{Disk, Walk, files::DiskError},
    memory::Memory,
};

/// How long to wait before reading again after an error that may pass.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What stands at a place of the log.
#[derive(Debug)]
pub(crate) enum Found {
    Events(SealedBatch),
    /// Not there any more; the oldest that is there stands at `oldest`.
    Dropped {
        oldest: Sequence,
    },
    /// Not readable; what comes after it stands at `next`.
    Damaged {
        next: Sequence,
    },
    /// Not there yet.
    Nothing,
}

/// A log. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) enum Log {
    Memory(Arc<Memory>),
    Disk(Arc<Disk>),
}

/// Which reader is meant.
#[derive(Debug)]
pub(crate) enum ReaderKey {
    Memory(u64),
    Disk(String),
    /// One that holds nothing back and leaves nothing behind.
    Passing,
}

impl Log {
    pub(crate) fn open(config: &SpoolConfig, data_dir: &Path) -> Result<Self, OpenError> {
        Ok(match config {
            SpoolConfig::Memory(config) => Self::Memory(Arc::new(Memory::new(config)?)),
            SpoolConfig::Disk(config) => {
                Self::Disk(Arc::new(Disk::open(config, &data_dir.join(&config.path))?))
            }
        })
    }

    pub(crate) fn id(&self) -> SpoolId {
        match self {
            Self::Memory(log) => log.id(),
            Self::Disk(log) => log.id(),
        }
    }

    pub(crate) fn epochs(&self) -> Epochs {
        match self {
            Self::Memory(_) => Epochs::default(),
            Self::Disk(log) => log.epochs().clone(),
        }
    }

    pub(crate) async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        match self {
            Self::Memory(log) => log.append(batch).await,
            Self::Disk(log) => log.append(batch).await,
        }
    }

    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        match self {
            Self::Memory(log) => log.durable(),
            Self::Disk(log) => log.durable(),
        }
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        match self {
            Self::Memory(log) => log.closed(),
            Self::Disk(log) => log.closed(),
        }
    }

    pub(crate) async fn failed(&self) -> DiskError {
        if let Self::Disk(log) = self
            && let Some(error) = log.failed().await
        {
            return error;
        }
        std::future::pending().await
    }

    pub(crate) fn close(&self) {
        match self {
            Self::Memory(log) => log.close(),
            Self::Disk(log) => log.close(),
        }
    }

    pub(crate) async fn finish(&self) -> Result<(), DiskError> {
        match self {
            Self::Memory(log) => {
                log.close();
                Ok(())
            }
            Self::Disk(log) => {
                let log = Arc::clone(log);
                match spawn_blocking(move || log.finish()).await {
                    Ok(finished) => finished,
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The runtime stops: then dropping the log finishes it.
                        Err(_) => Ok(()),
                    },
                }
            }
        }
    }

    pub(crate) fn register(&self, name: &str, start: Start) -> (ReaderKey, Cursor) {
        match self {
            Self::Memory(log) => {
                let (number, first) = log.register(start);
                (ReaderKey::Memory(number), Cursor::starting_at(first))
            }
            Self::Disk(log) => (ReaderKey::Disk(name.to_owned()), log.register(name, start)),
        }
    }

    /// A reader that begins with what is appended next and whose cursor no disk keeps.
    pub(crate) fn register_passing(&self) -> (ReaderKey, Cursor) {
        match self {
            Self::Memory(_) => self.register("", Start::End),
            Self::Disk(log) => {
                let end = Sequence::FIRST.plus(*log.durable().borrow());
                (ReaderKey::Passing, Cursor::starting_at(end))
            }
        }
    }

    pub(crate) fn unregister(&self, reader: &ReaderKey) {
        // On disk the cursor stays, and holds what is not settled.
        if let (Self::Memory(log), ReaderKey::Memory(number)) = (self, reader) {
            log.unregister(*number);
        }
    }

    pub(crate) fn commit(&self, reader: &ReaderKey, cursor: &Cursor) {
        match (self, reader) {
            (Self::Memory(log), ReaderKey::Memory(number)) => log.commit(*number, cursor.next),
            (Self::Disk(log), ReaderKey::Disk(name)) => log.commit(name, cursor),
            // One that only passes, of which nothing is kept; a key is made by its own log.
            _ => {}
        }
    }

    pub(crate) fn release_others(&self) -> Vec<String> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::Disk(log) => log.release_others(),
        }
    }

    pub(crate) fn status(&self) -> SpoolStatus {
        match self {
            Self::Memory(log) => log.status(),
            Self::Disk(log) => log.status(),
        }
    }

    pub(crate) fn sync_duration(&self) -> histogram::Snapshot {
        match self {
            Self::Memory(_) => histogram::Snapshot::default(),
            Self::Disk(log) => log.sync_duration(),
        }
    }

    pub(crate) fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        match self {
            Self::Memory(log) => log.received_at(sequence),
            Self::Disk(log) => log.received_at(sequence),
        }
    }
}

/// Finds what stands at a place of the log, and keeps its own place on the disk between two calls.
#[derive(Debug)]
pub(crate) struct Finder {
    log: Log,
    /// For whom it finds, in a log in memory: what is on its way to a reader is dropped last.
    reader: Option<u64>,
    walk: Walk,
}

impl Finder {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            reader: None,
            walk: Walk::default(),
        }
    }

    /// For a reader of the log.
    pub(crate) fn of_reader(log: Log, key: &ReaderKey) -> Self {
        let reader = match key {
            ReaderKey::Memory(number) => Some(*number),
            _ => None,
        };
        Self {
            reader,
            ..Self::new(log)
        }
    }

    /// Looks into memory, and asks the disk from a thread that may block. Dropping the future costs the place on the
    /// disk, which is found again.
    pub(crate) async fn find(&mut self, sequence: Sequence) -> Result<Found, ReadError> {
        let shared = match &self.log {
            Log::Memory(log) => {
                return Ok(match self.reader {
                    Some(reader) => log.hand_out(reader, sequence),
                    None => log.find(sequence),
                });
            }
            Log::Disk(log) => log.shared(),
        };
        if let Some(found) = shared.find(sequence) {
            return Ok(found);
        }
        loop {
            let (shared, mut walk) = (Arc::clone(shared), std::mem::take(&mut self.walk));
            let asked = spawn_blocking(move || {
                let found = walk.find(&shared, sequence);
                (walk, found)
            });
            let found = match asked.await {
                Ok((walk, found)) => {
                    self.walk = walk;
                    found
                }
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(ReadError::Stopped),
                },
            };
            match found {
                Err(error) if ErrorClass::of(&error).may_pass() => {
                    warn!(%error, "the spool can't be read now; it is tried again");
                    sleep(RETRY_INTERVAL).await;
                }
                found => return found.map_err(|source| ReadError::Disk { sequence, source }),
            }
        }
    }

    /// As [`find`](Self::find), in a thread that may block.
    pub(crate) fn find_blocking(&mut self, sequence: Sequence) -> Result<Found, ReadError> {
        match &self.log {
            Log::Memory(log) => Ok(log.find(sequence)),
            Log::Disk(log) => loop {
                match self.walk.find(log.shared(), sequence) {
                    Err(error) if ErrorClass::of(&error).may_pass() && !*log.closed().borrow() => {
                        warn!(%error, "the spool can't be read now; it is tried again");
                        std::thread::sleep(RETRY_INTERVAL);
                    }
                    found => return found.map_err(|source| ReadError::Disk { sequence, source }),
                }
            },
        }
    }
}
