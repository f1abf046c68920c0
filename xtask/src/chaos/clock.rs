//! The time of a run, which all threads share, and a signal that stops all threads when one thread fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::schedule::Victim;
use crate::shell::print;

/// The maximum delay until a waiting thread notices a stop.
const STEP: Duration = Duration::from_millis(50);

/// The time of a run, and its stop signal.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    end: Duration,
    stopped: AtomicBool,
}

impl Clock {
    pub(super) fn start(duration: Duration) -> Self {
        Self {
            started: Instant::now(),
            end: duration,
            stopped: AtomicBool::new(false),
        }
    }

    /// Returns the time at which the run ends.
    pub(super) const fn end(&self) -> Duration {
        self.end
    }

    /// Returns the time since the start of the run.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Stops the run: all waits of all threads end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Returns whether the time of the run is over.
    pub(super) fn has_ended(&self) -> bool {
        self.now() >= self.end
    }

    /// Returns whether a thread has stopped the run because of an error.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits until `at`, for at most `most`. Returns true if `at` is still in the future and the run was not stopped.
    pub(super) fn wait(&self, at: Duration, most: Duration) -> bool {
        let left = at.saturating_sub(self.started.elapsed());
        self.pause(left.min(most));
        !self.has_stopped() && self.started.elapsed() < at
    }

    /// Waits until a time; returns false if the run was stopped.
    pub(super) fn wait_until(&self, at: Duration) -> bool {
        while self.wait(at, at) {}
        !self.has_stopped()
    }

    /// Waits for a duration, or until the run is stopped.
    pub(super) fn pause(&self, lasts: Duration) {
        let until = Instant::now() + lasts;
        while !self.has_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(STEP));
        }
    }

    /// Prints an event of the run, such as the start or end of a fault, with the time.
    pub(super) fn log(&self, victim: Victim, what: &str) -> Result<()> {
        let now = self.started.elapsed().as_secs_f64();
        print(&format!("{now:7.1} s  {victim:<6}  {what}"))
    }
}
