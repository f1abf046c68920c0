//! Tracks settled events. The cursor moves to the end of the contiguous settled prefix, not to the highest acknowledgement.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::{
    event::Sequence,
    ledger::{Settlement, SinkCounts},
};

/// Tracks the events that were published and are not yet part of the settled prefix.
///
/// An event that was acknowledged before its predecessors stays settled when these are sent again, and is not sent twice.
#[derive(Debug)]
pub struct AckTracker {
    /// The first sequence that is not settled.
    next: Sequence,
    entries: VecDeque<Entry>,
    /// The number of skipped events after all entries, with their result. There may be millions, so they have no entries.
    skipped: Option<(u64, Settlement)>,
    pending: usize,
    counts: SinkCounts,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    received_at: Timestamp,
    outcome: Option<Settlement>,
}

impl AckTracker {
    /// Creates a tracker that starts at a cursor.
    pub const fn new(next: Sequence, counts: SinkCounts) -> Self {
        Self {
            next,
            entries: VecDeque::new(),
            skipped: None,
            pending: 0,
            counts,
        }
    }

    /// Adds an event to send. Returns false if it is settled already.
    ///
    /// Events have to be added in the order of their sequences, from [`next`](Self::next) on, without gaps, and not while
    /// the tracker [`must wait`](Self::must_wait).
    pub fn track(&mut self, sequence: Sequence, received_at: Timestamp) -> bool {
        if sequence < self.next {
            return false;
        }
        match self.entries.get(self.index(sequence)) {
            Some(entry) => entry.outcome.is_none(),
            None => {
                debug_assert!(self.skipped.is_none(), "{sequence} was added too early");
                debug_assert_eq!(
                    self.index(sequence),
                    self.entries.len(),
                    "a gap before {sequence}"
                );
                self.entries.push_back(Entry {
                    received_at,
                    outcome: None,
                });
                self.pending += 1;
                true
            }
        }
    }

    /// Adds events that are no longer in the log, with their result.
    pub fn skip(&mut self, from: Sequence, events: u64, outcome: Settlement) {
        let tracked_to = self.next.plus(self.entries.len() as u64);
        // Events that were added before they were removed from the log may have an outcome.
        let known = tracked_to.since(from).min(events);
        for offset in 0..known {
            self.settle(from.plus(offset), outcome);
        }
        if events > known {
            self.skipped = Some((events - known, outcome));
        }
        self.advance();
    }

    /// Returns whether no event may be added until all added ones are settled.
    pub const fn must_wait(&self) -> bool {
        self.skipped.is_some()
    }

    /// Restarts at [`next`](Self::next). Skipped events have to be added again; settled events stay settled.
    pub const fn rewind(&mut self) {
        self.skipped = None;
    }

    /// Settles an event. Returns its time of receipt, or `None` if it was settled before or never added.
    pub fn settle(&mut self, sequence: Sequence, outcome: Settlement) -> Option<Timestamp> {
        if sequence < self.next {
            return None;
        }
        let index = self.index(sequence);
        let entry = self.entries.get_mut(index)?;
        if entry.outcome.is_some() {
            return None;
        }
        entry.outcome = Some(outcome);
        self.pending -= 1;
        Some(entry.received_at)
    }

    /// Extends the settled prefix. Returns whether it has grown.
    pub fn advance(&mut self) -> bool {
        let before = self.next;
        while let Some(Entry {
            outcome: Some(outcome),
            ..
        }) = self.entries.front()
        {
            self.counts.add(*outcome, 1);
            self.next = self.next.next();
            self.entries.pop_front();
        }
        if self.entries.is_empty()
            && let Some((events, outcome)) = self.skipped.take()
        {
            self.counts.add(outcome, events);
            self.next = self.next.plus(events);
        }
        self.next != before
    }

    /// Returns the first sequence that is not settled, at which sending restarts after a failure.
    pub const fn next(&self) -> Sequence {
        self.next
    }

    /// Returns the counts of the settled prefix.
    pub const fn counts(&self) -> SinkCounts {
        self.counts
    }

    /// Returns the number of added events that are not settled.
    pub const fn unsettled(&self) -> usize {
        self.pending
    }

