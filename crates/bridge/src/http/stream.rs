//! `/status/stream`: changes of `/status` as server-sent events, for a limited number of listeners.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::Status;
use crate::state::State;

/// The interval of updates, short enough for a page to look live.
const TICK: Duration = Duration::from_millis(500);
/// The limit of concurrent listeners: far above the number of people who watch one bridge, and low enough to be cheap.
const LISTENERS: usize = 32;

/// The listeners and the last update.
pub(super) struct StatusStream {
    /// The update shared by all listeners. A slow listener skips updates and delays no other.
    latest: watch::Sender<Arc<str>>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
}

impl StatusStream {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            latest: watch::Sender::new(Arc::from("")),
            slots: Arc::new(Semaphore::new(LISTENERS)),
            stop,
        }
    }

    /// Sends updates to all listeners without end. Generates none while there are no listeners.
    pub(super) async fn send_updates(&self, state: &State) -> Infallible {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.latest.receiver_count() == 0 {
                continue;
            }
            match serde_json::to_string(&Status::of(&state.view())) {
                Ok(text) => drop(self.latest.send_replace(text.into())),
                Err(error) => error!(
                    %error,
                    "the status cannot be encoded, which is a bug; clients of /status/stream receive no update"
                ),
            }
        }
    }

    /// Adds a listener, unless the limit is reached. The stream of a listener ends with its connection or at the stop.
    pub(super) fn listen(&self) -> Response {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            let message = format!("limit of {LISTENERS} listeners exceeded; /status has the same content\n");
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "5")],
                message,
            )
                .into_response();
        };
        let listener = Listener {
            updates: self.latest.subscribe(),
            stop: self.stop.clone(),
            _slot: slot,
        };
        Sse::new(stream::unfold(listener, Listener::next)).into_response()
    }
}

struct Listener {
    updates: watch::Receiver<Arc<str>>,
    stop: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            changed = self.updates.changed() => changed.ok()?,
        }
        let event = Event::default().data(&**self.updates.borrow_and_update());
        Some((Ok(event), self))
    }
}
