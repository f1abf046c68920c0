//! Exponential backoff with full jitter, so that clients that fail together do not retry together.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The delays between attempts: random values below a bound that doubles with each attempt. No delay is below
/// `first / 8`, so that a series of small random values causes no hot loop.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// Creates a backoff whose first delay is at most `first` and whose longest delay is `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            tries: 0,
        }
    }

    /// Restarts with the first delay. To be called only after an attempt has succeeded.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }

    /// Returns the delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.tries.min(20)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        // The keys of the standard library's hasher are random enough for jitter, and need no further crate.
        let random = RandomState::new().hash_one(self.tries) as f64 / u64::MAX as f64;
        bound.mul_f64(random).max(self.first / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_restart_after_reset() {
        let (first, most) = (Duration::from_millis(250), Duration::from_secs(30));
        let mut backoff = Backoff::new(first, most);
        for attempt in 0..1000u32 {
            let bound = first.saturating_mul(1 << attempt.min(20)).min(most);
            let delay = backoff.next_delay();
            assert!(delay <= bound && delay >= first / 8, "{attempt}: {delay:?}");
        }
        let longest = (0..1000).map(|_| backoff.next_delay()).max().unwrap();
        assert!(longest > most / 2, "{longest:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }
}
