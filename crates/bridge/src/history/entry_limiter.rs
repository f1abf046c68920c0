//! Limits the entries about a counter of events.

use jiff::{SignedDuration, Timestamp};

/// The interval of entries about further dead letters and dropped events.
const ENTRY_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// Limits the entries about a counter: its first increase is reported at once, further ones at intervals.
#[derive(Debug, Default)]
pub(super) struct EntryLimiter {
    pub(super) reported: u64,
    pub(super) reported_at: Option<Timestamp>,
}

impl EntryLimiter {
    /// Returns the number of events to report now.
    pub(super) fn report(&mut self, total: u64, now: Timestamp) -> Option<u64> {
        let more = total.saturating_sub(self.reported);
        let since = self.reported_at.map(|at| now.duration_since(at));
        if more == 0 || since.is_some_and(|since| since < ENTRY_INTERVAL && !since.is_negative()) {
            return None;
        }
        self.reported = total;
        self.reported_at = Some(now);
        Some(more)
    }
}
