//! The clocks of the file writer: the time of day and a monotonic time.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use neurobridge_core::clock;

/// A source of time. Tests implement it with a clock that they set.
pub(crate) trait Clock: Send + Sync + 'static {
    /// Returns the time of day, protected against steps of the system clock.
    fn now(&self) -> Timestamp;

    /// Returns the time of day if it is certain enough to remove files by their age.
    fn trusted(&self) -> Option<Timestamp>;

    /// Returns the monotonic time since this clock was created.
    fn elapsed(&self) -> Duration;
}

/// The clocks of the system, protected by [`neurobridge_core::clock`].
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn trusted(&self) -> Option<Timestamp> {
        clock::trusted_now()
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
