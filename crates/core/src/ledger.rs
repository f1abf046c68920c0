//! The ledger: the number of events of a source and of a sink by outcome.
//!
//! All counts of a source, and all counts of a sink, are updated and read under one lock, so that a reader sees each event
//! exactly once.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The outcome of an event at the intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceOutcome {
    /// Stored in the spool, with the durability of the spool's type.
    Stored,
    /// Excluded by the filter.
    Filtered,
    /// Received before.
    Duplicate,
    /// Stored as a dead letter.
    DeadLettered,
}

/// The ledger of a source since the start: `received = stored + filtered + duplicate + dead_lettered + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// The number of events and malformed frames from the socket, of events fetched after gaps, and of gap reports.
    pub received: u64,
    /// Stored in the spool.
    pub stored: u64,
    /// Excluded by the filter.
    pub filtered: u64,
    /// Received before.
    pub duplicate: u64,
    /// Stored as a dead letter.
    pub dead_lettered: u64,
    /// Between the socket and the spool.
    pub in_flight: u64,
}

impl SourceCounts {
    /// Returns whether `received` equals the sum of the other counts.
    pub const fn balances(&self) -> bool {
        self.received == self.stored + self.filtered + self.duplicate + self.dead_lettered + self.in_flight
    }
}

/// The ledger of a source, shared by its listener and the intake.
#[derive(Debug, Default)]
pub struct SourceLedger {
    counts: Mutex<SourceCounts>,
}

impl SourceLedger {
    /// Counts `events` as received and in flight.
    pub fn receive(&self, events: u64) {
        let mut counts = self.lock();
        counts.received += events;
        counts.in_flight += events;
    }

    /// Moves `events` from in flight to an outcome.
    pub fn settle(&self, outcome: SourceOutcome, events: u64) {
        let mut counts = self.lock();
        debug_assert!(counts.in_flight >= events, "more settled than received");
        counts.in_flight = counts.in_flight.saturating_sub(events);
        match outcome {
            SourceOutcome::Stored => counts.stored += events,
            SourceOutcome::Filtered => counts.filtered += events,
            SourceOutcome::Duplicate => counts.duplicate += events,
            SourceOutcome::DeadLettered => counts.dead_lettered += events,
        }
    }

    /// Returns the counts at this moment.
    pub fn counts(&self) -> SourceCounts {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SourceCounts> {
        // Nothing within the lock can panic half-way through an update.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The final result of an event at a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// Acknowledged by the broker, or written to disk.
    Delivered,
    /// Excluded by the sink's own filter.
    Filtered,
    /// Already stored by the broker.
    Duplicate,
    /// Stored as a dead letter of the sink.
    DeadLettered,
    /// Removed by a full spool before the sink had read it.
    Dropped,
    /// Unreadable in the spool.
    Damaged,
}

/// The counts of the settled events of a sink: the contiguous prefix of all events stored since the sink's
/// first sequence.
///
/// Stored with the cursor, and so kept across restarts if the spool is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCounts {
    /// Acknowledged by the broker, or written to disk.
    pub delivered: u64,
    /// Excluded by the sink's own filter.
    pub filtered: u64,
    /// Already stored by the broker.
    pub duplicate: u64,
    /// Stored as a dead letter of the sink.
    pub dead_lettered: u64,
    /// Removed by a full spool before the sink had read it.
    pub dropped: u64,
    /// Unreadable in the spool.
    pub damaged: u64,
}

impl SinkCounts {
    /// Adds `events` with an outcome.
    pub const fn add(&mut self, outcome: Settlement, events: u64) {
        match outcome {
            Settlement::Delivered => self.delivered += events,
            Settlement::Filtered => self.filtered += events,
            Settlement::Duplicate => self.duplicate += events,
            Settlement::DeadLettered => self.dead_lettered += events,
            Settlement::Dropped => self.dropped += events,
            Settlement::Damaged => self.damaged += events,
        }
    }

    /// Subtracts `events` whose individual outcomes are unknown, from the delivered ones first.
    pub fn subtract(&mut self, mut events: u64) {
        for count in [
            &mut self.delivered,
            &mut self.filtered,
            &mut self.duplicate,
            &mut self.dead_lettered,
            &mut self.dropped,
            &mut self.damaged,
        ] {
            let taken = events.min(*count);
            *count -= taken;
            events -= taken;
        }
    }

    /// Returns the number of settled events.
    pub const fn settled(&self) -> u64 {
        self.delivered + self.filtered + self.duplicate + self.dead_lettered + self.dropped + self.damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtracted_events_reduce_the_delivered_count_first() {
        let mut counts = SinkCounts {
            delivered: 5,
            filtered: 1000,
            ..SinkCounts::default()
        };
        counts.subtract(20);
        assert_eq!(
            (counts.delivered, counts.filtered, counts.settled()),
            (0, 985, 985)
        );
        counts.subtract(2000);
        assert_eq!(counts.settled(), 0);
    }

    #[test]
    fn source_ledger_balances_after_each_step() {
        let ledger = SourceLedger::default();
        ledger.receive(10);
        assert!(ledger.counts().balances());
        for (outcome, events) in [
            (SourceOutcome::Stored, 4),
            (SourceOutcome::Filtered, 3),
            (SourceOutcome::Duplicate, 2),
            (SourceOutcome::DeadLettered, 1),
        ] {
            ledger.settle(outcome, events);
            assert!(ledger.counts().balances());
        }
        let expected = SourceCounts {
            received: 10,
            stored: 4,
            filtered: 3,
            duplicate: 2,
            dead_lettered: 1,
            in_flight: 0,
        };
        assert_eq!(ledger.counts(), expected);
    }
}
