//! The delay before the next connection attempt.

use std::time::Duration;

/// The maximum `Retry-After` that is obeyed: a wrong value must not silence a source for days.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Exponential backoff with full jitter. A source has one for all faults, because a server that accepts and
/// closes at once must slow it down like a server that does not answer.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a backoff with delays between `min` and `max`.
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            failures: 0,
        }
    }

    /// Resets the delay to the minimum. Called only after a connection was authenticated and stable for a
    /// while.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the delay after a failure: a random time between `min` and a ceiling that doubles each time up
    /// to `max`, so that a hundred sources that lost the same server do not reconnect at the same time.
    pub(crate) fn next(&mut self) -> Duration {
        let ceiling = self
            .min
            .saturating_mul(2u32.saturating_pow(self.failures.saturating_add(1)))
            .min(self.max)
            .max(self.min);
        self.failures = self.failures.saturating_add(1);
        self.min + (ceiling - self.min).mul_f64(fastrand::f64())
    }

    /// As [`Backoff::next`], but not shorter than the server's `Retry-After`.
    pub(crate) fn next_after(&mut self, retry_after: Option<Duration>) -> Duration {
        // The sum, not the larger of the two: otherwise all clients that a server rejected would return at
        // the same moment.
        self.next() + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delay_is_within_its_bounds(
            min in 1u64..2_000, more in 0u64..60_000, failures in 0usize..200, retry_after in 0u64..1_000,
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let mut backoff = Backoff::new(min, max);
            for failure in 0..failures {
                let delay = backoff.next();
                prop_assert!(delay >= min && delay <= max);
                prop_assert!(delay <= min.saturating_mul(2u32.saturating_pow(failure as u32 + 1)));
            }
            backoff.reset();
            prop_assert!(backoff.next() <= min * 2);
            let told = Duration::from_secs(retry_after);
            let delay = backoff.next_after(Some(told));
            prop_assert!(delay >= told.min(MAX_RETRY_AFTER) && delay <= max + MAX_RETRY_AFTER);
        }
    }

    #[test]
    fn delays_grow_and_are_spread() {
        let mean = |failures: usize| {
            let sum: Duration = (0..400)
                .map(|_| {
                    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
                    for _ in 0..failures {
                        backoff.next();
                    }
                    backoff.next()
                })
                .sum();
            sum / 400
        };
        let (first, fourth, tenth) = (mean(0), mean(3), mean(9));
        assert!(first < fourth && fourth < tenth, "{first:?} {fourth:?} {tenth:?}");
        assert!(
            tenth > Duration::from_secs(12) && tenth < Duration::from_secs(18),
            "{tenth:?}"
        );
    }
}
