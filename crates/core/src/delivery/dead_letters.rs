//! The limit on consecutive dead letters, and the log lines about dead letters.
//!
//! The sink stops if the limit is exceeded, because the cause is then most likely not in the events.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use tracing::warn;

use super::DeliveryOptions;
use crate::{
    event::Sequence,
    labels::Label,
    sink::{FaultKind, Rejection, RejectionCounts, RejectionReason, SinkFault},
};

/// Counts the dead letters since the last delivered event.
pub(super) struct ConsecutiveDeadLetters {
    limit: u64,
    count: u64,
    /// The count at the last commit.
    committed: u64,
    /// The highest sequence that was delivered. Dead letters before it do not count.
    last_delivered: Option<Sequence>,
}

impl ConsecutiveDeadLetters {
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

    /// Checks that one more dead letter does not exceed the limit. The stored ones count, and the `open` ones, which are not
    /// stored yet. A dead letter that is retried, because the queue was full, counts once.
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
                "more than {} events in a row were rejected, the last one with \"{}\"; fix the cause and restart the bridge, no \
                 further event becomes a dead letter",
                self.limit, rejection.detail
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

/// The minimum interval between two lines with the same reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Logs dead letters: the first one of each reason at once, further ones at most once a minute with their number.
#[derive(Default)]
pub(super) struct DeadLetterLog {
    /// The number of dead letters that were logged, by reason.
    logged: RejectionCounts,
    /// The time of the last line of each reason.
    last: HashMap<RejectionReason, Instant>,
}

impl DeadLetterLog {
    /// Logs the lines that are due. With `is_last`, a line is due for every dead letter that is not logged yet.
    pub(super) fn write(&mut self, options: &DeliveryOptions, counts: &RejectionCounts, is_last: bool) {
        let (sink, place) = (&options.name, &options.dead_letter_place);
        for (reason, events) in self.take_due(counts, is_last) {
            let reason = reason.as_str();
            // Without the detail, which may quote the event.
            warn!(sink, reason, events, place, "dead letters stored");
        }
    }

    /// Returns the reasons whose line is due, with the number of dead letters since the last line.
    fn take_due(&mut self, counts: &RejectionCounts, is_last: bool) -> Vec<(RejectionReason, u64)> {
        let mut due = Vec::new();
        for (reason, count) in counts.iter() {
            let events = count - self.logged.get(reason);
            let last = self.last.get(&reason);
            if events > 0 && (is_last || last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL)) {
                self.logged.add(reason, events);
                self.last.insert(reason, Instant::now());
                due.push((reason, events));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn first_dead_letter_is_logged_at_once_then_a_sum_a_minute() {
        let [first, second] = [RejectionReason::TooLarge, RejectionReason::Invalid];
        let mut log = DeadLetterLog::default();
        let mut counts = RejectionCounts::default();
        assert_eq!(log.take_due(&counts, true), []);
        counts.add(first, 1);
        assert_eq!(log.take_due(&counts, false), [(first, 1)]);
        counts.add(first, 499);
        advance(LOG_INTERVAL / 2).await;
        assert_eq!(log.take_due(&counts, false), []);
        counts.add(second, 2);
        assert_eq!(log.take_due(&counts, false), [(second, 2)], "another reason");
        advance(LOG_INTERVAL / 2).await;
        assert_eq!(log.take_due(&counts, false), [(first, 499)]);
        counts.add(first, 1);
        assert_eq!(log.take_due(&counts, true), [(first, 1)], "before the end");
    }
}
