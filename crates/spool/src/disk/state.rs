//! The state shared by the threads of the log: the segments, the end of the durable events, and the readers.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use neurobridge_core::{
    clock,
    epoch::Epoch,
    event::Sequence,
    reader::Cursor,
    record::{Batch, SealedBatch},
};
use tokio::sync::oneshot;

use super::{
    cursor::CursorFile,
    files::DiskError,
    intervals::Intervals,
    resume::ResumeState,
    segment::{RecordPosition, Segment},
    shortage::Shortage,
};
use crate::{AppendError, Start, Stored, log::Found, resume::ResumeValue};

/// The bytes of the newest batches in memory: a reader within this distance of the end does not read the disk.
const TAIL_SIZE: usize = 8 << 20;
/// The memory overhead of a batch beyond its bytes.
const BATCH_OVERHEAD: usize = 128;

#[derive(Debug)]
pub(super) struct State {
    /// The segments in order; the last one is being written while `is_writing`.
    pub(super) segments: VecDeque<Segment>,
    pub(super) is_writing: bool,
    /// The sequence after the last durable one.
    pub(super) next: Sequence,
    /// The newest time of receipt, and the monotonic time at which it was read or written here. See [`now`](Self::now).
    newest: Option<(Timestamp, Instant)>,
    /// Returns the system's clock while it is trusted.
    trusted_now: fn() -> Option<Timestamp>,
    tail: VecDeque<SealedBatch>,
    tail_size: usize,
    pub(super) readers: BTreeMap<String, ReaderState>,
    /// One entry for each waiting append: at most one per caller.
    pub(super) queue: VecDeque<Pending>,
    /// The length of the queue from which an append wakes the writer; `usize::MAX` while the writer is busy, because it
    /// checks the queue itself then.
    pub(super) wakes_writer_from: usize,
    pub(super) is_closed: bool,
    /// The threads save the last cursors and end.
    pub(super) is_stopping: bool,
    pub(super) failed: Option<DiskError>,
    /// An append waits for space.
    pub(super) is_full: bool,
    /// The disk is full, independently of the limit of the log.
    pub(super) is_disk_full: bool,
    /// An append waits for a resource of the process or the system.
    pub(super) is_retrying: bool,
    /// The log lines about the conditions of `is_full`, `is_disk_full` and `is_retrying`.
    pub(super) shortage: Shortage,
    pub(super) dropped_events: u64,
    /// The retention marker: all earlier events were deleted intentionally.
    pub(super) trimmed: Sequence,
    pub(super) damage: Intervals,
    /// The last epoch in the file of epochs; `None` while it is unknown.
    pub(super) stored_epoch: Option<Epoch>,
    /// The cursors found missing or damaged since the log was opened.
    pub(super) damaged_cursors: u64,
    /// The registry is unreadable, so that every reader may be an existing one: none counts as new.
    pub(super) readers_are_unknown: bool,
    pub(super) preallocated: Preallocated,
    /// The maintenance thread sleeps and must be woken for a commit.
    pub(super) maintenance_sleeps: bool,
    /// The resume values of the sources.
    pub(super) resume: ResumeState,
}

/// The caller of an append, which waits for its result.
pub(super) type Reply = oneshot::Sender<Result<Option<Stored>, AppendError>>;

/// A batch that is not yet on the disk.
#[derive(Debug)]
pub(super) struct Pending {
    /// May be empty if there are values.
    pub(super) batch: Batch,
    pub(super) values: Vec<ResumeValue>,
    pub(super) reply: Reply,
}

/// A reader of this run or an earlier one.
#[derive(Debug)]
pub(super) struct ReaderState {
    pub(super) cursor: Cursor,
    /// The cursor on the disk; `None` before the first save.
    pub(super) saved: Option<Sequence>,
    pub(super) file: Arc<Mutex<CursorFile>>,
    /// The registry on the disk contains the reader.
    pub(super) is_registered: bool,
    /// The damage found in the reader's file when the log was opened. Reported once, when the reader is opened.
    pub(super) damage: Option<CursorDamage>,
    /// The reader was opened in this run.
    pub(super) is_opened: bool,
    /// Segments are not deleted before this reader has settled them.
    pub(super) retains: bool,
}

/// The damage of a cursor's file.
#[derive(Clone, Debug)]
pub(super) struct CursorDamage {
    pub(super) reason: String,
    /// The other copy of the cursor, which may be older, was readable.
    pub(super) has_older: bool,
}

/// The preallocated next segment.
#[derive(Debug, Default)]
pub(super) enum Preallocated {
    #[default]
    None,
    Wanted,
    /// The maintenance thread is creating the segment. Its space is counted already.
    Making {
        length: u64,
    },
    Ready {
        file: File,
        length: u64,
    },
}

impl Preallocated {
    /// Returns the bytes that the segment uses on the disk.
    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::Making { length } | Self::Ready { length, .. } => *length,
            Self::None | Self::Wanted => 0,
        }
    }
}

