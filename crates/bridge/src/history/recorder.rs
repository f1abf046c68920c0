//! The task that observes the bridge and writes its history.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{History, pause};
use crate::task::joined;

/// The interval between two views of the state, from which the history is derived.
const VIEW_INTERVAL: Duration = Duration::from_millis(500);
/// The time limit of the last write.
const LAST_WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The part of the bridge's state that the recorder needs. A trait, because the state contains the history.
pub(crate) trait HistorySource: Send + Sync + 'static {
    /// Takes a view of the state, which passes through [`History::observe`].
    fn observe(&self);

    /// Returns the history of the bridge.
    fn history(&self) -> &History;
}

/// The task that observes the bridge and writes its history.
pub(crate) struct Recorder<S> {
    state: Arc<S>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl<S: HistorySource> Recorder<S> {
    pub(crate) fn start(state: Arc<S>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(record(Arc::clone(&state), stop.clone()));
        Self { state, stop, task }
    }

    /// Records the end of the run and writes the file for the last time.
    pub(crate) async fn stop(mut self, reason: &str) {
        self.stop.cancel();
        joined((&mut self.task).await);
        // Records the last proof of life of the closed connections.
        self.state.observe();
        self.state.history().stopped(reason);
        let state = Arc::clone(&self.state);
        let last = spawn_blocking(move || state.history().write());
        if timeout(LAST_WRITE_LIMIT, last).await.is_err() {
            warn!(
                "the history file was not written within {LAST_WRITE_LIMIT:?}; the next start may report this stop as a crash"
            );
        }
    }
}

impl<S> Drop for Recorder<S> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn record<S: HistorySource>(state: Arc<S>, stop: CancellationToken) {
    let (mut view_ticks, mut ticks) = (interval(VIEW_INTERVAL), interval(pause::TICK));
    for interval in [&mut view_ticks, &mut ticks] {
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut writing: Option<JoinHandle<()>> = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // The tick comes before a view, which needs the recorded pauses for the start of a gap.
            _ = ticks.tick() => {
                state.history().tick();
                continue;
            }
            _ = view_ticks.tick() => {}
        }
        state.observe();
        // A hanging disk delays the next write, and nothing else.
        if writing.as_ref().is_none_or(JoinHandle::is_finished) {
            let state = Arc::clone(&state);
            writing = Some(spawn_blocking(move || state.history().write()));
        }
    }
}
