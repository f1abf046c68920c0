//! The `EventListener`: passes the messages of NeuroIO's feed as types to a handler or a stream.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use neurobridge_core::secret::Secret;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    config::SourceConfig,
    connection::{Notice, Outlet, SourceLink},
    connections,
    error::SourceError,
    event::{self, Message, PlatformError},
    handle::{Handle, Live, Provider, TokenRequest},
    received::Received,
    source::Setup,
    stats::SourceStats,
};

/// The capacity of the channel between the connection and the handler, in batches. While the channel is full, the socket
/// is not read.
const BATCHES: usize = 16;

/// Listens to a NeuroIO event feed: connects, authenticates, sends pings, and reconnects whenever the
/// connection ends.
///
/// Requires a Tokio runtime with time and I/O enabled.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::TryStreamExt;
/// use neurobridge_listener::{EventListener, Message};
///
/// let mut messages = EventListener::new("my token").stream()?;
/// while let Some(message) = messages.try_next().await? {
///     if let Message::Event(event) = message {
///         println!("{:?}", event.face_image());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a listener does nothing until it is run, or its stream is taken"]
pub struct EventListener {
    config: SourceConfig,
    live: Live,
}

/// Why [`EventListener::run`] ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError<E> {
    /// The listener could not be started, or has stopped.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The handler failed.
    #[error("the handler failed")]
    Handler(#[source] E),
}

impl EventListener {
    /// Creates a listener for `wss://events.neuroio.com` with an API token.
    pub fn new(token: impl Into<Secret>) -> Self {
        Self::from_config(SourceConfig {
            token: Some(token.into()),
            ..SourceConfig::default()
        })
    }

    /// Creates a listener for `wss://events.neuroio.com` that requests its token from `provider` before each connection.
    ///
    /// The provider receives whether the platform refused the last token, and may return the same token as before. A failed
    /// provider counts as a failed connection attempt: it is called again with growing delay. Its future is dropped after 30
    /// seconds, when the listener stops, and when [`Handle::set_token`] sets a token in its place.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::TryStreamExt;
    /// use neurobridge_listener::EventListener;
    ///
    /// let listener = EventListener::with_token_provider(|_request| async {
    ///     let token = std::fs::read_to_string("/run/secrets/neuroio_token")?;
    ///     Ok::<_, std::io::Error>(token.trim_end().into())
    /// });
    /// # let _ = listener.stream()?.try_next().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_token_provider<F, R, E>(provider: F) -> Self
    where
        F: Fn(TokenRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self {
            config: SourceConfig::default(),
            live: Live::with_provider(Provider::new(provider)),
        }
    }

    /// Creates a listener from a configuration.
    pub fn from_config(config: SourceConfig) -> Self {
        Self {
            config,
            live: Live::default(),
        }
    }

    /// Returns the handle by which the token and the address are changed while the listener runs. Clones of a listener
    /// share the handle.
    pub fn handle(&self) -> Handle {
        self.live.handle()
    }

