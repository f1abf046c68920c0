//! The latency from receipt to acknowledgement, calculated from the histogram of the bridge.

use anyhow::{Context, Result, ensure};

const METRIC: &str = "neurobridge_sink_delivery_latency_seconds";

/// The median and the 99th percentile of the latency of `events` events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    pub(super) p50: Quantile,
    pub(super) p99: Quantile,
    pub(super) events: u64,
}

/// An estimated quantile, and the upper bound of the bucket that contains the quantile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantile {
    pub(super) seconds: f64,
    pub(super) at_most: f64,
}

/// The upper bounds and cumulative counts of the histogram's buckets, in ascending order.
pub(super) type Buckets = Vec<(f64, u64)>;

/// Returns the quantiles of the events between two readings of the histogram.
pub(super) fn between(before: &Buckets, after: &Buckets) -> Result<Latency> {
    ensure!(
        before.len() == after.len(),
        "the histogram {METRIC} has other buckets than before"
    );
    let difference: Buckets = before
        .iter()
        .zip(after)
        .map(|((_, before), (bound, after))| (*bound, after.saturating_sub(*before)))
        .collect();
    let events = difference.last().map_or(0, |(_, count)| *count);
    ensure!(events > 0, "the histogram {METRIC} has no new events");
    Ok(Latency {
        p50: quantile(&difference, events, 0.5),
        p99: quantile(&difference, events, 0.99),
        events,
    })
}

/// Estimates a quantile like Prometheus, with evenly distributed values within a bucket.
fn quantile(buckets: &Buckets, events: u64, quantile: f64) -> Quantile {
    let rank = quantile * events as f64;
    let (mut lower, mut below) = (0.0, 0);
    for &(bound, count) in buckets {
        if count as f64 >= rank {
            let share = (rank - below as f64) / (count - below).max(1) as f64;
            let seconds = if bound.is_finite() {
                lower + (bound - lower) * share
            } else {
                lower
            };
            return Quantile {
                seconds,
                at_most: bound,
            };
        }
        (lower, below) = (bound, count);
    }
    Quantile {
        seconds: lower,
        at_most: f64::INFINITY,
    }
}

/// Reads the histogram of the sink `out` from the bridge's metrics.
pub(super) fn buckets(metrics: &str) -> Result<Buckets> {
    let prefix = format!("{METRIC}_bucket{{");
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with(&prefix) && line.contains("sink=\"out\""));
    let mut buckets: Buckets = lines
        .map(|line| bucket(line).with_context(|| format!("invalid bucket: {line}")))
        .collect::<Result<_>>()?;
    ensure!(!buckets.is_empty(), "/metrics has no {METRIC} of the sink `out`");
    buckets.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    Ok(buckets)
}

fn bucket(line: &str) -> Option<(f64, u64)> {
    let (labels, count) = line.rsplit_once(' ')?;
    let (_, bound) = labels.split_once("le=\"")?;
    let (bound, _) = bound.split_once('"')?;
    // Rust's parser accepts the `+Inf` of Prometheus.
    Some((bound.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# TYPE neurobridge_sink_delivery_latency_seconds histogram
neurobridge_sink_delivery_latency_seconds_bucket{sink=\"out\",le=\"0.005\"} 40
neurobridge_sink_delivery_latency_seconds_bucket{sink=\"out\",le=\"0.01\"} 90
neurobridge_sink_delivery_latency_seconds_bucket{sink=\"out\",le=\"+Inf\"} 100
neurobridge_sink_delivery_latency_seconds_bucket{sink=\"file\",le=\"+Inf\"} 7
neurobridge_sink_delivery_latency_seconds_sum{sink=\"out\"} 1.5
";

    #[test]
    fn only_buckets_of_the_sink_are_read() {
        let expected = vec![(0.005, 40), (0.01, 90), (f64::INFINITY, 100)];
        assert_eq!(buckets(METRICS).unwrap(), expected);
        assert!(buckets("").is_err());
    }

    #[test]
    fn latency_excludes_earlier_events() {
        let before = vec![(0.005, 40), (0.01, 40), (f64::INFINITY, 40)];
        let latency = between(&before, &buckets(METRICS).unwrap()).unwrap();
        assert_eq!(latency.events, 60);
        assert_eq!(latency.p50.at_most, 0.01);
        assert!((latency.p50.seconds - 0.008).abs() < 1e-9, "{latency:?}");
        assert_eq!(
            latency.p99,
            Quantile {
                seconds: 0.01,
                at_most: f64::INFINITY
            }
        );
        assert!(between(&before, &before).is_err());
    }
}
