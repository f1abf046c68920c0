//! Compares the events in a broker with all events that the platform recognised.

use std::collections::{HashMap, HashSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use neurobridge_tests::fingerprint::{Copy, Origin};
use serde::Deserialize;

use super::gaps::Gap;

/// The maximum time between the recognition of an event and its receipt by the bridge, on a busy machine. An event that is lost
/// at the start of a gap may have been recognised this long before the gap.
const TRANSIT: SignedDuration = SignedDuration::from_millis(500);
/// The maximum time from the platform's answer to AUTH to its first event, on a busy machine. The gap ends with the answer.
const START_OF_FEED: SignedDuration = SignedDuration::from_millis(500);
/// The time limit for the first authentication of each source, after the first recognised event. Events recognised before a
/// source is authenticated do not count as missing.
const START: SignedDuration = SignedDuration::from_secs(10);
/// The maximum number of violations that are described.
const MAX_DESCRIBED: usize = 8;

/// An event that the platform recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(in super::super) struct RecognisedEvent {
    pub(in super::super) id: u64,
    pub(in super::super) at: Timestamp,
}

/// The events of one source in one broker, compared with everything that the platform recognised.
#[derive(Debug, Default)]
pub(in super::super) struct Comparison {
    pub(in super::super) name: String,
    /// The recognised events since the first one that the source has received.
    pub(super) recognised: u64,
    pub(super) live: u64,
    /// Received from the feed after later events of another connection, and marked as late.
    pub(super) live_late: u64,
    /// Fetched after a gap, in the order of the feed.
    pub(super) backfilled: u64,
    /// Fetched after a gap, after later events of the feed.
    pub(super) late: u64,
    /// Copies after the first one of each event.
    pub(super) duplicates: u64,
    /// Missing events in gaps that are reported as not recovered.
    pub(super) in_gaps: u64,
    /// Missing events that no gap explains.
    pub(super) missing: u64,
    /// Events that follow a later one of the same person and are not marked as late.
    pub(super) disordered: u64,
    /// Events that are marked as late although no later one of the same person precedes them.
    pub(super) late_in_order: u64,
    /// Events that the platform did not recognise.
    pub(super) foreign: u64,
    /// Reports of gaps.
    pub(super) reports: u64,
    pub(super) described: Vec<String>,
}

/// The copies of one source in one broker, while they are read.
#[derive(Debug, Default)]
pub(in super::super) struct Received {
    first_copies: HashMap<u64, Origin>,
    /// The largest id of each person so far.
    last_of_person: HashMap<u64, u64>,
    found: Comparison,
}

impl Received {
    /// Adds the next copy. The copies of one person arrive in the order of the broker.
    pub(in super::super) fn add(&mut self, copy: &Copy) {
        let Ok(id) = copy.id.parse::<u64>() else {
            if copy.id.starts_with("gap-") {
                self.found.reports += 1;
            } else {
                self.found.foreign += 1;
                self.found.describe(|| format!("{} is foreign", copy.id));
            }
            return;
        };
        if self.first_copies.contains_key(&id) {
            self.found.duplicates += 1;
            self.found.describe(|| format!("{id} is duplicated ({copy})"));
            return;
        }
        self.first_copies.insert(id, copy.origin);
        match copy.origin {
            Origin::Live => self.found.live += 1,
            Origin::LiveLate => self.found.live_late += 1,
            Origin::Backfilled => self.found.backfilled += 1,
            Origin::Late => self.found.late += 1,
        }
        let person = copy.fingerprint.person;
        if person == 0 {
            return;
        }
        let last = self.last_of_person.entry(person).or_default();
        let is_late = matches!(copy.origin, Origin::Late | Origin::LiveLate);
        self.found.late_in_order += u64::from(is_late && id > *last);
        if id < *last && !is_late {
            self.found.disordered += 1;
            let last = *last;
            self.found
                .describe(|| format!("{id} follows {last} of the same person ({copy})"));
        }
        *last = id.max(*last);
    }

    /// Returns the number of events so far that follow a later one of the same person without a mark.
    pub(in super::super) const fn disordered(&self) -> u64 {
        self.found.disordered
    }

    /// Looks for each recognised event among the copies, and for each missing one among the gaps of the source.
    pub(in super::super) fn compare(
        self,
        name: String,
        recognised: &[RecognisedEvent],
        gaps: &[&Gap],
    ) -> Comparison {
        let Self {
            first_copies,
            mut found,
            ..
        } = self;
        found.name = name;
        let start = recognised.first().map(|event| event.at + START);
        let mut has_begun = false;
        for event in recognised {
            let is_received = first_copies.contains_key(&event.id);
            has_begun |= is_received || start.is_none_or(|start| event.at > start);
            if !has_begun {
                continue;
            }
            found.recognised += 1;
            if is_received {
                continue;
            }
            if gaps.iter().any(|gap| explains(gap, *event)) {
                found.in_gaps += 1;
            } else {
                found.missing += 1;
                found.describe(|| format!("{} recognised at {} is missing", event.id, event.at));
            }
        }
        let all: HashSet<u64> = recognised.iter().map(|event| event.id).collect();
        for id in first_copies.keys().filter(|id| !all.contains(id)) {
            found.foreign += 1;
            found.describe(|| format!("{id} is foreign"));
        }
        found
    }
}

