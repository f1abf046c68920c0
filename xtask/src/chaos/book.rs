//! What the bridge says of itself, over all its lives: no answer of `/status` may contradict another.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use neurobridge_tests::bridge::check_ledgers;
use serde_json::Value;

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

/// What a sink's ledger said.
#[derive(Debug, Clone, Default)]
pub(super) struct Sink {
    pub(super) stored: u64,
    pub(super) delivered: u64,
    pub(super) duplicate: u64,
    pub(super) pending: u64,
    state: String,
    reason: String,
}

impl Sink {
    /// Returns the number of events that it has settled.
    pub(super) const fn settled(&self) -> u64 {
        self.delivered + self.duplicate
    }

    /// Returns its state, and its reason in words.
    pub(super) fn state(&self) -> String {
        format!(
            "state {:?}, reason {:?}, {} events pending",
            self.state, self.reason, self.pending
        )
    }
}

impl Book {
    /// Takes an answer: each ledger balances, what was stored stays stored, and nothing is given up.
    pub(super) fn enter(&mut self, status: &Value) -> Result<()> {
        check_ledgers(status)?;
        self.answers += 1;
        let durable = number(status, "/spool/durable_sequence")?;
        ensure!(
            durable >= self.durable,
            "the spool had made {} durable and now has {durable}",
            self.durable
        );
        self.durable = durable;
        self.full += u64::from(status["spool"]["is_full"] == true);
        ensure!(
            status["spool"]["has_failed"] == false,
            "the spool has failed: {status}"
        );
        for (name, sink) in status["sinks"].as_object().context("no sinks")? {
            let of = |key: &str| number(sink, &format!("/ledger/{key}"));
            let text = |key: &str| sink[key].as_str().unwrap_or_default().to_owned();
            let last = self.sinks.entry(name.clone()).or_default();
            let now = Sink {
                stored: of("stored")?,
                delivered: of("delivered")?,
                duplicate: of("duplicate")?,
                pending: of("pending")?,
                state: text("state"),
                reason: text("reason"),
            };
            ensure!(
                now.stored >= last.stored,
                "the sink {name} had {} stored and now has {}",
                last.stored,
                now.stored
            );
            for lost in ["filtered", "dead_lettered", "dropped", "damaged"] {
                ensure!(of(lost)? == 0, "the sink {name} has {lost} events: {sink}");
            }
            *last = now;
        }
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
        !self.sinks.is_empty() && self.sinks.values().all(|sink| sink.pending == 0)
    }
}

fn number(value: &Value, pointer: &str) -> Result<u64> {
    let found = value.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no {pointer} in {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(durable: u64, stored: u64, delivered: u64, dropped: u64) -> Value {
        serde_json::json!({
            "sources": {},
            "spool": { "durable_sequence": durable, "is_full": false, "has_failed": false },
            "sinks": { "nats": { "ledger": { "stored": stored, "delivered": delivered, "filtered": 0, "duplicate": 0,
                "dead_lettered": 0, "dropped": dropped, "damaged": 0, "pending": stored - delivered - dropped } } }
        })
    }

    #[test]
    fn what_was_stored_stays_stored() {
        let mut book = Book::default();
        book.enter(&status(5, 5, 3, 0)).unwrap();
        assert!(!book.is_settled());
        // After a kill a sink may be some way back.
        book.enter(&status(5, 5, 1, 0)).unwrap();
        book.enter(&status(6, 6, 6, 0)).unwrap();
        assert!(book.is_settled());
        assert_eq!((book.sinks()["nats"].settled(), book.answers()), (6, 3));
        book.expect(6).unwrap();
        for (wrong, word) in [
            (status(5, 6, 6, 0), "durable"),
            (status(6, 5, 5, 0), "stored"),
            (status(7, 7, 6, 1), "dropped"),
        ] {
            let error = book.enter(&wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let mut unbalanced = status(7, 7, 7, 0);
        unbalanced["sinks"]["nats"]["ledger"]["delivered"] = 6.into();
        assert!(book.enter(&unbalanced).is_err());
        assert!(book.expect(5).is_err());
    }
}
