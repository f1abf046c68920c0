//! What the threads of the log share: which segments there are, how far they are durable, who reads.

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
    segment::{Place, Segment},
};
use crate::{AppendError, Start, Stored, log::Found};

/// Bytes of the newest batches kept in memory: a reader no further behind than this reads no disk.
const TAIL_SIZE: usize = 8 << 20;
/// What a batch in memory costs beside its bytes.
const BATCH_OVERHEAD: usize = 128;

#[derive(Debug)]
pub(super) struct State {
    /// In order; the last one is written to while `is_writing`.
    pub(super) segments: VecDeque<Segment>,
    pub(super) is_writing: bool,
    /// The sequence after the last durable one.
    pub(super) next: Sequence,
    /// The newest time of receipt, and when it was read or written here. See [`now`](Self::now).
    newest: Option<(Timestamp, Instant)>,
    /// The system's clock while it is trusted.
    trusted_now: fn() -> Option<Timestamp>,
    tail: VecDeque<SealedBatch>,
    tail_size: usize,
    pub(super) readers: BTreeMap<String, ReaderState>,
    /// One entry for each append that waits: as many as there are callers.
    pub(super) queue: VecDeque<Pending>,
    pub(super) is_closed: bool,
    /// The last cursors are to be saved, and the threads to end.
    pub(super) is_stopping: bool,
    pub(super) failed: Option<DiskError>,
    /// An append waits for room.
    pub(super) is_full: bool,
    /// The disk has no room, whatever the limit of the log.
    pub(super) is_disk_full: bool,
    /// An append waits for a resource of the process or the system.
    pub(super) is_retrying: bool,
    pub(super) dropped_events: u64,
    /// Everything before was deleted on purpose.
    pub(super) trimmed: Sequence,
    pub(super) damage: Intervals,
    /// The epoch that the file of epochs ends with; `None` while that is not known.
    pub(super) stored_epoch: Option<Epoch>,
    /// Cursors found missing or damaged since the log was opened.
    pub(super) damaged_cursors: u64,
    /// Which readers ever ran is not known: none counts as new.
    pub(super) readers_are_unknown: bool,
    pub(super) ahead: Ahead,
    /// The keeper sleeps and has to be woken for a commit.
    pub(super) keeper_sleeps: bool,
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<Option<Stored>, AppendError>>,
}

/// A reader, of this run or an earlier one.
#[derive(Debug)]
pub(super) struct ReaderState {
    pub(super) cursor: Cursor,
    /// What is on the disk of it; nothing before its first save.
    pub(super) saved: Option<Sequence>,
    pub(super) file: Arc<Mutex<CursorFile>>,
    /// The registry on the disk names it.
    pub(super) is_registered: bool,
    /// What was wrong with its file when the log was opened. Reported once, when the reader is opened.
    pub(super) damage: Option<CursorDamage>,
    /// Opened in this run.
    pub(super) is_known: bool,
    /// Segments wait for it.
    pub(super) holds: bool,
}

/// What is wrong with a cursor's file.
#[derive(Clone, Debug)]
pub(super) struct CursorDamage {
    pub(super) reason: String,
    /// The cursor before the damaged one could be read.
    pub(super) has_older: bool,
}

/// The next segment, made before it is needed.
#[derive(Debug, Default)]
pub(super) enum Ahead {
    #[default]
    None,
    Wanted,
    /// Its room is counted already.
    Making {
        length: u64,
    },
    Ready {
        file: File,
        length: u64,
    },
}

impl Ahead {
    /// Bytes that it takes of the disk.
    pub(super) const fn size(&self) -> u64 {
        match self {
            Self::Making { length } | Self::Ready { length, .. } => *length,
            Self::None | Self::Wanted => 0,
        }
    }
}

