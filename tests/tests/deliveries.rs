//! Helpers for the tests of single sinks, which run a delivery to a sink without a bridge.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use neurobridge_core::{
    connect::ConnectSteps,
    dead_letter::DeadLetters,
    delivery::{DeliveryOptions, Progress, ProgressSnapshot, Shutdown},
    epoch::Epochs,
    event::Sequence,
    filter::Filter,
    identity::SpoolId,
    reader::Cursor,
    redact::Redaction,
    sink::{ConnectContext, Sink, SinkFault},
};
use neurobridge_spool::{Spool, SpoolConfig};
use neurobridge_tests::poll::{Patience, within};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The limit of every wait: much longer than any operation takes, so that a slow machine fails no test.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// The interval between two checks of a condition.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);

/// A place for dead letters that stores them in memory.
#[derive(Default)]
pub(crate) struct RecordedDeadLetters(Mutex<Vec<String>>);

impl RecordedDeadLetters {
    /// Returns the dead letters stored so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl DeadLetters for RecordedDeadLetters {
    fn store<'a>(&'a self, lines: &'a str) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>> {
        Box::pin(async move {
            self.0.lock().unwrap().extend(lines.lines().map(str::to_owned));
            Ok(())
        })
    }
}

/// Returns an empty spool in memory.
pub(crate) fn spool() -> Spool {
    Spool::open(&SpoolConfig::default(), Path::new("unused")).unwrap()
}

/// Returns the options of a delivery without filter and redaction.
pub(crate) fn options(
    name: &str,
    spool: SpoolId,
    dead_letters: &Arc<RecordedDeadLetters>,
) -> DeliveryOptions {
    DeliveryOptions {
        name: name.into(),
        spool,
        filter: Filter::default(),
        redaction: Redaction::default(),
        dead_letters: Arc::<RecordedDeadLetters>::clone(dead_letters),
        dead_letter_place: String::new(),
        max_dead_letters_in_a_row: 100,
        lead: None,
    }
}

/// Returns the tokens that end a delivery.
pub(crate) fn shutdown() -> Shutdown {
    Shutdown {
        drain: CancellationToken::new(),
        abort: CancellationToken::new(),
    }
}

/// Waits until the progress of a delivery satisfies a condition.
pub(crate) async fn until(
    progress: &Progress,
    what: &str,
    wanted: impl Fn(&ProgressSnapshot) -> bool,
) -> ProgressSnapshot {
    let mut patience = Patience::new(what, LIMIT);
    loop {
        let snapshot = progress.snapshot();
        if wanted(&snapshot) {
            return snapshot;
        }
        patience.observe(snapshot.cursor.counts.settled());
        patience
            .check()
            .unwrap_or_else(|error| panic!("{error:#}: {snapshot:?}"));
        sleep(INTERVAL).await;
    }
}

/// Connects a sink once, closes the connection, and returns the result of the attempt.
pub(crate) async fn connect_once(sink: &mut impl Sink) -> Result<(), SinkFault> {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let context = ConnectContext {
        spool: spool().id(),
        cursor: &cursor,
        epochs: &Epochs::default(),
        steps: &ConnectSteps::default(),
    };
    let connected = within("the sink to connect", LIMIT, sink.connect(&context))
        .await
        .unwrap();
    sink.close().await;
    connected.map(|_| ())
}
