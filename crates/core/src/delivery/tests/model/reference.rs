//! The reference of the model: the expected outcome of each event.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::Settlement;

/// The kind of an event, which determines its expected outcome in every schedule of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The broker accepts the event.
    Good,
    /// The broker rejects the event.
    Bad,
    /// The broker rejects the event, and also the dead letter while it contains the event.
    BadDeadLetter,
    /// The filter of the sink excludes the event.
    Filtered,
    /// The log has dropped the event.
    Dropped,
}

/// The settlement of each event so far, as reported by the broker, the store for dead letters and the log.
#[derive(Debug)]
pub(super) struct Reference {
    kinds: Vec<Kind>,
    settled: BTreeMap<u64, Settlement>,
    /// The cursor, with its counts, at which this process began.
    start: Cursor,
}

impl Reference {
    pub(super) fn new(kinds: Vec<Kind>) -> Self {
        let start = Cursor::starting_at(Sequence::FIRST);
        Self {
            kinds,
            settled: BTreeMap::new(),
            start,
        }
    }

    pub(super) fn events(&self) -> u64 {
        self.kinds.len() as u64
    }

    pub(super) fn kind(&self, sequence: u64) -> Kind {
        self.kinds[sequence as usize - 1]
    }

    pub(super) fn drop_event(&mut self, sequence: u64) {
        self.kinds[sequence as usize - 1] = Kind::Dropped;
    }

    /// Records the settlement of an event. The first report of an event is final.
    pub(super) fn settle(&mut self, sequence: u64, settlement: Settlement) {
        self.settled.entry(sequence).or_insert(settlement);
    }

    pub(super) fn settlement(&self, sequence: u64) -> Option<Settlement> {
        self.settled.get(&sequence).copied()
    }

    /// Discards the settlements of the events from a sequence on, when a process starts or a transaction is rolled back.
    pub(super) fn discard_from(&mut self, next: Sequence) {
        self.settled.split_off(&next.get());
    }

    pub(super) fn start_at(&mut self, cursor: &Cursor) {
        self.start = cursor.clone();
    }

    /// Checks that every event before the cursor is settled and counted once.
    pub(super) fn check(&self, cursor: &Cursor) {
        let mut counts = self.start.counts;
        for sequence in self.start.next.get()..cursor.next.get() {
            let settlement = self.settlement(sequence);
            let filtered = (self.kind(sequence) == Kind::Filtered).then_some(Settlement::Filtered);
            let settlement = settlement.or(filtered);
            counts.add(
                settlement.unwrap_or_else(|| panic!("the cursor passed {sequence}, which has no result")),
                1,
            );
        }
        assert_eq!(cursor.counts, counts, "the ledger at {}", cursor.next);
    }
}
