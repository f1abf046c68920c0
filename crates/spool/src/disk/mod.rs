//! The log on disk: append-only segments, a cursor for each reader, and three threads.
//!
//! The folder holds `spool.id`, `spool.lock`, the segments (`<first sequence, 20 digits>.segment`), `cursors/<reader>.cursor`,
//! `trimmed.cursor` (what was deleted on purpose), `epochs` (which run gave which sequences), and `damaged/` with copies of bytes that could not be read.
//!
//! | thread | awaits | does | when blocked or stopped |
//! |---|---|---|---|
//! | writer | batches | one write and one sync for all that wait, then publishes | full: appends wait; closed: completes its segment and ends |
//! | keeper | commits, a wanted segment | saves cursors, deletes segments, makes the next one | no room: tries again; stopped: saves once more and ends |
//! | checker | nothing | reads what the last run left and notes damage | ends with the log, or when all is read |

mod checker;
pub(crate) mod cursor;
pub(crate) mod epochs;
pub(crate) mod files;
mod keeper;
pub(crate) mod recovery;
pub(crate) mod scan;
pub(crate) mod segment;
mod state;
mod walk;
mod writer;

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
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
use nix::fcntl::Flock;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

pub(crate) use self::walk::Walk;
use self::{
    cursor::CursorFile,
    files::DiskError,
    scan::{BLOCK, Region},
    segment::Segment,
    state::{Pending, ReaderState, State},
};
use crate::{AppendError, DiskConfig, OpenError, SpoolStatus, Start, Stored, log::Found};

/// How much of bytes that can't be read is kept. It is for people to look at, and there may be any amount.
const DAMAGED_LIMIT: u64 = 64 << 20;
/// Where it is kept.
const DAMAGED: &str = "damaged";
/// Where cursors are kept.
pub(crate) const CURSORS: &str = "cursors";

/// The log on disk. Dropping it ends its threads, after what is on its way is written.
#[derive(Debug)]
pub(crate) struct Disk {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the readers share.
#[derive(Debug)]
pub(crate) struct Shared {
    folder: PathBuf,
    id: SpoolId,
    epochs: Epochs,
    options: Options,
    state: Mutex<State>,
    /// Wakes the writer: a batch, room, or the end.
    work: Condvar,
    /// Wakes the keeper.
    chores: Condvar,
    durable: watch::Sender<u64>,
    /// True once nothing more will be written.
    closed: watch::Sender<bool>,
    sync_duration: Histogram,
    /// The file of [`State::trimmed`].
    trimmed: Mutex<CursorFile>,
    /// Bytes kept of what can't be read.
    damaged_size: Mutex<u64>,
    lock: Mutex<Option<Flock<File>>>,
}

/// The configuration, in numbers.
#[derive(Clone, Debug)]
struct Options {
    max_size: u64,
    segment_size: u64,
    sync: crate::SyncPolicy,
    when_full: crate::WhenFull,
    retain: Duration,
}

impl Disk {
    /// Opens the log in a folder. Blocks until the last segment is read.
    pub(crate) fn open(config: &DiskConfig, folder: &Path) -> Result<Self, OpenError> {
        let shared = Arc::new(recovery::open(config, folder)?);
        let disk = Self {
            shared,
            threads: Mutex::default(),
        };
        disk.spawn("spool-writer", writer::run)?;
        disk.spawn("spool-keeper", keeper::run)?;
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

    pub(crate) async fn append(&self, batch: Batch) -> Result<Option<Stored>, AppendError> {
        if batch.is_empty() {
            return Ok(None);
        }
        let (reply, stored) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if let Some(error) = &state.failed {
                return Err(AppendError::Failed {
                    source: error.clone(),
                });
            }
            if state.is_closed {
                return Err(AppendError::Closed);
            }
            state.queue.push_back(Pending { batch, reply });
        }
        self.shared.work.notify_all();
        if let Ok(stored) = stored.await {
            return stored;
        }
        // The writer ends; why, it says before it has ended.
        let _ = self.closed().wait_for(|closed| *closed).await;
        Err(match &self.shared.lock().failed {
            Some(error) => AppendError::Failed {
                source: error.clone(),
            },
            None => AppendError::Closed,
        })
    }

    pub(crate) fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<bool> {
        self.shared.closed.subscribe()
    }

    pub(crate) fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
    }

