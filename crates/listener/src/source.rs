//! The `Source`: stays connected to an event feed, and sends its events in batches through a channel.

use std::{sync::Arc, time::Duration};

use neurobridge_core::{event::FieldPath, ledger::SourceLedger, secret::SecretSet};
use neurobridge_protocol::{DeclarationError, Protocol};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    batch::Batcher,
    config::SourceConfig,
    connection::{Dialler, Notice, Outlet, SourceLink},
    connections,
    endpoint::Endpoint,
    error::SourceError,
    handle::{Handle, Live},
    hold::{GapEnded, Hold},
    received::Received,
    secrets::SecretReader,
    stats::SourceStats,
    stored::StoredPosition,
};

/// An event feed, which stays connected while [`run`](Self::run) is polled.
///
/// A source needs one task; a process may run a hundred of them.
pub struct Source {
    name: Arc<str>,
    ledger: Arc<SourceLedger>,
    stats: Arc<SourceStats>,
    stored: Arc<StoredPosition>,
    hold: Arc<Hold>,
    replacement: Replacement,
    may_connect: Option<watch::Receiver<bool>>,
    read_interval: Option<watch::Receiver<Duration>>,
    setup: Setup<Dialler>,
}

/// The signals between a source and the program that replaces it by another one.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Replacement {
    /// Cancelled by the source once one of its connections is authenticated for the first time.
    pub authenticated: CancellationToken,
    /// Cancelled by the program before it stops a source that another one has replaced, so that the connections of the stopped
    /// source are counted as replaced.
    pub replaced: CancellationToken,
}

/// The settings of a source, which all of its connections use.
pub(crate) struct Setup<D> {
    pub(crate) dialler: D,
    pub(crate) reader: SecretReader,
    /// The sent values that must not be shown when the server repeats them.
    pub(crate) secrets: SecretSet,
    pub(crate) config: SourceConfig,
    /// The protocol, in the state at the start of a connection.
    pub(crate) protocol: Protocol,
}

impl Source {
    /// Creates a source. `ledger` counts its events and malformed frames. The positions of `fields` are located when an event
    /// is read; a later access to any other field scans the event, which takes longer.
    ///
    /// Reads the proxy variables of the environment, and the TLS files, so that errors in them are reported at the start.
    ///
    /// # Errors
    /// The configuration is invalid, or TLS cannot be set up with it.
    pub fn new(
        name: impl Into<Arc<str>>,
        config: SourceConfig,
        ledger: Arc<SourceLedger>,
        fields: &[FieldPath],
    ) -> Result<Self, SourceError> {
        let name = name.into();
        let setup = Setup::new(&name, config, fields, Live::default())?;
        Ok(Self {
            name,
            ledger,
            stats: Arc::new(SourceStats::new()),
            stored: Arc::default(),
            hold: Arc::default(),
            replacement: Replacement::default(),
            may_connect: None,
            read_interval: None,
            setup,
        })
    }

    /// Returns the name of the source.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the state and the counters of the source, which are available while it runs and after its end.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }

    /// Returns the handle by which the token and the address are changed while the source runs.
    pub fn handle(&self) -> Handle {
        self.setup.reader.live.handle()
    }

    /// Returns the handle by which the program reports which events are stored. A feed with acknowledgements or `resume`
    /// needs it.
    pub fn stored(&self) -> Arc<StoredPosition> {
        Arc::clone(&self.stored)
    }

    /// Counts events in this ledger instead of that of [`new`](Self::new), and continues after the last one of these
    /// stored events.
    #[must_use]
    pub fn continuing(mut self, ledger: Arc<SourceLedger>, stored: Arc<StoredPosition>) -> Self {
        self.ledger = ledger;
        self.stored = stored;
        self
    }

    /// Returns a receiver of the authentications after which events may be missing: the first one, and each after a time without
    /// a connection. If the earlier connections were dead and this was not detected yet, the report is sent
    /// at the detection. An authentication after which the feed continues after the last stored event is not
    /// reported.
    ///
    /// The events that the feed sends from then on wait until the report is dropped, for `limit` at most: the socket is not
    /// read. While a report waits in the channel, no further report is sent, and no events wait. Only the first call has an
    /// effect.
    pub fn on_gap_end(&self, limit: Duration) -> mpsc::Receiver<GapEnded> {
        let (sender, ends) = mpsc::channel(1);
        self.hold.observe(sender, limit);
        ends
    }

    /// Continues the state and the counters of the source that this one replaces. While a connection of either source is
    /// authenticated, there is no gap.
    #[must_use]
    pub fn replacing(mut self, stats: Arc<SourceStats>) -> Self {
        self.stats = stats;
        self
    }

    /// Connects only while the value is true. When it becomes false, the source closes its connections as at a stop, and is in
    /// the state [`SourceState::Standby`](crate::SourceState::Standby) when they are closed.
    ///
    /// Call this method before [`replacing`](Self::replacing), so that it does not change the state of the replaced source.
    #[must_use]
    pub fn connecting_while(mut self, may_connect: watch::Receiver<bool>) -> Self {
        if !*may_connect.borrow() {
            self.stats.stand_by();
        }
        self.may_connect = Some(may_connect);
        self
    }

