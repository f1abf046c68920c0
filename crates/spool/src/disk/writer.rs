//! The only thread that writes events: collects all waiting batches, writes them together, syncs by the policy, and then
//! publishes the end of the durable events.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, record::SealedBatch};

use super::{
    Shared, epochs,
    files::{self, DiskError},
    maintenance::PREALLOCATED,
    retry::{Stop, end_full, has_ended, make_room, retry, retry_briefly},
    segment::{self, Segment},
    shortened,
    state::{Pending, Preallocated, Reply, State},
};
use crate::{
    Stored, SyncPolicy,
    format::{HEADER_LENGTH, SegmentHeader},
    resume::ResumeValue,
};

/// The writer takes few waiting batches at most once in this time, so that more batches share a sync. Each sync also wakes the
/// writer, the intake and the readers: shared syncs halve the processor time of a feed of a thousand events a second.
const SHARED_SYNC: Duration = shortened(Duration::from_millis(2));
/// The size of waiting batches from which the writer does not wait for more.
pub(super) const ENOUGH_TO_SYNC: usize = 64 << 10;
/// The waiting batches from which the writer does not wait for more: their callers may wait for them before they append more.
const ENOUGH_BATCHES: usize = 8;

/// The name of a segment that is being created because no segment was preallocated.
pub(super) const NEW: &str = "new.tmp";

/// Runs until the log is closed or has failed. Readers end after the writer has ended.
pub(super) fn run(shared: Arc<Shared>) {
    let _ended = Ended(&shared);
    let mut writer = Writer {
        shared: &shared,
        segment: None,
        next: shared.lock().next,
        unsynced_since: None,
        has_epoch: false,
        taken_at: None,
    };
    let ended = match writer.run() {
        // If unused reserved space cannot be truncated now, the next start truncates it.
        Err(Stop::Closed) => writer.complete(),
        ended => ended,
    };
    if let Err(Stop::Failed(error)) = ended {
        shared.fail(error);
    }
}

/// Marks the writer as ended when it is dropped, also after a panic.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Without a reply each waiting append reports to its caller that the log is closed.
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
    /// The monotonic time since which written data is not synced.
    unsynced_since: Option<Instant>,
    /// The file of epochs contains this epoch.
    has_epoch: bool,
    /// The time at which batches were last taken.
    taken_at: Option<Instant>,
}

/// The segment that is being written.
struct Open {
    file: File,
    path: PathBuf,
    /// The offset of the next record.
    offset: u64,
    length: u64,
    /// Whether the file system counts links, so that the removal of the file can be detected.
    counts_links: bool,
    /// The next time to check whether the segment is old enough to be completed.
    look_at: Instant,
}

/// Batches that are written to the segment together.
#[derive(Default)]
struct Run {
    batches: Vec<SealedBatch>,
    /// The resume values that arrived with the batches.
    values: Vec<ResumeValue>,
    /// The callers, each with its result; `None` for one without events.
    replies: Vec<(Reply, Option<Stored>)>,
    size: u64,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        while let Some(group) = self.wait()? {
            if self.is_old() {
                self.complete()?;
            }
            let mut run = Run::default();
            for Pending { batch, values, reply } in group {
                // The caller does not wait any more.
                if reply.is_closed() {
                    continue;
                }
                if batch.is_empty() {
                    run.values.extend(values);
                    run.replies.push((reply, None));
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
                let stored = Stored {
                    first: batch.first(),
                    events: batch.events(),
                };
                run.batches.push(batch);
                run.values.extend(values);
                run.replies.push((reply, Some(stored)));
            }
            self.store(run)?;
        }
        self.complete()
    }

    /// Waits for batches and returns all waiting ones; `None` if the log is closed and none is waiting.
    fn wait(&mut self) -> Result<Option<Vec<Pending>>, Stop> {
        let mut state = share_sync(self.shared, self.taken_at);
        loop {
            if !state.queue.is_empty() {
                state.wakes_writer_from = usize::MAX;
                self.taken_at = Some(Instant::now());
                return Ok(Some(state.queue.drain(..).collect()));
            }
            if has_ended(&state) {
                return Ok(None);
            }
            drop(state);
            if self.is_old() {
                self.complete()?;
            }
            state = self.shared.lock();
            if !state.queue.is_empty() || has_ended(&state) {
                continue;
            }
            let sync_due = match (self.shared.options.sync, self.unsynced_since) {
                (SyncPolicy::Interval(interval), Some(since)) => {
                    Some(interval.saturating_sub(since.elapsed()))
                }
                _ => None,
            };
            let look_due = self
                .segment
                .as_ref()
                .map(|open| open.look_at.saturating_duration_since(Instant::now()));
            let due = [sync_due, look_due].into_iter().flatten().min();
            state = match due {
                Some(Duration::ZERO) if sync_due == Some(Duration::ZERO) => {
                    drop(state);
                    self.sync()?;
                    let mut state = self.shared.lock();
                    self.note_synced(&mut state);
                    state
                }
                Some(due) => self.shared.wait(&self.shared.writer_condvar, state, due),
                None => self.shared.wait_long(&self.shared.writer_condvar, state),
            };
        }
    }