    /// Returns whether all added events are part of the settled prefix.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn index(&self, sequence: Sequence) -> usize {
        // No truncation: the entries are in memory.
        sequence.since(self.next) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(number: u64) -> Sequence {
        Sequence::new(number).unwrap()
    }

    #[test]
    fn cursor_stops_at_the_first_unsettled_event() {
        let mut tracker = AckTracker::new(Sequence::FIRST, SinkCounts::default());
        for number in 1..=3 {
            assert!(tracker.track(sequence(number), Timestamp::UNIX_EPOCH));
        }
        assert!(tracker.settle(sequence(3), Settlement::Delivered).is_some());
        assert!(tracker.settle(sequence(2), Settlement::Delivered).is_some());
        assert!(!tracker.advance());
        assert_eq!((tracker.next().get(), tracker.unsettled()), (1, 1));
        // Sent again from the first unsettled event on; settled events are not.
        assert!(tracker.track(sequence(1), Timestamp::UNIX_EPOCH));
        assert!(!tracker.track(sequence(2), Timestamp::UNIX_EPOCH));
        tracker.settle(sequence(1), Settlement::Duplicate);
        assert!(tracker.advance() && tracker.is_empty());
        assert_eq!(tracker.next().get(), 4);
        assert_eq!(
            tracker.counts(),
            SinkCounts {
                delivered: 2,
                duplicate: 1,
                ..SinkCounts::default()
            }
        );
        assert!(!tracker.track(sequence(3), Timestamp::UNIX_EPOCH));
        assert!(tracker.settle(sequence(3), Settlement::Delivered).is_none());
    }

    #[test]
    fn millions_of_skipped_events_use_no_memory() {
        let mut tracker = AckTracker::new(Sequence::FIRST, SinkCounts::default());
        for number in 1..=3 {
            tracker.track(sequence(number), Timestamp::UNIX_EPOCH);
        }
        tracker.settle(sequence(2), Settlement::Delivered);
        // The third event was added, and was then removed with a billion later ones. The first one has no outcome yet.
        tracker.skip(sequence(3), 1_000_000_001, Settlement::Dropped);
        assert!(tracker.must_wait() && !tracker.is_empty());
        assert_eq!((tracker.entries.len(), tracker.next().get()), (3, 1));
        // After a fault all events are added again, and none is counted twice.
        tracker.rewind();
        assert!(!tracker.must_wait() && tracker.track(sequence(1), Timestamp::UNIX_EPOCH));
        assert!(!tracker.track(sequence(2), Timestamp::UNIX_EPOCH));
        tracker.skip(sequence(3), 1_000_000_001, Settlement::Dropped);
        tracker.settle(sequence(1), Settlement::Delivered);
        assert!(tracker.advance() && tracker.is_empty() && !tracker.must_wait());
        assert_eq!(tracker.next().get(), 1_000_000_004);
        let counts = tracker.counts();
        assert_eq!((counts.delivered, counts.dropped), (2, 1_000_000_001));
        // All events removed while nothing is in flight.
        tracker.skip(tracker.next(), 5, Settlement::Damaged);
        assert_eq!(
            (tracker.next().get(), tracker.counts().damaged),
            (1_000_000_009, 5)
        );
    }

    proptest! {
        #[test]
        fn events_settled_in_any_order_are_counted_once(
            order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            stop in 0usize..=40,
        ) {
            let mut tracker = AckTracker::new(Sequence::FIRST, SinkCounts::default());
            for number in 1..=40 {
                tracker.track(sequence(number), Timestamp::UNIX_EPOCH);
            }
            let mut settled = std::collections::BTreeSet::new();
            for number in &order[..stop] {
                tracker.settle(sequence(*number), Settlement::Delivered);
                // A second acknowledgement changes nothing.
                tracker.settle(sequence(*number), Settlement::Filtered);
                tracker.advance();
                settled.insert(*number);
                let prefix = (1..).take_while(|number| settled.contains(number)).count() as u64;
                prop_assert_eq!(tracker.next().get(), prefix + 1);
                prop_assert_eq!(tracker.counts().delivered, prefix);
                prop_assert_eq!(tracker.counts().settled(), prefix);
                prop_assert_eq!(tracker.unsettled(), 40 - settled.len());
            }
        }
    }
}
