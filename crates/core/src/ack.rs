//! Which events are settled: the contiguous prefix of them moves a cursor, never the highest acknowledgement.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::{
    event::Sequence,
    ledger::{Settlement, SinkCounts},
};

/// Keeps what was handed to a broker and is not yet part of the settled prefix.
///
/// An event that was acknowledged behind a hole stays settled when its predecessors are sent again: it is not sent twice.
#[derive(Debug)]
pub struct AckTracker {
    /// The first sequence that is not settled.
    next: Sequence,
    entries: VecDeque<Entry>,
    /// Events behind all of the entries that are not there any more, and what became of them: there may be millions, so
    /// there is no entry for each.
    behind: Option<(u64, Settlement)>,
    pending: usize,
    counts: SinkCounts,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    received_at: Timestamp,
    outcome: Option<Settlement>,
}

impl AckTracker {
    /// Begins at a cursor.
    pub const fn new(next: Sequence, counts: SinkCounts) -> Self {
        Self {
            next,
            entries: VecDeque::new(),
            behind: None,
            pending: 0,
            counts,
        }
    }

    /// Takes up an event that is to be sent; false when it is settled already.
    ///
    /// Events come in the order of their sequences, from [`next`](Self::next) on, without holes; none while it
    /// [`must wait`](Self::must_wait).
    pub fn track(&mut self, sequence: Sequence, received_at: Timestamp) -> bool {
        if sequence < self.next {
            return false;
        }
        match self.entries.get(self.index(sequence)) {
            Some(entry) => entry.outcome.is_none(),
            None => {
                debug_assert!(self.behind.is_none(), "{sequence} came too early");
                debug_assert_eq!(
                    self.index(sequence),
                    self.entries.len(),
                    "a hole before {sequence}"
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

    /// Takes up events that are not there any more, with what became of them.
    pub fn skip(&mut self, from: Sequence, events: u64, outcome: Settlement) {
        let tracked_to = self.next.plus(self.entries.len() as u64);
        // Those that were taken up before they were gone; each may have its outcome.
        let known = tracked_to.since(from).min(events);
        for offset in 0..known {
            self.settle(from.plus(offset), outcome);
        }
        if events > known {
            self.behind = Some((events - known, outcome));
        }
        self.advance();
    }

    /// Whether no more may be taken up before all that was is settled.
    pub const fn must_wait(&self) -> bool {
        self.behind.is_some()
    }

    /// Begins to read again at [`next`](Self::next): what is not there any more is told again. What is settled stays so.
    pub const fn rewind(&mut self) {
        self.behind = None;
    }

    /// Settles an event; its time of receipt, or `None` when it was settled before or never taken up.
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

    /// Moves the settled prefix on; whether it moved.
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
            && let Some((events, outcome)) = self.behind.take()
        {
            self.counts.add(outcome, events);
            self.next = self.next.plus(events);
        }
        self.next != before
    }

    /// The first sequence that is not settled: where sending goes on after a failure.
    pub const fn next(&self) -> Sequence {
        self.next
    }

    /// What became of the events of the settled prefix.
    pub const fn counts(&self) -> SinkCounts {
        self.counts
    }

    /// How many events were taken up and are not settled.
    pub const fn pending(&self) -> usize {
        self.pending
    }

    /// Whether all that was taken up is part of the settled prefix.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn index(&self, sequence: Sequence) -> usize {
        // As many entries as were taken up: they fit into memory.
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
    fn the_cursor_waits_for_the_hole() {
        let mut tracker = AckTracker::new(Sequence::FIRST, SinkCounts::default());
        for number in 1..=3 {
            assert!(tracker.track(sequence(number), Timestamp::UNIX_EPOCH));
        }
        assert!(tracker.settle(sequence(3), Settlement::Delivered).is_some());
        assert!(tracker.settle(sequence(2), Settlement::Delivered).is_some());
        assert!(!tracker.advance());
        assert_eq!((tracker.next().get(), tracker.pending()), (1, 1));
        // Sent again from the hole on: what is settled is not.
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
    fn millions_that_are_gone_take_no_room() {
        let mut tracker = AckTracker::new(Sequence::FIRST, SinkCounts::default());
        for number in 1..=3 {
            tracker.track(sequence(number), Timestamp::UNIX_EPOCH);
        }
        tracker.settle(sequence(2), Settlement::Delivered);
        // The third was taken up and is gone with a billion behind it; the first one waits for its outcome.
        tracker.skip(sequence(3), 1_000_000_001, Settlement::Dropped);
        assert!(tracker.must_wait() && !tracker.is_empty());
        assert_eq!((tracker.entries.len(), tracker.next().get()), (3, 1));
        // A fault: all is told again, and nothing is counted twice.
        tracker.rewind();
        assert!(!tracker.must_wait() && tracker.track(sequence(1), Timestamp::UNIX_EPOCH));
        assert!(!tracker.track(sequence(2), Timestamp::UNIX_EPOCH));
        tracker.skip(sequence(3), 1_000_000_001, Settlement::Dropped);
        tracker.settle(sequence(1), Settlement::Delivered);
        assert!(tracker.advance() && tracker.is_empty() && !tracker.must_wait());
        assert_eq!(tracker.next().get(), 1_000_000_004);
        let counts = tracker.counts();
        assert_eq!((counts.delivered, counts.dropped), (2, 1_000_000_001));
        // All of it gone, while nothing is on its way.
        tracker.skip(tracker.next(), 5, Settlement::Damaged);
        assert_eq!(
            (tracker.next().get(), tracker.counts().damaged),
            (1_000_000_009, 5)
        );
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_was_settled(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(), stop in 0usize..=40) {
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
                prop_assert_eq!(tracker.pending(), 40 - settled.len());
            }
        }
    }
}
