//! Limits the entries about a counter of events.

use jiff::{SignedDuration, Timestamp};

/// The interval of entries about further dead letters and dropped events.
const RATE_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// A counter of events: its first increase is reported at once, further ones in intervals.
#[derive(Debug, Default)]
pub(super) struct Rate {
    pub(super) reported: u64,
    pub(super) at: Option<Timestamp>,
}

impl Rate {
    /// Returns the number of events to report now.
    pub(super) fn report(&mut self, total: u64, now: Timestamp) -> Option<u64> {
        let more = total.saturating_sub(self.reported);
        let since = self.at.map(|at| now.duration_since(at));
        if more == 0 || since.is_some_and(|since| since < RATE_INTERVAL && !since.is_negative()) {
            return None;
        }
        self.reported = total;
        self.at = Some(now);
        Some(more)
    }
}
