//! Reads a range of a log again, also while another process has the log open: locks nothing and moves no cursor.

use std::{fmt, io, path::PathBuf, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{
    clock,
    epoch::Epochs,
    event::Sequence,
    reader::{Cursor, Read, ReadError, Reader, SkipReason},
    record::{self, SealedBatch},
    units,
};
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    DiskError,
    disk::epochs,
    inspect::{self, Entry},
};

/// The capacity of the channel between the disk and a sink, in batches.
const PREFETCHED_BATCHES: usize = 4;

/// A position in a log, given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The oldest event of the log.
    Oldest,
    /// The sequence of an event.
    Sequence(Sequence),
    /// A time of receipt.
    Time(Timestamp),
}

/// The error of a text that is not a [`Position`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "found \"{found}\", expected a sequence such as 1000, a time such as 2026-01-31T12:00:00Z, a duration such as 5m \
     before now, or \"oldest\""
)]
pub struct PositionError {
    /// The text.
    pub found: String,
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        if text == "oldest" {
            return Ok(Self::Oldest);
        }
        let sequence = text.parse().ok().and_then(Sequence::new);
        let before_now = || {
            let age = units::parse_duration(text).ok()?;
            clock::now().checked_sub(SignedDuration::try_from(age).ok()?).ok()
        };
        sequence
            .map(Self::Sequence)
            .or_else(|| text.parse().ok().or_else(before_now).map(Self::Time))
            .ok_or_else(|| PositionError {
                found: text.to_owned(),
            })
    }
}

impl Position {
    /// Returns the first event at or after this position; for a time after all events, the next event. Reads at most one
    /// segment.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn first_from(self, folder: &std::path::Path) -> Result<Sequence, DiskError> {
        let time = match self {
            Self::Sequence(sequence) => return Ok(sequence),
            Self::Oldest => {
                let segments = inspect::list(folder)?.segments;
                return Ok(segments.first().map_or(Sequence::FIRST, |segment| segment.first));
            }
            Self::Time(time) => time,
        };
        let mut next = Sequence::FIRST;
        for entry in inspect::from_time(folder, time)? {
            match entry? {
                Entry::Events(batch) => {
                    let mut events = batch.iter().filter_map(Result::ok);
                    if let Some(event) = events.find(|event| event.received_at >= time) {
                        return Ok(event.sequence);
                    }
                    next = batch.end();
                }
                Entry::Damaged(finding) => next = finding.from.plus(finding.events),
            }
        }
        Ok(next)
    }

    /// Returns the sequence after the last event at or before this position.
    ///
    /// # Errors
    /// Returns an error if the log cannot be read.
    pub fn end(self, folder: &std::path::Path) -> Result<Sequence, DiskError> {
        match self {
            Self::Sequence(_) | Self::Oldest => Ok(self.first_from(folder)?.next()),
            Self::Time(time) => {
                // Times in the log are whole microseconds.
                let after = time.checked_add(jiff::SignedDuration::from_micros(1));
                Self::Time(after.unwrap_or(time)).first_from(folder)
            }
        }
    }
}

/// A reader of a range of a log, or of events from elsewhere. Deleted and unreadable events are reported as skipped.
#[derive(Debug)]
pub struct ReplayReader {
    source: ReplaySource,
    epochs: Epochs,
    cursor: Cursor,
    on_commit: OnCommit,
}

#[derive(Debug)]
enum ReplaySource {
    Log {
        folder: PathBuf,
        end: Sequence,
        read: mpsc::Receiver<Result<Read, ReadError>>,
    },
    Batches {
        batches: Vec<SealedBatch>,
        next: Sequence,
    },
}

/// The function that is called with each new cursor of a replay.
struct OnCommit(Box<dyn FnMut(&Cursor) + Send>);

impl fmt::Debug for OnCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnCommit")
    }
}

impl ReplayReader {
    /// Starts to read from `first` until before `end`, which has to be durable. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the log's epochs cannot be read.
    pub fn start(folder: PathBuf, first: Sequence, end: Sequence) -> Result<Self, DiskError> {
        let epochs = epochs::read(&folder)?.ok_or_else(|| {
            let damaged = io::Error::new(
                io::ErrorKind::InvalidData,
                "the checksum of the file is wrong; a bridge replaces the file when it next stores an event in this \
                 spool",
            );
            DiskError::of("read", &epochs::path(&folder))(damaged)
        })?;
        let read = read(folder.clone(), first, end);
        Ok(Self {
            source: ReplaySource::Log { folder, end, read },
            epochs,
            cursor: Cursor::starting_at(first),
            on_commit: OnCommit(Box::new(|_| ())),
        })
    }

