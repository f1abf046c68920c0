//! Checks that each sink recovers after the last fault, with its current client or a new one, and settles all events.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use neurobridge_tests::poll::Patience;

use neurobridge_tests::status::Sink;

/// The time limit for a sink to settle its first event after the last fault: three times as long as the sink waits
/// before it replaces its client.
const RECOVERY: Duration = Duration::from_secs(90);
/// The time limit for each further settled event.
const PROGRESS: Duration = Duration::from_secs(120);

/// The progress of the sinks since the last fault.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    sinks: BTreeMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    settled: u64,
    has_recovered: bool,
    patience: Patience,
}

impl Recovery {
    /// Checks the current progress of the sinks.
    ///
    /// # Errors
    /// Returns an error if a sink with pending events settled none within the limit; it contains the state and the
    /// reason of the sink.
    pub(super) fn check(&mut self, sinks: &BTreeMap<String, Sink>) -> Result<()> {
        for (name, sink) in sinks {
            let watched = self.sinks.entry(name.clone()).or_insert_with(|| Watched {
                settled: sink.ledger.settled(),
                has_recovered: false,
                patience: Patience::new("an event to be settled", RECOVERY),
            });
            if sink.ledger.settled() > watched.settled || sink.ledger.pending == 0 {
                *watched = Watched {
                    settled: sink.ledger.settled(),
                    has_recovered: true,
                    patience: Patience::new("the next event to be settled", PROGRESS),
                };
            }
            let checked = watched.patience.check();
            checked.with_context(|| {
                if watched.has_recovered {
                    format!("sink {name} settled no event for {PROGRESS:?}: {}", state(sink))
                } else {
                    format!(
                        "sink {name} did not recover within {RECOVERY:?} of the last fault: {}",
                        state(sink)
                    )
                }
            })?;
        }
        Ok(())
    }

    /// Checks with every limit exceeded.
    #[cfg(test)]
    fn check_at_the_limit(&mut self, sinks: &BTreeMap<String, Sink>) -> Result<()> {
        for watched in self.sinks.values_mut() {
            watched.patience = Patience::new("nothing", Duration::ZERO);
        }
        self.check(sinks)
    }
}

/// Returns the state of a sink with its reason.
fn state(sink: &Sink) -> String {
    let reason = sink.reason.as_deref().unwrap_or("none");
    format!(
        "state {:?}, reason {reason:?}, {} events pending",
        sink.state, sink.ledger.pending
    )
}

#[cfg(test)]
mod tests {
    use neurobridge_tests::status::{SinkState, examples};

    use super::*;

    fn sinks(delivered: u64, pending: u64) -> BTreeMap<String, Sink> {
        let sink = Sink {
            state: SinkState::Down,
            reason: Some("1/1 brokers are down".to_owned()),
            ..examples::sink(delivered, pending)
        };
        [("kafka".to_owned(), sink)].into()
    }

    #[test]
    fn stuck_sink_is_reported_with_its_reason() {
        let mut recovery = Recovery::default();
        recovery.check(&sinks(5, 4)).unwrap();
        recovery.check(&sinks(5, 4)).unwrap();
        let error = format!("{:#}", recovery.check_at_the_limit(&sinks(5, 4)).unwrap_err());
        assert!(
            error.starts_with(
                "sink kafka did not recover within 90s of the last fault: state Down, reason \"1/1 brokers are down\", \
                 4 events pending"
            ),
            "{error}"
        );
    }

    #[test]
    fn settled_or_empty_sink_counts_as_recovered() {
        let mut recovery = Recovery::default();
        recovery.check(&sinks(5, 4)).unwrap();
        recovery.check_at_the_limit(&sinks(6, 3)).unwrap();
        let error = recovery.check_at_the_limit(&sinks(6, 3)).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("sink kafka settled no event for 120s")
        );
        recovery.check_at_the_limit(&sinks(9, 0)).unwrap();
        recovery.check_at_the_limit(&sinks(9, 0)).unwrap();
    }
}
