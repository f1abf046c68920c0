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

/// The end of a gap, or the first authentication of a source.
///
/// No event is read until this is dropped, or until the time limit of [`Source::on_gap_end`](crate::Source::on_gap_end) has
/// passed.
#[derive(Debug)]
pub struct GapEnded {
    hold: Arc<Hold>,
    /// The number of the hold, because a later one may follow.
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

/// The state of holding back the events of a source, shared by its connections.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// A copy of whether `until` has a value, which a connection can read without a lock at each wake-up.
    is_active: AtomicBool,
    inner: Mutex<Inner>,
    ended: Notify,
    /// The receiver of the ends of gaps, and the longest time for which events wait.
    observer: OnceLock<(mpsc::Sender<GapEnded>, Duration)>,
}

#[derive(Debug, Default)]
struct Inner {
    number: u64,
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

    /// Reports the end of a gap, and holds the events back if the report is received.
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
        // Without room, the receiver has an earlier end of a gap to handle, and nothing waits for this one.
        let _ = ends.try_send(GapEnded {
            hold: Arc::clone(self),
            number,
        });
    }

    /// Returns whether events have to wait. May still return true for a moment after the time limit.
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
    fn nothing_waits_without_a_receiver_that_is_ready() {
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
