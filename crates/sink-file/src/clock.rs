//! The clocks that the file writer uses.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use neurobridge_core::clock;

/// Returns the time. Tests use their own implementation.
pub(crate) trait Clock: Send + Sync + 'static {
    /// The guarded time of day.
    fn now(&self) -> Timestamp;

    /// The time of day where it is certain enough to remove files by their age.
    fn trusted(&self) -> Option<Timestamp>;

    /// The monotonic time since this clock was created.
    fn elapsed(&self) -> Duration;
}

/// The clocks of the system, guarded by [`neurobridge_core::clock`].
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
