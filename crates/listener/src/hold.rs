//! Delays the events of the feed while a program fetches the events of a gap.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

/// Reports the end of a gap, or the first authentication of a source.
///
/// No event is read until this report is dropped, or until the time limit of
/// [`Source::on_gap_end`](crate::Source::on_gap_end) has passed.
#[derive(Debug)]
pub struct GapEnded {
    hold: Arc<Hold>,
    /// The number of the hold that this report ends, because a later hold may have begun.
    number: u64,
}

impl GapEnded {
    /// Returns whether the events of the feed still wait.
    pub fn is_holding(&self) -> bool {
        let inner = self.hold.lock();
        inner.number == self.number && inner.until.is_some_and(|until| Instant::now() < until)
    }
}

impl Drop for GapEnded {
    fn drop(&mut self) {
        self.hold.end(self.number);
    }
}

/// A hold: whether the events of a source wait until those of a gap are fetched. Shared by the connections of the source.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// A copy of whether `until` has a value, which a connection can read without a lock at each wake-up.
    is_active: AtomicBool,
    inner: Mutex<Inner>,
    /// Wakes the connections that wait for the end.
    ended: Notify,
    /// The receiver of the ends of gaps, and the longest time for which events wait.
    observer: OnceLock<(mpsc::Sender<GapEnded>, Duration)>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The number of the last hold.
    number: u64,
    /// The time limit of the current hold; `None` without one.
    until: Option<Instant>,
}

impl Hold {
    /// Sets the receiver of the ends of gaps. Only the first call has an effect.
    pub(crate) fn observe(&self, ends: mpsc::Sender<GapEnded>, limit: Duration) {
        let _ = self.observer.set((ends, limit));
    }

    /// Returns whether the ends of gaps are received.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.get().is_some_and(|(ends, _)| !ends.is_closed())
    }

    /// Reports the end of a gap to the observer, and begins a hold if there is one that can receive the report.
    pub(crate) fn begin(self: &Arc<Self>) {
        let Some((ends, limit)) = self.observer.get() else {
            return;
        };
        let number = {
            let mut inner = self.lock();
            inner.number += 1;
            inner.until = Some(Instant::now() + *limit);
            self.is_active.store(true, Ordering::Release);
            inner.number
        };
        // If the channel is full, the observer still has an earlier report to handle. Then this report is dropped here, which
        // ends the hold.
        let _ = ends.try_send(GapEnded {
            hold: Arc::clone(self),
            number,
        });
    }

    /// Returns whether events have to wait. Still returns true after the time limit until [`ended`](Self::ended) is polled.
    pub(crate) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Acquire)
    }

    /// Waits until events may be read. Cancel-safe.
    pub(crate) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            let (number, until) = {
                let inner = self.lock();
                (inner.number, inner.until)
            };
            let Some(until) = until else {
                return;
            };
            if timeout_at(until, ended).await.is_err() {
                self.end(number);
            }
        }
    }

    /// Ends the hold, because a connection is being closed.
    pub(crate) fn release(&self) {
        if self.is_active() {
            let number = self.lock().number;
            self.end(number);
        }
    }

    fn end(&self, number: u64) {
        let mut inner = self.lock();
        if inner.number == number {
            inner.until = None;
            self.is_active.store(false, Ordering::Release);
            self.ended.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under this lock can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    fn observed() -> (Arc<Hold>, mpsc::Receiver<GapEnded>) {
        let (sender, ends) = mpsc::channel(1);
        let hold = Arc::<Hold>::default();
        hold.observe(sender, LIMIT);
        (hold, ends)
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_until_the_report_is_dropped() {
        let (hold, mut ends) = observed();
        hold.begin();
        let gap = ends.recv().await.unwrap();
        assert!(hold.is_active() && gap.is_holding());
        assert!(hold.ended().now_or_never().is_none());
        drop(gap);
        assert!(!hold.is_active());
        hold.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_for_a_limited_time() {
        let (hold, mut ends) = observed();
        hold.begin();
        let gap = ends.recv().await.unwrap();
        let since = Instant::now();
        hold.ended().await;
        assert_eq!(since.elapsed(), LIMIT);
        assert!(!hold.is_active() && !gap.is_holding());
        hold.begin();
        assert!(!gap.is_holding(), "the next hold is another one");
        drop(gap);
        assert!(hold.is_active(), "the next hold continues");
    }

    #[test]
    fn events_do_not_wait_without_a_ready_receiver() {
        let hold = Arc::<Hold>::default();
        hold.begin();
        assert!(!hold.is_active() && !hold.is_observed());
        let (hold, mut ends) = observed();
        assert!(hold.is_observed());
        hold.begin();
        hold.begin();
        assert!(!hold.is_active(), "the observer is busy");
        drop(ends.try_recv().unwrap());
        ends.close();
        hold.begin();
        assert!(!hold.is_active() && !hold.is_observed());
    }
}
