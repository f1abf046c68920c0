//! The open connections of the HTTP server. At the limit, the oldest one is closed for a new one.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use neurobridge_core::{labels, labels::Label};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The limit of concurrent connections: four times that of `/status/stream` listeners, with request heads of 2 MiB in total.
pub(crate) const MAX_CONNECTIONS: usize = 128;

labels! {
    /// The reason for refusing a connection or a request.
    pub(crate) enum Refusal {
        /// The connection was closed for a newer one.
        ConnectionLimit = "connection_limit",
        /// The head of a request did not arrive in time.
        HeadTimeout = "head_timeout",
        /// The client did not read a response in time.
        WriteTimeout = "write_timeout",
        /// The system refused the connection, for example because of too many open files.
        AcceptError = "accept_error",
        /// The request names an unknown host.
        UnknownHost = "unknown_host",
        /// A TLS handshake failed or did not end in time.
        TlsHandshake = "tls_handshake",
        /// The request has no password, or a wrong one.
        Unauthorised = "unauthorised",
        /// The client has sent too many wrong passwords.
        TooManyAttempts = "too_many_attempts",
    }
}

/// The counters of the HTTP server, and its open connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
}

#[derive(Debug)]
struct Entry {
    /// The time of the last request, or of the accept.
    active_at: Instant,
    /// Whether the connection listens to `/status/stream`.
    is_listener: bool,
    evicted: CancellationToken,
}

impl Connections {
    /// Adds a connection. At the limit the oldest other one is closed, so that a health check always gets a response.
    pub(crate) fn add(self: &Arc<Self>) -> ConnectionSlot {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let evicted = CancellationToken::new();
        let entry = Entry {
            active_at: Instant::now(),
            is_listener: false,
            evicted: evicted.clone(),
        };
        if self.open() >= MAX_CONNECTIONS {
            self.evict_oldest();
        }
        self.lock().insert(id, entry);
        ConnectionSlot {
            id,
            evicted,
            connections: Arc::clone(self),
        }
    }

    /// Closes the connection that was idle for longest; one that listens to the stream only if there is no other.
    pub(crate) fn evict_oldest(&self) {
        let mut open = self.lock();
        let oldest = open
            .iter()
            .min_by_key(|(id, entry)| (entry.is_listener, entry.active_at, **id))
            .map(|(id, _)| *id);
        // Removed immediately, so that the connection no longer counts while its task ends.
        if let Some(entry) = oldest.and_then(|id| open.remove(&id)) {
            entry.evicted.cancel();
            drop(open);
            self.refuse(Refusal::ConnectionLimit);
        }
    }

    /// Counts a refusal.
    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.refusals[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.lock().len()
    }

    /// Returns the number of refusals with this reason.
    pub(crate) fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        // No code under this lock can panic in the middle of an update.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of an open connection, released when dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    id: u64,
    evicted: CancellationToken,
    connections: Arc<Connections>,
}

impl ConnectionSlot {
    /// Waits until the connection has to be closed for a newer one. Cancel-safe.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// Records the arrival of a request.
    pub(crate) fn note_request(&self) {
        self.update(|entry| {
            entry.active_at = Instant::now();
            entry.is_listener = false;
        });
    }

    /// Records that the response is the stream.
    pub(crate) fn note_listener(&self) {
        self.update(|entry| entry.is_listener = true);
    }

    fn update(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.connections.lock().get_mut(&self.id) {
            change(entry);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_over_the_limit_closes_the_oldest_idle_one() {
        let connections = Arc::new(Connections::default());
        let mut slots = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            slots.push(connections.add());
            advance(Duration::from_millis(1)).await;
        }
        slots[0].note_listener();
        slots[1].note_request();
        let _newest = connections.add();
        let evicted = |slots: &[ConnectionSlot]| -> Vec<u64> {
            let evicted = slots.iter().filter(|slot| slot.evicted.is_cancelled());
            evicted.map(|slot| slot.id).collect()
        };
        assert_eq!(evicted(&slots), [2]);
        assert_eq!(connections.open(), MAX_CONNECTIONS);
        assert_eq!(connections.refused(Refusal::ConnectionLimit), 1);
        connections.evict_oldest();
        assert_eq!(evicted(&slots), [2, 3]);
        drop(slots);
        assert_eq!(connections.open(), 1);
    }
}
