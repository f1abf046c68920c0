//! Collects the `/status` responses over all runs of the bridge, and checks that no response contradicts an earlier one.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use neurobridge_tests::status::{Sink, Source, SourceState, Status};

/// The values of the latest response, and counters of all responses.
#[derive(Debug, Default)]
pub(super) struct StatusHistory {
    answers: u64,
    durable: u64,
    /// The latest values of each sink.
    sinks: BTreeMap<String, Sink>,
    /// The number of responses with a full spool.
    full: u64,
    /// The latest number of received events; `None` while a source is not authenticated.
    received: Option<u64>,
}

impl StatusHistory {
    /// Adds a response. The caller has checked that its ledgers balance. Returns an error if stored events disappeared, or if an event was filtered,
    /// dead-lettered, dropped or damaged.
    pub(super) fn enter(&mut self, status: Status) -> Result<()> {
        self.answers += 1;
        let durable = status.spool.durable_sequence;
        ensure!(
            durable >= self.durable,
            "the spool reported {} durable events before and now {durable}",
            self.durable
        );
        self.durable = durable;
        self.full += u64::from(status.spool.is_full);
        ensure!(!status.spool.has_failed, "the spool failed: {status}");
        for (name, sink) in &status.sinks {
            let ledger = &sink.ledger;
            let stored = self.sinks.get(name).map_or(0, |last| last.ledger.stored);
            ensure!(
                ledger.stored >= stored,
                "the sink {name} reported {stored} stored events before and now {}",
                ledger.stored
            );
            let lost = ledger.filtered + ledger.dead_lettered + ledger.dropped + ledger.damaged;
            ensure!(
                lost == 0,
                "the sink {name} has filtered, dead-lettered, dropped or damaged events, expected none: {ledger:?}"
            );
        }
        let mut sources = status.sources.values();
        let reads = |source: &Source| source.state == SourceState::Authenticated;
        self.received = sources.try_fold(0, |sum, source| {
            reads(source).then_some(sum + source.ledger.received)
        });
        self.sinks = status.sinks;
        Ok(())
    }

    /// Adds the number of events found on the disk, below which later responses must not fall. Returns an error if fewer events were
    /// found than had been reported as durable.
    pub(super) fn expect(&mut self, durable: u64) -> Result<()> {
        ensure!(
            durable >= self.durable,
            "{} events were reported as durable, but {durable} are on the disk",
            self.durable
        );
        self.durable = durable;
        Ok(())
    }

    /// Returns the highest sequence that was reported as durable or found on the disk.
    pub(super) const fn durable(&self) -> u64 {
        self.durable
    }

    /// Returns the number of events that the present run has received; `None` while a source is not authenticated.
    pub(super) const fn received(&self) -> Option<u64> {
        self.received
    }

    /// Returns the number of responses.
    pub(super) const fn answers(&self) -> u64 {
        self.answers
    }

    /// Returns the number of responses with a full spool.
    pub(super) const fn full(&self) -> u64 {
        self.full
    }

    pub(super) const fn sinks(&self) -> &BTreeMap<String, Sink> {
        &self.sinks
    }

    /// Returns whether each sink has settled all durable events.
    pub(super) fn is_settled(&self) -> bool {
        !self.sinks.is_empty() && self.sinks.values().all(|sink| sink.ledger.pending == 0)
    }
}

#[cfg(test)]
mod tests {
    use neurobridge_tests::status::examples;

    use super::*;

    fn status(durable: u64, stored: u64, delivered: u64, dropped: u64) -> Status {
        let mut status = examples::status([("nats", delivered, stored - delivered - dropped)]);
        status.spool.durable_sequence = durable;
        if let Some(sink) = status.sinks.get_mut("nats") {
            sink.ledger.dropped = dropped;
            sink.ledger.stored = stored;
        }
        status
    }

    #[test]
    fn disappeared_event_is_an_error() {
        let mut history = StatusHistory::default();
        history.enter(status(5, 5, 3, 0)).unwrap();
        assert!(!history.is_settled());
        // A kill may set a sink's cursor back.
        history.enter(status(5, 5, 1, 0)).unwrap();
        history.enter(status(6, 6, 6, 0)).unwrap();
        assert!(history.is_settled());
        assert_eq!(
            (history.sinks()["nats"].ledger.settled(), history.answers()),
            (6, 3)
        );
        history.expect(6).unwrap();
        for (wrong, word) in [
            (status(5, 6, 6, 0), "durable"),
            (status(6, 5, 5, 0), "stored"),
            (status(7, 7, 6, 1), "dropped: 1"),
        ] {
            let error = history.enter(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(history.expect(5).is_err());
    }
}
