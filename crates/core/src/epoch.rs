//! Epochs: the openings of a log on disk, which qualify its sequences.
//!
//! A log that is not always synced may lose its last events in a power cut, although sinks have delivered them. Their
//! sequences are then assigned to other events. Therefore a position that a sink stores in a broker contains the epoch in
//! addition to the sequence, and is valid only for those events of the epoch that are still in the log. Kafka's replicas
//! compare their logs in the same way (KIP-101, "leader epochs").

use std::sync::Arc;

use crate::event::Sequence;

/// The number of epochs whose start is stored. A position that a broker has stored in an older epoch may be accepted beyond
/// the end of that epoch.
const MAX_EPOCHS: usize = 1000;

/// The number of an epoch; later epochs have higher numbers. 0 stands for data written before epochs were introduced.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// The epochs of a log and their first sequences. Clones are cheap. A log in memory has none, because it belongs to one
/// process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// In the order of the log. Does not contain an epoch whose events were all lost: a later epoch starts at its first sequence
    /// or before.
    beginnings: Arc<[(Epoch, Sequence)]>,
}

impl Epochs {
    /// Creates the list from stored epochs; `None` if they are not in order.
    pub fn new(beginnings: Vec<(Epoch, Sequence)>) -> Option<Self> {
        let in_order = beginnings
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        in_order.then(|| Self {
            beginnings: beginnings.into(),
        })
    }

    /// Returns the list with one more epoch, which starts at the end of the log. Its number is `epoch`, or a higher one if
    /// `epoch` is not the highest.
    #[must_use]
    pub fn with(&self, epoch: Epoch, begins: Sequence) -> Self {
        let epoch = epoch.max(Epoch(self.current().0 + 1));
        let mut beginnings: Vec<_> = self.beginnings.to_vec();
        beginnings.retain(|(_, earlier)| *earlier < begins);
        beginnings.push((epoch, begins));
        let surplus = beginnings.len().saturating_sub(MAX_EPOCHS);
        Self {
            beginnings: beginnings[surplus..].into(),
        }
    }

    /// Returns the epochs with their first sequences.
    pub fn beginnings(&self) -> &[(Epoch, Sequence)] {
        &self.beginnings
    }

    /// Returns the current epoch.
    pub fn current(&self) -> Epoch {
        self.beginnings.last().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// Returns the first sequence after this epoch; `None` for the current epoch. The log has lost the events that were
    /// published in this epoch with that sequence or later ones. An epoch with a number above the current one is unknown (the
    /// clock was ahead), and ends at the start of the current one.
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
    fn epoch_ends_at_the_start_of_the_next() {
        let none = Epochs::default();
        assert_eq!((none.current(), none.end_of(Epoch(0))), (Epoch(0), None));
        let epochs = none.with(Epoch(70), sequence(1)).with(Epoch(80), sequence(101));
        assert_eq!(epochs.current(), Epoch(80));
        assert_eq!(epochs.end_of(Epoch(0)), Some(sequence(1)));
        assert_eq!(epochs.end_of(Epoch(70)), Some(sequence(101)));
        assert_eq!(epochs.end_of(Epoch(80)), None);
        // An epoch whose start could not be stored.
        assert_eq!(epochs.end_of(Epoch(75)), Some(sequence(101)));
        // An unknown epoch from a time when the clock was ahead.
        assert_eq!(epochs.end_of(Epoch(90)), Some(sequence(101)));
        // A clock that was set back.
        assert_eq!(epochs.with(Epoch(3), sequence(102)).current(), Epoch(81));
    }

    #[test]
    fn number_of_epochs_is_bounded() {
        let mut epochs = Epochs::default();
        for number in 1..=3 * MAX_EPOCHS as u64 {
            // Epochs without events are not stored.
            epochs = epochs.with(Epoch(2 * number), sequence(number.div_ceil(2)));
        }
        assert_eq!(epochs.beginnings().len(), MAX_EPOCHS);
        assert_eq!(Epochs::new(epochs.beginnings().to_vec()), Some(epochs));
        let twice = vec![(Epoch(1), sequence(5)), (Epoch(1), sequence(6))];
        assert_eq!(Epochs::new(twice), None);
    }

    proptest! {
        /// Epochs that append events and lose some of the last ones, compared with a list of the epoch of each event.
        #[test]
        fn lost_events_are_distinguished_from_reused_sequences(runs in prop::collection::vec((0usize..8, 0usize..12), 1..12)) {
            let (mut epochs, mut log, mut published) = (Epochs::default(), Vec::new(), BTreeMap::new());
            for (number, (given, lost)) in runs.into_iter().enumerate() {
                let epoch = Epoch(number as u64 + 1);
                epochs = epochs.with(epoch, sequence(log.len() as u64 + 1));
                for _ in 0..given {
                    log.push(epoch);
                    published.insert((epoch, log.len() as u64), ());
                }
                log.truncate(log.len().saturating_sub(lost));
                // The epochs at the next opening.
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
