//! The two modes of a delivery: outcomes are final immediately, or when their transaction is committed.
//!
//! With transactions, events are settled ahead of the cursor between two commits. Every failure rolls back to the cursor: after
//! a fault of the sink, the next connection does so; after a refused message, the transaction is aborted. The order of events is
//! kept: an event that was refused together with others is published alone at its position, and a rejected one is stored as a
//! dead letter.

use jiff::Timestamp;

use super::{progress::Progress, transaction_state};
use crate::{
    clock,
    event::Sequence,
    sink::{RejectionReason, Sink, TransactionState},
};

/// The differences between the two modes. The default of a method is the behaviour without commits.
pub(super) trait CommitMode: Default + Send {
    /// Whether everything since the last commit can be rolled back. Otherwise a retried event is published as soon as
    /// nothing else is in flight, and not at its original position.
    const ROLLS_BACK: bool;

    /// Returns whether the cursor may pass settled events.
    fn may_move_cursor<S: Sink>(&self, _sink: &mut S) -> bool {
        true
    }

    /// Returns whether publishing has to wait for the commit.
    fn must_wait<S: Sink>(&self, _sink: &mut S) -> bool {
        false
    }

    /// Records that a message was refused.
    fn refused(&mut self) {}

    /// Returns whether the open transaction has to be aborted.
    fn must_abort(&self) -> bool {
        false
    }

    /// Records the acknowledgement of `events` that have the same time of receipt.
    fn acknowledged(&mut self, progress: &Progress, received_at: Timestamp, now: Timestamp, events: u64);

    /// Records that the dead letter of an event is stored.
    fn dead_lettered(&mut self, progress: &Progress, sequence: Sequence, reason: RejectionReason);

    /// Records that the cursor has moved to `next`.
    fn cursor_moved(&mut self, _progress: &Progress, _next: Sequence) {}

    /// Records that the open transaction is committed.
    fn committed(&mut self, _progress: &Progress) {}

    /// Discards the results that would have become final with the next commit.
    fn roll_back(&mut self) {}
}

/// The mode without transactions: each outcome is final.
#[derive(Default)]
pub(super) struct PerEvent;

impl CommitMode for PerEvent {
    const ROLLS_BACK: bool = false;

    fn acknowledged(&mut self, progress: &Progress, received_at: Timestamp, now: Timestamp, events: u64) {
        progress.observe(received_at, now, events);
    }

    fn dead_lettered(&mut self, progress: &Progress, sequence: Sequence, reason: RejectionReason) {
        progress.dead_letter(sequence, reason);
    }
}

/// The mode with transactions: outcomes become final with the commit.
#[derive(Default)]
pub(super) struct PerTransaction {
    /// Whether a message of the transaction was refused, so that it cannot be committed.
    is_broken: bool,
    /// The times of receipt of acknowledged events, each with the number of events. Latencies are measured up to the commit.
    acknowledged: Vec<(Timestamp, u64)>,
    /// The dead letters to count when the cursor passes their events.
    dead_letters: Vec<(Sequence, RejectionReason)>,
}

impl CommitMode for PerTransaction {
    const ROLLS_BACK: bool = true;

    /// Returns true while no transaction is open: then no event of the settled prefix depends on a commit.
    fn may_move_cursor<S: Sink>(&self, sink: &mut S) -> bool {
        transaction_state(sink) == TransactionState::Closed
    }

    fn must_wait<S: Sink>(&self, sink: &mut S) -> bool {
        transaction_state(sink) == TransactionState::Due
    }

    fn refused(&mut self) {
        self.is_broken = true;
    }

    fn must_abort(&self) -> bool {
        self.is_broken
    }

    fn acknowledged(&mut self, _: &Progress, received_at: Timestamp, _: Timestamp, events: u64) {
        if events > 0 {
            self.acknowledged.push((received_at, events));
        }
    }

    fn dead_lettered(&mut self, _: &Progress, sequence: Sequence, reason: RejectionReason) {
        self.dead_letters.push((sequence, reason));
    }

    fn cursor_moved(&mut self, progress: &Progress, next: Sequence) {
        // The dead letter of an event may be stored before an earlier event is settled.
        for (sequence, reason) in self.dead_letters.extract_if(.., |(sequence, _)| *sequence < next) {
            progress.dead_letter(sequence, reason);
        }
    }

    fn committed(&mut self, progress: &Progress) {
        let now = clock::now();
        for (received_at, events) in self.acknowledged.drain(..) {
            progress.observe(received_at, now, events);
        }
    }

    fn roll_back(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::Cursor;

    #[test]
    fn dead_letter_is_counted_when_the_cursor_passes_it() {
        let progress = Progress::new(Cursor::starting_at(Sequence::FIRST));
        let counted = || progress.snapshot().dead_letters.total();
        let mut mode = PerTransaction::default();
        let sequence = Sequence::FIRST.plus(4);
        mode.dead_lettered(&progress, sequence, RejectionReason::TooLarge);
        mode.cursor_moved(&progress, sequence);
        assert_eq!(counted(), 0);
        mode.cursor_moved(&progress, sequence.next());
        mode.cursor_moved(&progress, sequence.plus(9));
        assert_eq!(counted(), 1);
    }
}
