//! A [`Log`] on the blocking pool, and its housekeeping.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tracing::warn;

use crate::{clock::Clock, config::Limits, error::FileError, log::Log};

/// Old files are removed this often, also when no event comes.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(60);

/// Gives a log its work, one piece at a time. Dropping it closes the log when the piece at hand is done.
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
    /// Counts the openings. Work given before the last one was given up by who gave it, and must not be done any more:
    /// it could wait in the pool until after what came later.
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

    /// Opens the log, or opens it anew, and does `work` with it.
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
                old.put_aside()?;
            }
            // The old one first, with its lock.
            *log = None;
            let mut opened = Log::open(&path, limits, clock)?;
            let done = work(&mut opened)?;
            *log = Some(opened);
            Ok(done)
        });
        let path = self.path.clone();
        async move { opened.await.unwrap_or(Err(FileError::BrokenOff { path })) }
    }

    /// Does `work` with the open log, in the background: it is done whether or not the handle is kept.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, FileError> + Send + 'static,
    ) -> JoinHandle<Result<T, FileError>> {
        let path = self.path.clone();
        self.run(false, move |log| match log {
            Some(log) => work(log),
            None => Err(FileError::BrokenOff { path }),
        })
    }

    /// Closes the log: another process may have it then.
    pub(crate) fn close(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.housekeeping.abort_all();
        self.generation += 1;
        let closed = self.run(true, |log| {
            *log = None;
            Ok(())
        });
        async move { drop(closed.await) }
    }

    fn run<T: Send + 'static>(
        &self,
        opens: bool,
        work: impl FnOnce(&mut Option<Log>) -> Result<T, FileError> + Send + 'static,
    ) -> JoinHandle<Result<T, FileError>> {
        let (slot, generation, path) = (Arc::clone(&self.slot), self.generation, self.path.clone());
        spawn_blocking(move || {
            // A log is whole between its writes, so one whose writer panicked is as well.
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.generation > generation || (!opens && slot.generation < generation) {
                return Err(FileError::BrokenOff { path });
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
                    warn!("old files can't be rotated or removed: {}", error.sentence());
                }
            }
        });
    }
}
