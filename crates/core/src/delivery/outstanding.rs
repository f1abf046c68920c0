//! The events that are in flight, and those that have a final result.

use jiff::Timestamp;

use crate::{
    ack::AckTracker,
    event::Sequence,
    ledger::{Settlement, SinkCounts},
    reader::Cursor,
};

/// The events between the cursor and the publishing position: which are in flight, and which are settled.
pub(super) struct Outstanding {
    tracker: AckTracker,
    /// The number of messages in flight: published without an outcome.
    in_flight: u64,
    /// Whether a message was published since the last flush.
    is_unflushed: bool,
    /// The highest sequence that was published. Publishing this or a lower sequence counts as sending again.
    highest: u64,
    resent: u64,
}

impl Outstanding {
    pub(super) const fn new(cursor: &Cursor) -> Self {
        Self {
            tracker: AckTracker::new(cursor.next, cursor.counts),
            in_flight: 0,
            is_unflushed: false,
            highest: 0,
            resent: 0,
        }
    }

    /// Adds an event to publish. Returns false if it is settled already.
    pub(super) fn track(&mut self, sequence: Sequence, received_at: Timestamp) -> bool {
        self.tracker.track(sequence, received_at)
    }

    /// Adds events that the log no longer contains, with their result.
    pub(super) fn skip(&mut self, from: Sequence, events: u64, settlement: Settlement) {
        self.tracker.skip(from, events, settlement);
    }

    /// Records that an event was published.
    pub(super) fn published(&mut self, sequence: Sequence) {
        let sequence = sequence.get();
        self.resent += u64::from(sequence <= self.highest);
        self.highest = self.highest.max(sequence);
        self.published_dead_letter();
    }

    /// Records that a dead letter was published.
    pub(super) const fn published_dead_letter(&mut self) {
        self.in_flight += 1;
        self.is_unflushed = true;
    }

    /// Records the outcome of one message.
    pub(super) const fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Settles an event. Returns its time of receipt, or `None` if it was settled before.
    pub(super) fn settle(&mut self, sequence: Sequence, settlement: Settlement) -> Option<Timestamp> {
        self.tracker.settle(sequence, settlement)
    }

    /// Extends the settled prefix and returns the first sequence after it.
    pub(super) fn advance(&mut self) -> Sequence {
        self.tracker.advance();
        self.tracker.next()
    }

    /// Returns the first sequence after the settled prefix.
    pub(super) const fn next(&self) -> Sequence {
        self.tracker.next()
    }

    /// Returns the counts of the settled prefix.
    pub(super) const fn counts(&self) -> SinkCounts {
        self.tracker.counts()
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) const fn resent(&self) -> u64 {
        self.resent
    }

    /// Returns whether all added events are part of the settled prefix.
    pub(super) fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Returns whether no event may be added until all added ones are settled.
    pub(super) const fn must_wait(&self) -> bool {
        self.tracker.must_wait()
    }

    /// Returns whether a message was published since the last call.
    pub(super) const fn take_unflushed(&mut self) -> bool {
        std::mem::replace(&mut self.is_unflushed, false)
    }

    /// Discards the messages in flight and keeps the settled events. Returns the sequence at which reading restarts.
    pub(super) const fn restart(&mut self) -> Sequence {
        self.in_flight = 0;
        self.is_unflushed = false;
        self.tracker.rewind();
        self.tracker.next()
    }

    /// Resets to a cursor, and discards all results after it.
    pub(super) fn reset(&mut self, cursor: &Cursor) {
        self.tracker = AckTracker::new(cursor.next, cursor.counts);
    }
}
