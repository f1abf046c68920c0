//! The batches from the reader, and the position up to which their events are published.

use std::collections::VecDeque;

use crate::{
    event::{Event, Sequence},
    record::SealedBatch,
};

/// The size of unsettled batches, in bytes, at which reading stops. Larger than the events in flight of any client. Without a
/// limit, a single event without an outcome would keep all later batches in memory if a filter excludes most events.
const MAX_BYTES: usize = 16 << 20;

/// The events that were read and are not yet part of the settled prefix.
///
/// The batches are kept because an event may be rejected late, and its dead letter contains the event. They share the bytes of
/// the log.
pub(super) struct Inbox {
    batches: VecDeque<SealedBatch>,
    /// The size of `batches`.
    bytes: usize,
    /// The offset in the last batch up to which its events are published.
    offset: usize,
    /// The sequence of the first unpublished event.
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

    /// Adds a batch. To be called only when all earlier events are published.
    pub(super) fn add(&mut self, batch: SealedBatch) {
        debug_assert!(
            self.unpublished().is_none(),
            "a batch was added before all earlier events were published"
        );
        self.offset = 0;
        self.position = batch.first();
        self.bytes += batch.bytes().len();
        self.batches.push_back(batch);
    }

    /// Returns the last batch, unless all of it is published.
    pub(super) fn unpublished(&self) -> Option<&SealedBatch> {
        self.batches
            .back()
            .filter(|batch| self.offset < batch.bytes().len())
    }

    /// Returns the sequence of the first unpublished event.
    pub(super) const fn position(&self) -> Sequence {
        self.position
    }

    /// Returns the offset of the first unpublished event in the last batch.
    pub(super) const fn offset(&self) -> usize {
        self.offset
    }

    /// Moves the position past an event whose record has this length.
    pub(super) const fn pass(&mut self, length: usize) {
        self.offset += length;
        self.position = self.position.next();
    }

    /// Returns whether reading has to wait for outcomes.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Returns an event that was read and is not settled.
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

    /// Removes the batches of the settled prefix, which ends before `next`.
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

    /// Removes all batches and sets the position at which reading restarts.
    pub(super) fn restart(&mut self, position: Sequence) {
        *self = Self::new(position);
    }
}