    /// Ends the threads, which saves the last cursors, and gives the folder free.
    pub(crate) fn finish(&self) -> Result<(), DiskError> {
        self.close();
        let mut threads = lock(&self.threads);
        self.shared.lock().is_stopping = true;
        self.shared.chores.notify_all();
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                error!("a thread of the spool has panicked; this is a bug");
            }
        }
        lock(&self.shared.lock).take();
        match &self.shared.lock().failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(crate) fn register(&self, name: &str, start: Start) -> Cursor {
        let mut state = self.shared.lock();
        let cursor = state.cursor(name, start);
        let path = self.shared.folder.join(CURSORS).join(cursor::file_name(name));
        let reader = state
            .readers
            .entry(name.to_owned())
            .or_insert_with(|| ReaderState {
                cursor: cursor.clone(),
                saved: None,
                file: Arc::new(Mutex::new(CursorFile::new(path, self.shared.id, None))),
                is_known: true,
                holds: true,
            });
        reader.is_known = true;
        reader.holds = true;
        self.shared.wake_keeper(&mut state);
        cursor
    }

    pub(crate) fn commit(&self, name: &str, cursor: &Cursor) {
        let mut state = self.shared.lock();
        if let Some(reader) = state.readers.get_mut(name)
            && cursor.next > reader.cursor.next
        {
            reader.cursor.clone_from(cursor);
            self.shared.wake_keeper(&mut state);
        }
    }

    /// Lets go of readers that were not opened in this run; their names.
    pub(crate) fn release_others(&self) -> Vec<String> {
        let mut state = self.shared.lock();
        let others = state.readers.iter_mut().filter(|(_, reader)| !reader.is_known);
        let names = others
            .map(|(name, reader)| {
                reader.holds = false;
                name.clone()
            })
            .collect();
        self.shared.wake_keeper(&mut state);
        names
    }

    pub(crate) fn status(&self) -> SpoolStatus {
        let state = self.shared.lock();
        SpoolStatus {
            kind: "disk",
            oldest_sequence: state.oldest().get(),
            durable_sequence: state.next.get() - 1,
            size_bytes: state.size(),
            limit_bytes: self.shared.options.max_size,
            dropped_events: state.dropped_events,
            damaged_events: state.damage.total(),
            is_full: state.is_full,
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
        // Said when it happened.
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

    /// Wakes the keeper if it sleeps: a commit must not cost a wake-up while it waits to save many at once.
    fn wake_keeper(&self, state: &mut State) {
        if state.is_full || std::mem::take(&mut state.keeper_sleeps) {
            self.chores.notify_all();
        }
    }

    /// What is at hand of a sequence; `None` when the disk has to be asked.
    pub(crate) fn find(&self, sequence: Sequence) -> Option<Found> {
        self.lock().find(sequence)
    }

    /// The log takes no more events; those that are on the disk are still read.
    fn fail(&self, error: DiskError) {
        error!(%error, cause = %error.source, "the spool has failed: it takes no more events");
        let mut state = self.lock();
        for pending in state.queue.drain(..) {
            // Its caller may have gone.
            let _ = pending.reply.send(Err(AppendError::Failed {
                source: error.clone(),
            }));
        }
        state.failed.get_or_insert(error);
        drop(state);
        self.work.notify_all();
    }

    /// Deletes segments that were taken out of the list. That they were is on the disk first: otherwise a crash would
    /// leave a hole that looks like damage.
    ///
    /// What can't be deleted now, even for want of room to note it, is put back and deleted later.
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
        lock(&self.trimmed).save(&cursor)?;
        while let Some(segment) = segments.front() {
            files::remove(&segment.path)?;
            segments.pop_front();
        }
        files::sync_folder(&self.folder)
    }

    /// Counts events that can't be read, says so once, and sets aside what stands in their place.
    fn note_damage(&self, path: &Path, region: &Region) {
        if !self.lock().damage.insert(region.from, region.to) && region.from != region.to {
            return;
        }
        match self.set_aside(path, region) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => warn!(%error, segment = %path.display(), "damaged bytes can't be set aside"),
        }
        error!(
            segment = %path.display(),
            offset = region.offset,
            bytes = region.length(),
            first = region.from.get(),
            events = region.to.since(region.from),
            "the spool is damaged; these events are lost, the others are delivered"
        );
    }

    /// Copies bytes that are no records into a folder of their own; whether that was new.
    fn set_aside(&self, path: &Path, region: &Region) -> io::Result<bool> {
        let folder = self.folder.join(DAMAGED);
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let copy = folder.join(format!("{stem}-{}.bytes", region.offset));
        let mut size = lock(&self.damaged_size);
        let length = region.length();
        if copy.exists() || (length == 0 && region.from == region.to) {
            return Ok(false);
        }
        if length == 0 || *size + length > DAMAGED_LIMIT {
            return Ok(true);
        }
        files::make_folder(&folder).map_err(io::Error::other)?;
        let (from, to) = (File::open(path)?, files::create(&copy).map_err(io::Error::other)?);
        let mut done = 0;
        while done < length {
            let bytes = scan::read(&from, region.offset + done, BLOCK.min((length - done) as usize))?;
            if bytes.is_empty() {
                break;
            }
            files::write_at(&to, &copy, &bytes, done).map_err(io::Error::other)?;
            done += bytes.len() as u64;
        }
        *size += done;
        Ok(true)
    }
}

/// Bytes that the copies of an earlier run take.
fn damaged_size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder.join(DAMAGED)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// A pause, or a hundredth of it where tests let the disk fail hundreds of times.
const fn shortened(pause: Duration) -> Duration {
    if cfg!(feature = "failpoints") {
        Duration::from_micros(pause.as_micros() as u64 / 100)
    } else {
        pause
    }
}

/// Nothing within these locks can panic half-way through an update.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
