//! The `Handle`: changes the token and the address of a feed while a source runs.

use std::{error::Error, fmt, pin::Pin, sync::Arc, time::Duration};

use neurobridge_core::secret::Secret;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::endpoint::Endpoint;

/// The time limit of a token provider. Longer than two requests to a slow interface; a provider that hangs must not silence
/// a source.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Changes the token and the address of a running [`Source`](crate::Source) or [`EventListener`](crate::EventListener).
///
/// A change opens a connection with the new token or address, and closes the old connection when the new one is
/// authenticated, so that no event is missed in between. While the new token is refused, or the new address cannot be
/// reached, an old connection stays open and is read. A change before the start applies to the first connection; of several
/// changes in quick succession the last one applies. Clones change the same listener. All methods may be called from any
/// task; none of them waits for the network.
///
/// ```no_run
/// # async fn new_token() -> String { String::new() }
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use neurobridge_listener::{EventListener, Message, TokenState};
///
/// let listener = EventListener::new("first token");
/// let handle = listener.handle();
/// tokio::spawn(async move {
///     handle.set_token(new_token().await);
///     // The first token may be deleted when no connection uses it any more.
///     handle.token_state_is(|state| state == TokenState::InUse).await;
/// });
/// listener.run(Default::default(), async |message| {
///     if let Message::Event(event) = message {
///         println!("event {}", event.id().unwrap_or_default());
///     }
///     Ok::<_, std::convert::Infallible>(())
/// }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    live: Live,
}

/// Whether the feed accepted the current token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenState {
    /// No connection has authenticated with the token yet, or another connection still uses an older one.
    #[default]
    Waiting,
    /// Every authenticated connection uses the token.
    InUse,
    /// The feed refused the token. Connecting is retried with growing delay, until the token is accepted or another one is set.
    Refused,
}

/// The circumstances under which a token provider is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRequest {
    /// Whether the feed refused the last token, so that it would probably refuse the same token again.
    pub is_refused: bool,
}

type ProvidedToken = Pin<Box<dyn Future<Output = Result<Secret, Box<dyn Error + Send + Sync>>> + Send>>;

/// A function of the program that provides a token for each connection.
#[derive(Clone)]
pub(crate) struct Provider(Arc<dyn Fn(TokenRequest) -> ProvidedToken + Send + Sync>);

/// Why a token provider returned no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error("the token provider failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    #[error("the token provider returned no token within {} s", PROVIDER_TIMEOUT.as_secs())]
    Timeout,
}

impl Provider {
    pub(crate) fn new<F, R, E>(provider: F) -> Self
    where
        F: Fn(TokenRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Secret, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(Arc::new(move |request| {
            let token = provider(request);
            Box::pin(async move { token.await.map_err(Into::into) })
        }))
    }

    async fn token(&self, request: TokenRequest) -> Result<Secret, ProviderError> {
        timeout(PROVIDER_TIMEOUT, (self.0)(request))
            .await
            .map_err(|_| ProviderError::Timeout)?
            .map_err(ProviderError::Failed)
    }
}

/// The settings that may change while a source runs, and the state of its token.
#[derive(Clone, Default)]
pub(crate) struct Live {
    settings: watch::Sender<Settings>,
    /// The version of a token, and the state of this token.
    state: watch::Sender<(u64, TokenState)>,
    provider: Option<Provider>,
}

#[derive(Clone, Default)]
struct Settings {
    /// Increases with each token.
    version: u64,
    token: Option<Secret>,
    expires: Option<Instant>,
    endpoint: Option<Arc<Endpoint>>,
}

impl Live {
    pub(crate) fn with_provider(provider: Provider) -> Self {
        Self {
            provider: Some(provider),
            ..Self::default()
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { live: self.clone() }
    }

    pub(crate) const fn has_provider(&self) -> bool {
        self.provider.is_some()
    }

    /// Subscribes to changes of the token and the address.
    pub(crate) fn changes(&self) -> LiveChanges {
        LiveChanges(self.settings.subscribe())
    }

    /// Returns the address that replaces the configured one; `None` if none was set.
    pub(crate) fn endpoint(&self) -> Option<Arc<Endpoint>> {
        self.settings.borrow().endpoint.clone()
    }

    /// Returns the version of the current token; 0 before one was set.
    pub(crate) fn version(&self) -> u64 {
        self.settings.borrow().version
    }

    /// Returns the time at which the current token expires, if it is known.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.settings.borrow().expires
    }

