//! The replacement of a client that settles no event for a bounded time while events wait.
//!
//! A client library retries by itself, and may stop retrying without an error. The delivery does not depend on the cause: it
//! closes the connection and connects with a new client, from the cursor. A client that waits for an unavailable broker is
//! replaced too, less often with each replacement.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use super::{commit_mode::CommitMode, window::Window};
use crate::{
    event::Sequence,
    sink::{FaultKind, SinkFault},
};

/// The time after which a sink counts as down if the first unsettled event has no outcome. Longer than an election of a broker.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// The time without any outcome after which the client is replaced. Longer than most elections and freezes of a broker, which
/// the client handles without sending an event twice.
const REPLACED_AFTER: Duration = Duration::from_secs(30);
/// The time after which the client is replaced if the first unsettled event has no outcome, although later events have one.
/// Longer than [`REPLACED_AFTER`], because the client works for other events, and those in flight are sent again.
const REPLACED_AFTER_GAP: Duration = Duration::from_secs(300);
/// Each replacement without progress doubles the time before the next one, up to this limit, or up to the initial time if that
/// is longer. Short enough for an operator to see the sink recover after fixing the broker.
const REPLACED_AT_MOST_EVERY: Duration = Duration::from_secs(120);
/// The time limit of a flush, a commit or an abort. Longer than the limits that the sinks have for these calls.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Watches whether published events are settled.
pub(super) struct Watch {
    /// The first event without an outcome.
    first: Sequence,
    /// The time at which `first` became the first event without an outcome, or at which the sink was connected.
    first_since: Instant,
    /// The time of the last outcome of any event, or of the connection.
    outcome_at: Instant,
    /// The number of replacements since the last outcome of any event.
    without_outcome: u32,
    /// The number of replacements since the first event without an outcome changed.
    without_first: u32,
}

impl Watch {
    pub(super) fn new(first: Sequence) -> Self {
        let now = Instant::now();
        Self {
            first,
            first_since: now,
            outcome_at: now,
            without_outcome: 0,
            without_first: 0,
        }
    }

    /// Restarts the timers for a new connection. The numbers of earlier replacements are kept.
    pub(super) fn connected<M: CommitMode>(&mut self, window: &Window<M>) {
        let now = Instant::now();
        (self.first_since, self.outcome_at) = (now, now);
        self.first = self.first.max(window.settled_up_to());
    }

    /// Records that the client has reported the outcome of an event.
    pub(super) fn outcome(&mut self) {
        self.outcome_at = Instant::now();
        self.without_outcome = 0;
    }

    /// Records the position of the window. Called at regular intervals.
    pub(super) fn observe<M: CommitMode>(&mut self, window: &Window<M>) {
        let first = window.settled_up_to();
        let is_idle = window.is_empty() && window.in_flight() == 0;
        if first > self.first {
            self.without_first = 0;
        }
        if first != self.first || is_idle {
            self.first = first;
            self.first_since = Instant::now();
        }
        if is_idle {
            self.outcome_at = Instant::now();
        }
    }

    /// Returns the fault of a sink whose first event has waited too long. The client is not replaced yet, and may recover.
    pub(super) fn stall(&self) -> Option<SinkFault> {
        let first = self.first;
        let waited = self.first_since.elapsed();
        (waited > STALLED_AFTER).then(|| {
            let reason = format!(
                "event {first} was not acknowledged for {} seconds, and blocks the cursor; check the broker and the destination \
                 of this event",
                waited.as_secs()
            );
            SinkFault::new(FaultKind::Timeout, reason)
        })
    }

    /// Returns the fault for which to replace the client now, if it has made no progress for too long. `waiting`: the number of
    /// waiting events, if known; `cause`: the reason reported by the client.
    pub(super) fn replacement(
        &mut self,
        waiting: Option<u64>,
        cause: Option<&SinkFault>,
    ) -> Option<SinkFault> {
        let silence = self.outcome_at.elapsed();
        let gap = self.first_since.elapsed();
        let what = if silence >= patience(REPLACED_AFTER, self.without_outcome) {
            let waiting = waiting.map_or_else(|| "events".to_owned(), |waiting| format!("{waiting} events"));
            format!(
                "no event was acknowledged for {} seconds while {waiting} wait",
                silence.as_secs()
            )
        } else if gap >= patience(REPLACED_AFTER_GAP, self.without_first) {
            format!(
                "event {} was not acknowledged for {} seconds, although later events were acknowledged",
                self.first,
                gap.as_secs()
            )
        } else {
            return None;
        };
        self.without_outcome = self.without_outcome.saturating_add(1);
        self.without_first = self.without_first.saturating_add(1);
        let cause = cause.map(|fault| format!(" ({fault})")).unwrap_or_default();
        let kind = FaultKind::Timeout;
        Some(SinkFault::new(kind, format!("{what}{cause}; {REPLACED}")))
    }
}

/// The last part of the reason of every fault that replaces the client.
pub(super) const REPLACED: &str =
    "client replaced, sending again from the cursor; if this repeats, check the broker";

/// Returns the time without progress before the next replacement, after a number of replacements that did not help.
fn patience(first: Duration, useless: u32) -> Duration {
    first
        .saturating_mul(1 << useless.min(8))
        .min(REPLACED_AT_MOST_EVERY.max(first))
}

/// A call of a sink with a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Flush,
    Commit,
    Abort,
}

impl Call {
    const fn limit(self) -> Duration {
        match self {
            Self::Flush | Self::Commit | Self::Abort => CALL_LIMIT,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Commit => "commit",
            Self::Abort => "abort",
        }
    }

    /// Waits for the call within its limit. Drops it and returns `None` if it takes longer.
    pub(super) async fn within_limit<T>(self, call: impl Future<Output = T>) -> Option<T> {
        timeout(self.limit(), call).await.ok()
    }

    /// Returns the fault of a call that took longer than its limit.
    pub(super) fn overdue(self) -> SinkFault {
        let reason = format!(
            "the client has not finished \"{}\" within {} seconds; {REPLACED}",
            self.label(),
            self.limit().as_secs()
        );
        SinkFault::new(FaultKind::Timeout, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_replacement_doubles_after_useless_replacements() {
        let after = |useless| patience(REPLACED_AFTER, useless).as_secs();
        assert_eq!([0, 1, 2, 3, u32::MAX].map(after), [30, 60, 120, 120, 120]);
        assert_eq!(patience(REPLACED_AFTER_GAP, 1), REPLACED_AFTER_GAP);
    }
}
