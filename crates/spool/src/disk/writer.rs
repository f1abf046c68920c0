//! The one thread that writes events: takes all batches that wait, writes them at once, syncs by the policy, and then
//! publishes how far the log is durable.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use neurobridge_core::{event::Sequence, record::SealedBatch};
use tokio::sync::oneshot;

use super::{
    Shared, epochs,
    files::{self, DiskError},
    keeper::AHEAD,
    retry::{Stop, briefly, end_full, has_ended, make_room, retry},
    segment::{self, Segment},
    state::{Ahead, Pending},
};
use crate::{
    AppendError, Stored, SyncPolicy,
    format::{HEADER_LENGTH, SegmentHeader},
};

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
        // The end of the segment may stay as it is, with room that was never written: the next start truncates it.
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
    /// False on a file system that counts no links.
    counts_links: bool,
    /// When to look whether it is old enough to be completed.
    look_at: Instant,
}

/// Batches that go into the segment at once.
#[derive(Default)]
struct Run {
    batches: Vec<SealedBatch>,
    replies: Vec<oneshot::Sender<Result<Option<Stored>, AppendError>>>,
    size: u64,
}

impl Writer<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        while let Some(group) = self.wait()? {
            if self.is_old() {
                self.complete()?;
            }
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
                    self.shared.lock()
                }
                Some(due) => self.shared.wait(&self.shared.work, state, due),
                None => self.shared.wait_long(&self.shared.work, state),
            };
        }
    }

    /// Whether the segment is to be completed although it has room: on a quiet feed its events would otherwise never be
    /// deleted. Not while a sink needs all of it, because then it can't be deleted either way.
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
            self.shared.lock().stored_epoch = Some(self.shared.epochs.current());
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
            briefly(|| files::cut(&open.file, &open.path, offset))?;
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
        let Some(open) = &self.segment else {
            return Ok(());
        };
        retry(self.shared, || files::cut(&open.file, &open.path, open.offset))?;
        files::sync(&open.file, &open.path)?;
        let mut state = self.shared.lock();
        if let Some(segment) = state.segments.back_mut() {
            segment.allocated = open.offset;
        }
        state.is_writing = false;
        self.shared.wake_keeper(&mut state);
        drop(state);
        self.segment = None;
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
        retry(self.shared, || files::rename(&temporary, &path))?;
        retry(self.shared, || files::sync_folder(&self.shared.folder))?;
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
            counts_links: !files::is_removed(&file),
            look_at: Instant::now() + self.shared.options.segment_age,
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

/// The error of a segment that another program has removed.
fn removed(path: &Path) -> DiskError {
    let cause = io::Error::new(
        io::ErrorKind::NotFound,
        "another program removed the file while it was written",
    );
    DiskError::of("write", path)(cause)
}
