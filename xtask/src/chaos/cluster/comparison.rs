//! Compares the events in both brokers with those that the platform recognised, and measures the takeovers.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;

use super::super::read_broker;
use super::super::recognised::{Comparison, Received, RecognisedEvent, Table};
use super::takeovers::{Injected, Publishers, Statistics, Takeover};
use crate::shell::print;

/// What the brokers are compared with.
pub(super) struct Compared {
    pub(super) recognised: Vec<RecognisedEvent>,
    /// Hashes of the sent events.
    pub(super) sent: HashSet<u64>,
    /// The id of each member's spool.
    pub(super) spools: Vec<String>,
    pub(super) faults: Vec<Injected>,
}

/// The result for one broker.
pub(super) struct Found {
    comparison: Comparison,
    /// The number of copies with a body that the platform did not send.
    changed: u64,
    /// The number of events that each member has published.
    published: Vec<u64>,
    takeovers: Vec<Takeover>,
}

impl Found {
    /// Returns whether each event is stored once, in order and unchanged.
    const fn holds(&self) -> bool {
        self.comparison.holds() && self.changed == 0
    }
}

impl Compared {
    /// Reads a broker and compares its events.
    pub(super) fn with(&self, broker: &str, read_back: &Path, place: &[&str]) -> Result<Found> {
        let spools: Vec<&str> = self.spools.iter().map(String::as_str).collect();
        let mut received = Received::default();
        let mut published = vec![0; spools.len()];
        let mut publications = Vec::new();
        let mut changed = 0;
        read_broker(read_back, place, &spools, |copy| {
            received.add(&copy);
            changed += u64::from(!self.sent.contains(&copy.fingerprint.content));
            if let Some(member) = spools.iter().position(|spool| *spool == copy.spool) {
                published[member] += 1;
                publications.push((copy.stored, member));
            }
        })?;
        // A topic is read partition by partition, and one member publishes at a time.
        publications.sort_by_key(|(stored, _)| *stored);
        let mut publishers = Publishers::default();
        for (stored, member) in publications {
            publishers.add(member, stored);
        }
        Ok(Found {
            comparison: received.compare(broker.to_owned(), &self.recognised, &[]),
            changed,
            published,
            takeovers: publishers.takeovers(),
        })
    }

    /// Prints the results, and returns whether all guarantees held.
    pub(super) fn report(&self, found: [Found; 2]) -> Result<bool> {
        let holds = found.iter().all(Found::holds);
        for Found {
            comparison,
            changed,
            published,
            takeovers,
        } in &found
        {
            print(&format!(
                "\n{}: published by the members {published:?}, {changed} with a changed body, {} takeovers; \
                 time without a publishing member:",
                comparison.name,
                takeovers.len()
            ))?;
            print(&Statistics::of(takeovers, &self.faults).to_string())?;
        }
        let comparisons: Vec<Comparison> = found.into_iter().map(|found| found.comparison).collect();
        print("\ncompared with the platform:")?;
        print(&Table(&comparisons).to_string())?;
        Ok(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(copies: &[(u64, u64)]) -> Found {
        let recognised: Vec<RecognisedEvent> = (1..=4)
            .map(|id| {
                serde_json::from_str(&format!(r#"{{"id":{id},"at":"2026-01-01T00:00:0{id}Z"}}"#)).unwrap()
            })
            .collect();
        let mut received = Received::default();
        for (id, person) in copies {
            received.add(&format!("0 0a {id} 1 {person} live s {id}").parse().unwrap());
        }
        Found {
            comparison: received.compare("Kafka".to_owned(), &recognised, &[]),
            changed: 0,
            published: Vec::new(),
            takeovers: Vec::new(),
        }
    }

    #[test]
    fn missing_duplicate_disordered_or_changed_event_is_a_violation() {
        assert!(found(&[(1, 5), (2, 6), (3, 5), (4, 6)]).holds());
        assert!(
            found(&[(2, 6), (1, 5), (3, 5), (4, 6)]).holds(),
            "order of each person"
        );
        assert!(!found(&[(1, 5), (2, 6), (4, 6)]).holds(), "missing");
        assert!(
            !found(&[(1, 5), (2, 6), (3, 5), (2, 6), (4, 6)]).holds(),
            "duplicate"
        );
        assert!(!found(&[(3, 5), (2, 6), (1, 5), (4, 6)]).holds(), "disorder");
        let mut changed = found(&[(1, 5), (2, 6), (3, 5), (4, 6)]);
        changed.changed = 1;
        assert!(!changed.holds());
    }
}
