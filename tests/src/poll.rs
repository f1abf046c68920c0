//! Waiting for a condition: the one place in which the tests and the chores limit how long something may take.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    thread,
    time::{Duration, Instant},
};
#[cfg(feature = "clients")]
use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use anyhow::{Result, bail};

/// Short beside what is waited for (processes, brokers), long beside the cost of one look.
const INTERVAL: Duration = Duration::from_millis(20);

/// Between two looks at the limit of a future, which reports its end by itself.
#[cfg(feature = "clients")]
const FUTURE_INTERVAL: Duration = Duration::from_millis(250);

/// The absolute bound of a wait, in limits: for what makes progress without end, or on a machine that never becomes free.
const MAX_LIMITS: u32 = 10;

/// The limit of one wait, which follows progress and not the clock.
///
/// Time counts by the share of a processor that each runnable task of this machine gets: on two processors with forty runnable
/// tasks, a second counts as a twentieth. It counts from zero again whenever the observed state changes. Ten times the limit by
/// the clock is the absolute bound.
#[derive(Debug)]
pub struct Patience {
    what: String,
    limit: Duration,
    started: Instant,
    checked: Instant,
    /// Since the start, or since the last change of the observed state.
    counted: Duration,
    observed: Option<u64>,
}

impl Patience {
    /// Starts to wait for `what`.
    pub fn new(what: impl Into<String>, limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            what: what.into(),
            limit,
            started: now,
            checked: now,
            counted: Duration::ZERO,
            observed: None,
        }
    }

    /// Counts the time from zero again if `state` differs from the state that was observed before.
    pub fn observe(&mut self, state: impl Hash) {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        if self.observed.replace(hasher.finish()) != Some(hasher.finish()) {
            self.counted = Duration::ZERO;
        }
    }

    /// Checks the limit.
    ///
    /// # Errors
    /// When it is exceeded, naming what was waited for.
    pub fn check(&mut self) -> Result<()> {
        self.check_with(share_of_a_task)
    }

    fn check_with(&mut self, share: impl FnOnce() -> f64) -> Result<()> {
        let now = Instant::now();
        self.counted += now.duration_since(self.checked).mul_f64(share());
        self.checked = now;
        let waited = now.duration_since(self.started);
        if self.counted >= self.limit || waited >= self.limit * MAX_LIMITS {
            bail!(
                "timed out after {:.1?} while waiting for {} (limit: {:?} without progress, at full use of a processor)",
                waited,
                self.what,
                self.limit
            );
        }
        Ok(())
    }
}

/// The share of a processor that a task gets now: 1 on a machine with a free processor.
fn share_of_a_task() -> f64 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    share(&load, processors)
}

/// Takes the larger of the tasks that are runnable at this moment and of the average of the last minute, which includes those
/// that wait for a disk. A text of another form counts as a free machine.
fn share(loadavg: &str, processors: usize) -> f64 {
    let mut fields = loadavg.split_ascii_whitespace();
    let average: f64 = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
    let runnable: f64 = fields
        .nth(2)
        .and_then(|field| field.split('/').next()?.parse().ok())
        .unwrap_or(0.0);
    // Few processors: every usize of them is exact.
    let processors = f64::from(u32::try_from(processors).unwrap_or(u32::MAX));
    (processors / average.max(runnable).max(processors)).clamp(0.0, 1.0)
}

/// Waits until `attempt` gives a value and returns it. The calling thread is blocked.
///
/// # Errors
/// When `limit` (see [`Patience`]) is exceeded first, naming `what` was waited for; an error of `attempt` ends the waiting at once.
pub fn wait_for<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_with_progress(what, limit, |_| attempt())
}

