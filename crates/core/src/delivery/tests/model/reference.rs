//! The reference of the model: the expected outcome of each event.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::Settlement;

/// What an event is to the sink, whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Good,
    /// The broker rejects it.
    Bad,
    /// Even its dead letter is rejected while it carries the event.
    BadLetter,
    Filtered,
    /// The log does not have it any more.
    Dropped,
}

/// What has become of each event so far, as the broker, the place for dead letters and the log have reported it.
#[derive(Debug)]
pub(super) struct Reference {
    kinds: Vec<Kind>,
    settled: BTreeMap<u64, Settlement>,
    /// The counts at which this process began.
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

    /// Takes a final report: the first one counts.
    pub(super) fn settle(&mut self, sequence: u64, settlement: Settlement) {
        self.settled.entry(sequence).or_insert(settlement);
    }

    pub(super) fn settlement(&self, sequence: u64) -> Option<Settlement> {
        self.settled.get(&sequence).copied()
    }

    /// Forgets the reports after a cursor: a new process, or a transaction that was taken back.
    pub(super) fn forget_from(&mut self, next: Sequence) {
        self.settled.split_off(&next.get());
    }

    pub(super) fn start_at(&mut self, cursor: &Cursor) {
        self.start = cursor.clone();
    }

    /// Whether everything before the cursor is final and counted once.
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
