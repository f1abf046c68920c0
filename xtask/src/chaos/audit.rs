//! Compares the events stored by each broker with those of the spool.

use std::collections::HashMap;
use std::fmt;

use neurobridge_tests::fingerprint::Fingerprint;

use super::spool_reader::EventHash;

/// The number of violations that are described; further ones are only counted.
const MAX_DESCRIBED: usize = 5;

/// The guarantee of a broker about duplicates and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// Duplicates are counted; the order is that of each person's first copies.
    AtLeastOnce,
    /// No duplicates; the order is that of each person's events.
    Once,
    /// No duplicates; the order is that of the spool.
    OnceInOrder,
}

/// The audit of one broker's events, while the events are read.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    promise: Promise,
    durable: &'a [Option<EventHash>],
    /// Whether the broker stores the event, by sequence.
    is_stored: Vec<bool>,
    /// The sequence of the latest first copy.
    last: u64,
    last_of_person: HashMap<u64, u64>,
    found: AuditResult,
}

/// The result of an audit.
#[derive(Debug, Default)]
pub(super) struct AuditResult {
    broker: &'static str,
    /// The number of events with at least one copy.
    pub(super) delivered: u64,
    /// The number of copies after the first of each event.
    pub(super) duplicates: u64,
    lost: u64,
    disordered: u64,
    /// The number of copies that are not in the spool, or have another body.
    foreign: u64,
    /// The number of duplicates that the guarantee excludes.
    forbidden: u64,
    described: Vec<String>,
}

impl<'a> Audit<'a> {
    pub(super) fn new(broker: &'static str, promise: Promise, durable: &'a [Option<EventHash>]) -> Self {
        Self {
            promise,
            durable,
            is_stored: vec![false; durable.len()],
            last: 0,
            last_of_person: HashMap::new(),
            found: AuditResult {
                broker,
                ..AuditResult::default()
            },
        }
    }

    /// Adds the next event. The events of one person must be added in the order of the broker.
    pub(super) fn add(&mut self, copy: Fingerprint) {
        let Fingerprint {
            sequence,
            content,
            person,
        } = copy;
        let index = usize::try_from(sequence)
            .ok()
            .and_then(|index| index.checked_sub(1));
        let expected =
            index.and_then(|index| Some((self.durable.get(index)?, self.is_stored.get_mut(index)?)));
        // For an event that the spool reader missed, only the position is known.
        let is_unchanged =
            |event: Option<EventHash>| event.is_none_or(|event| event == EventHash { content, person });
        let Some((_, is_stored)) = expected.filter(|(event, _)| is_unchanged(**event)) else {
            self.found.foreign += 1;
            self.found.describe(format!(
                "event {sequence} is not in the spool, or has another body"
            ));
            return;
        };
        if std::mem::replace(is_stored, true) {
            self.found.duplicates += 1;
            if self.promise != Promise::AtLeastOnce {
                self.found.forbidden += 1;
                self.found.describe(format!("event {sequence} is duplicated"));
            }
            return;
        }
        self.found.delivered += 1;
        let before = if self.promise == Promise::OnceInOrder {
            std::mem::replace(&mut self.last, sequence)
        } else if person != 0 {
            self.last_of_person.insert(person, sequence).unwrap_or_default()
        } else {
            return;
        };
        if before > sequence {
            self.found.disordered += 1;
            self.found
                .describe(format!("event {sequence} was stored after event {before}"));
        }
    }

    /// Counts the missing events as lost and returns the result.
    pub(super) fn end(mut self) -> AuditResult {
        for (index, _) in self
            .is_stored
            .iter()
            .enumerate()
            .filter(|(_, is_stored)| !**is_stored)
        {
            self.found.lost += 1;
            self.found.describe(format!("event {} is missing", index + 1));
        }
        self.found
    }
}

impl AuditResult {
    fn describe(&mut self, what: String) {
        if self.described.len() < MAX_DESCRIBED {
            self.described.push(what);
        }
    }

    /// Returns whether all guarantees held.
    pub(super) const fn holds(&self) -> bool {
        self.lost == 0 && self.disordered == 0 && self.foreign == 0 && self.forbidden == 0
    }
}

impl fmt::Display for AuditResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            broker,
            delivered,
            duplicates,
            lost,
            disordered,
            foreign,
            ..
        } = self;
        write!(
            f,
            "{broker:<6} {delivered:>10} delivered  {duplicates:>8} duplicates  {lost:>6} lost  {disordered:>6} out of order  \
             {foreign:>6} foreign"
        )?;
        for described in &self.described {
            write!(f, "\n         {described}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOOL: [Option<EventHash>; 3] = [event(10, 1), event(20, 2), event(30, 1)];

    const fn event(content: u64, person: u64) -> Option<EventHash> {
        Some(EventHash { content, person })
    }

    fn audit(promise: Promise, sequences: &[u64]) -> AuditResult {
        let mut audit = Audit::new("x", promise, &SPOOL);
        for &sequence in sequences {
            let person = if sequence == 2 { 2 } else { 1 };
            audit.add(Fingerprint {
                sequence,
                content: sequence * 10,
                person,
            });
        }
        audit.end()
    }

    #[test]
    fn stored_events_are_checked_against_the_guarantee() {
        use Promise::{AtLeastOnce, Once, OnceInOrder};
        for (promise, sequences, holds) in [
            (OnceInOrder, &[1, 2, 3][..], true),
            (OnceInOrder, &[2, 1, 3], false),
            (OnceInOrder, &[1, 2, 2, 3], false),
            (Once, &[2, 1, 3], true),
            (Once, &[2, 3, 1], false),
            (Once, &[1, 2, 3, 1], false),
            // Late duplicates do not violate the order; late first copies do.
            (AtLeastOnce, &[1, 2, 3, 1], true),
            (AtLeastOnce, &[3, 2, 1, 3], false),
            (AtLeastOnce, &[1, 3], false),
            (AtLeastOnce, &[1, 2, 3, 4], false),
        ] {
            let found = audit(promise, sequences);
            assert_eq!(found.holds(), holds, "{promise:?} {sequences:?}: {found}");
        }
        let found = audit(AtLeastOnce, &[1, 1]);
        assert_eq!((found.delivered, found.duplicates, found.lost), (1, 1, 2));
    }

    #[test]
    fn changed_body_counts_as_foreign() {
        let mut audit = Audit::new("x", Promise::AtLeastOnce, &SPOOL);
        for copy in ["1 b 1", "2 14 3"] {
            audit.add(copy.parse().unwrap());
        }
        let found = audit.end();
        assert_eq!((found.foreign, found.lost), (2, 3));
    }
}
