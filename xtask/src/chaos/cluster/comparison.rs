//! Compares the events in both brokers with those that the platform recognised, and measures the takeovers.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::Result;

use neurobridge_tests::fingerprint::Copy;

use super::super::read_broker;
use super::super::recognised::{Comparison, Received, RecognisedEvent, Table};
use super::super::schedule::Link;
use super::super::spool_reader::EventHash;
use super::NAMES;
use super::takeovers::{Cause, Injected, Publishers, Statistics, Takeover};
use crate::shell::print;

/// The spool of a member.
#[derive(Debug)]
pub(super) struct Spool {
    id: String,
    /// Hashes of the events.
    contents: HashSet<u64>,
    /// The number of events that were deleted before they were read.
    unread: usize,
}

impl Spool {
    pub(super) fn new((id, events): (String, Vec<Option<EventHash>>)) -> Self {
        let contents: HashSet<u64> = events.iter().flatten().map(|event| event.content).collect();
        Self {
            id,
            contents,
            unread: events.iter().filter(|event| event.is_none()).count(),
        }
    }

    /// Returns whether the member has certainly never stored the event.
    fn lacks(&self, content: u64) -> bool {
        self.unread == 0 && !self.contents.contains(&content)
    }
}

/// The latest event of each person, and the member that published the event. Explains events that are out of order.
#[derive(Debug, Default)]
struct LatestOfPersons(HashMap<u64, (u64, usize)>);

impl LatestOfPersons {
    /// Adds the next copy. If a later event of the same person precedes the copy, returns the member that published the latest
    /// event of the person.
    fn add(&mut self, copy: &Copy, member: usize) -> Option<usize> {
        let id = copy.id.parse().ok()?;
        let latest = self.0.entry(copy.fingerprint.person).or_insert((id, member));
        if id < latest.0 {
            return Some(latest.1);
        }
        *latest = (id, member);
        None
    }
}

/// The events that are compared with those in the brokers.
pub(super) struct Compared {
    /// The events since the start of the run. Earlier ones are not compared, because not all members received them.
    pub(super) recognised: Vec<RecognisedEvent>,
    /// Hashes of the sent events.
    pub(super) sent: HashSet<u64>,
    /// The spool of each member.
    pub(super) spools: Vec<Spool>,
    pub(super) faults: Vec<Injected>,
    /// The start of the run, in milliseconds since 1970.
    pub(super) started: i64,
}

/// The result for one broker.
pub(super) struct Found {
    comparison: Comparison,
    /// The number of copies with a body that the platform did not send.
    changed: u64,
    /// The number of events out of order that the publisher of the later event has never received. Another member could
    /// publish these events only after it became the leader.
    unreceived: u64,
    /// The number of events that each member has published.
    published: Vec<u64>,
    destination: Link,
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
    pub(super) fn with(&self, destination: Link, read_back: &Path, place: &[&str]) -> Result<Found> {
        let broker = if destination == Link::Kafka {
            "Kafka"
        } else {
            "JetStream"
        };
        let spools: Vec<&str> = self.spools.iter().map(|spool| spool.id.as_str()).collect();
        let mut received = Received::default();
        let mut published = vec![0; spools.len()];
        let mut publications = Vec::new();
        let (mut changed, mut unreceived) = (0, 0);
        let mut latest = LatestOfPersons::default();
        let first = self.recognised.first().map_or(0, |event| event.id);
        read_broker(read_back, place, &spools, |copy| {
            if copy.id.parse::<u64>().is_ok_and(|id| id < first) {
                return;
            }
            let disordered = received.disordered();
            received.add(&copy);
            let is_disordered = received.disordered() > disordered;
            changed += u64::from(!self.sent.contains(&copy.fingerprint.content));
            if let Some(member) = spools.iter().position(|spool| *spool == copy.spool) {
                published[member] += 1;
                publications.push((copy.stored, member));
                let before = latest.add(&copy, member);
                let is_unreceived =
                    before.is_some_and(|before| self.spools[before].lacks(copy.fingerprint.content));
                unreceived += u64::from(is_disordered && is_unreceived);
            }
        })?;
        // A topic is read partition by partition, so the publications are not sorted by time yet.
        publications.sort_by_key(|(stored, _)| *stored);
        let mut publishers = Publishers::default();
        for (stored, member) in publications {
            publishers.add(member, stored);
        }
        let mut takeovers = publishers.takeovers();
        // Hand-overs after the last event are omitted: the run waits before them, so their times without a
        // publishing member have no meaning.
        let last = self.recognised.last();
        takeovers.retain(|takeover| last.is_some_and(|last| takeover.last < last.at.as_millisecond()));
        Ok(Found {
            comparison: received.compare(broker.to_owned(), &self.recognised, &[]),
            changed,
            unreceived,
            published,
            destination,
            takeovers,
        })
    }

    /// Prints the results, and returns whether all guarantees held.
    pub(super) fn report(&self, found: [Found; 2]) -> Result<bool> {
        let holds = found.iter().all(Found::holds);
        for Found {
            comparison,
            changed,
            unreceived,
            published,
            destination,
            takeovers,
        } in &found
        {
            print(&format!(
                "\n{}: published by the members {published:?}; {changed} with a changed body; {unreceived} of the events out of order were \
                 never received by the earlier leader",
                comparison.name,
            ))?;
            print("time without a publishing member:")?;
            for takeover in takeovers {
                print(&self.describe(takeover, *destination))?;
            }
            print(&Statistics::of(takeovers, *destination, &self.faults).to_string())?;
        }
        let comparisons: Vec<Comparison> = found.into_iter().map(|found| found.comparison).collect();
        print("\ncompared with the platform:")?;
        print(&Table(&comparisons).to_string())?;
        Ok(holds)
    }

    /// Returns a line for a takeover, with the time of the run at which the earlier leader published its last event.
    fn describe(&self, takeover: &Takeover, destination: Link) -> String {
        #[expect(
            clippy::cast_precision_loss,
            reason = "the milliseconds of a run have fewer than the 53 bits of an exact conversion"
        )]
        let at = (takeover.last - self.started) as f64 / 1000.0;
        let (from, to) = (NAMES[takeover.from], NAMES[takeover.to]);
        let cause = Cause::of(takeover, destination, &self.faults);
        format!("{at:7.1} s  {from} to {to}  {:>6} ms  {cause}", takeover.lasted())
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
            unreceived: 0,
            published: Vec::new(),
            destination: Link::Kafka,
            takeovers: Vec::new(),
        }
    }

    #[test]
    fn member_that_published_a_later_event_is_found() {
        let copy = |id: u64| format!("0 0a {id} 1 7 live s {id}").parse().unwrap();
        let mut latest = LatestOfPersons::default();
        assert_eq!(latest.add(&copy(5), 0), None);
        assert_eq!(latest.add(&copy(4), 1), Some(0));
        assert_eq!(latest.add(&copy(6), 1), None);
        assert_eq!(latest.add(&copy(3), 0), Some(1));
        let event = |content| Some(EventHash { content, person: 7 });
        let spool = Spool::new(("0a".to_owned(), vec![event(1)]));
        assert!(spool.lacks(2) && !spool.lacks(1));
        let spool = Spool::new(("0a".to_owned(), vec![None, event(1)]));
        assert!(!spool.lacks(2), "unknown");
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
