//! The log on disk: append-only segments, a cursor for each reader, and three threads.
//!
//! The folder holds `spool.id`, `spool.lock`, the segments (`<first sequence, 20 digits>.segment`),
//! `cursors/<reader>.cursor`, `trimmed.cursor` (the retention marker: the end of the intentionally deleted events), `epochs`
//! (the first sequence of each epoch), `readers` (the registry of all readers that ever ran), `resume` (the resume values of
//! the sources, if a source can resume), `stopped` (the end of the log at the last orderly stop), and `damaged/` with copies of
//! unreadable bytes, which are retained for a week.
//!
//! | thread | waits for | task | when blocked or stopped |
//! |---|---|---|---|
//! | writer | batches | one write and one sync for all waiting batches, then publishes | full: appends wait; closed: completes its segment and ends |
//! | maintenance | commits, a wanted segment, some seconds | saves cursors and resume values, deletes segments and old copies, preallocates the next segment, checks the folder | no space: retries; stopped: saves once more and ends |
//! | checker | nothing | reads the segments of the last run and reports damage | ends with the log, or when all segments are read |

mod aside;
mod checker;
pub(crate) mod cursor;
pub(crate) mod epochs;
pub(crate) mod files;
mod intervals;
pub(crate) mod lines;
mod maintenance;
pub(crate) mod readers;
pub(crate) mod recovery;
pub(crate) mod registry;
mod resume;
pub(crate) mod resume_file;
mod retry;
pub(crate) mod scan;
pub(crate) mod segment;
mod shortage;
mod state;
pub(crate) mod stop_record;
mod walk;
mod writer;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use neurobridge_core::{
    epoch::Epochs,
    event::Sequence,
    histogram::{self, Histogram},
    identity::SpoolId,
    reader::Cursor,
    record::Batch,
};
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

pub(crate) use self::walk::Walk;
use self::{
    aside::Aside,
    cursor::CursorFile,
    files::DiskError,
    registry::Registry,
    resume_file::ResumeFile,
    segment::Segment,
    state::{CursorDamage, Pending, ReaderState, State},
};
use crate::{
    AppendError, DiskConfig, OpenError, SpoolStatus, Start, Stored,
    log::Found,
    resume::{ResumePaths, ResumeValue, Values},
};

/// The folder of the cursors.
pub(crate) const CURSORS: &str = "cursors";

/// The log on disk. Dropping it ends its threads, after the waiting batches are written.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The state shared by the threads and the readers.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: PathBuf,
    id: SpoolId,
    epochs: Epochs,
    options: Options,
    state: Mutex<State>,
    /// Wakes the writer: for a batch, for space, or at the end.
    writer_condvar: Condvar,
    /// Wakes the maintenance thread, and the checker when the log ends.
    maintenance_condvar: Condvar,
    durable: watch::Sender<u64>,
    /// True once the writer has ended.
    closed: watch::Sender<bool>,
    sync_duration: Histogram,
    /// The file of the retention marker, [`State::trimmed`].
    trimmed: Mutex<CursorFile>,
    /// The registry of all readers that ever ran.
    registry: Mutex<Registry>,
    /// The file of [`State::resume`].
    resume_file: Mutex<ResumeFile>,
    /// The copies of unreadable bytes.
    aside: Mutex<Aside>,
    /// The folder's device and inode when the log was opened.
    identity: (u64, u64),
    lock: Mutex<Option<recovery::FolderLock>>,
}

/// The configuration, and the sizes and ages derived from it.
#[derive(Clone, Debug)]
struct Options {
    max_size: u64,
    segment_size: u64,
    sync: crate::SyncPolicy,
    when_full: crate::WhenFull,
    retain: Duration,
    /// The age at which a segment is completed, so that its events can be deleted.
    segment_age: Duration,
}

impl Disk {
    /// Opens the log in a folder. Blocks until the last segment is read, and the records with newer resume values.
    pub(crate) fn open(config: &DiskConfig, folder: &Path, paths: &ResumePaths) -> Result<Self, OpenError> {
        let shared = Arc::new(recovery::open(config, folder)?);
        resume::recover(&shared, paths)?;
        let disk = Self {
            shared,
            threads: Mutex::default(),
        };
        disk.spawn("spool-writer", writer::run)?;
        disk.spawn("spool-maintain", maintenance::run)?;
        disk.spawn("spool-checker", checker::run)?;
        Ok(disk)
    }

