//! Waits for a condition. This module implements all time limits of the tests and the development tasks.

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

/// The interval between two checks: short compared to the start of a process, and long compared to the cost of one check.
const INTERVAL: Duration = Duration::from_millis(20);

/// The interval of the limit checks for a future, which reports its completion by itself.
#[cfg(feature = "clients")]
const FUTURE_INTERVAL: Duration = Duration::from_millis(250);

/// The absolute bound of a wait as a multiple of its limit, for endless progress and for machines that stay busy.
const MAX_LIMITS: u32 = 10;

/// The limit of one wait. It measures time without progress, adjusted to the load of the machine.
///
/// Time is multiplied by the share of a processor that each runnable task of this machine gets: with two processors and
/// forty runnable tasks, a second counts as a twentieth. The count restarts whenever the observed state changes. The
/// absolute bound is ten times the limit in real time.
#[derive(Debug)]
pub struct Patience {
    what: String,
    limit: Duration,
    started: Instant,
    checked: Instant,
    /// The counted time since the start or since the last change of the observed state.
    counted: Duration,
    observed: Option<u64>,
}

impl Patience {
    /// Starts a wait for `what`.
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

    /// Restarts the count if `state` differs from the state observed before.
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
    /// Returns an error that names `what` if the limit is exceeded.
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

/// Returns the share of a processor that a task gets now: 1 on a machine with a free processor.
fn share_of_a_task() -> f64 {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    share(&load, processors)
}

/// Returns the share of a processor that a task gets, according to the text of `/proc/loadavg`.
///
/// The load is the larger of the number of tasks that are runnable now and the average of the last minute, which includes
/// tasks that wait for a disk. An unreadable text counts as an idle machine.
fn share(loadavg: &str, processors: usize) -> f64 {
    let mut fields = loadavg.split_ascii_whitespace();
    let average: f64 = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0.0);
    let runnable: f64 = fields
        .nth(2)
        .and_then(|field| field.split('/').next()?.parse().ok())
        .unwrap_or(0.0);
    // The number of processors is small enough for an exact conversion.
    let processors = f64::from(u32::try_from(processors).unwrap_or(u32::MAX));
    (processors / average.max(runnable).max(processors)).clamp(0.0, 1.0)
}

/// Calls `attempt` until it returns a value, and returns that value. Blocks the calling thread.
///
/// # Errors
/// Returns an error that names `what` if `limit` (see [`Patience`]) is exceeded. An error of `attempt` is returned
/// immediately.
pub fn wait_for<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    wait_with_progress(what, limit, |_| attempt())
}

/// Like [`wait_for`], for an `attempt` that reports progress with [`Patience::observe`].
///
/// # Errors
/// Returns an error in the same cases.
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
/// Returns an error that names `what` if `limit` (see [`Patience`]) is exceeded.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Awaits a future, which is cancelled when the limit is exceeded.
///
/// # Errors
/// Returns an error that names `what` if `limit` (see [`Patience`]) is exceeded.
#[cfg(feature = "clients")]
pub fn within<F: Future>(what: &str, limit: Duration, future: F) -> impl Future<Output = Result<F::Output>> {
    // Boxed, since the futures of sinks are large.
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

/// Runs a future on this thread, also within an asynchronous runtime, where the runtime's own `block_on` panics.
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

    /// Short, because a test subtracts ten times this limit from the present [`Instant`], which fails on a machine that has
    /// not been running for so long.
    const LIMIT: Duration = Duration::from_millis(500);

    #[test]
    fn error_names_the_awaited_condition() {
        let error = wait_until("a thing", Duration::ZERO, || false).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("while waiting for a thing (limit: 0ns"),
            "{error}"
        );
    }

    #[test]
    fn first_value_is_returned() {
        let mut calls = 0;
        let value = wait_for("the third call", Duration::from_secs(5), || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn busy_machine_counts_a_share_of_the_time() {
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

    /// Returns a wait that started and was last checked this long ago, with this counted time.
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
    fn limit_counts_processor_share_instead_of_real_time() {
        assert!(waiting(LIMIT, LIMIT, Duration::ZERO).check_with(|| 1.0).is_err());
        assert!(waiting(LIMIT, LIMIT, Duration::ZERO).check_with(|| 0.5).is_ok());
        assert!(waiting(LIMIT, LIMIT, LIMIT / 2).check_with(|| 0.5).is_err());
        let bound = LIMIT * MAX_LIMITS;
        assert!(waiting(bound, bound, Duration::ZERO).check_with(|| 0.0).is_err());
    }

    #[test]
    fn progress_restarts_the_limit_until_the_bound() {
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
    async fn future_is_awaited_within_its_limit() {
        assert_eq!(within("a value", LIMIT, async { 1 }).await.unwrap(), 1);
        let never = within("nothing", Duration::ZERO, std::future::pending::<()>()).await;
        assert!(never.unwrap_err().to_string().contains("nothing"));
    }
}
