//! The batches that the reader handed over, and the position up to which their events are published.

use std::collections::VecDeque;

use crate::{
    event::{Event, Sequence},
    record::SealedBatch,
};

/// The most bytes of batches that may wait for outcomes before no more is read. More than a client keeps in flight, and
/// bounded: where a filter leaves most out, one event without an outcome would otherwise gather all that comes after it.
const MOST_BYTES: usize = 16 << 20;

/// The events that were read and are not yet part of the settled prefix.
///
/// Their batches are kept, sharing the log's bytes, because an event may be rejected late and its dead letter needs the event.
pub(super) struct Inbox {
    batches: VecDeque<SealedBatch>,
    /// Bytes of `batches`.
    bytes: usize,
    /// How much of the last batch is published: an offset into its bytes. At its end: all.
    offset: usize,
    /// The sequence of the first event that is not published.
    position: Sequence,
}

impl Inbox {
    pub(super) const fn new(position: Sequence) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            offset: 0,
            position,
        }
    }

    /// Adds a batch. Only to be called when all before it is published.
    pub(super) fn add(&mut self, batch: SealedBatch) {
        debug_assert!(self.unpublished().is_none(), "read on before all was published");
        self.offset = 0;
        self.position = batch.first();
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
    }

    /// The last batch, unless all of it is published.
    pub(super) fn unpublished(&self) -> Option<&SealedBatch> {
        self.batches
            .back()
            .filter(|batch| self.offset < batch.bytes().len())
    }

    /// The sequence of the first event that is not published.
    pub(super) const fn position(&self) -> Sequence {
        self.position
    }

    /// The offset of that event in the bytes of the last batch.
    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    /// Moves the position over an event, whose record has this length.
    pub(super) const fn pass(&mut self, length: usize) {
        self.offset += length;
        self.position = self.position.next();
    }

    /// Whether so much waits for outcomes that no more is to be read.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= MOST_BYTES
    }

    /// Finds an event that was read and is not settled.
    pub(super) fn find(&self, sequence: Sequence) -> Option<Event<'_>> {
        let batch = self
            .batches
            .iter()
            .find(|batch| batch.first() <= sequence && sequence < batch.end())?;
        batch
            .iter()
            .filter_map(Result::ok)
            .find(|event| event.sequence == sequence)
    }

    /// Removes the batches of the settled prefix, which ends before `next`: their events are not needed any more.
    pub(super) fn remove_settled(&mut self, next: Sequence) {
        while self.batches.front().is_some_and(|batch| batch.end() <= next) {
            if self.batches.len() == 1 && self.unpublished().is_some() {
                break;
            }
            if let Some(batch) = self.batches.pop_front() {
                self.bytes -= batch.bytes().len();
            }
        }
    }

    /// Removes all batches: reading starts again at `position`.
    pub(super) fn restart(&mut self, position: Sequence) {
        *self = Self::new(position);
    }
}
