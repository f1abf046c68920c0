//! A histogram of seconds with fixed buckets, optimised for one writer and rare readers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the buckets, in seconds: from the round trip of a fast broker to an outage.
pub const BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0, 300.0,
];

/// Counts of observations by bucket. Cheap to update from one task, and readable from every task.
#[derive(Debug, Default)]
pub struct Histogram {
    // The last bucket counts observations above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// The sum in seconds, as the bits of an `f64`. A sum in whole nanoseconds would overflow with a backlog of some months.
    sum: AtomicU64,
}

/// The content of a histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The number of observations in each bucket, not cumulative. The last bucket is above all of [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len() + 1],
    /// The sum of all observations, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Adds an observation; a negative one (after a clock step) counts as zero.
    pub fn observe(&self, seconds: f64) {
        self.observe_many(seconds, 1);
    }

    /// Adds `times` equal observations.
    pub fn observe_many(&self, seconds: f64, times: u64) {
        let seconds = seconds.max(0.0);
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(times, Ordering::Relaxed);
        let more = seconds * times as f64;
        // Always succeeds, because the closure always returns a value.
        let _ = self
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
                Some((f64::from_bits(sum) + more).to_bits())
            });
    }

    /// Returns the current content.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (held, bucket) in snapshot.buckets.iter_mut().zip(&self.buckets) {
            *held = bucket.load(Ordering::Relaxed);
        }
        snapshot.sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        snapshot
    }
}

impl Snapshot {
    /// Returns the number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the upper bound of the bucket that contains the quantile (`0.99` for the 99th percentile).
    /// `None` without observations, infinity above all bounds.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        let rank = (quantile * count as f64).ceil() as u64;
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if count > 0 && seen >= rank.max(1) {
                return Some(BOUNDS.get(index).copied().unwrap_or(f64::INFINITY));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observation_counts_in_the_first_sufficient_bucket() {
        let histogram = Histogram::default();
        for seconds in [-1.0, 0.0005, 0.0006, 1000.0] {
            histogram.observe(seconds);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(
            (
                snapshot.buckets[0],
                snapshot.buckets[1],
                snapshot.buckets[BOUNDS.len()]
            ),
            (2, 1, 1)
        );
        assert_eq!(snapshot.count(), 4);
        assert!((snapshot.sum - 1000.0011).abs() < 1e-6);
        assert_eq!(snapshot.quantile(0.5), Some(0.0005));
        assert_eq!(snapshot.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(Snapshot::default().quantile(0.5), None);
        histogram.observe_many(1e9, 1_000_000_000_000);
        assert!(histogram.snapshot().sum > 0.99e21, "no overflow");
    }
}