/// Like [`wait_for`], for an `attempt` that observes progress: it calls [`Patience::observe`].
///
/// # Errors
/// The same.
pub fn wait_with_progress<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl FnMut(&mut Patience) -> Result<Option<T>>,
) -> Result<T> {
    let mut patience = Patience::new(what, limit);
    loop {
        if let Some(value) = attempt(&mut patience)? {
            return Ok(value);
        }
        patience.check()?;
        thread::sleep(INTERVAL);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// When `limit` (see [`Patience`]) is exceeded first, naming `what` was waited for.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Awaits a future. Dropped at the limit, it is cancelled.
///
/// # Errors
/// When `limit` (see [`Patience`]) is exceeded first, naming `what` was waited for.
#[cfg(feature = "clients")]
pub fn within<F: Future>(what: &str, limit: Duration, future: F) -> impl Future<Output = Result<F::Output>> {
    // On the heap, since futures of sinks are large.
    let mut future = Box::pin(future);
    async move {
        let mut patience = Patience::new(what, limit);
        loop {
            if let Ok(output) = tokio::time::timeout(FUTURE_INTERVAL, future.as_mut()).await {
                return Ok(output);
            }
            patience.check()?;
        }
    }
}

/// Runs a future on this thread, also inside of an asynchronous runtime (whose own `block_on` refuses to).
#[cfg(feature = "clients")]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So short that a machine that has just started has run for all of the bound.
    const LIMIT: Duration = Duration::from_millis(500);

    #[test]
    fn the_error_names_what_was_waited_for() {
        let error = wait_until("a thing", Duration::ZERO, || false).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("while waiting for a thing (limit: 0ns"),
            "{error}"
        );
    }

    #[test]
    fn returns_the_first_value() {
        let mut calls = 0;
        let value = wait_for("the third call", Duration::from_secs(5), || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_busy_machine_counts_a_share_of_the_time() {
        for (loadavg, processors, expected) in [
            ("0.10 0.2 0.3 1/115 27495\n", 2, 1.0),
            ("0.10 0.2 0.3 40/115 27495\n", 2, 0.05),
            ("20.0 0.2 0.3 1/115 27495\n", 2, 0.1),
            ("2.0 0.2 0.3 2/115 27495\n", 2, 1.0),
            ("40.0 0.2 0.3 40/115 27495\n", 64, 1.0),
            ("", 2, 1.0),
            ("nan - - x/y", 2, 1.0),
            ("inf", 2, 0.0),
        ] {
            let found = share(loadavg, processors);
            assert!((found - expected).abs() < 1e-9, "{loadavg:?}: {found}");
        }
    }

    /// A wait that began, was last checked, and made its last progress so long ago.
    fn waiting(started: Duration, checked: Duration, counted: Duration) -> Patience {
        let now = Instant::now();
        Patience {
            started: now.checked_sub(started).unwrap(),
            checked: now.checked_sub(checked).unwrap(),
            counted,
            ..Patience::new("progress", LIMIT)
        }
    }

    #[test]
    fn the_limit_follows_the_share_and_not_the_clock() {
        assert!(waiting(LIMIT, LIMIT, Duration::ZERO).check_with(|| 1.0).is_err());
        assert!(waiting(LIMIT, LIMIT, Duration::ZERO).check_with(|| 0.5).is_ok());
        assert!(waiting(LIMIT, LIMIT, LIMIT / 2).check_with(|| 0.5).is_err());
        let bound = LIMIT * MAX_LIMITS;
        assert!(waiting(bound, bound, Duration::ZERO).check_with(|| 0.0).is_err());
    }

    #[test]
    fn progress_restarts_the_limit_up_to_the_bound() {
        let mut patience = waiting(LIMIT * 2, Duration::ZERO, LIMIT);
        patience.observe(1);
        assert!(patience.check_with(|| 1.0).is_ok());
        patience.counted = LIMIT;
        patience.observe(1);
        assert!(
            patience.check_with(|| 1.0).is_err(),
            "the same state is no progress"
        );
        patience.observe(2);
        assert!(patience.check_with(|| 1.0).is_ok());
        let mut endless = waiting(LIMIT * MAX_LIMITS, Duration::ZERO, LIMIT);
        endless.observe(1);
        assert!(endless.check_with(|| 1.0).is_err());
    }

    #[cfg(feature = "clients")]
    #[tokio::test]
    async fn a_future_is_awaited_within_its_limit() {
        assert_eq!(within("a value", LIMIT, async { 1 }).await.unwrap(), 1);
        let never = within("nothing", Duration::ZERO, std::future::pending::<()>()).await;
        assert!(never.unwrap_err().to_string().contains("nothing"));
    }
}
