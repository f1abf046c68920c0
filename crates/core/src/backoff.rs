//! Exponential backoff with full jitter, so that clients that fail together do not retry together.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The delays between attempts: random values between a minimum and a bound that doubles with each attempt. The minimum
/// prevents a hot loop after a series of small random values.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Creates a backoff with delays from `min` to `max`; the first one is at most twice `min`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            attempts: 0,
        }
    }

    /// Restarts with the first delay. Call it only after a success that lasted for some time: clients must also slow down for a
    /// server that accepts each connection and closes it at once.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let factor = 2u32.saturating_pow(self.attempts);
        let bound = self.min.saturating_mul(factor).min(self.max).max(self.min);
        // The keys of the standard library's hasher are random enough for jitter, and need no further crate.
        let random = RandomState::new().hash_one(self.attempts) as f64 / u64::MAX as f64;
        self.min + (bound - self.min).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn delay_is_within_its_bounds(min in 1u64..2_000, more in 0u64..60_000, failures in 0usize..200) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let mut backoff = Backoff::new(min, max);
            for failure in 0..failures {
                let delay = backoff.next_delay();
                prop_assert!(delay >= min && delay <= max);
                prop_assert!(delay <= min.saturating_mul(2u32.saturating_pow(failure as u32 + 1)));
            }
            backoff.reset();
            prop_assert!(backoff.next_delay() <= min * 2);
        }
    }

    #[test]
    fn delays_grow_and_are_spread() {
        let mean = |failures: usize| {
            let sum: Duration = (0..400)
                .map(|_| {
                    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
                    for _ in 0..failures {
                        backoff.next_delay();
                    }
                    backoff.next_delay()
                })
                .sum();
            sum / 400
        };
        let (first, fourth, tenth) = (mean(0), mean(3), mean(9));
        assert!(first < fourth && fourth < tenth, "{first:?} {fourth:?} {tenth:?}");
        let middle = Duration::from_secs(12)..Duration::from_secs(18);
        assert!(middle.contains(&tenth), "{tenth:?}");
    }
}
