//! Measures the costs at a constant rate, at which few events arrive together and share the fixed costs of a batch.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use neurobridge_tests::http::get;

use super::Bench;
use super::case::Case;
use super::latency::{self, Buckets, Latency};
use super::program::{Program, Running};

/// The time at the start that is excluded, because it includes the connection attempts and runs with cold caches.
pub(super) const WARM_UP: Duration = Duration::from_secs(3);

/// The costs of a program at a constant rate.
#[derive(Debug, Clone)]
pub(super) struct RateCost {
    /// Microseconds of CPU time for each event.
    pub(super) cpu_microseconds: f64,
    /// The latency, or `None` for a program without a histogram.
    pub(super) latency: Option<Latency>,
}

impl Bench {
    /// Measures a program at a constant rate of all sources together, after a warm-up.
    pub(super) fn at_rate(&self, program: Program, case: Case, rate: u64, name: &str) -> Result<RateCost> {
        let destination = self.destination(case, name)?;
        let each = rate as f64 / f64::from(self.args.sources);
        let feed = self.feed(None, Some(each))?;
        let running = self.start(program, &destination, case, feed.url(), u64::MAX)?;
        if let Running::Bridge(bridge) = &running {
            bridge.await_connected()?;
        }
        // The warm-up and the measurement last for fixed periods, so there is no condition to wait for.
        sleep(WARM_UP);
        let before = Reading::take(&running)?;
        let (started, cpu) = (Instant::now(), running.usage()?.cpu);
        sleep(Duration::from_secs(self.args.seconds));
        let (elapsed, cpu) = (started.elapsed(), running.usage()?.cpu - cpu);
        let after = Reading::take(&running)?;
        let (events, latency) = match (before, after) {
            (Some(before), Some(after)) => (
                (after.delivered - before.delivered) as f64,
                Some(latency::between(&before.buckets, &after.buckets)?),
            ),
            _ => (rate as f64 * elapsed.as_secs_f64(), None),
        };
        drop((running, feed));
        destination.remove()?;
        Ok(RateCost {
            cpu_microseconds: cpu.as_secs_f64() * 1e6 / events,
            latency,
        })
    }
}

/// The values reported by the bridge at one time.
struct Reading {
    delivered: u64,
    buckets: Buckets,
}

impl Reading {
    fn take(running: &Running) -> Result<Option<Self>> {
        let Running::Bridge(bridge) = running else {
            return Ok(None);
        };
        let buckets = latency::buckets(&get(&bridge.http, "/metrics")?)?;
        let delivered = bridge.delivered().context("reading the delivered events")?;
        Ok(Some(Self { delivered, buckets }))
    }
}
