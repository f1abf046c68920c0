//! The one thread that writes events: takes all batches that wait, writes them at once, syncs by the policy, and then
//! publishes how far the log is durable.

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, record::SealedBatch};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{
    Shared, epochs,
    files::{self, DiskError},
    keeper::AHEAD,
    segment::{self, Segment},
    shortened,
    state::{Ahead, Pending, State},
};
use crate::{
    AppendError, Stored, SyncPolicy, WhenFull,
    format::{HEADER_LENGTH, SegmentHeader},
};

/// How often a full disk is tried again when nothing tells that there is room.
const ROOM_INTERVAL: Duration = shortened(Duration::from_millis(500));
/// The name of a segment that is being made because none was made ahead.
pub(super) const NEW: &str = "new.tmp";

/// Runs until the log is closed or has failed. Readers end once it has ended.
pub(super) fn run(shared: Arc<Shared>) {
    let _ended = Ended(&shared);
    let mut writer = Writer {
        shared: &shared,
        segment: None,
        next: shared.lock().next,
        unsynced_since: None,
        has_epoch: false,
    };
    let ended = match writer.run() {
        Err(Stop::Closed) => writer.complete(),
        ended => ended,
    };
    if let Err(Stop::Failed(error)) = ended {
        shared.fail(error);
    }
}

/// Says that the writer has ended, however it did.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Without a reply each of them tells its caller that the log is closed.
        state.queue.clear();
        state.is_closed = true;
        drop(state);
        self.0.closed.send_replace(true);
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    segment: Option<Open>,
    /// The sequence of the next event.
    next: Sequence,
    /// Since when something is written and not synced.
    unsynced_since: Option<Instant>,
    /// The file of epochs tells of this one.
    has_epoch: bool,
}

/// The segment that is written to.
struct Open {
    file: File,
    path: PathBuf,
    /// Where the next record goes.
    offset: u64,
    length: u64,
}

/// Batches that go into the segment at once.
#[derive(Default)]
struct Run {
    batches: Vec<SealedBatch>,
    replies: Vec<oneshot::Sender<Result<Option<Stored>, AppendError>>>,
    size: u64,
}

/// Why nothing more is written.
enum Stop {
    Closed,
    Failed(DiskError),
}

impl From<DiskError> for Stop {
    fn from(error: DiskError) -> Self {
        Self::Failed(error)
    }
}