    /// Reads the sockets at this interval while it is longer than the configured
    /// [`read_interval`](crate::SourceConfig::read_interval). Either interval is shortened if more than 32 KiB would wait.
    #[must_use]
    pub fn reading_every(mut self, interval: watch::Receiver<Duration>) -> Self {
        self.read_interval = Some(interval);
        self
    }

    /// Returns the signals for the replacement of a source before its connections are closed.
    pub fn replacement(&self) -> Replacement {
        self.replacement.clone()
    }

    /// Connects, authenticates, and sends the batches that `batcher` makes of the events to `batches`; a further connection
    /// has a batcher of its own ([`Batcher::for_connection`]). Reconnects whenever the connection ends,
    /// until `stop` is cancelled or the receiver of `batches` is dropped.
    ///
    /// While `batches` is full, the socket is not read. A batch is counted as received in the ledger just
    /// before it is sent, without an await in between: when this future ends, all frames counted as received
    /// are in the channel, unless its receiver was dropped. Frames that arrive before the answer to AUTH may
    /// have to wait for room: they are counted when they are read, and are lost if this future is dropped
    /// meanwhile.
    ///
    /// After a stop an authenticated source sends its close frame and reads the frames that the server sent
    /// before its own, for at most one second; in any other state it ends at once. If frames wait for room,
    /// it ends when they are in the channel. A running name look-up continues in a thread of the runtime:
    /// shut the runtime down with a time limit.
    ///
    /// Runs in the tracing span `source`, which has the name of the source, and each connection in a span `connection`
    /// with its number. Both have the level `debug`.
    ///
    /// # Errors
    /// [`SourceError::TokenRefused`], with `exit_on_refused_token` only.
    pub async fn run<B: Batcher>(
        self,
        batcher: B,
        batches: mpsc::Sender<B::Batch>,
        stop: CancellationToken,
    ) -> Result<(), SourceError> {
        let outlet = Counted {
            batcher,
            items: 0,
            counted: 0,
            ledger: self.ledger,
        };
        let mut link = SourceLink::new(self.name, outlet, batches, stop, self.stats, self.stored);
        link.hold = self.hold;
        link.replacement = self.replacement;
        link.may_connect = self.may_connect;
        link.read_interval = (self.setup.config.read_interval, self.read_interval);
        connections::run(self.setup, link).await
    }
}

impl Setup<Dialler> {
    pub(crate) fn new(
        name: &str,
        config: SourceConfig,
        fields: &[FieldPath],
        live: Live,
    ) -> Result<Self, SourceError> {
        let config_error = |key: &str, message| SourceError::Config {
            name: name.to_owned(),
            key: key.to_owned(),
            message,
        };
        if let Some(DeclarationError { key, message, .. }) =
            config.check_with(live.has_provider()).into_iter().next()
        {
            return Err(config_error(&key.join("."), message));
        }
        let endpoint = Endpoint::parse(config.address()).map_err(|message| config_error("url", message))?;
        let protocol = config
            .protocol(fields)
            .map_err(|error| config_error("feed", error.to_string()))?;
        let proxy = config
            .proxy_choice()
            .and_then(|choice| choice.resolve(&endpoint))
            .map_err(|message| config_error("proxy", message))?;
        let secrets = SecretSet::default();
        let dialler =
            Dialler::new(&config, endpoint, proxy, secrets.clone()).map_err(|source| SourceError::Tls {
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            dialler,
            reader: SecretReader {
                sources: config.secrets(),
                live,
            },
            secrets,
            config,
            protocol,
        })
    }
}

/// Counts events and malformed frames in the ledger as received, when their batch is sent or has to wait.
struct Counted<B> {
    batcher: B,
    /// The number of events and malformed frames in the batcher.
    items: usize,
    /// The number of these `items` that the ledger has already counted as received.
    counted: usize,
    ledger: Arc<SourceLedger>,
}

impl<B: Batcher> Outlet for Counted<B> {
    type Item = B::Batch;

    fn for_connection(&self) -> Self {
        Self {
            batcher: self.batcher.for_connection(),
            items: 0,
            counted: 0,
            ledger: Arc::clone(&self.ledger),
        }
    }

    fn begin(&mut self, connection: u64) {
        self.batcher.begin(connection);
    }

    fn push(&mut self, received: Received<'_>) {
        self.batcher.push(received);
        self.items += 1;
    }

    fn notice(&mut self, _: Notice<'_>) {}

    fn len(&self) -> usize {
        self.items
    }

    fn count_waiting(&mut self) {
        self.ledger.receive((self.items - self.counted) as u64);
        self.counted = self.items;
    }

    fn take(&mut self, received_at: jiff::Timestamp) -> Option<B::Batch> {
        if self.items == 0 {
            return None;
        }
        self.count_waiting();
        (self.items, self.counted) = (0, 0);
        Some(self.batcher.take(received_at))
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
