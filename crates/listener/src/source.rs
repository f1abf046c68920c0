//! A source: connects to a feed again and again.

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use neurobridge_core::{
    backoff::Backoff, clock, event::FieldPath, ledger::SourceLedger, secret::SecretSet, throttle,
    units::format_duration,
};
use neurobridge_protocol::{Problem, Protocol};
use tokio::{
    select,
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    batch::Batcher,
    config::{Endpoint, SourceConfig},
    connection::{self, Dial, Dialler, Link, Notice, Outlet, Session},
    error::{DialError, Lost, SourceError, sentence},
    received::Received,
    secrets::SecretReader,
    stats::{Label, SourceState, SourceStats},
    stored::StoredEvents,
};

/// The maximum `Retry-After` that is obeyed: a wrong value must not silence a source for days.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// An event feed, which stays connected while [`run`](Self::run) is polled.
///
/// A source needs one task; a process may run a hundred of them.
pub struct Source {
    name: Arc<str>,
    ledger: Arc<SourceLedger>,
    stats: Arc<SourceStats>,
    stored: Arc<StoredEvents>,
    setup: Setup<Dialler>,
}

/// The parts of a source that outlive its connections.
pub(crate) struct Setup<D> {
    pub(crate) dialler: D,
    pub(crate) reader: SecretReader,
    /// The sent values that must not be shown when the server repeats them.
    pub(crate) secrets: SecretSet,
    pub(crate) config: SourceConfig,
    /// The protocol at the start of a connection.
    pub(crate) protocol: Protocol,
}

impl Source {
    /// Creates a source. `ledger` counts its events and malformed frames. The positions of `fields` are located when an event
    /// is read; a later access to any other field scans the event, which takes longer.
    ///
    /// Reads the proxy variables of the environment, and reads the TLS files once to report errors in them.
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
        let setup = Setup::new(&name, config, fields)?;
        Ok(Self {
            name,
            ledger,
            stats: Arc::new(SourceStats::new()),
            stored: Arc::default(),
            setup,
        })
    }

    /// Returns the name of the source.
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns its state and counters, which are available while the source runs and after its end.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }

    /// Returns the handle by which the program reports which events are stored. A feed with acknowledgements or `resume`
    /// needs it.
    pub fn stored(&self) -> Arc<StoredEvents> {
        Arc::clone(&self.stored)
    }

    /// Connects, authenticates, and sends the batches that `batcher` makes of the events to `batches`.
    /// Reconnects whenever the connection ends, until `stop` is cancelled or the receiver of `batches` is
    /// dropped.
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
        let link = Link::new(self.name, outlet, batches, stop, self.stats, self.stored);
        run(self.setup, link).await
    }
}

impl Setup<Dialler> {
    pub(crate) fn new(name: &str, config: SourceConfig, fields: &[FieldPath]) -> Result<Self, SourceError> {
        let mistaken = |key: &str, mistake| SourceError::Config {
            name: name.to_owned(),
            key: key.to_owned(),
            mistake,
        };
        if let Some(Problem { key, message, .. }) = config.check().into_iter().next() {
            return Err(mistaken(&key.join("."), message));
        }
        let endpoint = Endpoint::parse(config.address()).map_err(|mistake| mistaken("url", mistake))?;
        let protocol = config
            .protocol(fields)
            .map_err(|problem| mistaken("feed", problem.to_string()))?;
        let proxy = config
            .proxy_choice()
            .and_then(|choice| choice.resolve(&endpoint))
            .map_err(|mistake| mistaken("proxy", mistake))?;
        let secrets = SecretSet::default();
        let dialler =
            Dialler::new(&config, endpoint, proxy, secrets.clone()).map_err(|source| SourceError::Tls {
                name: name.to_owned(),
                source,
            })?;
        Ok(Self {
            dialler,
            reader: SecretReader(config.secrets()),
            secrets,
            config,
            protocol,
        })
    }
}

