//! Waiting for a condition, with a deadline and a sentence.

use std::thread;
use std::time::{Duration, Instant};
#[cfg(feature = "clients")]
use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use anyhow::{Result, bail};

/// Short beside what is waited for (processes, brokers), long beside the cost of one look.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `attempt` gives a value and returns it. The calling thread is blocked.
///
/// # Errors
/// When `timeout` passes first, naming `what` was waited for; an error of `attempt` ends the waiting at once.
pub fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(INTERVAL);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// When `timeout` passes first, naming `what` was waited for.
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, timeout, || Ok(condition().then_some(())))
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

    #[test]
    fn says_what_was_waited_for() {
        let error = wait_until("a thing", Duration::ZERO, || false).unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns in vain for a thing");
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
}
