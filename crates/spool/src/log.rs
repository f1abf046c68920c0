//! The common interface of the log in memory and the log on disk.

use std::{io, path::Path, sync::Arc, time::Duration};

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
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::{
    AppendError, OpenError, SpoolConfig, SpoolStatus, Start, Stored,
    disk::{Disk, Shared, Walk, files::DiskError},
    memory::Memory,
    resume::{ResumePaths, ResumeValue, Values},
};

/// The delay before a read is retried after a temporary error.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The result of a look-up in the log.
#[derive(Debug)]
pub(crate) enum Found {
    Events(SealedBatch),
    /// The event is no longer in the log; the oldest event has the sequence `oldest`.
    Dropped {
        oldest: Sequence,
    },
    /// The event is unreadable; the next readable one has the sequence `next`.
    Damaged {
        next: Sequence,
    },
    /// The event is not in the log yet.
    Nothing,
}

/// A log. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) enum Log {
    Memory(Arc<Memory>),
    Disk(Arc<Disk>),
}

/// The key of a reader.
#[derive(Debug)]
pub(crate) enum ReaderKey {
    Memory(u64),
    Disk(String),
    /// The reader of an observer, which retains no events and has no cursor.
    Observer,
}

impl Log {
    pub(crate) fn open(
        config: &SpoolConfig,
        data_dir: &Path,
        paths: &ResumePaths,
    ) -> Result<Self, OpenError> {
        Ok(match config {
            SpoolConfig::Memory(config) => Self::Memory(Arc::new(Memory::new(config)?)),
            SpoolConfig::Disk(config) => {
                Self::Disk(Arc::new(Disk::open(config, &data_dir.join(&config.path), paths)?))
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

    pub(crate) async fn append(
        &self,
        batch: Batch,
        values: Vec<ResumeValue>,
    ) -> Result<Option<Stored>, AppendError> {
        match self {
            Self::Memory(log) => log.append(batch, values).await,
            Self::Disk(log) => log.append(batch, values).await,
        }
    }

    pub(crate) fn resume_values(&self) -> Values {
        match self {
            Self::Memory(log) => log.resume_values(),
            Self::Disk(log) => log.resume_values(),
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
                        // The runtime is stopping. Dropping the log finishes it then.
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

    /// Registers a reader that starts with the next appended event and has no cursor on disk.
    pub(crate) fn register_observer(&self) -> (ReaderKey, Cursor) {
        match self {
            Self::Memory(_) => self.register("", Start::End),
            Self::Disk(log) => {
                let end = Sequence::FIRST.plus(*log.durable().borrow());
                (ReaderKey::Observer, Cursor::starting_at(end))
            }
        }
    }

    pub(crate) fn unregister(&self, reader: &ReaderKey) {
        // A log on disk keeps the cursor, and retains unsettled events.
        if let (Self::Memory(log), ReaderKey::Memory(number)) = (self, reader) {
            log.unregister(*number);
        }
    }

    pub(crate) fn commit(&self, reader: &ReaderKey, cursor: &Cursor) {
        match (self, reader) {
            (Self::Memory(log), ReaderKey::Memory(number)) => log.commit(*number, cursor.next),
            (Self::Disk(log), ReaderKey::Disk(name)) => log.commit(name, cursor),
            // The reader of an observer has no state. Other combinations do not occur, since a log creates its own keys.
            _ => {}
        }
    }

    pub(crate) fn release_unopened_readers(&self) -> Vec<String> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::Disk(log) => log.release_unopened_readers(),
        }
    }

    pub(crate) fn release(&self, name: &str) {
        // In a log in memory the retention ended with the reader.
        if let Self::Disk(log) = self {
            log.release(name);
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

/// Looks events up in the log, and keeps its position on the disk between calls.
#[derive(Debug)]
pub(crate) struct Finder {
    log: Log,
    /// The number of the reader in a log in memory. The log records which events it has passed to each reader, because a
    /// full log drops these events last.
    reader: Option<u64>,
    /// The name of the reader of a log on disk, for log lines.
    name: Option<String>,
    walk: Walk,
    /// The running look-up on the disk.
    running: Option<LookUp>,
    /// The time of the next attempt after a temporary error.
    retry_at: Option<Instant>,
}

/// A look-up on the disk in a blocking thread.
#[derive(Debug)]
struct LookUp {
    sequence: Sequence,
    result: JoinHandle<(Walk, io::Result<Found>)>,
}

impl Finder {
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            reader: None,
            name: None,
            walk: Walk::default(),
            running: None,
            retry_at: None,
        }
    }

    /// Creates a finder for a reader.
    pub(crate) fn of_reader(log: Log, key: &ReaderKey) -> Self {
        let (reader, name) = match key {
            ReaderKey::Memory(number) => (Some(*number), None),
            ReaderKey::Disk(name) => (None, Some(name.clone())),
            ReaderKey::Observer => (None, None),
        };
        Self {
            reader,
            name,
            ..Self::new(log)
        }
    }

    /// Looks an event up in memory, or on disk in a blocking thread. Cancel-safe: a look-up on the disk continues, and the
    /// next call waits for it.
    pub(crate) async fn find(&mut self, sequence: Sequence) -> Result<Found, ReadError> {
        let shared = match &self.log {
            Log::Memory(log) => {
                return Ok(match self.reader {
                    Some(reader) => log.find_for_reader(reader, sequence),
                    None => log.find(sequence),
                });
            }
            Log::Disk(log) => Arc::clone(log.shared()),
        };
        loop {
            // An event in memory does not wait for a look-up of another position, which a rewind has made useless.
            let is_running = self
                .running
                .as_ref()
                .is_some_and(|running| running.sequence == sequence);
            if !is_running && let Some(found) = shared.find(sequence) {
                return Ok(found);
            }
            if let Some(at) = self.retry_at {
                sleep_until(at).await;
                self.retry_at = None;
            }
            let running = match &mut self.running {
                Some(running) => running,
                None => self
                    .running
                    .insert(LookUp::start(&shared, std::mem::take(&mut self.walk), sequence)),
            };
            let (looked_up, result) = (running.sequence, (&mut running.result).await);
            self.running = None;
            let found = match result {
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
                // The position was requested before a rewind.
                _ if looked_up != sequence => {}
                Ok(Found::Events(batch)) => {
                    // The disk reads the next batch while this one is published.
                    if shared.find(batch.end()).is_none() {
                        let walk = std::mem::take(&mut self.walk);
                        self.running = Some(LookUp::start(&shared, walk, batch.end()));
                    }
                    return Ok(Found::Events(batch));
                }
                Ok(found) => return Ok(found),
                Err(error) if ErrorClass::of(&error).is_retryable() => {
                    warn!(
                        reader = self.name,
                        sequence = sequence.get(),
                        %error,
                        "the spool cannot be read; retrying in {RETRY_INTERVAL:?}"
                    );
                    self.retry_at = Some(Instant::now() + RETRY_INTERVAL);
                }
                Err(source) => return Err(ReadError::Disk { sequence, source }),
            }
        }
    }

    /// Looks an event up like [`find`](Self::find), for a thread that may block.
    pub(crate) fn find_blocking(&mut self, sequence: Sequence) -> Result<Found, ReadError> {
        match &self.log {
            Log::Memory(log) => Ok(log.find(sequence)),
            Log::Disk(log) => loop {
                match self.walk.find(log.shared(), sequence) {
                    Err(error) if ErrorClass::of(&error).is_retryable() && !*log.closed().borrow() => {
                        warn!(
                            reader = self.name,
                            sequence = sequence.get(),
                            %error,
                            "the spool cannot be read; retrying in {RETRY_INTERVAL:?}"
                        );
                        std::thread::sleep(RETRY_INTERVAL);
                    }
                    found => return found.map_err(|source| ReadError::Disk { sequence, source }),
                }
            },
        }
    }
}

impl LookUp {
    fn start(shared: &Arc<Shared>, mut walk: Walk, sequence: Sequence) -> Self {
        let shared = Arc::clone(shared);
        Self {
            sequence,
            result: spawn_blocking(move || {
                let found = walk.find(&shared, sequence);
                (walk, found)
            }),
        }
    }
}