/// The maximum length of the reason of a lost connection, in characters. Its causes may quote text of the
/// server.
const MAX_REASON_CHARS: usize = 1000;

impl<D> Setup<D> {
    /// Formats an error and its causes as one sentence that may be shown.
    fn shown(&self, error: &dyn std::error::Error) -> String {
        self.secrets.clean_to(&sentence(error), MAX_REASON_CHARS)
    }
}

/// Why an attempt, or the resulting connection, ended.
enum Ended {
    NotOpened(DialError),
    NotAuthorised(Lost),
    /// A connection was lost after it was authenticated for this time.
    Lost(Lost, Duration),
}

/// Runs the loop over the connections.
pub(crate) async fn run<D: Dial, O: Outlet>(setup: Setup<D>, mut link: Link<O>) -> Result<(), SourceError> {
    let bounds = &setup.config.backoff;
    let mut backoff = Backoff::new(bounds.min, bounds.max);
    let mut outage = Outage::begin();
    loop {
        let ended = attempt(&setup, &mut link).await;
        link.flush().await;
        let (state, retry_after, label, text) = match &ended {
            Ended::NotAuthorised(Lost::Stopped) | Ended::Lost(Lost::Stopped, _) => return Ok(()),
            Ended::NotOpened(error) => (
                SourceState::Waiting,
                error.retry_after(),
                error.outcome().as_str(),
                setup.shown(error),
            ),
            Ended::NotAuthorised(lost @ Lost::TokenRefused { answer, is_declared })
            | Ended::Lost(lost @ Lost::TokenRefused { answer, is_declared }, _) => {
                if setup.config.exit_on_refused_token {
                    let reason = setup.shown(lost);
                    link.stats.waiting(SourceState::Refused, reason);
                    return Err(SourceError::TokenRefused {
                        name: link.name.to_string(),
                        answer: answer.clone(),
                        is_declared: *is_declared,
                    });
                }
                (
                    SourceState::Refused,
                    None,
                    lost.reason().as_str(),
                    setup.shown(lost),
                )
            }
            Ended::NotAuthorised(lost) | Ended::Lost(lost, _) => (
                SourceState::Waiting,
                None,
                lost.reason().as_str(),
                setup.shown(lost),
            ),
        };
        if let Ended::Lost(_, authorised_for) = ended
            && authorised_for >= bounds.stable_after
        {
            backoff.reset();
        }
        let delay = retry_delay(&mut backoff, retry_after);
        if matches!(ended, Ended::Lost(..)) {
            outage = Outage::begin();
        }
        outage.attempts += 1;
        let until = Instant::now() + delay;
        // The loss of an authenticated connection is a change of state, which is always logged; failed attempts
        // are throttled.
        if link.throttle.allow(label).is_some() || matches!(ended, Ended::Lost(..)) {
            outage.log(&link.name, label, &text, until);
        }
        link.stats.waiting(state, text.clone());
        loop {
            select! {
                biased;
                () = link.stop.cancelled() => return Ok(()),
                () = link.items.closed() => return Ok(()),
                () = sleep_until(until) => break,
                // Repeats the line, because the server may request a delay of more than a minute.
                () = sleep(throttle::INTERVAL) => outage.log(&link.name, label, &text, until),
            }
        }
    }
}

/// Returns the delay before the next attempt, which is not shorter than the server's `Retry-After`.
fn retry_delay(backoff: &mut Backoff, retry_after: Option<Duration>) -> Duration {
    // The sum, not the maximum: with the maximum, all clients that a server rejected would reconnect at the same
    // moment.
    backoff.next_delay() + retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
}

/// The time since the last authenticated connection, or since the start of the source.
struct Outage {
    since: Instant,
    attempts: u64,
}