/// The location of a sequence on the disk.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    pub(super) first: Sequence,
    pub(super) position: RecordPosition,
    /// The offset of the end of the segment's durable records.
    pub(super) end: u64,
    /// The first sequence that is not in this segment.
    pub(super) limit: Sequence,
}

impl State {
    pub(super) fn new(next: Sequence, trimmed: Sequence) -> Self {
        Self {
            segments: VecDeque::new(),
            is_writing: false,
            next,
            newest: None,
            trusted_now: clock::trusted_now,
            tail: VecDeque::new(),
            tail_size: 0,
            readers: BTreeMap::new(),
            queue: VecDeque::new(),
            wakes_writer_from: 1,
            is_closed: false,
            is_stopping: false,
            failed: None,
            is_full: false,
            is_disk_full: false,
            is_retrying: false,
            shortage: Shortage::default(),
            dropped_events: 0,
            trimmed,
            damage: Intervals::default(),
            stored_epoch: None,
            damaged_cursors: 0,
            readers_are_unknown: false,
            preallocated: Preallocated::default(),
            maintenance_sleeps: false,
            resume: ResumeState::new(),
        }
    }

    /// Returns whether the log accepts no more events, or its threads must end.
    pub(super) const fn is_ending(&self) -> bool {
        self.is_closed || self.is_stopping
    }

    /// Returns the bytes that the log uses on the disk.
    pub(super) fn size(&self) -> u64 {
        self.preallocated.size() + self.segments.iter().map(|segment| segment.allocated).sum::<u64>()
    }

    /// Returns the oldest sequence that can be read.
    pub(super) fn oldest(&self) -> Sequence {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Returns a reader's cursor: the stored one, or a new one at `start`.
    pub(super) fn cursor(&self, name: &str, start: Start) -> Cursor {
        self.readers.get(name).map_or_else(
            || match start {
                Start::End if !self.readers_are_unknown => Cursor::starting_at(self.next),
                Start::End | Start::Oldest => Cursor::starting_at(self.oldest()),
            },
            |reader| reader.cursor.clone(),
        )
    }

    /// Returns whether a reader's first cursor is not on the disk yet: after a kill the reader would begin at another position.
    pub(super) fn has_unsaved_readers(&self) -> bool {
        self.readers
            .values()
            .any(|reader| reader.is_opened && !reader.is_on_disk())
    }

    /// Returns the time of the log, which determines ages: the newest time of receipt plus the monotonic time since then. A
    /// step of the system's clock does not change it.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (newest, at) = self.newest?;
        newest.checked_add(at.elapsed()).ok()
    }

    /// Updates the newest time of receipt.
    pub(super) fn note_received(&mut self, received_at: Option<Timestamp>) {
        if let Some(received_at) = received_at
            && self.newest.is_none_or(|(newest, _)| newest <= received_at)
        {
            self.newest = Some((received_at, Instant::now()));
        }
    }

    /// Returns the result for a sequence without reading the disk; `None` if the disk must be read.
    pub(super) fn find(&self, sequence: Sequence) -> Option<Found> {
        if sequence >= self.next {
            return Some(Found::Nothing);
        }
        if self.tail.front().is_some_and(|batch| batch.first() <= sequence) {
            let index = self.tail.partition_point(|batch| batch.end() <= sequence);
            return Some(
                self.tail
                    .get(index)
                    .and_then(|batch| batch.from(sequence))
                    .map_or(Found::Nothing, Found::Events),
            );
        }
        let oldest = self.oldest();
        if sequence >= oldest {
            return None;
        }
        Some(if sequence < self.trimmed {
            Found::Dropped {
                oldest: oldest.min(self.trimmed),
            }
        } else {
            Found::Damaged { next: oldest }
        })
    }

    pub(super) fn locate(&self, sequence: Sequence) -> Option<Located> {
        if sequence >= self.next {
            return None;
        }
        let after = self.segments.partition_point(|segment| segment.first <= sequence);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        Some(Located {
            path: segment.path.clone(),
            first: segment.first,
            position: segment.position(sequence),
            end: segment.length,
            limit: self.segments.get(after).map_or(self.next, |next| next.first),
        })
    }

