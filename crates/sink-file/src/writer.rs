//! Runs the operations of a [`Log`] on the blocking pool, one after the other, and rotates and removes its files by time.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tracing::warn;

use crate::{clock::Clock, config::Limits, error::FileError, log::Log};

/// The interval for rotating and removing files by time, also while no event arrives.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

/// Runs operations on a log one after the other. Dropping the writer closes the log after the current operation.
pub(crate) struct Writer {
    path: PathBuf,
    limits: Limits,
    clock: Arc<dyn Clock>,
    slot: Arc<Mutex<Slot>>,
    generation: u64,
    housekeeping: JoinSet<()>,
}

struct Slot {
    log: Option<Log>,
    /// The number of openings. An operation submitted before the last opening was abandoned by its caller and must not run:
    /// it could wait in the pool until after later operations.
    generation: u64,
}

impl Writer {
    pub(crate) fn new(path: PathBuf, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            path,
            limits,
            clock,
            slot: Arc::new(Mutex::new(Slot {
                log: None,
                generation: 0,
            })),
            generation: 0,
            housekeeping: JoinSet::new(),
        }
    }

    /// Opens or reopens the log, and runs `work` on it.
    pub(crate) fn open<T, W>(
        &mut self,
        work: W,
    ) -> impl Future<Output = Result<T, FileError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&mut Log) -> Result<T, FileError> + Send + 'static,
    {
        self.generation += 1;
        self.start_housekeeping();
        let (limits, clock, path) = (self.limits, Arc::clone(&self.clock), self.path.clone());
        let opened = self.run(true, move |log| {
            if let Some(old) = log {
                old.replace_unsynced_file()?;
            }
            // The old log is closed first, which releases its lock.
            *log = None;
            let mut opened = Log::open(&path, limits, clock)?;
            let done = work(&mut opened)?;
            *log = Some(opened);
            Ok(done)
        });
        let path = self.path.clone();
        async move { opened.await.unwrap_or(Err(FileError::Abandoned { path })) }
    }

    /// Runs `work` on the open log in the background, even if the handle is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, FileError> + Send + 'static,
    ) -> JoinHandle<Result<T, FileError>> {
        let path = self.path.clone();
        self.run(false, move |log| match log {
            Some(log) => work(log),
            None => Err(FileError::Abandoned { path }),
        })
    }

    /// Closes the log; another process can then open it.
    pub(crate) fn close(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.housekeeping.abort_all();
        self.generation += 1;
        let closed = self.run(true, |log| {
            *log = None;
            Ok(())
        });
        async move { drop(closed.await) }
    }

    /// Runs `work` on the blocking pool. `opens`: whether it belongs to an opening or a close, and so begins a generation.
    fn run<T: Send + 'static>(
        &self,
        opens: bool,
        work: impl FnOnce(&mut Option<Log>) -> Result<T, FileError> + Send + 'static,
    ) -> JoinHandle<Result<T, FileError>> {
        let (slot, generation, path) = (Arc::clone(&self.slot), self.generation, self.path.clone());
        spawn_blocking(move || {
            // A log is consistent between writes, and so also after a panic of a writer.
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.generation > generation || (!opens && slot.generation < generation) {
                return Err(FileError::Abandoned { path });
            }
            slot.generation = generation;
            work(&mut slot.log)
        })
    }

    fn start_housekeeping(&mut self) {
        self.housekeeping.abort_all();
        if self.limits.rotate_every.is_none() && self.limits.max_age.is_none() {
            return;
        }
        let slot = Arc::clone(&self.slot);
        self.housekeeping.spawn(async move {
            loop {
                tokio::time::sleep(HOUSEKEEPING_INTERVAL).await;
                let slot = Arc::clone(&slot);
                let tidied = spawn_blocking(move || {
                    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                    slot.log.as_mut().map_or(Ok(()), Log::tidy)
                });
                if let Ok(Err(error)) = tidied.await {
                    warn!(
                        "cannot rotate or remove old files; retrying: {}",
                        error.sentence()
                    );
                }
            }
        });
    }
}
