//! `/status/stream`: `/status` as it changes, to a bounded number of listeners, as server-sent events.

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

/// Who looks at a page wants to see what happens when it happens, not a moment later.
const TICK: Duration = Duration::from_millis(500);
/// How many may listen at a time. Many more people than look at one bridge, and few enough to cost it nothing.
const LISTENERS: usize = 32;

/// Those who listen, and what they were told last.
pub(super) struct StatusStream {
    /// One text for all of them. Who is slow to read it misses what came in between, and holds up nobody.
    told: watch::Sender<Arc<str>>,
    seats: Arc<Semaphore>,
    stop: CancellationToken,
}

impl StatusStream {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self {
            told: watch::Sender::new(Arc::from("")),
            seats: Arc::new(Semaphore::new(LISTENERS)),
            stop,
        }
    }

    /// Tells all listeners of the bridge, for ever. Nothing is made while nobody listens.
    pub(super) async fn tell(&self, state: &State) -> Infallible {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.told.receiver_count() == 0 {
                continue;
            }
            match serde_json::to_string(&Status::of(&state.view())) {
                Ok(text) => drop(self.told.send_replace(text.into())),
                Err(error) => error!(%error, "the status can't be written"),
            }
        }
    }

    /// Takes up one more listener, unless there are too many. It is heard no more when its connection ends, and at the stop.
    pub(super) fn listen(&self) -> Response {
        let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
            let sentence = format!("{LISTENERS} are listening already; /status tells the same\n");
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                [(header::RETRY_AFTER, "5")],
                sentence,
            )
                .into_response();
        };
        let listener = Listener {
            told: self.told.subscribe(),
            stop: self.stop.clone(),
            _seat: seat,
        };
        Sse::new(stream::unfold(listener, Listener::next)).into_response()
    }
}

struct Listener {
    told: watch::Receiver<Arc<str>>,
    stop: CancellationToken,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            changed = self.told.changed() => changed.ok()?,
        }
        let event = Event::default().data(&**self.told.borrow_and_update());
        Some((Ok(event), self))
    }
}