/// Returns whether a gap explains a missing event: the event was recognised during the gap, and the outcome of the gap is not
/// `recovered`, which means that all events were fetched.
fn explains(gap: &Gap, event: RecognisedEvent) -> bool {
    gap.outcome != "recovered"
        && event.at >= gap.began - TRANSIT
        && gap.ended.is_none_or(|ended| event.at <= ended + START_OF_FEED)
}

impl Comparison {
    fn describe(&mut self, what: impl FnOnce() -> String) {
        if self.described.len() < MAX_DESCRIBED {
            self.described.push(what());
        }
    }

    /// Returns whether each event is stored once, in order or marked as late, or lies in a gap that is not recovered.
    pub(in super::super) const fn holds(&self) -> bool {
        self.missing == 0 && self.duplicates == 0 && self.disordered == 0 && self.foreign == 0
    }
}

/// The comparisons as a table, one column for each.
pub(in super::super) struct Table<'a>(pub(in super::super) &'a [Comparison]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        type Value = fn(&Comparison) -> u64;
        let rows: [(&str, Value); 12] = [
            ("recognised by the platform", |found| found.recognised),
            ("received live", |found| found.live),
            ("received live late, and marked", |found| found.live_late),
            ("backfilled in order", |found| found.backfilled),
            ("backfilled late, and marked", |found| found.late),
            ("marked as late, but in order", |found| found.late_in_order),
            ("in gaps that are not recovered", |found| found.in_gaps),
            ("missing outside of gaps", |found| found.missing),
            ("duplicates", |found| found.duplicates),
            ("out of order without a mark", |found| found.disordered),
            ("not from the platform", |found| found.foreign),
            ("reports of gaps", |found| found.reports),
        ];
        write!(f, "{:<32}", "")?;
        for found in self.0 {
            write!(f, "{:>18}", found.name)?;
        }
        for (name, value) in rows {
            write!(f, "\n{name:<32}")?;
            for found in self.0 {
                write!(f, "{:>18}", value(found))?;
            }
        }
        for found in self.0 {
            for what in &found.described {
                write!(f, "\n  {}: {what}", found.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, milliseconds: i64) -> Timestamp {
        Timestamp::from_millisecond(seconds * 1000 + milliseconds).unwrap()
    }

    fn gap(began: Timestamp, ended: Option<Timestamp>, outcome: &str) -> Gap {
        Gap {
            id: 1,
            source: "main".to_owned(),
            began,
            ended,
            reason: "crash".to_owned(),
            outcome: outcome.to_owned(),
        }
    }

    fn recognised() -> Vec<RecognisedEvent> {
        let event = |id| RecognisedEvent {
            id,
            at: time(i64::try_from(id).unwrap(), 0),
        };
        (1..=10).map(event).collect()
    }

    fn compare(copies: &[(u64, &str)], gaps: &[Gap]) -> Comparison {
        let mut received = Received::default();
        for (id, origin) in copies {
            let copy = format!("0 0a {id} 1 7 {origin} /neuroio/main {id}");
            received.add(&copy.parse().unwrap());
        }
        let gaps: Vec<&Gap> = gaps.iter().collect();
        received.compare("main".to_owned(), &recognised(), &gaps)
    }

    fn live(ids: &[u64]) -> Vec<(u64, &'static str)> {
        ids.iter().map(|id| (*id, "live")).collect()
    }

    #[test]
    fn missing_event_outside_of_gaps_is_a_violation() {
        let gaps = [
            gap(time(3, 100), Some(time(4, 950)), "unrecovered"),
            gap(time(9, 0), None, "open"),
        ];
        let found = compare(&live(&[1, 2, 4, 6, 7, 8]), &gaps);
        assert!(found.holds(), "{}", Table(&[found]));
        assert_eq!((found.live, found.in_gaps, found.missing), (6, 4, 0));
        let found = compare(&live(&[1, 4, 6, 7, 8, 9, 10, 11]), &gaps);
        assert_eq!((found.missing, found.foreign), (1, 1));
        assert!(!found.holds());
        let recovered = gap(time(3, 100), Some(time(4, 950)), "recovered");
        let found = compare(&live(&[1, 2, 4, 5, 6, 7, 8, 9, 10]), &[recovered]);
        assert_eq!(found.missing, 1, "a recovered gap has no missing event");
    }

    #[test]
    fn events_before_the_first_connection_are_not_missing() {
        let found = compare(&live(&[3, 4, 5, 6, 7, 8, 9, 10]), &[]);
        assert_eq!((found.recognised, found.missing), (8, 0));
    }

    #[test]
    fn duplicate_and_unmarked_disorder_are_violations() {
        let all: Vec<u64> = (1..=10).collect();
        let mut copies = live(&all);
        copies.push((5, "backfilled"));
        assert_eq!(compare(&copies, &[]).duplicates, 1);
        let mut copies = live(&[1, 2, 3, 5, 6, 7, 8, 9, 10]);
        copies.push((4, "backfilled"));
        let found = compare(&copies, &[]);
        assert_eq!((found.disordered, found.backfilled), (1, 1));
        assert!(!found.holds());
        copies[9].1 = "late";
        let found = compare(&copies, &[]);
        assert!(found.holds() && found.late == 1);
    }
}
