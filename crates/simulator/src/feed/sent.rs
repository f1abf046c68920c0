//! A set of positions in the sequence: of entries that were sent, or of events that were acknowledged.

use std::ops::RangeInclusive;

/// A set of positions, stored as ranges. The comments call a position in the set *sent*.
#[derive(Debug, Default)]
pub(crate) struct SentIds {
    /// Positions up to this one were sent, or cannot be sent any more.
    floor: u64,
    /// The positions above `floor` that were sent, as sorted ranges with gaps between them. There are about as many ranges
    /// as connections.
    spans: Vec<(u64, u64)>,
}

impl SentIds {
    /// Adds positions and returns the positions that were missing.
    pub(crate) fn insert(&mut self, positions: RangeInclusive<u64>) -> Vec<RangeInclusive<u64>> {
        let (first, last) = ((*positions.start()).max(self.floor + 1), *positions.end());
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

    /// Treats all missing positions up to `floor` as positions that cannot be sent any more.
    pub(super) fn discard_below(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            self.merge();
        }
    }

    /// Returns the first position that was not sent and can still be sent.
    pub(crate) fn first_missing(&self) -> u64 {
        self.floor + 1
    }

    /// Returns the last position that was sent.
    pub(super) fn last(&self) -> u64 {
        self.spans.last().map_or(self.floor, |(_, end)| *end)
    }

    pub(crate) fn contains(&self, position: u64) -> bool {
        position <= self.floor
            || self
                .spans
                .iter()
                .any(|(start, end)| (*start..=*end).contains(&position))
    }

    /// Returns all positions of the set in order, from 1.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        (1..=self.floor).chain(self.spans.iter().flat_map(|(start, end)| *start..=*end))
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
        fn ranges_agree_with_a_plain_set(ranges in prop::collection::vec((1_u64..200, 0_u64..30), 1..20)) {
            let (mut sent, mut set) = (SentIds::default(), BTreeSet::new());
            for (first, length) in ranges {
                let fresh: Vec<u64> = sent.insert(first..=first + length).into_iter().flatten().collect();
                let expected: Vec<u64> = (first..=first + length).filter(|id| set.insert(*id)).collect();
                prop_assert_eq!(fresh, expected);
                let missing = (1..).find(|id| !set.contains(id)).unwrap();
                prop_assert_eq!(sent.first_missing(), missing);
                prop_assert_eq!(sent.last(), *set.last().unwrap());
            }
        }
    }
}