    /// Returns whether the segment is to be completed although it has space: on a quiet feed its events would otherwise never
    /// be deleted. False while a sink needs the whole segment, because then it cannot be deleted in either case.
    fn is_old(&mut self) -> bool {
        let now = Instant::now();
        let Some(open) = self.segment.as_mut().filter(|open| open.look_at <= now) else {
            return false;
        };
        open.look_at = now + self.shared.options.segment_age;
        let state = self.shared.lock();
        let first = state.segments.back().map(|segment| segment.first);
        first.is_some_and(|first| first < state.needed())
    }

    fn fits(&self, size: u64) -> bool {
        self.segment
            .as_ref()
            .is_some_and(|open| open.offset + size <= open.length)
    }

    /// Writes and syncs a run, and replies to the callers.
    fn store(&mut self, run: Run) -> Result<(), Stop> {
        if run.replies.is_empty() {
            return Ok(());
        }
        let (Some(open), false) = (&mut self.segment, run.batches.is_empty()) else {
            return self.publish(run, 0);
        };
        // Before the first event of the epoch: the start of this epoch determines which events belong to earlier epochs.
        if !self.has_epoch {
            retry(self.shared, || {
                epochs::write(&self.shared.folder, &self.shared.epochs)
            })?;
            self.has_epoch = true;
            self.shared.lock().stored_epoch = Some(self.shared.epochs.current());
        }
        // Before the events are stored: after a kill, a reader without a stored cursor would begin after them.
        if self.shared.lock().has_unsaved_readers() {
            retry(self.shared, || self.shared.save_new_cursors())?;
        }
        let pieces: Vec<Bytes> = run.batches.iter().map(|batch| batch.bytes().clone()).collect();
        let offset = open.offset;
        let written = retry(self.shared, || {
            files::write_pieces(&open.file, &open.path, &pieces, offset)
        });
        if let Err(Stop::Closed) = written {
            // No caller has received a reply, so none of these events may exist after the next start.
            retry_briefly(|| files::truncate(&open.file, &open.path, offset))?;
            open.length = offset;
        }
        written?;
        if open.counts_links && files::is_removed(&open.file) {
            return Err(Stop::Failed(removed(&open.path)));
        }
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
        for batch in run.batches {
            let length = batch.bytes().len() as u64;
            state.publish(batch, offset);
            offset += length;
        }
        state.resume.current_mut().apply(run.values);
        self.note_synced(&mut state);
        let durable = state.next.get() - 1;
        drop(state);
        self.shared.durable.send_replace(durable);
        for (reply, stored) in run.replies {
            // The caller may have ended.
            let _ = reply.send(Ok(stored));
        }
        Ok(())
    }