/// Where a sequence stands on the disk.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    pub(super) first: Sequence,
    pub(super) place: Place,
    /// Where the segment's durable records end: an offset.
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
            is_closed: false,
            is_stopping: false,
            failed: None,
            is_full: false,
            is_disk_full: false,
            is_retrying: false,
            dropped_events: 0,
            trimmed,
            damage: Intervals::default(),
            stored_epoch: None,
            damaged_cursors: 0,
            readers_are_unknown: false,
            ahead: Ahead::default(),
            keeper_sleeps: false,
        }
    }

    /// Whether the log takes no more events, or its threads are to end.
    pub(super) const fn is_ending(&self) -> bool {
        self.is_closed || self.is_stopping
    }

    /// Bytes of the disk that the log takes.
    pub(super) fn size(&self) -> u64 {
        self.ahead.size() + self.segments.iter().map(|segment| segment.allocated).sum::<u64>()
    }

    /// The oldest sequence that can be read.
    pub(super) fn oldest(&self) -> Sequence {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// A reader's cursor: the one found, or a new one at `start`.
    pub(super) fn cursor(&self, name: &str, start: Start) -> Cursor {
        self.readers.get(name).map_or_else(
            || match start {
                Start::End if !self.readers_are_unknown => Cursor::starting_at(self.next),
                Start::End | Start::Oldest => Cursor::starting_at(self.oldest()),
            },
            |reader| reader.cursor.clone(),
        )
    }

    /// Whether a reader's first cursor is not on the disk yet: were the process killed now, it would begin elsewhere.
    pub(super) fn has_unsaved_readers(&self) -> bool {
        self.readers
            .values()
            .any(|reader| reader.is_known && !reader.is_kept())
    }

    /// The time of the log, by which ages are judged: the newest time of receipt and what a monotonic clock has counted
    /// since. A step of the system's clock does not change it.
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (newest, at) = self.newest?;
        newest.checked_add(at.elapsed()).ok()
    }

    /// Takes note of a time of receipt.
    pub(super) fn note_received(&mut self, received_at: Option<Timestamp>) {
        if let Some(received_at) = received_at
            && self.newest.is_none_or(|(newest, _)| newest <= received_at)
        {
            self.newest = Some((received_at, Instant::now()));
        }
    }

    /// What is at hand of a sequence without a look at the disk; `None` when that is needed.
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
            place: segment.place(sequence),
            end: segment.length,
            limit: self.segments.get(after).map_or(self.next, |next| next.first),
        })
    }

    /// When about an event was received.
    pub(super) fn received_at(&self, sequence: Sequence) -> Option<Timestamp> {
        match self.find(sequence) {
            Some(Found::Events(batch)) => batch.iter().next()?.ok().map(|event| event.received_at),
            // Whoever asks for what a full log dropped waits for all after it as well.
            Some(Found::Dropped { oldest }) => self.received_at(oldest),
            Some(_) => None,
            None => self.locate(sequence)?.place.received_at,
        }
    }

    /// Takes up a batch that is durable and stands at `offset` of the last segment.
    pub(super) fn publish(&mut self, batch: SealedBatch, offset: u64) {
        let received_at = || Some(batch.iter().next()?.ok()?.received_at);
        if let Some(segment) = self.segments.back_mut() {
            segment.length = offset + batch.bytes().len() as u64;
            if segment.wants_place(offset) {
                segment.remember(Place {
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

    /// The first sequence that any reader still needs, judged by what is on the disk.
    pub(super) fn needed(&self) -> Sequence {
        self.readers
            .values()
            .filter(|reader| reader.holds)
            .map(|reader| reader.saved.unwrap_or(reader.cursor.first))
            .min()
            .unwrap_or(self.next)
    }

    /// Returns the bytes from the oldest event that a reader has not settled to the end of the log. Of a segment that is
    /// settled in part, the share of its events that are not settled.
    pub(super) fn pending_bytes(&self) -> u64 {
        let readers = self.readers.values().filter(|reader| reader.holds);
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

    /// Segments that are complete and so can be deleted: all but the one that is written to.
    fn complete(&self) -> usize {
        self.segments.len() - usize::from(self.is_writing && !self.segments.is_empty())
    }

    /// The end of the oldest complete segment.
    fn oldest_end(&self) -> Option<Sequence> {
        (self.complete() > 0).then(|| self.segments.get(1).map_or(self.next, |next| next.first))
    }

    /// Takes out the oldest segment when all have settled it and it need not be kept for `retain` any more. The last one of
    /// the log stays for `least` at least, whatever `retain` is: the next start reads it to recognise duplicates.
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
        // Where room is needed, its age does not count.
        if !self.is_full && !self.is_older(ended_at, known_since, retain) {
            return None;
        }
        self.take_oldest(end)
    }

    /// Whether something that ended at a time of receipt, and is known to this process since then or later, is older than
    /// `limit`: by the monotonic clock, or by the time of the log and the system's clock while that is trusted. A step of the
    /// system's clock makes nothing old.
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
        // Without a readable header its age is unknown.
        ended_at.is_none_or(|ended_at| {
            let age = now.as_microsecond() - ended_at.as_microsecond();
            age > i64::try_from(limit.as_micros()).unwrap_or(i64::MAX)
        })
    }

    /// Takes out the oldest complete segment, settled or not, and counts what is lost.
    pub(super) fn take_dropped(&mut self) -> Option<Segment> {
        let end = self.oldest_end()?;
        // Not what was counted before it was put back.
        let needed = self.needed().max(self.oldest()).max(self.trimmed);
        self.dropped_events += end.since(needed);
        self.take_oldest(end)
    }

    /// Puts back what was taken out and could not be deleted.
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
    /// Whether the disk knows the reader and its cursor.
    pub(super) const fn is_kept(&self) -> bool {
        self.saved.is_some() && self.is_registered
    }
}

#[cfg(test)]
mod tests;