    /// Returns the token that was set, otherwise that of the provider; `None` without both.
    pub(crate) async fn token(&self) -> Result<Option<Secret>, ProviderError> {
        let set = self.settings.borrow().token.clone();
        match (set, &self.provider) {
            (None, Some(provider)) => {
                let is_refused = self.handle().token_state() == TokenState::Refused;
                provider.token(TokenRequest { is_refused }).await.map(Some)
            }
            (set, _) => Ok(set),
        }
    }

    /// Returns whether a token was set.
    pub(crate) fn has_set_token(&self) -> bool {
        self.settings.borrow().token.is_some()
    }

    /// Waits until a token was set. Cancel-safe.
    pub(crate) async fn token_was_set(&self) {
        let mut settings = self.settings.subscribe();
        // The sender lives as long as `self`.
        let _ = settings.wait_for(|settings| settings.token.is_some()).await;
    }

    /// Records the state of the token with this version, if it is still the current token.
    pub(crate) fn note(&self, version: u64, state: TokenState) {
        self.state.send_if_modified(|current| {
            let is_new = current.0 == version && current.1 != state;
            if is_new {
                current.1 = state;
            }
            is_new
        });
    }
}

/// The changes of the token and the address.
pub(crate) struct LiveChanges(watch::Receiver<Settings>);

impl LiveChanges {
    /// Waits for a change. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Handle {
    /// Sets the token for all connections from now on, in place of the configured one and of a token provider. The same
    /// token again also replaces the connections.
    pub fn set_token(&self, token: impl Into<Secret>) {
        self.set(token.into(), None);
    }

    /// As [`set_token`](Self::set_token), for a token that expires at a known time. A connection with an expired token may
    /// receive no further events although it stays open, so the time from the expiry to the next event counts as a gap.
    pub fn set_expiring_token(&self, token: impl Into<Secret>, expires: Instant) {
        self.set(token.into(), Some(expires));
    }

    fn set(&self, token: Secret, expires: Option<Instant>) {
        self.live.settings.send_modify(|settings| {
            settings.version += 1;
            settings.token = Some(token);
            settings.expires = expires;
            // Within the lock of the settings, so that the state always belongs to the newest version.
            self.live
                .state
                .send_replace((settings.version, TokenState::Waiting));
        });
    }

    /// Sets the address of the feed, `wss://host[:port][/path]`, or `ws://` without TLS. The proxy, certificates and time
    /// limits of the configuration apply to it.
    ///
    /// # Errors
    /// The address is invalid; then nothing changes.
    pub fn set_url(&self, url: &str) -> Result<(), InvalidUrl> {
        let endpoint = Arc::new(Endpoint::parse(url).map_err(InvalidUrl)?);
        self.live
            .settings
            .send_modify(|settings| settings.endpoint = Some(endpoint));
        Ok(())
    }

    /// Returns whether the feed accepted the current token.
    pub fn token_state(&self) -> TokenState {
        self.live.state.borrow().1
    }

    /// Waits until the state of the current token is one for which `is_expected` returns true, and returns that state.
    /// Never returns if no such state is reached, for example because the listener has ended. Cancel-safe.
    pub async fn token_state_is(&self, is_expected: impl Fn(TokenState) -> bool) -> TokenState {
        let mut states = self.live.state.subscribe();
        let reached = states.wait_for(|(_, state)| is_expected(*state)).await;
        let reached = reached.ok().map(|state| state.1);
        match reached {
            Some(state) => state,
            // The sender lives as long as `self`.
            None => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("token_state", &self.token_state())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle().fmt(f)
    }
}

/// Why an address cannot be used: what was found, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("url: {0}")]
pub struct InvalidUrl(String);

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