    /// Notes the resume values that may be saved, if all published events are synced.
    fn note_synced(&self, state: &mut State) {
        let next = state.next;
        if self.unsynced_since.is_none() && state.resume.note_synced(next) {
            self.shared.wake_maintenance(state);
        }
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

    /// Completes the current segment: it must be whole on the disk before later events are written, so that only the last
    /// segment can ever be torn.
    fn complete(&mut self) -> Result<(), Stop> {
        self.sync()?;
        let Some(open) = &self.segment else {
            return Ok(());
        };
        retry(self.shared, || {
            files::truncate(&open.file, &open.path, open.offset)
        })?;
        files::sync(&open.file, &open.path)?;
        let mut state = self.shared.lock();
        if let Some(segment) = state.segments.back_mut() {
            segment.allocated = open.offset;
        }
        state.is_writing = false;
        self.note_synced(&mut state);
        self.shared.wake_maintenance(&mut state);
        drop(state);
        self.segment = None;
        Ok(())
    }

    /// Continues in a new segment, which has space for a batch of `size` bytes.
    fn rotate(&mut self, size: u64, begins_at: Timestamp) -> Result<(), Stop> {
        self.complete()?;
        let length = self.shared.options.segment_size.max(HEADER_LENGTH as u64 + size);
        self.wait_for_room(length)?;
        let (file, length, temporary) = self.take_preallocated(length)?;
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
        retry(self.shared, || files::rename(&temporary, &path))?;
        retry(self.shared, || files::sync_folder(&self.shared.folder))?;
        let offset = HEADER_LENGTH as u64;
        let mut state = self.shared.lock();
        let mut segment = Segment::new(path.clone(), self.next, offset, Some(begins_at));
        segment.allocated = length;
        state.segments.push_back(segment);
        state.is_writing = true;
        if matches!(state.preallocated, Preallocated::None) {
            state.preallocated = Preallocated::Wanted;
        }
        self.shared.wake_maintenance(&mut state);
        drop(state);
        self.segment = Some(Open {
            counts_links: !files::is_removed(&file),
            look_at: Instant::now() + self.shared.options.segment_age,
            file,
            path,
            offset,
            length,
        });
        Ok(())
    }

    /// Returns an empty file with this much space: the preallocated segment, or a new file.
    fn take_preallocated(&self, length: u64) -> Result<(File, u64, PathBuf), Stop> {
        let mut state = self.shared.lock();
        match std::mem::take(&mut state.preallocated) {
            Preallocated::Ready { file, length: ready } if ready >= length => {
                return Ok((file, ready, self.shared.folder.join(PREALLOCATED)));
            }
            other => state.preallocated = other,
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

    /// Waits until a segment of this size may be created, or drops the oldest segment.
    fn wait_for_room(&self, length: u64) -> Result<(), Stop> {
        let mut state = self.shared.lock();
        loop {
            let preallocated = match &state.preallocated {
                Preallocated::Ready { length: ready, .. } if *ready >= length => *ready,
                _ => 0,
            };
            // A batch larger than the whole log is stored alone: rejecting it repeatedly would stop the bridge.
            if state.size() - preallocated + length <= self.shared.options.max_size
                || state.segments.is_empty()
            {
                end_full(&mut state);
                // This space belongs to the new segment: the maintenance thread must not use it for the following one.
                if matches!(state.preallocated, Preallocated::Wanted) {
                    state.preallocated = Preallocated::None;
                }
                return Ok(());
            }
            state = make_room(self.shared, state)?;
        }
    }
}

/// The error of a segment that another program has removed.
fn removed(path: &Path) -> DiskError {
    let cause = io::Error::new(
        io::ErrorKind::NotFound,
        "another program removed the file while it was written",
    );
    DiskError::of("write", path)(cause)
}

/// Waits for more batches, so that they share a sync, until [`SHARED_SYNC`] after the last ones were taken. An event after
/// a pause is synced at once, and a busy feed has enough waiting batches.
fn share_sync(shared: &Shared, taken_at: Option<Instant>) -> MutexGuard<'_, State> {
    let mut state = shared.lock();
    let left = shared_wait(shared.options.sync, taken_at, Instant::now());
    let waiting: usize = state.queue.iter().map(|pending| pending.batch.len()).sum();
    let is_enough = waiting >= ENOUGH_TO_SYNC || state.queue.len() >= ENOUGH_BATCHES;
    if left > Duration::ZERO && !is_enough && !has_ended(&state) {
        // A batch that arrives must not cost a wake-up.
        state.wakes_writer_from = ENOUGH_BATCHES;
        state = shared.wait(&shared.writer_condvar, state, left);
    }
    state.wakes_writer_from = 1;
    state
}

/// Returns the time for which the writer waits for more batches after it has taken some.
fn shared_wait(sync: SyncPolicy, taken_at: Option<Instant>, now: Instant) -> Duration {
    match (sync, taken_at) {
        (SyncPolicy::Always, Some(taken_at)) => (taken_at + SHARED_SYNC).saturating_duration_since(now),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_soon_after_others_wait_for_a_shared_sync() {
        let taken_at = Instant::now();
        let wait = |sync, taken_at, later| shared_wait(sync, taken_at, Instant::now() + later);
        assert_eq!(wait(SyncPolicy::Always, None, Duration::ZERO), Duration::ZERO);
        assert_eq!(
            shared_wait(SyncPolicy::Always, Some(taken_at), taken_at + SHARED_SYNC / 4),
            SHARED_SYNC * 3 / 4
        );
        assert_eq!(
            wait(SyncPolicy::Always, Some(taken_at), SHARED_SYNC),
            Duration::ZERO
        );
        assert_eq!(
            wait(SyncPolicy::Never, Some(taken_at), Duration::ZERO),
            Duration::ZERO
        );
    }
}
