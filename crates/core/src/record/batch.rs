//! Consecutive records in a buffer: while the intake collects them, and after the log has numbered them.

use bytes::Bytes;
use jiff::Timestamp;

use super::{CONFLICT, FIXED, ORIGIN, ORIGIN_SHIFT, PREFIX, RecordError, decode, origin, total_length};
use crate::event::{Event, Sequence};

/// Records in one owned buffer, not numbered yet, which the intake appends to the spool.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    events: u64,
}

/// What the intake decided for a record of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeDecision {
    /// The record is kept, with marks.
    Keep {
        /// The hash of the body, if an earlier event had the same identity and another body.
        conflict: Option<u32>,
        /// Whether later events of the feed precede the event.
        is_late: bool,
    },
    /// The record is removed.
    Drop,
}

impl IntakeDecision {
    /// The record is kept without a mark.
    pub const KEEP: Self = Self::Keep {
        conflict: None,
        is_late: false,
    };
}

impl Batch {
    /// Creates an empty batch with a capacity in bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            events: 0,
        }
    }

    /// Appends an event. Its sequence is ignored: the log assigns one.
    ///
    /// The name of a source and its attributes are truncated to 255 bytes each; the configuration allows no longer ones.
    pub fn push(&mut self, event: &Event<'_>) {
        let texts = [event.source, event.source_uri, event.type_prefix]
            .map(|text| &text.as_bytes()[..text.floor_char_boundary(usize::from(u8::MAX))]);
        let positions = event.positions.bytes();
        let texts_length: usize = texts.iter().map(|text| text.len()).sum();
        let total = FIXED + positions.len() + texts_length + event.frame.len();
        self.bytes.reserve(total);
        // The length fits into 32 bits: the scanner rejects frames above 4 GiB, the listener much smaller
        // ones.
        let mut fixed = [0; FIXED];
        // Checksum and sequence are set when the batch is sealed.
        fixed[..4].copy_from_slice(&((total - PREFIX) as u32).to_le_bytes());
        fixed[16..24].copy_from_slice(&event.received_at.as_microsecond().to_le_bytes());
        fixed[24] = (event.origin as u8) << ORIGIN_SHIFT;
        set_conflict(&mut fixed, event.conflict);
        for (length, text) in fixed[25..28].iter_mut().zip(texts) {
            *length = text.len() as u8;
        }
        self.bytes.extend_from_slice(&fixed);
        self.bytes.extend_from_slice(positions);
        for text in texts {
            self.bytes.extend_from_slice(text);
        }
        self.bytes.extend_from_slice(event.frame.as_bytes());
        self.events += 1;
    }

    /// Sets the time of receipt of all events.
    pub fn set_received_at(&mut self, received_at: Timestamp) {
        let received_at = received_at.as_microsecond().to_le_bytes();
        let mut offset = 0;
        while let Some(length) = total_length(&self.bytes[offset..]) {
            self.bytes[offset + 16..offset + 24].copy_from_slice(&received_at);
            offset += length;
        }
    }

    /// Applies one decision to each event, in order: removes the event, or marks it. Events without a decision are kept.
    ///
    /// The records stay in their buffer and move only into the space of removed ones.
    pub fn apply(&mut self, decisions: impl IntoIterator<Item = IntakeDecision>) {
        let mut decisions = decisions.into_iter();
        let (mut from, mut to) = (0, 0);
        while let Some(length) = total_length(&self.bytes[from..]) {
            let record = from..from + length;
            from = record.end;
            match decisions.next().unwrap_or(IntakeDecision::KEEP) {
                IntakeDecision::Keep { conflict, is_late } => {
                    if conflict.is_some() {
                        set_conflict(&mut self.bytes[record.clone()], conflict);
                    }
                    if is_late {
                        set_late(&mut self.bytes[record.clone()]);
                    }
                }
                IntakeDecision::Drop => {
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

    /// Returns the capacity in bytes: the memory that the batch occupies.
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

    /// Returns the batch in a buffer of the size of its records, unless three quarters of the buffer are in use.
    ///
    /// The records are copied instead of shrinking the buffer: the allocator reuses buffers of equal size,
    /// while the freed rest of a shrunk buffer has a size that no code requests.
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

    /// Returns the number of events.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Returns whether the batch is empty.
    pub const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// Returns the size of the records in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Assigns sequences to the events, starting with `first`, and writes sequences and checksums into the records.
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

    /// As [`seal`](Self::seal), but without writing sequences and checksums into the records: for a log in memory.
    pub fn seal_in_memory(self, first: Sequence) -> SealedBatch {
        SealedBatch {
            first,
            events: self.events,
            bytes: self.bytes.into(),
        }
    }
}

/// Complete records with consecutive sequences. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    first: Sequence,
    events: u64,
    bytes: Bytes,
}

impl SealedBatch {
    /// Creates a batch from records that were read back: `events` records in `bytes`, starting with `first`.
    pub const fn from_parts(first: Sequence, events: u64, bytes: Bytes) -> Self {
        Self { first, events, bytes }
    }

    /// Returns the sequence of the first event.
    pub const fn first(&self) -> Sequence {
        self.first
    }

    /// Returns the sequence after the last event.
    pub const fn end(&self) -> Sequence {
        self.first.plus(self.events)
    }

    /// Returns the number of events.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Returns the encoded records.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the events in order. Ends after the first invalid record, because the position of the next one
    /// is unknown.
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

    /// Returns the events from `sequence` on; `None` if there are none.
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

fn set_late(record: &mut [u8]) {
    let late = origin(record[24]).into_late();
    record[24] = record[24] & !ORIGIN | (late as u8) << ORIGIN_SHIFT;
}

fn set_conflict(record: &mut [u8], conflict: Option<u32>) {
    record[24] = record[24] & !CONFLICT | if conflict.is_some() { CONFLICT } else { 0 };
    record[28..32].copy_from_slice(&conflict.unwrap_or(0).to_le_bytes());
}
