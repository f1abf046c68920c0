//! The ledger: of every event, what became of it.
//!
//! Both ledgers keep their sum true under one lock, so that no reader ever sees an event twice or not at all.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// What became of an event at the intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceOutcome {
    /// In the spool, and as durable there as its kind promises.
    Stored,
    /// Left out by the filter.
    Filtered,
    /// Seen before.
    Duplicate,
    /// In the dead letters.
    DeadLettered,
}

/// The ledger of a source since the start: `received = stored + filtered + duplicate + dead_lettered + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Event frames read from the socket, with those that could not be parsed.
    pub received: u64,
    /// In the spool.
    pub stored: u64,
    /// Left out by the filter.
    pub filtered: u64,
    /// Seen before.
    pub duplicate: u64,
    /// In the dead letters.
    pub dead_lettered: u64,
    /// On the way from the socket to the spool.
    pub in_flight: u64,
}

impl SourceCounts {
    /// Whether the sum holds.
    pub const fn balances(&self) -> bool {
        self.received == self.stored + self.filtered + self.duplicate + self.dead_lettered + self.in_flight
    }
}

/// A source's ledger, shared by its listener and the intake.
#[derive(Debug, Default)]
pub struct SourceLedger {
    counts: Mutex<SourceCounts>,
}

impl SourceLedger {
    /// Takes up `events` that were read from the socket.
    pub fn receive(&self, events: u64) {
        let mut counts = self.lock();
        counts.received += events;
        counts.in_flight += events;
    }

    /// Settles `events` that were in flight.
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

    /// The counts at this moment.
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
    /// Acknowledged by the broker, or on disk.
    Delivered,
    /// Left out by the sink's own filter.
    Filtered,
    /// The broker had it already.
    Duplicate,
    /// In the sink's dead letters.
    DeadLettered,
    /// Given up by a full spool before the sink had read it.
    Dropped,
    /// Unreadable in the spool.
    Damaged,
}

/// What a sink has settled, of the contiguous prefix of all that was stored since its first sequence.
///
/// Kept with the cursor, and so across restarts where the spool is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCounts {
    /// Acknowledged by the broker, or on disk.
    pub delivered: u64,
    /// Left out by the sink's own filter.
    pub filtered: u64,
    /// The broker had it already.
    pub duplicate: u64,
    /// In the sink's dead letters.
    pub dead_lettered: u64,
    /// Given up by a full spool before the sink had read it.
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

    /// Takes back so many events, of which nobody knows any more what became of each: delivered ones first.
    pub fn take_back(&mut self, mut events: u64) {
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

    /// All that is settled.
    pub const fn settled(&self) -> u64 {
        self.delivered + self.filtered + self.duplicate + self.dead_lettered + self.dropped + self.damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retracted_events_are_subtracted() {
        let mut counts = SinkCounts {
            delivered: 5,
            filtered: 1000,
            ..SinkCounts::default()
        };
        counts.take_back(20);
        assert_eq!(
            (counts.delivered, counts.filtered, counts.settled()),
            (0, 985, 985)
        );
        counts.take_back(2000);
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
