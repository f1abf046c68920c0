//! When a sink's client is replaced: it has settled no event for a bounded time while events wait.
//!
//! A client library retries by itself, and may stop doing so without a word. The delivery does not depend on that: whatever
//! the reason for the silence is, it ends the connection and connects again, with a new client, from the cursor. A client
//! that waits for a broker that is down is replaced as well, at a rate that falls with each replacement.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use super::{commit_mode::CommitMode, window::Window};
use crate::{
    event::Sequence,
    sink::{FaultKind, SinkFault},
};

/// After this time without any outcome a sink counts as down. Longer than a broker's election takes.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// After this time without any outcome the client is replaced. Longer than most elections and freezes of a broker, which
/// the client survives without sending anything twice.
const REPLACED_AFTER: Duration = Duration::from_secs(30);
/// After this time without an outcome of the first event, although later events have theirs, the client is replaced. Later
/// than above, because the later events are sent again.
const REPLACED_AFTER_GAP: Duration = Duration::from_secs(300);
/// Each replacement without progress doubles the time before the next one, up to this, or to the first time where that is
/// longer. Short enough that a person who has repaired the broker sees the sink recover.
const REPLACED_AT_MOST_EVERY: Duration = Duration::from_secs(120);
/// How long a sink may take for a flush, a commit or an abort. More than the limits that a sink sets for these itself.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// Watches whether events that were published are settled.
pub(super) struct Watch {
    /// The first event without an outcome.
    first: Sequence,
    /// Since when that event is the first one, or since when the sink is connected.
    first_since: Instant,
    /// Time of the last outcome of any event, or of the connection.
    outcome_at: Instant,
    /// Replacements since the last outcome of any event.
    without_outcome: u32,
    /// Replacements since the first event without an outcome was another one.
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

    /// Starts the times anew for a new connection. What was replaced in vain before still counts.
    pub(super) fn connected<M: CommitMode>(&mut self, window: &Window<M>) {
        let now = Instant::now();
        (self.first_since, self.outcome_at) = (now, now);
        self.first = self.first.max(window.settled_up_to());
    }

    /// Notes that the client has reported the outcome of an event.
    pub(super) fn outcome(&mut self) {
        self.outcome_at = Instant::now();
        self.without_outcome = 0;
    }

    /// Notes how far the window is. Called at regular intervals.
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

    /// Returns the fault of a sink whose first event has waited too long. The client may recover by itself.
    pub(super) fn stall(&self) -> Option<SinkFault> {
        let first = self.first;
        let waited = self.first_since.elapsed();
        (waited > STALLED_AFTER).then(|| {
            let reason = format!(
                "event {first} has had no answer for {} seconds, and those behind it count only after it; look after the broker \
                 and after where this event goes",
                waited.as_secs()
            );
            SinkFault::new(FaultKind::Timeout, reason)
        })
    }

    /// Returns the fault for which the client is replaced now, if it has made no progress for too long. `waiting` events
    /// wait, if that is known; `cause` is what the client itself says.
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
                "event {} was not acknowledged for {} seconds, although later events were",
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

pub(super) const REPLACED: &str =
    "client replaced, sending again from the cursor; if this repeats, check the broker";

/// The time without progress before a replacement, after so many in vain.
fn patience(first: Duration, in_vain: u32) -> Duration {
    first
        .saturating_mul(1 << in_vain.min(8))
        .min(REPLACED_AT_MOST_EVERY.max(first))
}

/// A call of a sink, with the time that it may take.
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

    /// Waits for the call within its limit. `None` when it took longer: then the call is dropped.
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
    fn patience_doubles_up_to_its_bound() {
        let after = |in_vain| patience(REPLACED_AFTER, in_vain).as_secs();
        assert_eq!([0, 1, 2, 3, u32::MAX].map(after), [30, 60, 120, 120, 120]);
        assert_eq!(patience(REPLACED_AFTER_GAP, 1), REPLACED_AFTER_GAP);
    }
}
