//! The time of a run, which all threads share; and the end of all of them when one fails.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::schedule::Victim;
use crate::shell::print;

/// How soon a thread notices that another has failed.
const STEP: Duration = Duration::from_millis(50);

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

    /// When the run ends.
    pub(super) const fn end(&self) -> Duration {
        self.end
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Waits for a time, `most` at the most; whether it is still to come.
    pub(super) fn wait(&self, at: Duration, most: Duration) -> bool {
        let left = at.saturating_sub(self.started.elapsed());
        self.pause(left.min(most));
        !self.has_stopped() && self.started.elapsed() < at
    }

    /// Waits until a time; false when the run was stopped.
    pub(super) fn wait_until(&self, at: Duration) -> bool {
        while self.wait(at, at) {}
        !self.has_stopped()
    }

    /// Waits for so long.
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

    /// Prints what happens now.
    pub(super) fn say(&self, victim: Victim, what: &str) -> Result<()> {
        let now = self.started.elapsed().as_secs_f64();
        print(&format!("{now:7.1} s  {victim:<6}  {what}"))
    }
}
