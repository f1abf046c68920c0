//! Disjoint ranges of sequences, which count each unreadable event once.

use std::collections::BTreeMap;

use neurobridge_core::event::Sequence;

/// Disjoint ranges of unreadable sequences.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    ends: BTreeMap<Sequence, Sequence>,
}

impl Intervals {
    /// Adds a range; returns whether any part of it is new.
    pub(super) fn insert(&mut self, mut from: Sequence, mut to: Sequence) -> bool {
        let before = self.total();
        while let Some((&start, &end)) = self.ends.range(..=to).next_back() {
            if end < from {
                break;
            }
            from = from.min(start);
            to = to.max(end);
            self.ends.remove(&start);
        }
        self.ends.insert(from, to);
        self.total() != before
    }

    /// Returns the number of sequences in all ranges.
    pub(super) fn total(&self) -> u64 {
        self.ends.iter().map(|(from, to)| to.since(*from)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_sequence_is_counted_twice(ranges in proptest::collection::vec((1u64..50, 0u64..10), 0..20)) {
            let (mut intervals, mut model) = (Intervals::default(), BTreeSet::new());
            for (from, length) in ranges {
                let before = model.len();
                model.extend(from..from + length);
                let from = Sequence::new(from).unwrap();
                prop_assert_eq!(intervals.insert(from, from.plus(length)), model.len() != before);
                prop_assert_eq!(intervals.total(), model.len() as u64);
            }
        }
    }
}