    /// Reads these events instead of a log; their sequences ascend, and may have holes, which are reported as skipped.
    /// `on_commit` is called with each new cursor: the events before it are settled.
    pub fn of(batches: Vec<SealedBatch>, on_commit: impl FnMut(&Cursor) + Send + 'static) -> Self {
        let next = batches.first().map_or(Sequence::FIRST, SealedBatch::first);
        Self {
            source: ReplaySource::Batches { batches, next },
            epochs: Epochs::default(),
            cursor: Cursor::starting_at(next),
            on_commit: OnCommit(Box::new(on_commit)),
        }
    }
}

impl Reader for ReplayReader {
    async fn next(&mut self) -> Result<Read, ReadError> {
        match &mut self.source {
            ReplaySource::Log { read, .. } => read.recv().await.unwrap_or(Ok(Read::End)),
            ReplaySource::Batches { batches, next } => Ok(next_read(batches, next)),
        }
    }

    fn rewind(&mut self, sequence: Sequence) {
        match &mut self.source {
            ReplaySource::Log { folder, end, read } => *read = self::read(folder.clone(), sequence, *end),
            ReplaySource::Batches { next, .. } => *next = sequence,
        }
    }

    /// Does not move the sink's cursor in the spool.
    fn commit(&mut self, cursor: &Cursor) {
        (self.on_commit.0)(cursor);
    }

    fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    fn epochs(&self) -> Epochs {
        self.epochs.clone()
    }
}

/// Returns the events from `next` on, or the hole that begins there.
fn next_read(batches: &[SealedBatch], next: &mut Sequence) -> Read {
    let Some(batch) = batches.iter().find(|batch| batch.end() > *next) else {
        return Read::End;
    };
    let from = *next;
    match batch.from(from) {
        Some(events) if batch.first() <= from => {
            *next = events.end();
            Read::Events(events)
        }
        _ => {
            *next = batch.first();
            Read::Skipped {
                from,
                events: batch.first().since(from),
                reason: SkipReason::Dropped,
            }
        }
    }
}

/// Reads in a blocking thread, which ends when the receiver is dropped.
fn read(folder: PathBuf, first: Sequence, end: Sequence) -> mpsc::Receiver<Result<Read, ReadError>> {
    let (sender, receiver) = mpsc::channel(PREFETCHED_BATCHES);
    spawn_blocking(move || {
        let mut range = ReplayRange { next: first, end };
        let failed = |sequence, error: DiskError| {
            Err(ReadError::Disk {
                sequence,
                source: io::Error::other(error),
            })
        };
        let entries = match inspect::from_sequence(&folder, first) {
            Ok(entries) => entries,
            Err(error) => return drop(sender.blocking_send(failed(first, error))),
        };
        for entry in entries {
            let reads = match entry {
                Ok(entry) => range.reads_of(entry),
                Err(error) => return drop(sender.blocking_send(failed(range.next, error))),
            };
            for read in reads.into_iter().flatten() {
                if sender.blocking_send(Ok(read)).is_err() {
                    return;
                }
            }
            if range.next >= range.end {
                return;
            }
        }
        // All events before the end were durable once, so missing ones are damaged.
        if let Some(missing) = range.skip(range.end, SkipReason::Damaged) {
            // The receiver may be dropped already.
            let _ = sender.blocking_send(Ok(missing));
        }
    });
    receiver
}

/// The range of a replay and its progress.
struct ReplayRange {
    next: Sequence,
    end: Sequence,
}

impl ReplayRange {
    /// Converts an entry to reads: the events missing before the entry, and the entry itself.
    fn reads_of(&mut self, entry: Entry) -> [Option<Read>; 2] {
        match entry {
            Entry::Events(batch) => {
                let missing = self.skip(batch.first(), SkipReason::Dropped);
                let events = batch
                    .from(self.next)
                    .and_then(|batch| events_before(&batch, self.end));
                if let Some(events) = &events {
                    self.next = events.end();
                }
                [missing, events.map(Read::Events)]
            }
            Entry::Damaged(finding) => [
                self.skip(finding.from, SkipReason::Dropped),
                self.skip(finding.from.plus(finding.events), SkipReason::Damaged),
            ],
        }
    }

    fn skip(&mut self, to: Sequence, reason: SkipReason) -> Option<Read> {
        let (from, to) = (self.next, to.min(self.end));
        let events = to.since(from);
        self.next = from.plus(events);
        (events > 0).then_some(Read::Skipped { from, events, reason })
    }
}

/// Returns the events of a batch before a sequence.
fn events_before(batch: &SealedBatch, end: Sequence) -> Option<SealedBatch> {
    let events = end.since(batch.first()).min(batch.events());
    let mut length = 0;
    for _ in 0..events {
        // The batch was verified when it was read.
        length += record::total_length(batch.bytes().get(length..)?)?;
    }
    (events > 0).then(|| SealedBatch::from_parts(batch.first(), events, batch.bytes().slice(..length)))
}
