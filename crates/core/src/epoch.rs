//! Which run of a log has given a sequence.
//!
//! A log that is not synced always may lose its last events in a power cut, although sinks have delivered them; their
//! sequences are then given to other events. So whatever a sink keeps in a broker to find it again names the epoch beside
//! the sequence, and counts only as far as that epoch's events are still in the log. Kafka's replicas tell their logs apart
//! in this way (KIP-101, "leader epochs").

use std::sync::Arc;

use crate::event::Sequence;

/// How many beginnings are kept. A broker that was last seen so many runs ago may be taken at its word too far.
const KEPT: usize = 1000;

/// A run of a log: a later one has a higher number. 0 is what was written before there were epochs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The epochs of a log, and where they begin. Clones are cheap. A log that never leaves memory has none: all of it is of
/// one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// In the order of the log. One that begins behind a later one is left out: where the later one begins, it has ended.
    beginnings: Arc<[(Epoch, Sequence)]>,
}

impl Epochs {
    /// Those that were kept: `None` when they are not in order.
    pub fn new(beginnings: Vec<(Epoch, Sequence)>) -> Option<Self> {
        let in_order = beginnings
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        in_order.then(|| Self {
            beginnings: beginnings.into(),
        })
    }

    /// With one more, which begins where the log ends: with this number, or a higher one where it is not the highest.
    #[must_use]
    pub fn with(&self, epoch: Epoch, begins: Sequence) -> Self {
        let epoch = epoch.max(Epoch(self.current().0 + 1));
        let mut beginnings: Vec<_> = self.beginnings.to_vec();
        beginnings.retain(|(_, earlier)| *earlier < begins);
        beginnings.push((epoch, begins));
        let surplus = beginnings.len().saturating_sub(KEPT);
        Self {
            beginnings: beginnings[surplus..].into(),
        }
    }

    /// Where each begins.
    pub fn beginnings(&self) -> &[(Epoch, Sequence)] {
        &self.beginnings
    }

    /// The one that gives sequences now.
    pub fn current(&self) -> Epoch {
        self.beginnings.last().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// The first sequence that is no event of this epoch any more; `None` for the current one, which has not ended. What
    /// it has published from there on, the log has lost. One with a higher number is of a run that is not known, when the
    /// clock was ahead: it has ended where the current one begins.
    pub fn end_of(&self, epoch: Epoch) -> Option<Sequence> {
        if epoch == self.current() {
            return None;
        }
        let later = self.beginnings.partition_point(|(known, _)| *known <= epoch);
        self.beginnings
            .get(later)
            .or(self.beginnings.last())
            .map(|(_, begins)| *begins)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let none = Epochs::default();
        assert_eq!((none.current(), none.end_of(Epoch(0))), (Epoch(0), None));
        let epochs = none.with(Epoch(70), sequence(1)).with(Epoch(80), sequence(101));
        assert_eq!(epochs.current(), Epoch(80));
        assert_eq!(epochs.end_of(Epoch(0)), Some(sequence(1)));
        assert_eq!(epochs.end_of(Epoch(70)), Some(sequence(101)));
        assert_eq!(epochs.end_of(Epoch(80)), None);
        // Of a run whose beginning could not be kept.
        assert_eq!(epochs.end_of(Epoch(75)), Some(sequence(101)));
        // Of one that is not known, when the clock was ahead.
        assert_eq!(epochs.end_of(Epoch(90)), Some(sequence(101)));
        // A clock that goes back.
        assert_eq!(epochs.with(Epoch(3), sequence(102)).current(), Epoch(81));
    }

    #[test]
    fn so_many_are_kept_and_no_more() {
        let mut epochs = Epochs::default();
        for number in 1..=3 * KEPT as u64 {
            // Runs in which nothing came take no room.
            epochs = epochs.with(Epoch(2 * number), sequence(number.div_ceil(2)));
        }
        assert_eq!(epochs.beginnings().len(), KEPT);
        assert_eq!(Epochs::new(epochs.beginnings().to_vec()), Some(epochs));
        let twice = vec![(Epoch(1), sequence(5)), (Epoch(1), sequence(6))];
        assert_eq!(Epochs::new(twice), None);
    }

    proptest! {
        /// Runs that give events and lose some of the last ones, against a list of which run has given what is there.
        #[test]
        fn what_is_lost_is_told_from_what_is_there(runs in prop::collection::vec((0usize..8, 0usize..12), 1..12)) {
            let (mut epochs, mut log, mut published) = (Epochs::default(), Vec::new(), BTreeMap::new());
            for (number, (given, lost)) in runs.into_iter().enumerate() {
                let epoch = Epoch(number as u64 + 1);
                epochs = epochs.with(epoch, sequence(log.len() as u64 + 1));
                for _ in 0..given {
                    log.push(epoch);
                    published.insert((epoch, log.len() as u64), ());
                }
                log.truncate(log.len().saturating_sub(lost));
                // Known at the next opening.
                let next = epochs.with(Epoch(epoch.0 + 1), sequence(log.len() as u64 + 1));
                for (epoch, at) in published.keys() {
                    let is_there = log.get(*at as usize - 1) == Some(epoch);
                    let has = next.end_of(*epoch).is_none_or(|end| sequence(*at) < end);
                    prop_assert_eq!(has, is_there, "{:?} {} {:?}", epoch, at, next);
                }
            }
        }
    }
}