impl Writer<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        while let Some(group) = self.wait()? {
            let mut run = Run::default();
            for Pending { batch, reply } in group {
                // Its caller does not wait any more.
                if reply.is_closed() {
                    continue;
                }
                let size = batch.len() as u64;
                if !self.fits(run.size + size) {
                    self.store(std::mem::take(&mut run))?;
                }
                let batch = batch.seal(self.next);
                if !self.fits(run.size + size) {
                    let begins_at = batch.iter().next().and_then(Result::ok);
                    self.rotate(
                        size,
                        begins_at.map_or(Timestamp::UNIX_EPOCH, |event| event.received_at),
                    )?;
                }
                self.next = batch.end();
                run.size += size;
                run.batches.push(batch);
                run.replies.push(reply);
            }
            self.store(run)?;
        }
        self.complete()
    }

    /// All that waits, once something does; `None` when the log is closed and nothing does.
    fn wait(&mut self) -> Result<Option<Vec<Pending>>, Stop> {
        let mut state = self.shared.lock();
        loop {
            if !state.queue.is_empty() {
                return Ok(Some(state.queue.drain(..).collect()));
            }
            if has_ended(&state) {
                return Ok(None);
            }
            let due = match (self.shared.options.sync, self.unsynced_since) {
                (SyncPolicy::Interval(interval), Some(since)) => {
                    Some(interval.saturating_sub(since.elapsed()))
                }
                _ => None,
            };
            state = match due {
                Some(Duration::ZERO) => {
                    drop(state);
                    self.sync()?;
                    self.shared.lock()
                }
                Some(due) => self.shared.wait(&self.shared.work, state, due),
                None => self.shared.wait_long(&self.shared.work, state),
            };
        }
    }

    fn fits(&self, size: u64) -> bool {
        self.segment
            .as_ref()
            .is_some_and(|open| open.offset + size <= open.length)
    }

    /// Writes and syncs a run, and says so.
    fn store(&mut self, run: Run) -> Result<(), Stop> {
        let (Some(open), false) = (&mut self.segment, run.batches.is_empty()) else {
            return Ok(());
        };
        // Before the first event of it: where this epoch began is what earlier ones are judged by.
        if !self.has_epoch {
            retry(self.shared, || {
                epochs::write(&self.shared.folder, &self.shared.epochs)
            })?;
            self.has_epoch = true;
        }
        // Before the events are there: a reader that the disk does not know begins behind them after a kill.
        if self.shared.lock().has_unsaved_readers() {
            retry(self.shared, || self.shared.save_new_cursors())?;
        }
        let pieces: Vec<Bytes> = run.batches.iter().map(|batch| batch.bytes().clone()).collect();
        let offset = open.offset;
        let written = retry(self.shared, || {
            files::write_pieces(&open.file, &open.path, &pieces, offset)
        });
        if let Err(Stop::Closed) = written {
            // Nobody was told that any of it is stored, so none of it may be there at the next start.
            files::cut(&open.file, &open.path, offset)?;
            open.length = offset;
        }
        written?;
        open.offset += run.size;
        self.unsynced_since.get_or_insert_with(Instant::now);
        let sync_now = match (self.shared.options.sync, self.unsynced_since) {
            (SyncPolicy::Always, _) => true,
            (SyncPolicy::Interval(interval), Some(since)) => since.elapsed() >= interval,
            _ => false,
        };
        if sync_now {
            self.sync()?;
        }
        self.publish(run, offset)
    }

    fn publish(&mut self, run: Run, mut offset: u64) -> Result<(), Stop> {
        let mut state = self.shared.lock();
        while state.has_unsaved_readers() {
            drop(state);
            retry(self.shared, || self.shared.save_new_cursors())?;
            state = self.shared.lock();
        }
        let stored: Vec<Stored> = run
            .batches
            .iter()
            .map(|batch| Stored {
                first: batch.first(),
                events: batch.events(),
            })
            .collect();
        for batch in run.batches {
            let length = batch.bytes().len() as u64;
            state.publish(batch, offset);
            offset += length;
        }
        let durable = state.next.get() - 1;
        drop(state);
        self.shared.durable.send_replace(durable);
        for (reply, stored) in run.replies.into_iter().zip(stored) {
            // Its caller may have gone.
            let _ = reply.send(Ok(Some(stored)));
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Stop> {
        let (Some(open), Some(_)) = (&self.segment, self.unsynced_since.take()) else {
            return Ok(());
        };
        let started = Instant::now();
        files::sync(&open.file, &open.path)?;
        self.shared.sync_duration.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Ends the segment that was written to: what comes later must find it whole on the disk, so that only the last one
    /// can ever be torn.
    fn complete(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let Some(open) = self.segment.take() else {
            return Ok(());
        };
        files::cut(&open.file, &open.path, open.offset)?;
        files::sync(&open.file, &open.path)?;
        let mut state = self.shared.lock();
        if let Some(segment) = state.segments.back_mut() {
            segment.allocated = open.offset;
        }
        state.is_writing = false;
        Ok(())
    }

    /// Goes on in a new segment, in which a batch of `size` bytes fits.
    fn rotate(&mut self, size: u64, begins_at: Timestamp) -> Result<(), Stop> {
        self.complete()?;
        let length = self.shared.options.segment_size.max(HEADER_LENGTH as u64 + size);
        self.wait_for_room(length)?;
        let (file, length, temporary) = self.take_ahead(length)?;
        let header = SegmentHeader {
            spool: self.shared.id,
            first: self.next,
            begins_at,
        };
        retry(self.shared, || {
            files::write_at(&file, &temporary, &header.encode(), 0)
        })?;
        files::sync(&file, &temporary)?;
        let path = segment::path(&self.shared.folder, self.next);
        files::rename(&temporary, &path)?;
        let offset = HEADER_LENGTH as u64;
        let mut state = self.shared.lock();
        let mut segment = Segment::new(path.clone(), self.next, offset, Some(begins_at));
        segment.allocated = length;
        state.segments.push_back(segment);
        state.is_writing = true;
        if matches!(state.ahead, Ahead::None) {
            state.ahead = Ahead::Wanted;
        }
        self.shared.wake_keeper(&mut state);
        drop(state);
        self.segment = Some(Open {
            file,
            path,
            offset,
            length,
        });
        Ok(())
    }

    /// An empty file with room for so many bytes: the one that was made ahead, or a new one.
    fn take_ahead(&self, length: u64) -> Result<(File, u64, PathBuf), Stop> {
        let mut state = self.shared.lock();
        match std::mem::take(&mut state.ahead) {
            Ahead::Ready { file, length: ready } if ready >= length => {
                return Ok((file, ready, self.shared.folder.join(AHEAD)));
            }
            other => state.ahead = other,
        }
        drop(state);
        let path = self.shared.folder.join(NEW);
        let file = retry(self.shared, || {
            let file = files::create(&path)?;
            files::reserve(&file, &path, length)?;
            Ok(file)
        })?;
        Ok((file, length, path))
    }

    /// Waits until a segment of so many bytes may be made, or drops the oldest for it.
    fn wait_for_room(&self, length: u64) -> Result<(), Stop> {
        let mut state = self.shared.lock();
        loop {
            let ahead = match &state.ahead {
                Ahead::Ready { length: ready, .. } if *ready >= length => *ready,
                _ => 0,
            };
            // A batch larger than the whole log goes in alone: refusing it for ever would stop the bridge.
            if state.size() - ahead + length <= self.shared.options.max_size || state.segments.is_empty() {
                end_full(&mut state);
                // This room is the new segment's: the keeper must not take it for the one after.
                if matches!(state.ahead, Ahead::Wanted) {
                    state.ahead = Ahead::None;
                }
                return Ok(());
            }
            state = make_room(self.shared, state)?;
        }
    }
}

/// Does what may fail for want of room until it works.
fn retry<T>(shared: &Shared, mut act: impl FnMut() -> Result<T, DiskError>) -> Result<T, Stop> {
    loop {
        match act() {
            Err(error) if error.is_full() => {
                let state = shared.lock();
                if !state.is_full {
                    error!(%error, cause = %error.source, "the disk is full; the spool waits for room");
                }
                drop(make_room(shared, state)?);
            }
            result => {
                let result = result?;
                end_full(&mut shared.lock());
                return Ok(result);
            }
        }
    }
}

/// Drops the oldest segment, or waits a while for one to be settled, as the configuration says.
fn make_room<'a>(
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
) -> Result<MutexGuard<'a, State>, Stop> {
    let was_full = std::mem::replace(&mut state.is_full, true);
    // Settled segments go first, without a wait for the keeper: they are a loss to nobody.
    let mut oldest = state.take_settled(shared.options.retain);
    if oldest.is_none() && shared.options.when_full == WhenFull::DropOldest {
        oldest = state.take_dropped();
        if oldest.is_some() && !was_full {
            warn!("the spool is full and drops its oldest events");
        }
    }
    if let Some(segment) = oldest {
        drop(state);
        match shared.remove([segment]) {
            // Where a disk can't even note what is deleted, it takes somebody else to make room.
            Err(error) if error.is_full() => state = shared.lock(),
            removed => {
                removed?;
                return Ok(shared.lock());
            }
        }
    }
    if !was_full {
        warn!(
            limit_bytes = shared.options.max_size,
            "the spool is full; it takes no events until there is room"
        );
    }
    if !has_ended(&state) {
        shared.wake_keeper(&mut state);
        state = shared.wait(&shared.work, state, ROOM_INTERVAL);
    }
    if has_ended(&state) {
        return Err(Stop::Closed);
    }
    Ok(state)
}

fn has_ended(state: &State) -> bool {
    state.is_closed || state.failed.is_some()
}

fn end_full(state: &mut State) {
    if std::mem::replace(&mut state.is_full, false) {
        info!("the spool has room again");
    }
}
