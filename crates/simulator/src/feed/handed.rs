//! Which entries were handed over already.

use std::ops::RangeInclusive;

/// The set of ids that were handed over.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// Everything up to here was handed over, or cannot be any more.
    floor: u64,
    /// What was handed over above it: sorted, apart from each other. As many as there are connections, at most about.
    spans: Vec<(u64, u64)>,
}

impl Handed {
    /// Adds ids and gives those that were missing.
    pub(super) fn insert(&mut self, ids: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (first, last) = ((*ids.start()).max(self.floor + 1), *ids.end());
        if first > last {
            return Vec::new();
        }
        let mut fresh = Vec::with_capacity(1);
        let mut at = first;
        for &(start, end) in self
            .spans
            .iter()
            .filter(|(start, end)| *end >= first && *start <= last)
        {
            if at < start {
                fresh.push(at..=start - 1);
            }
            at = at.max(end + 1);
        }
        if at <= last {
            fresh.push(at..=last);
        }
        self.spans.push((first, last));
        self.merge();
        fresh
    }

    /// Gives up on what is missing up to `floor`.
    pub(super) fn settle(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.merge();
        }
    }

    /// Gives the first id that was not handed over and still can be.
    pub(super) fn first_missing(&self) -> u64 {
        self.floor + 1
    }

    /// Gives the last id that was handed over.
    pub(super) fn last(&self) -> u64 {
        self.spans.last().map_or(self.floor, |(_, end)| *end)
    }

    fn merge(&mut self) {
        self.spans.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(self.spans.len());
        for &(start, end) in &self.spans {
            if start <= self.floor + 1 {
                self.floor = self.floor.max(end);
            } else if let Some(before) = merged.last_mut().filter(|before| start <= before.1 + 1) {
                before.1 = before.1.max(end);
            } else {
                merged.push((start, end));
            }
        }
        self.spans = merged;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_handed_is_what_a_set_would_say(ranges in prop::collection::vec((1_u64..200, 0_u64..30), 1..20)) {
            let (mut handed, mut set) = (Handed::default(), BTreeSet::new());
            for (first, length) in ranges {
                let fresh: Vec<u64> = handed.insert(first..=first + length).into_iter().flatten().collect();
                let expected: Vec<u64> = (first..=first + length).filter(|id| set.insert(*id)).collect();
                prop_assert_eq!(fresh, expected);
                let missing = (1..).find(|id| !set.contains(id)).unwrap();
                prop_assert_eq!(handed.first_missing(), missing);
                prop_assert_eq!(handed.last(), *set.last().unwrap());
            }
        }
    }
}
