//! What the sink has and what has its final result.

use jiff::Timestamp;

use crate::{
    ack::AckTracker,
    event::Sequence,
    ledger::{Settlement, SinkCounts},
    reader::Cursor,
};

/// The events between the cursor and the position of publishing: which are in flight, and which are settled.
pub(super) struct Outstanding {
    tracker: AckTracker,
    /// Messages in flight: published, and without an outcome.
    in_flight: u64,
    /// Whether something was published since the last flush.
    is_unflushed: bool,
    /// The highest sequence ever published: a lower one is sent again.
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

    /// Takes up an event that is to be published; false when it is settled already.
    pub(super) fn track(&mut self, sequence: Sequence, received_at: Timestamp) -> bool {
        self.tracker.track(sequence, received_at)
    }

    /// Takes up events that the log does not have any more.
    pub(super) fn skip(&mut self, from: Sequence, events: u64, settlement: Settlement) {
        self.tracker.skip(from, events, settlement);
    }

    /// Notes that the sink has taken an event.
    pub(super) fn published(&mut self, sequence: Sequence) {
        let sequence = sequence.get();
        self.resent += u64::from(sequence <= self.highest);
        self.highest = self.highest.max(sequence);
        self.published_dead_letter();
    }

    /// Notes that the sink has taken a dead letter.
    pub(super) const fn published_dead_letter(&mut self) {
        self.in_flight += 1;
        self.is_unflushed = true;
    }

    /// Notes that the sink has reported the outcome of one message.
    pub(super) const fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Settles an event. Returns its time of receipt, or `None` when it was settled before.
    pub(super) fn settle(&mut self, sequence: Sequence, settlement: Settlement) -> Option<Timestamp> {
        self.tracker.settle(sequence, settlement)
    }

    /// Extends the settled prefix, and returns the first sequence after it.
    pub(super) fn advance(&mut self) -> Sequence {
        self.tracker.advance();
        self.tracker.next()
    }

    /// The first sequence after the settled prefix.
    pub(super) const fn next(&self) -> Sequence {
        self.tracker.next()
    }

    /// The results of the settled prefix.
    pub(super) const fn counts(&self) -> SinkCounts {
        self.tracker.counts()
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) const fn resent(&self) -> u64 {
        self.resent
    }

    /// Whether all that was taken up is part of the settled prefix.
    pub(super) fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Whether no more may be taken up before all that was is settled.
    pub(super) const fn must_wait(&self) -> bool {
        self.tracker.must_wait()
    }

    /// Returns whether something was published since the last call.
    pub(super) const fn take_unflushed(&mut self) -> bool {
        std::mem::replace(&mut self.is_unflushed, false)
    }

    /// Forgets what is in flight. What is settled stays so. Returns the sequence at which reading starts again.
    pub(super) const fn restart(&mut self) -> Sequence {
        self.in_flight = 0;
        self.is_unflushed = false;
        self.tracker.rewind();
        self.tracker.next()
    }

    /// Goes to a cursor, and forgets all that was settled after it.
    pub(super) fn reset(&mut self, cursor: &Cursor) {
        self.tracker = AckTracker::new(cursor.next, cursor.counts);
    }
}
