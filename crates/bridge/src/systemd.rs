//! Notifications for systemd (`Type=notify`): the start, the state in a line, and the watchdog. Without systemd nothing is sent.

use std::{env, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, info};

use crate::{http, state::State};

/// The interval at which the state is compared with the last one that was sent.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Notifications for each period of the watchdog: two may be late.
const PINGS: u32 = 3;

/// The task that notifies systemd; ends when dropped.
pub(crate) struct Notifier(JoinHandle<()>);

impl Notifier {
    /// Starts the task, whose first notification is that the bridge has started. Returns `None` without systemd.
    pub(crate) fn start(state: &Arc<State>) -> Option<Self> {
        env::var_os("NOTIFY_SOCKET")?;
        let watchdog = sd_notify::watchdog_enabled();
        info!(?watchdog, "systemd notifications enabled");
        Some(Self(tokio::spawn(notify(Arc::clone(state), watchdog))))
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends that the bridge is stopping.
pub(crate) async fn notify_stopping() {
    if env::var_os("NOTIFY_SOCKET").is_some() {
        send(vec![Message::Stopping, Message::Status("draining".to_owned())]).await;
    }
}

async fn notify(state: Arc<State>, watchdog: Option<Duration>) {
    let period = watchdog.map_or(STATUS_INTERVAL, |watchdog| STATUS_INTERVAL.min(watchdog / PINGS));
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        // The view takes the locks of sources, spool and sinks on a thread of the runtime: if a lock or the thread hangs, no ping
        // follows, and systemd restarts the bridge. A source or a sink that is down does not stop the pings.
        let summary = http::summary(&state.view());
        let mut messages = Vec::new();
        if last.is_none() {
            messages.push(Message::Ready);
        }
        if watchdog.is_some() {
            messages.push(Message::Watchdog);
        }
        if last.as_ref() != Some(&summary) {
            messages.push(Message::Status(summary.clone()));
            last = Some(summary);
        }
        if !messages.is_empty() {
            send(messages).await;
        }
    }
}

/// A notification that owns its text.
enum Message {
    Ready,
    Stopping,
    Watchdog,
    Status(String),
}

/// Sends notifications. Not on a thread of the runtime: a socket whose reader hangs blocks.
async fn send(messages: Vec<Message>) {
    let sent = spawn_blocking(move || {
        let states: Vec<NotifyState<'_>> = messages
            .iter()
            .map(|message| match message {
                Message::Ready => NotifyState::Ready,
                Message::Stopping => NotifyState::Stopping,
                Message::Watchdog => NotifyState::Watchdog,
                Message::Status(text) => NotifyState::Status(text),
            })
            .collect();
        sd_notify::notify(&states)
    });
    if let Ok(Err(error)) = sent.await {
        debug!(%error, "systemd not notified; it may regard the bridge as hanging");
    }
}
