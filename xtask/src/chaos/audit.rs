//! Compares the events stored by each broker with those of the spool.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use neurobridge_tests::fingerprint::Fingerprint;

use super::spool_reader::Seen;

/// The number of violations that are described; further ones are only counted.
const NAMED: usize = 5;

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

/// The audit of one broker's events, while they are read.
#[derive(Debug)]
pub(super) struct Audit<'a> {
    promise: Promise,
    durable: &'a [Option<Seen>],
    has: Vec<bool>,
    last: u64,
    last_of_person: HashMap<u64, u64>,
    found: Found,
}

/// The result of an audit.
#[derive(Debug, Default)]
pub(super) struct Found {
    broker: &'static str,
    /// The number of events with at least one copy.
    pub(super) delivered: u64,
    /// The number of copies after the first of each event.
    pub(super) duplicates: u64,
    lost: u64,
    disordered: u64,
    foreign: u64,
    forbidden: u64,
    named: Vec<String>,
}

impl<'a> Audit<'a> {
    pub(super) fn new(broker: &'static str, promise: Promise, durable: &'a [Option<Seen>]) -> Self {
        Self {
            promise,
            durable,
            has: vec![false; durable.len()],
            last: 0,
            last_of_person: HashMap::new(),
            found: Found {
                broker,
                ..Found::default()
            },
        }
    }

    /// Reads the events from a program's output.
    pub(super) fn read(&mut self, lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
        for line in lines {
            self.take(line?.parse()?);
        }
        Ok(())
    }

    /// Adds the next event; the events of one person arrive in the order of the broker.
    pub(super) fn take(&mut self, copy: Fingerprint) {
        let Fingerprint {
            sequence,
            content,
            person,
        } = copy;
        let place = usize::try_from(sequence)
            .ok()
            .and_then(|place| place.checked_sub(1));
        let expected = place.and_then(|place| Some((self.durable.get(place)?, self.has.get_mut(place)?)));
        // For an event that the spool reader missed, only the position is known.
        let is_as_seen = |seen: Option<Seen>| seen.is_none_or(|seen| seen == Seen { content, person });
        let Some((_, has)) = expected.filter(|(seen, _)| is_as_seen(**seen)) else {
            self.found.foreign += 1;
            self.found
                .name(format!("{sequence} is not in the spool, or has another body"));
            return;
        };
        if std::mem::replace(has, true) {
            self.found.duplicates += 1;
            if self.promise != Promise::AtLeastOnce {
                self.found.forbidden += 1;
                self.found.name(format!("{sequence} is duplicated"));
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
            self.found.name(format!("{sequence} came after {before}"));
        }
    }

    /// Counts the missing events as lost and returns the result.
    pub(super) fn end(mut self) -> Found {
        for (place, _) in self.has.iter().enumerate().filter(|(_, has)| !**has) {
            self.found.lost += 1;
            self.found.name(format!("{} is missing", place + 1));
        }
        self.found
    }
}

impl Found {
    fn name(&mut self, what: String) {
        if self.named.len() < NAMED {
            self.named.push(what);
        }
    }

    /// Returns whether all guarantees held.
    pub(super) const fn holds(&self) -> bool {
        self.lost == 0 && self.disordered == 0 && self.foreign == 0 && self.forbidden == 0
    }
}

impl fmt::Display for Found {
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
        for named in &self.named {
            write!(f, "\n         {named}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOOL: [Option<Seen>; 3] = [seen(10, 1), seen(20, 2), seen(30, 1)];

    const fn seen(content: u64, person: u64) -> Option<Seen> {
        Some(Seen { content, person })
    }

    fn audit(promise: Promise, sequences: &[u64]) -> Found {
        let mut audit = Audit::new("x", promise, &SPOOL);
        for &sequence in sequences {
            let person = if sequence == 2 { 2 } else { 1 };
            audit.take(Fingerprint {
                sequence,
                content: sequence * 10,
                person,
            });
        }
        audit.end()
    }

    #[test]
    fn stored_events_are_checked_against_the_promise() {
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
        audit
            .read(["1 b 1".to_owned(), "2 14 3".to_owned()].into_iter().map(Ok))
            .unwrap();
        let found = audit.end();
        assert_eq!((found.foreign, found.lost), (2, 3));
    }
}
