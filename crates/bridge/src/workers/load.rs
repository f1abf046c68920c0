//! Measures the load of the workers, and chooses the number of active workers for this load.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::runtime::RuntimeMetrics;

/// The load of each active worker above which more workers are activated. Up to this load, the workers are idle for long enough
/// to receive a burst.
const BUSY: f64 = 0.6;
/// Workers rest if the load of each remaining worker would be less than this. Less than [`BUSY`], so that a steady load changes
/// nothing.
const CALM: f64 = 0.4;
/// The number of successive measurements with a low load after which workers rest. They take two seconds, so that the workers
/// stay active for a feed that sends in bursts.
pub(super) const CALM_PERIODS: u32 = 20;

/// Chooses the number of active workers.
pub(super) struct Policy {
    workers: usize,
    active: usize,
    calm_periods: u32,
    /// Whether the number has just changed: the next measurement covers both numbers, and is ignored.
    has_changed: bool,
}

impl Policy {
    pub(super) const fn new(workers: usize) -> Self {
        Self {
            workers,
            active: workers,
            calm_periods: 0,
            has_changed: false,
        }
    }

    pub(super) const fn active(&self) -> usize {
        self.active
    }

    /// Returns the number of active workers after a period in which `load` workers were busy on average.
    pub(super) fn next(&mut self, load: f64) -> usize {
        if std::mem::take(&mut self.has_changed) {
            return self.active;
        }
        let fewer = (self.active / 2).max(1);
        let is_calm = load < CALM * fewer as f64;
        self.calm_periods = if is_calm { self.calm_periods + 1 } else { 0 };
        if load > BUSY * self.active as f64 {
            self.change(self.active * 2)
        } else if self.calm_periods >= CALM_PERIODS {
            self.change(fewer)
        } else {
            self.active
        }
    }

    fn change(&mut self, active: usize) -> usize {
        let before = std::mem::replace(&mut self.active, active.min(self.workers));
        self.has_changed = self.active != before;
        self.calm_periods = 0;
        self.active
    }
}

/// Measures how many workers were busy.
pub(super) struct Meter {
    metrics: RuntimeMetrics,
    read_at: Instant,
    workers: Vec<Reading>,
}

/// The counters of a worker.
#[derive(Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) busy: Duration,
    /// The number of times that the worker parked and unparked: odd while it is parked.
    pub(super) parks: u64,
}

impl Meter {
    pub(super) fn new(metrics: RuntimeMetrics) -> Self {
        let workers = vec![Reading::default(); metrics.num_workers()];
        Self {
            metrics,
            read_at: Instant::now(),
            workers,
        }
    }

    /// Returns the number of workers, on average, that were busy since the last call, without those that rest.
    pub(super) fn read(&mut self, resting: &BTreeSet<usize>) -> f64 {
        let now = Instant::now();
        let period = now - std::mem::replace(&mut self.read_at, now);
        let mut load = 0.0;
        for (index, reading) in self.workers.iter_mut().enumerate() {
            let after = Reading {
                busy: self.metrics.worker_total_busy_duration(index),
                parks: self.metrics.worker_park_unpark_count(index),
            };
            let before = std::mem::replace(reading, after);
            if !resting.contains(&index) {
                load += share(before, after, period);
            }
        }
        load
    }
}

/// Returns the share of a period in which a worker was busy. The busy time of a task is counted at its end, so a worker that
/// runs one task during the whole period is recognised by its parks: it has neither parked nor unparked, and is not parked.
pub(super) fn share(before: Reading, after: Reading, period: Duration) -> f64 {
    if after.parks == before.parks && after.parks.is_multiple_of(2) {
        return 1.0;
    }
    let busy = after.busy.saturating_sub(before.busy);
    (busy.as_secs_f64() / period.as_secs_f64()).min(1.0)
}