    /// Returns the approximate time of receipt of an event.
    pub(super) fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        match self.find(sequence) {
            Some(Found::Events(batch)) => batch.iter().next()?.ok().map(|event| event.received_at),
            // The oldest remaining event stands for a dropped one.
            Some(Found::Dropped { oldest }) => self.received_at(oldest),
            Some(_) => None,
            None => self.locate(sequence)?.position.received_at,
        }
    }

    /// Adds a durable batch, stored at `offset` of the last segment.
    pub(super) fn publish(&mut self, batch: SealedBatch, offset: u64) {
        let received_at = || Some(batch.iter().next()?.ok()?.received_at);
        if let Some(segment) = self.segments.back_mut() {
            segment.length = offset + batch.bytes().len() as u64;
            if segment.needs_index_entry(offset) {
                segment.add_to_index(RecordPosition {
                    sequence: batch.first(),
                    offset,
                    received_at: received_at(),
                });
            }
        }
        self.note_received(received_at());
        self.next = batch.end();
        self.tail_size += batch.bytes().len() + BATCH_OVERHEAD;
        self.tail.push_back(batch);
        while self.tail_size > TAIL_SIZE && self.tail.len() > 1 {
            if let Some(batch) = self.tail.pop_front() {
                self.tail_size -= batch.bytes().len() + BATCH_OVERHEAD;
            }
        }
    }

    /// Returns the first sequence that any reader still needs, by the cursors on the disk.
    pub(super) fn needed(&self) -> Sequence {
        self.readers
            .values()
            .filter(|reader| reader.retains)
            .map(|reader| reader.saved.unwrap_or(reader.cursor.first))
            .min()
            .unwrap_or(self.next)
    }

    /// Returns the bytes from the oldest event that a reader has not settled to the end of the log. Of a segment that is
    /// settled in part, the share of its events that are not settled.
    pub(super) fn pending_bytes(&self) -> u64 {
        let readers = self.readers.values().filter(|reader| reader.retains);
        let settled = readers
            .map(|reader| reader.cursor.next)
            .min()
            .unwrap_or(self.next);
        let ends = self.segments.iter().skip(1).map(|segment| segment.first);
        self.segments
            .iter()
            .zip(ends.chain([self.next]))
            .map(|(segment, end)| {
                let events = end.since(segment.first);
                let pending = end.since(settled.max(segment.first));
                // Without events a segment has only its header.
                (u128::from(segment.length) * u128::from(pending) / u128::from(events.max(1))) as u64
            })
            .sum()
    }

    /// Returns the number of complete segments, which can be deleted: all except the one being written.
    fn complete(&self) -> usize {
        self.segments.len() - usize::from(self.is_writing && !self.segments.is_empty())
    }

    /// Returns the end of the oldest complete segment.
    fn oldest_end(&self) -> Option<Sequence> {
        (self.complete() > 0).then(|| self.segments.get(1).map_or(self.next, |next| next.first))
    }

    /// Removes and returns the oldest segment if every reader has settled it and `retain` has expired. The last segment of
    /// the log stays for at least `least`, whatever `retain` is: the next start reads it to detect duplicates.
    pub(super) fn take_settled(&mut self, retain: Duration, least: Duration) -> Option<Segment> {
        let end = self.oldest_end()?;
        if end > self.needed() {
            return None;
        }
        let (ended_at, known_since, retain) = match self.segments.get(1) {
            Some(next) => (next.begins_at, Some(next.known_since), retain),
            None => {
                let (ended_at, known_since) = self.newest.unzip();
                (ended_at, known_since, retain.max(least))
            }
        };
        // If space is needed, the age is ignored.
        if !self.is_full && !self.is_older(ended_at, known_since, retain) {
            return None;
        }
        self.take_oldest(end)
    }

    /// Returns whether data is older than `limit`. `ended_at` is the time of receipt at the end of the data, and
    /// `known_since` the later monotonic time at which this process received or found it. The age counts by the monotonic
    /// clock, or by both the time of the log and the system's clock while the latter is trusted, so that a step of the
    /// system's clock makes no data old.
    fn is_older(&self, ended_at: Option<Timestamp>, known_since: Option<Instant>, limit: Duration) -> bool {
        if known_since.is_none_or(|since| since.elapsed() > limit) {
            return true;
        }
        let Some(now) = self
            .now()
            .zip((self.trusted_now)())
            .map(|(log, system)| log.min(system))
        else {
            return false;
        };
        // Without a readable header the age is unknown, and the data counts as old.
        ended_at.is_none_or(|ended_at| {
            let age = now.as_microsecond() - ended_at.as_microsecond();
            age > i64::try_from(limit.as_micros()).unwrap_or(i64::MAX)
        })
    }

    /// Removes and returns the oldest complete segment, settled or not, and counts the lost events.
    pub(super) fn take_dropped(&mut self) -> Option<Segment> {
        let end = self.oldest_end()?;
        // Events that were counted before the segment was put back are not counted again.
        let needed = self.needed().max(self.oldest()).max(self.trimmed);
        self.dropped_events += end.since(needed);
        self.take_oldest(end)
    }

    /// Puts back segments that were removed from the list and could not be deleted.
    pub(super) fn put_back(&mut self, mut segments: VecDeque<Segment>) {
        segments.append(&mut self.segments);
        self.segments = segments;
    }

    fn take_oldest(&mut self, end: Sequence) -> Option<Segment> {
        self.trimmed = self.trimmed.max(end);
        self.segments.pop_front()
    }
}

impl ReaderState {
    /// Returns whether the reader and its cursor are on the disk.
    pub(super) const fn is_on_disk(&self) -> bool {
        self.saved.is_some() && self.is_registered
    }
}

#[cfg(test)]
mod tests;
