//! When settled events count: at once, or when their transaction is committed.
//!
//! With transactions the tracker runs ahead of the cursor between two commits. Any failure takes all of it back to the cursor: a
//! fault of the sink by its next connect, a refused message by an abort. Each event keeps its place in the order then: an event
//! that was refused together with others is sent alone at its turn, and a rejected event becomes a dead letter.

use jiff::Timestamp;

use super::{progress::Progress, transaction_state};
use crate::{
    clock,
    event::Sequence,
    sink::{RejectionReason, Sink, TransactionState},
};

/// The differences between the two modes. The default of a method is the behaviour without commits.
pub(super) trait CommitMode: Default + Send {
    /// Whether all since the last commit can be taken back. Otherwise a retried event is published as soon as nothing else is
    /// in flight, and not again at its place in the order.
    const TAKES_BACK: bool;

    /// Whether the cursor may move over events that are settled.
    fn may_move_cursor<S: Sink>(&self, _sink: &mut S) -> bool {
        true
    }

    /// Whether nothing more may be published before the commit.
    fn must_wait<S: Sink>(&self, _sink: &mut S) -> bool {
        false
    }

    /// Notes that a message was refused.
    fn refused(&mut self) {}

    /// Whether all since the last commit has to be taken back.
    fn must_abort(&self) -> bool {
        false
    }

    /// Notes that `events` which were received together are acknowledged.
    fn acknowledged(&mut self, progress: &Progress, received_at: Timestamp, now: Timestamp, events: u64);

    /// Notes that the dead letter of an event is stored.
    fn dead_lettered(&mut self, progress: &Progress, sequence: Sequence, reason: RejectionReason);

    /// Notes that the cursor has moved to `next`.
    fn cursor_moved(&mut self, _progress: &Progress, _next: Sequence) {}

    /// Notes that the open transaction is committed.
    fn committed(&mut self, _progress: &Progress) {}

    /// Forgets what depended on the next commit.
    fn roll_back(&mut self) {}
}

/// Each outcome is final.
#[derive(Default)]
pub(super) struct PerEvent;

impl CommitMode for PerEvent {
    const TAKES_BACK: bool = false;

    fn acknowledged(&mut self, progress: &Progress, received_at: Timestamp, now: Timestamp, events: u64) {
        progress.observe(received_at, now, events);
    }

    fn dead_lettered(&mut self, progress: &Progress, sequence: Sequence, reason: RejectionReason) {
        progress.dead_letter(sequence, reason);
    }
}

/// Outcomes become final with the commit of their transaction.
#[derive(Default)]
pub(super) struct PerTransaction {
    /// A message of the transaction was refused: it can't be committed.
    is_broken: bool,
    /// Receipt times of acknowledged events, for the latencies: known when the commit is.
    acknowledged: Vec<(Timestamp, u64)>,
    /// Dead letters that are counted when the cursor passes their events.
    dead_letters: Vec<(Sequence, RejectionReason)>,
}

impl CommitMode for PerTransaction {
    const TAKES_BACK: bool = true;

    /// Without a commit: over events of which none was published.
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
        // A later one was stored by an earlier attempt, while an event before it has no result yet.
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
        let counted = || progress.snapshot().dead_letters.iter().sum::<u64>();
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
