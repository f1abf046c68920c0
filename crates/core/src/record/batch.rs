//! Records one behind the other in a buffer: while they are gathered, and when the log has numbered them.

use bytes::Bytes;
use jiff::Timestamp;

use super::{CONFLICT, FIXED, PREFIX, RecordError, decode, total_length};
use crate::event::{Event, Sequence};

/// What the intake hands to the spool: records in one owned buffer, not yet numbered.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    events: u64,
}

/// What becomes of a record of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It stays, as an event whose identity came before with another body: the hash of this one's body.
    KeepAsConflict(u32),
    /// It goes.
    Drop,
}

impl Batch {
    /// An empty one with room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            events: 0,
        }
    }

    /// Appends an event. Its sequence is ignored: the log gives it one.
    ///
    /// A source's name longer than 255 bytes is cut; configuration allows none.
    pub fn push(&mut self, event: &Event<'_>) {
        let source = &event.source.as_bytes()[..event.source.len().min(usize::from(u8::MAX))];
        self.bytes.reserve(FIXED + source.len() + event.frame.len());
        let length = FIXED - PREFIX + source.len() + event.frame.len();
        // A frame fits: the scanner refuses more than 4 GiB, the listener far less.
        let mut fixed = [0; FIXED];
        // Checksum and sequence come when the batch is sealed.
        fixed[..4].copy_from_slice(&(length as u32).to_le_bytes());
        fixed[16..24].copy_from_slice(&event.received_at.as_microsecond().to_le_bytes());
        set_conflict(&mut fixed, event.conflict);
        fixed[25] = source.len() as u8;
        for (place, span) in fixed[30..].chunks_exact_mut(8).zip(event.envelope.spans()) {
            place[..4].copy_from_slice(&span.start.to_le_bytes());
            place[4..].copy_from_slice(&span.end.to_le_bytes());
        }
        self.bytes.extend_from_slice(&fixed);
        self.bytes.extend_from_slice(source);
        self.bytes.extend_from_slice(event.frame.as_bytes());
        self.events += 1;
    }

    /// Gives all events their time of receipt.
    pub fn set_received_at(&mut self, received_at: Timestamp) {
        let received_at = received_at.as_microsecond().to_le_bytes();
        let mut offset = 0;
        while let Some(length) = total_length(&self.bytes[offset..]) {
            self.bytes[offset + 16..offset + 24].copy_from_slice(&received_at);
            offset += length;
        }
    }

    /// Drops and marks events, in order; those that nothing is said of stay.
    ///
    /// The records stay in their buffer, and move only to where dropped ones were.
    pub fn apply(&mut self, fates: impl IntoIterator<Item = Fate>) {
        let mut fates = fates.into_iter();
        let (mut from, mut to) = (0, 0);
        while let Some(length) = total_length(&self.bytes[from..]) {
            let record = from..from + length;
            from = record.end;
            match fates.next().unwrap_or(Fate::Keep) {
                Fate::Keep => {}
                Fate::KeepAsConflict(hash) => set_conflict(&mut self.bytes[record.clone()], Some(hash)),
                Fate::Drop => {
                    self.events -= 1;
                    continue;
                }
            }
            if to < record.start {
                self.bytes.copy_within(record, to);
            }
            to += length;
        }
        self.bytes.truncate(to);
    }

    /// How many bytes there is room for: what it takes of memory.
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends the events of another batch.
    pub fn append(&mut self, other: Self) {
        if self.bytes.is_empty() {
            *self = other;
        } else {
            self.bytes.extend_from_slice(&other.bytes);
            self.events += other.events;
        }
    }

    /// The same in a buffer of their size, unless this one is nearly full of them.
    ///
    /// A copy, and not the same buffer made shorter: buffers of one size are used again and again, while the rest of one
    /// that was cut is of a size that nobody asks for.
    #[must_use]
    pub fn fitted(self) -> Self {
        if self.bytes.len() >= self.bytes.capacity() / 4 * 3 {
            return self;
        }
        Self {
            bytes: self.bytes.as_slice().into(),
            events: self.events,
        }
    }

    /// How many events it has.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// How many bytes its records have.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Numbers the events from `first` on and completes their records.
    pub fn seal(mut self, first: Sequence) -> SealedBatch {
        let mut rest = &mut self.bytes[..];
        let mut sequence = first;
        while let Some(length) = total_length(rest) {
            let (record, next) = rest.split_at_mut(length);
            record[8..16].copy_from_slice(&sequence.get().to_le_bytes());
            let checksum = crc32c::crc32c(&record[PREFIX..]);
            record[4..8].copy_from_slice(&checksum.to_le_bytes());
            sequence = sequence.next();
            rest = next;
        }
        self.seal_in_memory(first)
    }

    /// As [`seal`](Self::seal), but nothing is written into the records: for a log that never leaves memory. They tell
    /// neither sequences nor checksums.
    pub fn seal_in_memory(self, first: Sequence) -> SealedBatch {
        SealedBatch {
            first,
            events: self.events,
            bytes: self.bytes.into(),
        }
    }
}

/// Complete records of contiguous sequences. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    first: Sequence,
    events: u64,
    bytes: Bytes,
}

impl SealedBatch {
    /// Records that were read back: `events` of them in `bytes`, from `first` on.
    pub const fn from_parts(first: Sequence, events: u64, bytes: Bytes) -> Self {
        Self { first, events, bytes }
    }

    /// The sequence of the first event.
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// The sequence after the last event.
    pub const fn end(&self) -> Sequence {
        self.first.plus(self.events)
    }

    /// How many events there are.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The records.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The events, one after the other. Ends after the first record that is none: what follows it can't be found.
    pub fn iter(&self) -> impl Iterator<Item = Result<Event<'_>, RecordError>> {
        let (mut rest, mut sequence) = (&self.bytes[..], self.first);
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            match decode(rest, sequence) {
                Ok((event, length)) => {
                    rest = &rest[length..];
                    sequence = sequence.next();
                    Some(Ok(event))
                }
                Err(error) => {
                    rest = &[];
                    Some(Err(error))
                }
            }
        })
    }

    /// The part from `sequence` on; `None` when nothing is left.
    #[must_use]
    pub fn from(&self, sequence: Sequence) -> Option<Self> {
        let skipped = sequence.since(self.first);
        if skipped >= self.events {
            return None;
        }
        let mut offset = 0;
        for _ in 0..skipped {
            offset += total_length(self.bytes.get(offset..)?)?;
        }
        Some(Self {
            first: self.first.plus(skipped),
            events: self.events - skipped,
            bytes: self.bytes.slice(offset..),
        })
    }
}

fn set_conflict(record: &mut [u8], conflict: Option<u32>) {
    record[24] = if conflict.is_some() { CONFLICT } else { 0 };
    record[26..30].copy_from_slice(&conflict.unwrap_or(0).to_le_bytes());
}
