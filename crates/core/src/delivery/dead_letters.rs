//! The limit of consecutive dead letters: if it is exceeded, the cause is most likely not in the events.

use crate::{
    event::Sequence,
    sink::{FaultKind, Rejection, RejectionReason, SinkFault},
};

/// Counts the dead letters since the last delivered event.
pub(super) struct Row {
    limit: u64,
    count: u64,
    /// The count at the last commit.
    committed: u64,
    /// The highest sequence that was delivered. Dead letters before it do not count.
    last_delivered: Option<Sequence>,
}

impl Row {
    pub(super) const fn new(limit: u64) -> Self {
        Self {
            limit,
            count: 0,
            committed: 0,
            last_delivered: None,
        }
    }

    pub(super) fn delivered(&mut self, sequence: Sequence) {
        if self.last_delivered < Some(sequence) {
            self.last_delivered = Some(sequence);
            self.count = 0;
        }
    }

    pub(super) fn dead_lettered(&mut self, sequence: Sequence, reason: RejectionReason) {
        self.count += u64::from(self.counts(sequence, reason));
    }

    /// Checks the limit for one more dead letter after the stored ones and the `open` ones, which are not stored yet. A dead
    /// letter that is retried, because the queue was full, counts once.
    pub(super) fn check(
        &self,
        sequence: Sequence,
        rejection: &Rejection,
        open: impl Iterator<Item = (Sequence, RejectionReason)>,
    ) -> Result<(), SinkFault> {
        if !self.counts(sequence, rejection.reason) {
            return Ok(());
        }
        let open = open.filter(|(sequence, reason)| self.counts(*sequence, *reason));
        let in_a_row = self.count + open.count() as u64;
        if in_a_row < self.limit {
            return Ok(());
        }
        Err(SinkFault::fatal(
            FaultKind::TooManyDeadLetters,
            format!(
                "{in_a_row} events in a row were rejected, the last one with \"{}\"; fix the cause and restart the bridge, no \
                 further event becomes a dead letter",
                rejection.detail
            ),
        ))
    }

    /// Records that the dead letters counted so far are committed.
    pub(super) const fn commit(&mut self) {
        self.committed = self.count;
    }

    /// Rolls back to the last commit.
    pub(super) const fn roll_back(&mut self) {
        self.count = self.committed;
        self.last_delivered = None;
    }

    /// Returns whether a dead letter of this event counts. It does not if its cause is certain, or if a later event was
    /// delivered.
    fn counts(&self, sequence: Sequence, reason: RejectionReason) -> bool {
        !reason.is_certain() && self.last_delivered < Some(sequence)
    }
}
