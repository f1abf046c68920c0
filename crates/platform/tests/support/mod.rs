//! A simulated platform in this process, and clients of its HTTP interfaces over real sockets.

#![allow(dead_code, reason = "each test program uses only some of the helpers")]
#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::{future::Future, time::Duration};

use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use neurobridge_listener::SourceConfig;
use neurobridge_platform::{BackfillReader, BackfillReport, Client, MissedEvent, Window};
use neurobridge_simulator::{Handle, Options, RunError, Simulator};
use tokio::{net::TcpStream, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_tungstenite::{client_async, tungstenite::Message};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The longest wait of a test before it fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// The creation time of the first entry.
pub(crate) const START: &str = "2026-03-01T08:00:00Z";

pub(crate) struct Platform {
    pub(crate) handle: Handle,
    _stop: DropGuard,
    _task: JoinHandle<Result<(), RunError>>,
}

impl Platform {
    /// Starts a platform. It has recognised nothing before a client of the feed is connected.
    pub(crate) async fn start(options: Options) -> Self {
        let simulator = Simulator::bind(options).await.unwrap();
        let (handle, stop) = (simulator.handle(), CancellationToken::new());
        let task = tokio::spawn(simulator.run(stop.clone()));
        Self {
            handle,
            _stop: stop.drop_guard(),
            _task: task,
        }
    }

    /// Starts a platform that has recognised `count` entries, one each second, and returns the frames that it sent.
    pub(crate) async fn recognised(count: u64, options: Options) -> (Self, Vec<String>) {
        let platform = Self::start(Options {
            count: Some(count),
            start: Some(START.parse().unwrap()),
            step: Some(Duration::from_secs(1)),
            ..options
        })
        .await;
        let stream = TcpStream::connect(platform.handle.local_addr()).await.unwrap();
        let (mut feed, _) = within(client_async("ws://localhost/", stream)).await.unwrap();
        let auth = r#"{"action":"AUTH","data":{"token":"token-of-the-test"}}"#;
        feed.send(Message::text(auth)).await.unwrap();
        let mut frames = Vec::new();
        while (frames.len() as u64) < count {
            match within(feed.next()).await.unwrap().unwrap() {
                Message::Text(text) if text.contains("\"data\"") => frames.push(text.to_string()),
                _ => {}
            }
        }
        (platform, frames)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.handle.local_addr())
    }

    pub(crate) fn config(&self) -> SourceConfig {
        config(&self.url())
    }

    pub(crate) fn entries(&self) -> BackfillReader {
        entries(&self.config())
    }

    pub(crate) fn fault(&self, rule: &str) {
        self.handle.add_fault(rule.parse().unwrap());
    }
}

/// Returns the configuration of a source whose REST interface is at `url`, without delays.
pub(crate) fn config(url: &str) -> SourceConfig {
    let mut config = SourceConfig::new(url.replacen("http", "ws", 1), "token-of-the-test");
    config.backfill.url = Some(url.to_owned());
    config.backfill.rate = 1_000;
    config.backfill.timeout = Duration::from_secs(20);
    config.backoff.min = Duration::from_millis(10);
    config.backoff.max = Duration::from_millis(20);
    assert_eq!(config.check(), []);
    config
}

pub(crate) fn entries(config: &SourceConfig) -> BackfillReader {
    let client = Client::new(config, config.backfill.url.as_deref().unwrap()).unwrap();
    BackfillReader::new(client, config)
}

/// Returns the window of all entries after an id.
pub(crate) fn window(after: Option<u64>) -> Window {
    let from: Timestamp = START.parse().unwrap();
    Window {
        after: after.map(|id| id.to_string()),
        skips_known: false,
        from,
        to: Some(from + Duration::from_secs(1_000_000)),
        overlap: Duration::ZERO,
    }
}

/// Reads a window to its end.
pub(crate) async fn read(mut entries: BackfillReader, window: Window) -> (Vec<MissedEvent>, BackfillReport) {
    let (events, mut received) = mpsc::channel(1);
    let task = tokio::spawn(async move { entries.fetch(&window, &events).await });
    let mut all = Vec::new();
    while let Some(page) = within(received.recv()).await {
        assert!(!page.is_empty());
        all.extend(page);
    }
    (all, within(task).await.unwrap())
}

pub(crate) fn ids(missed: &[MissedEvent]) -> Vec<u64> {
    missed.iter().filter_map(MissedEvent::number).collect()
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future)
        .await
        .expect("nothing happened within the deadline")
}