    fn spawn(&self, name: &str, run: fn(Arc<Shared>)) -> Result<(), OpenError> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(shared))
            .map_err(DiskError::of("start a thread for", &self.shared.folder))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn id(&self) -> SpoolId {
        self.shared.id
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.shared.epochs
    }

    pub(crate) async fn append(
        &self,
        batch: Batch,
        values: Vec<ResumeValue>,
    ) -> Result<Option<Stored>, AppendError> {
        if batch.is_empty() && values.is_empty() {
            return Ok(None);
        }
        let (reply, stored) = oneshot::channel();
        let wakes_writer = {
            let mut state = self.shared.lock();
            if let Some(error) = &state.failed {
                return Err(AppendError::Failed {
                    source: error.clone(),
                });
            }
            if state.is_closed {
                return Err(AppendError::Closed);
            }
            let is_large = batch.len() >= writer::ENOUGH_TO_SYNC;
            state.queue.push_back(Pending { batch, values, reply });
            let waits = state.wakes_writer_from != usize::MAX;
            state.queue.len() >= state.wakes_writer_from || (is_large && waits)
        };
        if wakes_writer {
            self.shared.writer_condvar.notify_all();
        }
        if let Ok(stored) = stored.await {
            return stored;
        }
        // The writer ends, and reports the reason before it ends.
        let _ = self.closed().wait_for(|closed| *closed).await;
        Err(match &self.shared.lock().failed {
            Some(error) => AppendError::Failed {
                source: error.clone(),
            },
            None => AppendError::Closed,
        })
    }

    pub(crate) fn resume_values(&self) -> Values {
        self.shared.lock().resume.current().clone()
    }

    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    /// Waits until the writer has ended; returns the error that ended it, if there is one.
    pub(crate) async fn failed(&self) -> Option<DiskError> {
        let _ = self.closed().wait_for(|closed| *closed).await;
        self.shared.lock().failed.clone()
    }

    pub(crate) fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.writer_condvar.notify_all();
    }

    /// Ends the threads, which save the last cursors, and unlocks the folder.
    pub(crate) fn finish(&self) -> Result<(), DiskError> {
        self.close();
        let mut threads = lock(&self.threads);
        self.shared.lock().is_stopping = true;
        self.shared.maintenance_condvar.notify_all();
        let mut has_panicked = false;
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                error!(
                    folder = %self.shared.folder.display(),
                    "a thread of the spool has panicked, which is a bug; cursors may not be saved, and after the next start \
                     events may be sent again"
                );
                has_panicked = true;
            }
        }
        let mut locked = lock(&self.shared.lock);
        if locked.is_some() && !has_panicked && self.shared.lock().failed.is_none() {
            self.shared.save_last_resume();
            self.shared.record_stop();
        }
        locked.take();
        match &self.shared.lock().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(crate) fn register(&self, name: &str, start: Start) -> Cursor {
        let mut state = self.shared.lock();
        let cursor = state.cursor(name, start);
        let path = self.shared.folder.join(CURSORS).join(cursor::file_name(name));
        let unknown = state.readers_are_unknown.then(|| CursorDamage {
            reason: "the registry of readers is damaged, and there is no cursor".to_owned(),
            has_older: false,
        });
        let reader = state
            .readers
            .entry(name.to_owned())
            .or_insert_with(|| ReaderState {
                cursor: cursor.clone(),
                saved: None,
                file: Arc::new(Mutex::new(CursorFile::new(path, self.shared.id, None))),
                is_registered: false,
                damage: unknown,
                is_opened: true,
                retains: true,
            });
        reader.is_opened = true;
        reader.retains = true;
        let damage = reader.damage.take();
        state.damaged_cursors += u64::from(damage.is_some());
        self.shared.wake_maintenance(&mut state);
        let pending = state.next.since(cursor.next);
        drop(state);
        match damage {
            Some(damage) if damage.has_older => warn!(
                reader = name,
                reason = damage.reason,
                next = cursor.next.get(),
                pending,
                "one of the two copies of the cursor is damaged; if it was the newer one, events are delivered again"
            ),
            Some(damage) => error!(
                reader = name,
                reason = damage.reason,
                next = cursor.next.get(),
                pending,
                "cursor lost; delivering from the oldest record in the spool, including events that were delivered before"
            ),
            None => {}
        }
        cursor
    }

    pub(crate) fn commit(&self, name: &str, cursor: &Cursor) {
        let mut state = self.shared.lock();
        if let Some(reader) = state.readers.get_mut(name)
            && cursor.next > reader.cursor.next
        {
            reader.cursor.clone_from(cursor);
            self.shared.wake_maintenance(&mut state);
        }
    }

    /// Ends the retention of events for readers that were not opened in this run; returns their names.
    pub(crate) fn release_unopened_readers(&self) -> Vec<String> {
        let mut state = self.shared.lock();
        let others = state.readers.iter_mut().filter(|(_, reader)| !reader.is_opened);
        let names = others
            .map(|(name, reader)| {
                reader.retains = false;
                name.clone()
            })
            .collect();
        self.shared.wake_maintenance(&mut state);
        names
    }

    pub(crate) fn release(&self, name: &str) {
        let mut state = self.shared.lock();
        if let Some(reader) = state.readers.get_mut(name) {
            reader.retains = false;
            reader.is_opened = false;
        }
        self.shared.wake_maintenance(&mut state);
    }

    pub(crate) fn status(&self) -> SpoolStatus {
        let state = self.shared.lock();
        SpoolStatus {
            kind: "disk",
            oldest_sequence: state.oldest().get(),
            durable_sequence: state.next.get() - 1,
            size_bytes: state.size(),
            pending_bytes: state.pending_bytes(),
            limit_bytes: self.shared.options.max_size,
            dropped_events: state.dropped_events,
            damaged_events: state.damage.total(),
            damaged_cursors: state.damaged_cursors,
            is_full: state.is_full,
            is_disk_full: state.is_disk_full,
            is_retrying: state.is_retrying,
            has_failed: state.failed.is_some(),
        }
    }

    pub(crate) fn sync_duration(&self) -> histogram::Snapshot {
        self.shared.sync_duration.snapshot()
    }

    pub(crate) fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        self.shared.lock().received_at(sequence)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The error was reported when it occurred.
        let _ = self.finish();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait<'a>(
        &self,
        wakes: &Condvar,
        state: MutexGuard<'a, State>,
        limit: Duration,
    ) -> MutexGuard<'a, State> {
        let woken = wakes.wait_timeout(state, limit);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }

    fn wait_long<'a>(&self, wakes: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        wakes.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the maintenance thread if it sleeps: while it collects commits for one save, a commit must not cost a wake-up.
    fn wake_maintenance(&self, state: &mut State) {
        if state.is_full || std::mem::take(&mut state.maintenance_sleeps) {
            self.maintenance_condvar.notify_all();
        }
    }

    /// Returns the result for a sequence without reading the disk; `None` if the disk must be read.
    pub(crate) fn find(&self, sequence: Sequence) -> Option<Found> {
        self.lock().find(sequence)
    }

    /// Marks the log as failed: it accepts no more events, and stored events can still be read.
    fn fail(&self, error: DiskError) {
        let mut state = self.lock();
        error!(
            %error,
            cause = %error.source,
            pending = state.next.since(state.needed()),
            "the spool has failed and accepts no more events; stored events can still be delivered"
        );
        for pending in state.queue.drain(..) {
            // The caller may have ended.
            let _ = pending.reply.send(Err(AppendError::Failed {
                source: error.clone(),
            }));
        }
        state.failed.get_or_insert(error);
        drop(state);
        self.writer_condvar.notify_all();
    }

    /// Records the end of the log, unless it is recorded already.
    fn record_stop(&self) {
        let (epoch, next) = {
            let state = self.lock();
            let Some(epoch) = state.stored_epoch else {
                return;
            };
            (epoch, state.next)
        };
        let recorded = retry::retry_briefly(|| stop_record::write(&self.folder, epoch, next));
        if let Err(error) = recorded {
            warn!(
                %error,
                cause = %error.source,
                "orderly stop cannot be recorded; the next start cannot detect a loss at the end of the spool"
            );
        }
    }

    /// Deletes segments that were removed from the list. Before that, saves the retention marker, because otherwise a crash
    /// would leave a hole that looks like damage, and the resume values of the deleted events.
    ///
    /// Segments that cannot be deleted now, even for lack of space for these files, are put back and deleted later.
    fn remove(&self, segments: impl Into<VecDeque<Segment>>) -> Result<(), DiskError> {
        let mut segments = segments.into();
        let removed = self.remove_files(&mut segments);
        self.lock().put_back(segments);
        removed
    }

    fn remove_files(&self, segments: &mut VecDeque<Segment>) -> Result<(), DiskError> {
        let cursor = {
            let state = self.lock();
            let mut cursor = Cursor::starting_at(Sequence::FIRST);
            cursor.next = state.trimmed;
            cursor.counts.dropped = state.dropped_events;
            cursor
        };
        self.save_changed_resume()?;
        lock(&self.trimmed).save(&cursor)?;
        while let Some(segment) = segments.front() {
            files::remove(&segment.path)?;
            segments.pop_front();
        }
        files::sync_folder(&self.folder)
    }
}

/// Returns a delay, or a hundredth of it in tests that inject hundreds of disk errors.
const fn shortened(pause: Duration) -> Duration {
    if cfg!(feature = "failpoints") {
        Duration::from_micros(pause.as_micros() as u64 / 100)
    } else {
        pause
    }
}

/// Locks a mutex, also after a panic of another thread: no code under these locks can panic in the middle of an update.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
