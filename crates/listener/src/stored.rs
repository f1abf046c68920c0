//! Tells a connection which events are stored, so that it acknowledges them to the feed and continues after them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The maximum number of acknowledgement values that wait to be sent. Further values are dropped: the feed sends their
/// events again, which are duplicates then.
const MAX_WAITING: usize = 65_536;

/// Which events of a source are stored, set by the program that stores them.
#[derive(Debug, Default)]
pub struct StoredEvents {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    resume: Option<String>,
    /// The number of the current connection.
    connection: u64,
    waiting: Vec<String>,
    dropped: u64,
}

impl StoredEvents {
    /// Sets the resume value of the last stored event, as written by the feed. The next connection continues from it.
    pub fn set_resume(&self, value: String) {
        self.lock().resume = Some(value);
    }

    /// Returns the resume value of the last stored event.
    pub fn resume(&self) -> Option<String> {
        self.lock().resume.clone()
    }

    /// Sends the acknowledgements of stored events, whose values are in the order of the feed. Values of events of an earlier
    /// connection are ignored, because acknowledgements of most feeds are valid only on the connection of the event: the feed
    /// sends these events again.
    pub fn acknowledge(&self, connection: u64, values: &mut Vec<String>) {
        let mut inner = self.lock();
        if connection != inner.connection {
            return;
        }
        let room = MAX_WAITING.saturating_sub(inner.waiting.len());
        inner.dropped += values.len().saturating_sub(room) as u64;
        inner.waiting.extend(values.drain(..).take(room));
        drop(inner);
        self.changed.notify_one();
    }

    /// Returns the number of acknowledgements that were dropped because the connection could not send them fast enough.
    pub fn dropped_acknowledgements(&self) -> u64 {
        self.lock().dropped
    }

    /// Starts a connection, and returns its number.
    pub(crate) fn begin(&self) -> u64 {
        let mut inner = self.lock();
        inner.waiting.clear();
        inner.connection += 1;
        inner.connection
    }

    /// Waits for values to acknowledge, and returns at least one. Cancel-safe.
    pub(crate) async fn acknowledged(&self) -> Vec<String> {
        loop {
            let waiting = std::mem::take(&mut self.lock().waiting);
            if !waiting.is_empty() {
                return waiting;
            }
            self.changed.notified().await;
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

    #[tokio::test]
    async fn values_of_earlier_connections_are_ignored() {
        let stored = StoredEvents::default();
        let first = stored.begin();
        stored.acknowledge(first, &mut vec!["1".into(), "2".into()]);
        assert_eq!(stored.acknowledged().await, ["1", "2"]);
        let second = stored.begin();
        stored.acknowledge(first, &mut vec!["3".into()]);
        assert_eq!(stored.acknowledged().now_or_never(), None);
        stored.acknowledge(second, &mut vec!["4".into()]);
        assert_eq!(stored.acknowledged().await, ["4"]);
    }

    #[test]
    fn waiting_values_are_bounded() {
        let stored = StoredEvents::default();
        let mut values = vec!["1".to_owned(); MAX_WAITING + 7];
        stored.acknowledge(0, &mut values);
        assert_eq!(stored.dropped_acknowledgements(), 7);
        assert_eq!(stored.acknowledged().now_or_never().unwrap().len(), MAX_WAITING);
    }
}