    /// Sets the address of the feed.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.config.url = Some(url.into());
        self
    }

    /// Sets the time limit for opening a connection; 4 seconds by default.
    pub const fn open_timeout(mut self, timeout: Duration) -> Self {
        self.config.open_timeout = timeout;
        self
    }

    /// Ends the listener with [`SourceError::TokenRefused`] when the platform refuses the token, instead of
    /// retrying.
    pub const fn exit_on_refused_token(mut self) -> Self {
        self.config.exit_on_refused_token = true;
        self
    }

    /// Calls `handler` with each message, sequentially, until `stop` is cancelled or the handler fails.
    ///
    /// Pings continue while the handler works; if it is slower than the feed, the socket is not read. An
    /// error of the handler ends the listener, because only the caller can decide whether to continue; return
    /// `Ok` to continue. After a stop nothing more is read, but messages that were already read are passed to
    /// the handler, because the feed does not send them again. To stop immediately, drop the future.
    ///
    /// # Errors
    /// The configuration is invalid, the token is refused (see [`EventListener::exit_on_refused_token`]), or
    /// the handler failed.
    pub async fn run<H, F, E>(self, stop: CancellationToken, mut handler: H) -> Result<(), ListenError<E>>
    where
        H: FnMut(Message) -> F,
        F: Future<Output = Result<(), E>>,
    {
        let mut messages = self.stream_until(stop)?;
        while let Some(message) = messages.next().await {
            handler(message?).await.map_err(ListenError::Handler)?;
        }
        Ok(())
    }

    /// Returns the messages as a stream, which ends only with an error.
    ///
    /// A separate task holds the connection, so that pings continue while the stream is not polled. Dropping
    /// the stream closes the connection.
    ///
    /// # Errors
    /// The configuration is invalid.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn stream(self) -> Result<EventStream, SourceError> {
        self.stream_until(CancellationToken::new())
    }

    /// As [`EventListener::stream`]. After `stop` is cancelled, the stream ends after the messages that were
    /// already read.
    ///
    /// # Errors
    /// The configuration is invalid.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn stream_until(self, stop: CancellationToken) -> Result<EventStream, SourceError> {
        let name: Arc<str> = "neuroio".into();
        if self.config.feed.is_some() {
            return Err(SourceError::Config {
                name: name.to_string(),
                key: "feed".to_owned(),
                message:
                    "found a declared feed, expected none: an EventListener reads only NeuroIO's feed; use a Source \
                     for a declared feed"
                        .to_owned(),
            });
        }
        let setup = Setup::new(&name, self.config, &event::projected_fields(), self.live)?;
        let (items, batches) = mpsc::channel(BATCHES);
        let stats = Arc::new(SourceStats::new());
        // A child token: dropping the stream must not cancel the caller's token.
        let stop = stop.child_token();
        let link = SourceLink::new(
            name,
            MessageOutlet::default(),
            items,
            stop.clone(),
            Arc::clone(&stats),
            Arc::default(),
        );
        Ok(EventStream {
            batches,
            batch: Vec::new().into_iter(),
            task: Some(tokio::spawn(connections::run(setup, link))),
            stats,
            _stop: stop.drop_guard(),
        })
    }
}

/// The messages of an [`EventListener`]. Ends after an error.
#[must_use = "streams do nothing unless polled"]
pub struct EventStream {
    batches: mpsc::Receiver<Vec<Message>>,
    batch: std::vec::IntoIter<Message>,
    /// The task that holds the connection; `None` after its end was reported.
    task: Option<JoinHandle<Result<(), SourceError>>>,
    stats: Arc<SourceStats>,
    _stop: DropGuard,
}

impl EventStream {
    /// Returns the state and the counters of the connection.
    pub fn stats(&self) -> Arc<SourceStats> {
        Arc::clone(&self.stats)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl Stream for EventStream {
    type Item = Result<Message, SourceError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(message) = self.batch.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            if let Some(batch) = ready!(self.batches.poll_recv(cx)) {
                self.batch = batch.into_iter();
                continue;
            }
            let Some(task) = &mut self.task else {
                return Poll::Ready(None);
            };
            let ended = ready!(Pin::new(task).poll(cx));
            self.task = None;
            return Poll::Ready(match ended {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Err(error)),
                Err(error) => match error.try_into_panic() {
                    // A panic must not look like the end of the events.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down.
                    Err(_) => None,
                },
            });
        }
    }
}

/// Collects the messages of one wake-up of the socket.
#[derive(Default)]
struct MessageOutlet {
    messages: Vec<Message>,
}

impl Outlet for MessageOutlet {
    type Item = Vec<Message>;

    fn for_connection(&self) -> Self {
        Self::default()
    }

    fn begin(&mut self, _: u64) {}

    fn push(&mut self, received: Received<'_>) {
        self.messages.push(Message::new(received));
    }

    fn notice(&mut self, notice: Notice<'_>) {
        self.messages.push(match notice {
            Notice::Connected => Message::Connected,
            Notice::Authenticated => Message::Authenticated,
            Notice::Pong { round_trip } => Message::Pong { rtt: round_trip },
            Notice::Error(text) => Message::Error(PlatformError {
                text: text.to_owned(),
            }),
            Notice::Disconnected { reason, sentence } => Message::Disconnected {
                reason,
                sentence: sentence.to_owned(),
            },
        });
    }

    fn len(&self) -> usize {
        self.messages.len()
    }

    fn count_waiting(&mut self) {}

    fn take(&mut self, _: Timestamp) -> Option<Vec<Message>> {
        (!self.messages.is_empty()).then(|| std::mem::take(&mut self.messages))
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