impl Outage {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            attempts: 0,
        }
    }

    /// Logs that the source is not connected; after the first line with the duration of the outage.
    fn log(&self, source: &str, reason: &str, text: &str, until: Instant) {
        let elapsed = Duration::from_secs(self.since.elapsed().as_secs());
        let lasted = (!elapsed.is_zero()).then(|| format_duration(elapsed));
        warn!(
            source,
            reason,
            lasted,
            attempts = self.attempts,
            "not connected: {text}; retrying in {}",
            format_duration(until.saturating_duration_since(Instant::now()))
        );
    }
}

/// Runs one connection from the first step to the last.
async fn attempt<D: Dial, O: Outlet>(setup: &Setup<D>, link: &mut Link<O>) -> Ended {
    let stop = link.stop.clone();
    link.stats.dialling();
    let opened = stop
        .run_until_cancelled(async {
            let secrets = setup.reader.read().await?;
            for secret in secrets.values() {
                setup.secrets.add(secret.expose());
            }
            let request = setup.protocol.request(&secrets, link.stored.resume().as_deref());
            Ok((secrets, setup.dialler.dial(&request).await?))
        })
        .await;
    let (secrets, dialled) = match opened {
        None => return Ended::NotAuthorised(Lost::Stopped),
        Some(Err(error)) => {
            let error: DialError = error;
            link.stats.attempt_failed(error.outcome());
            return Ended::NotOpened(error);
        }
        Some(Ok(opened)) => opened,
    };
    if let Some(ahead) = dialled.clock_skew_seconds {
        clock::compare_with_server(SignedDuration::try_from_secs_f64(ahead).unwrap_or(SignedDuration::MAX));
    }
    link.stats.authorising(dialled.clock_skew_seconds);
    let mut session = Session::new(
        dialled.socket,
        setup.protocol.clone(),
        setup.secrets.clone(),
        setup.config.max_frame_size,
    );
    link.outlet.begin(link.stored.begin());
    let authorised = connection::authorise(&mut session, link, secrets).await;
    let mut ended = match authorised {
        Err(lost) => {
            if !matches!(lost, Lost::Stopped) {
                link.stats.attempt_failed(lost.outcome());
            }
            Ended::NotAuthorised(lost)
        }
        Ok(()) => {
            // Not throttled, like every change of state: the backoff limits the number of connections.
            match link.stats.authorised() {
                None => info!(source = %link.name, "authorised"),
                Some(gap) => info!(
                    source = %link.name,
                    gap = format_duration(gap),
                    "authorised again; events of the gap are missed"
                ),
            }
            let since = Instant::now();
            session.heartbeat.start(since);
            let lost = connection::receive(&mut session, link).await;
            Ended::Lost(lost, since.elapsed())
        }
    };
    let was_authorised = matches!(ended, Ended::Lost(..));
    if let Ended::NotAuthorised(lost) | Ended::Lost(lost, _) = &mut ended {
        let mut last_read = session.socket.last_read();
        // Before the end is counted, because events that are read meanwhile belong to this connection.
        let is_all_read = connection::close(&mut session, link, lost).await;
        if is_all_read {
            last_read = session.socket.last_read();
        }
        drop(session);
        if !is_all_read {
            link.stats.disconnected_unread();
        }
        if !is_all_read && lost.is_unreadable_frame() {
            let source = Box::new(std::mem::replace(lost, Lost::Stopped));
            *lost = Lost::Unread { source };
        }
        link.stats
            .disconnected(lost.reason(), was_authorised.then_some(last_read));
        let sentence = setup.shown(lost);
        link.outlet.notice(Notice::Disconnected {
            reason: lost.reason(),
            sentence: &sentence,
        });
    }
    ended
}

/// Counts events and malformed frames as received when their batch is sent or has to wait.
struct Counted<B> {
    batcher: B,
    /// The number of events and malformed frames in the batcher.
    items: usize,
    /// The number of them that are counted as received.
    counted: usize,
    ledger: Arc<SourceLedger>,
}

impl<B: Batcher> Outlet for Counted<B> {
    type Item = B::Batch;

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
