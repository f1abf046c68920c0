//! Measures the total time for which a condition holds, such as backpressure.

use std::time::Duration;

use tokio::time::Instant;

/// Sums up time spans.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    sum: Duration,
    running_since: Option<Instant>,
}

impl Stopwatch {
    pub(super) fn start(&mut self, now: Instant) {
        self.running_since.get_or_insert(now);
    }

    /// Stops, and returns whether the stopwatch was running.
    pub(super) fn stop(&mut self, now: Instant) -> bool {
        self.sum = self.elapsed(now);
        self.running_since.take().is_some()
    }

    /// Adds a time span that was measured afterwards.
    pub(super) fn add(&mut self, span: Duration) {
        self.sum += span;
    }

    pub(super) fn elapsed(&self, now: Instant) -> Duration {
        let running = self
            .running_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.sum + running
    }
}
