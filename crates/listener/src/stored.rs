//! Passes the positions of stored events to the connections of a source: a connection acknowledges stored events to the feed,
//! and the next one resumes after the last stored event.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::Notify;

/// The maximum number of acknowledgement values that wait to be sent on a connection. Further values are dropped: the feed
/// sends the events of these values again, and they are recognised as duplicates.
const MAX_WAITING: usize = 8192;
/// The maximum length of an acknowledgement value; an event with a longer one is not acknowledged.
const MAX_ACK_BYTES: usize = 256;
/// The maximum length of a resume value. A longer value is ignored: it would not fit into a request.
const MAX_RESUME_BYTES: usize = 4096;

/// The progress of a source: acknowledgements and resume value of its stored events, set by the program that stores them.
#[derive(Debug, Default)]
pub struct StoredPosition {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    resume: Option<String>,
    /// The number of the last connection.
    last: u64,
    /// The connections that are open, by number.
    connections: BTreeMap<u64, Weak<Waiting>>,
    dropped: u64,
}

/// The values that wait to be sent on a connection.
#[derive(Debug, Default)]
struct Waiting {
    values: Mutex<Vec<String>>,
    changed: Notify,
}

impl StoredPosition {
    /// Sets the resume value of the last stored event, as written by the feed. The next connection continues from it.
    pub fn set_resume(&self, value: String) {
        if value.len() <= MAX_RESUME_BYTES {
            lock(&self.inner).resume = Some(value);
        }
    }

    /// Returns the resume value of the last stored event.
    pub fn resume(&self) -> Option<String> {
        lock(&self.inner).resume.clone()
    }

    /// Queues acknowledgements of stored events for the connection with this number. The values are in the order of the feed.
    ///
    /// If the connection has ended, the values are ignored, because acknowledgements of most feeds are valid only on the
    /// connection of the event: the feed sends these events again.
    pub fn acknowledge(&self, connection: u64, values: &mut Vec<String>) {
        let mut inner = lock(&self.inner);
        let Some(waiting) = inner.connections.get(&connection).and_then(Weak::upgrade) else {
            return;
        };
        let all_values = values.len();
        values.retain(|value| value.len() <= MAX_ACK_BYTES);
        inner.dropped += (all_values - values.len()) as u64;
        let mut all = lock(&waiting.values);
        let room = MAX_WAITING.saturating_sub(all.len());
        inner.dropped += values.len().saturating_sub(room) as u64;
        all.extend(values.drain(..).take(room));
        waiting.changed.notify_one();
    }

    /// Returns the number of acknowledgements that were dropped, because a connection could not send them fast enough or a value
    /// was too long.
    pub fn dropped_acknowledgements(&self) -> u64 {
        lock(&self.inner).dropped
    }

    /// Starts a connection: assigns its number, and returns the queue of its acknowledgements.
    pub(crate) fn begin(self: &Arc<Self>) -> Acknowledgements {
        let waiting = Arc::<Waiting>::default();
        let mut inner = lock(&self.inner);
        inner.last += 1;
        inner.connections.retain(|_, waiting| waiting.strong_count() > 0);
        let connection = inner.last;
        inner.connections.insert(connection, Arc::downgrade(&waiting));
        Acknowledgements { connection, waiting }
    }
}

/// The acknowledgements to send on one connection. Clones share one queue. The connection counts as ended when the last clone
/// is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledgements {
    connection: u64,
    waiting: Arc<Waiting>,
}

impl Acknowledgements {
    /// Returns the number of the connection.
    pub(crate) const fn connection(&self) -> u64 {
        self.connection
    }

    /// Waits for values to acknowledge, and returns at least one. Cancel-safe.
    pub(crate) async fn next(&self) -> Vec<String> {
        loop {
            let values = std::mem::take(&mut *lock(&self.waiting.values));
            if !values.is_empty() {
                return values;
            }
            self.waiting.changed.notified().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code under these locks can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn acknowledgements_are_sent_on_the_connection_of_the_event() {
        let stored = Arc::<StoredPosition>::default();
        let (first, second) = (stored.begin(), stored.begin());
        stored.acknowledge(first.connection(), &mut vec!["1".into(), "2".into()]);
        stored.acknowledge(second.connection(), &mut vec!["3".into()]);
        assert_eq!(first.next().await, ["1", "2"]);
        assert_eq!(second.next().await, ["3"]);
        drop(first);
        let third = stored.begin();
        stored.acknowledge(1, &mut vec!["4".into()]);
        assert_eq!(third.next().now_or_never(), None);
        assert_eq!(
            lock(&stored.inner).connections.len(),
            2,
            "ended connections are removed"
        );
    }

    #[test]
    fn waiting_acknowledgements_and_resume_value_are_bounded() {
        let stored = Arc::<StoredPosition>::default();
        let connection = stored.begin();
        let mut values = vec!["1".to_owned(); MAX_WAITING + 7];
        stored.acknowledge(connection.connection(), &mut values);
        assert_eq!(stored.dropped_acknowledgements(), 7);
        assert_eq!(connection.next().now_or_never().unwrap().len(), MAX_WAITING);
        stored.acknowledge(connection.connection(), &mut vec!["x".repeat(MAX_ACK_BYTES + 1)]);
        assert_eq!(stored.dropped_acknowledgements(), 8);
        stored.set_resume("x".repeat(MAX_RESUME_BYTES + 1));
        assert_eq!(stored.resume(), None);
    }
}
