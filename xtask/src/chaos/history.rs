//! What the bridge says of itself, over all its lives: no answer of `/status` may contradict another.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use neurobridge_tests::status::{Sink, Status};

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Book {
    answers: u64,
    durable: u64,
    /// The last word of each sink.
    sinks: BTreeMap<String, Sink>,
    /// In how many answers the spool was full.
    full: u64,
}

impl Book {
    /// Takes an answer, whose ledgers balance: what was stored stays stored, and nothing is given up.
    pub(super) fn enter(&mut self, status: Status) -> Result<()> {
        self.answers += 1;
        let durable = status.spool.durable_sequence;
        ensure!(
            durable >= self.durable,
            "the spool had made {} durable and now has {durable}",
            self.durable
        );
        self.durable = durable;
        self.full += u64::from(status.spool.is_full);
        ensure!(!status.spool.has_failed, "the spool has failed: {status}");
        for (name, sink) in &status.sinks {
            let ledger = &sink.ledger;
            let stored = self.sinks.get(name).map_or(0, |last| last.ledger.stored);
            ensure!(
                ledger.stored >= stored,
                "the sink {name} had {stored} stored and now has {}",
                ledger.stored
            );
            let lost = ledger.filtered + ledger.dead_lettered + ledger.dropped + ledger.damaged;
            ensure!(
                lost == 0,
                "the sink {name} has events that are not delivered: {ledger:?}"
            );
        }
        self.sinks = status.sinks;
        Ok(())
    }

    /// From now on so many events have to be durable: they were seen on the disk.
    pub(super) fn expect(&mut self, durable: u64) -> Result<()> {
        ensure!(
            durable >= self.durable,
            "{} events were called durable, and {durable} are on the disk",
            self.durable
        );
        self.durable = durable;
        Ok(())
    }

    /// The highest sequence that was called durable.
    pub(super) const fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) const fn answers(&self) -> u64 {
        self.answers
    }

    pub(super) const fn full(&self) -> u64 {
        self.full
    }

    pub(super) const fn sinks(&self) -> &BTreeMap<String, Sink> {
        &self.sinks
    }

    /// Whether each sink has settled all that is durable.
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
    fn what_was_stored_stays_stored() {
        let mut book = Book::default();
        book.enter(status(5, 5, 3, 0)).unwrap();
        assert!(!book.is_settled());
        // After a kill a sink may be some way back.
        book.enter(status(5, 5, 1, 0)).unwrap();
        book.enter(status(6, 6, 6, 0)).unwrap();
        assert!(book.is_settled());
        assert_eq!((book.sinks()["nats"].ledger.settled(), book.answers()), (6, 3));
        book.expect(6).unwrap();
        for (wrong, word) in [
            (status(5, 6, 6, 0), "durable"),
            (status(6, 5, 5, 0), "stored"),
            (status(7, 7, 6, 1), "dropped: 1"),
        ] {
            let error = book.enter(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(book.expect(5).is_err());
    }
}
