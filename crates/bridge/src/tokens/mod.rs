//! Creates the tokens of a source from a long-lived credential, and renews them: `[sources.NAME.token_from]`.

mod shown;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::anyhow;
use data_encoding::HEXLOWER;
use neurobridge_core::{
    backoff::Backoff,
    labels::Label,
    secret::{self, Secret},
    units::format_duration,
};
use neurobridge_listener::{Handle, SourceConfig, TokenFromConfig, TokenState};
use neurobridge_platform::{
    Client, CreatedToken, Iam, Now, Renewal, RequestError, Scope, Step, TokenFile, TokenFileError, sentence,
};
use sha2::{Digest, Sha256};
use tokio::{
    select,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

pub(crate) use self::shown::{Outcome, Shown, Tokens};
use crate::{
    exit::{Exit, Failure},
    task::joined,
};

/// The time for which a stop waits for the answer to a request: if the answer is lost, the created token stays valid, unused.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// The longest wait between two readings of the clocks, which jump when the machine is suspended.
const CLOCK_INTERVAL: Duration = Duration::from_secs(60);
/// The delays between attempts to read the credential at the start.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Creates and renews the tokens of a source, from its start on.
pub(crate) struct TokenProvider {
    source: Arc<str>,
    settings: TokenFromConfig,
    iam: Iam,
    folder: Arc<Path>,
    tokens: Arc<Tokens>,
}

/// The running renewal of a source's tokens. It stops immediately on drop.
pub(crate) struct Running {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Running {
    /// Stops. Waits for the answer to a request that was sent, for at most two seconds.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Ok(ended) = timeout(STOP_LIMIT, self.task).await {
            joined(ended);
        }
    }
}

/// Creates a client of the IAM interface of a source. Reads the certificates without blocking the runtime.
///
/// # Errors
/// Returns the key of the source that is invalid, and a sentence about the error.
pub(crate) async fn client(
    source: &SourceConfig,
    settings: &TokenFromConfig,
) -> Result<Iam, (&'static str, String)> {
    let (source, url) = (source.clone(), settings.url.clone());
    let made = spawn_blocking(move || Client::new(&source, &url));
    joined(made.await).map(Iam::new)
}

/// Reads the credential.
///
/// # Errors
/// Returns an error if the file of the credential cannot be read.
pub(crate) async fn credential(settings: &TokenFromConfig) -> Result<Secret, RequestError> {
    let (value, file) = (settings.credential.clone(), settings.credential_file.clone());
    let read = spawn_blocking(move || secret::resolve("credential", value.as_ref(), file.as_deref()));
    let credential = joined(read.await).map_err(RequestError::Token)?;
    Ok(credential.unwrap_or_else(|| Secret::new("")))
}

impl TokenProvider {
    /// Prepares the tokens of a source; `None` if it has no `token_from`.
    ///
    /// # Errors
    /// Returns an error if the certificates cannot be read.
    pub(crate) async fn new(
        name: &str,
        source: &SourceConfig,
        data_dir: &Path,
    ) -> Result<Option<Self>, Failure> {
        let Some(settings) = source.token_from.clone() else {
            return Ok(None);
        };
        let iam = client(source, &settings)
            .await
            .map_err(|(key, error)| Failure::new(Exit::Config, anyhow!("sources.{name}.{key}: {error}")))?;
        Ok(Some(Self {
            source: name.into(),
            settings,
            iam,
            folder: data_dir.into(),
            tokens: Arc::default(),
        }))
    }

    /// Returns the observable state of the tokens.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens)
    }

    /// Starts a task that sets the tokens of a source.
    pub(crate) fn start(self, handle: Handle) -> Running {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let Some(Some(credential)) = stopped.run_until_cancelled(self.first_credential()).await else {
                return;
            };
            let mut renewing = Renewing::begin(self, handle, &credential).await;
            while !stopped.is_cancelled() {
                renewing.step(&stopped).await;
            }
        });
        Running {
            stop,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// Reads the credential, and retries until it can be read.
    async fn first_credential(&self) -> Option<Secret> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match credential(&self.settings).await {
                Ok(credential) => return Some(credential),
                Err(error) => {
                    let delay = backoff.next_delay();
                    self.failed("no token created", &error, delay);
                    sleep(delay).await;
                }
            }
        }
    }

    fn failed(&self, what: &str, error: &RequestError, delay: Duration) {
        let (outcome, text) = (Outcome::of(error), sentence(error));
        self.tokens.count(outcome);
        self.tokens.set_problem(Some(format!("{what}: {text}")));
        warn!(
            source = &*self.source,
            reason = outcome.as_str(),
            "{what}: {text}; retrying in {}",
            format_duration(delay)
        );
    }

    fn file_failed(&self, error: &TokenFileError) {
        self.tokens.count_file_error();
        warn!(source = &*self.source, "{}", sentence(error));
    }

    /// Returns the file of the tokens, with the credential in its scope: another credential may be that of another account, whose
    /// tokens must not be used.
    fn file(&self, credential: &Secret) -> TokenFile {
        let digest = Sha256::digest(credential.expose().as_bytes());
        let space = self
            .settings
            .space
            .map_or_else(String::new, |space| space.to_string());
        let scope = format!(
            "{} space={space} credential={}",
            self.settings.url,
            HEXLOWER.encode(&digest[..8])
        );
        TokenFile::new(self.folder.join(format!("{}.token", self.source)), scope)
    }
}

/// The tokens of a running source.
struct Renewing {
    provider: TokenProvider,
    file: TokenFile,
    renewal: Renewal,
    handle: Handle,
    /// The id of the token that was set.
    set: Option<u64>,
    /// The state of that token, as far as the renewal knows.
    state: TokenState,
}

impl Renewing {
    /// Continues with the stored token, if there is one.
    async fn begin(provider: TokenProvider, handle: Handle, credential: &Secret) -> Self {
        let file = provider.file(credential);
        let reader = file.clone();
        let stored = joined(spawn_blocking(move || reader.read()).await).unwrap_or_else(|error| {
            provider.file_failed(&error);
            None
        });
        let mut renewing = Self {
            renewal: Renewal::new(stored, Now::read()),
            provider,
            file,
            handle,
            set: None,
            state: TokenState::Waiting,
        };
        renewing.apply();
        renewing
    }

    /// Performs the next action, or waits for it.
    async fn step(&mut self, stop: &CancellationToken) {
        let now = Now::read();
        let step = self.renewal.step(now);
        self.publish(now);
        match step {
            Step::Create => self.create().await,
            Step::Delete(id) => self.delete(id).await,
            Step::Wait(time) => {
                let known = self.state;
                select! {
                    biased;
                    () = stop.cancelled() => {}
                    state = self.handle.token_state_is(|state| state != known) => self.note(state),
                    () = sleep(time.min(CLOCK_INTERVAL)) => {}
                }
            }
        }
    }

    /// Passes a change of the state of the token to the renewal.
    fn note(&mut self, state: TokenState) {
        self.state = state;
        match state {
            TokenState::InUse => self.renewal.used(),
            TokenState::Refused => {
                warn!(
                    source = &*self.provider.source,
                    "the feed refused the created token; creating another one"
                );
                self.renewal.refused(Now::read());
            }
            _ => {}
        }
    }

    async fn create(&mut self) {
        let settings = &self.provider.settings;
        let scope = settings.space.map_or(Scope::Own, Scope::Space);
        let created = match credential(settings).await {
            Ok(credential) => self.provider.iam.create_token(&credential, scope, false).await,
            Err(error) => Err(error),
        };
        match created {
            Ok(token) => {
                self.log_created(&token);
                self.renewal.created(token, Now::read());
                // Stored before it is set, so that after a crash the token in use is known.
                self.store().await;
                self.apply();
                self.succeeded(Outcome::Created);
            }
            Err(error) => self.failed("no token created", &error),
        }
    }

    async fn delete(&mut self, id: u64) {
        let deleted = match credential(&self.provider.settings).await {
            Ok(credential) => self.provider.iam.delete_token(&credential, id).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(_) => {
                info!(source = &*self.provider.source, id, "token deleted");
                self.renewal.deleted(id);
                self.store().await;
                self.apply();
                self.succeeded(Outcome::Deleted);
            }
            Err(error) => self.failed("token not deleted", &error),
        }
    }

    fn succeeded(&self, outcome: Outcome) {
        self.provider.tokens.count(outcome);
        self.provider.tokens.set_problem(None);
    }

    fn log_created(&self, token: &CreatedToken) {
        let life = token.lifetime.map(format_duration);
        info!(
            source = &*self.provider.source,
            id = token.id,
            life,
            "token created"
        );
    }

    fn failed(&mut self, what: &str, error: &RequestError) {
        let now = Now::read();
        self.renewal.failed(now, error.retry_after());
        let Step::Wait(delay) = self.renewal.step(now) else {
            return;
        };
        self.provider.failed(what, error, delay);
    }

    /// Sets the current token if it has changed, and publishes its expiry.
    fn apply(&mut self) {
        let now = Now::read();
        if let Some(token) = self.renewal.token(now)
            && self.set != Some(token.id)
        {
            self.set = Some(token.id);
            self.state = TokenState::Waiting;
            let expires = self
                .renewal
                .expires_in(now)
                .and_then(|left| Instant::now().checked_add(left));
            match expires {
                Some(expires) => self.handle.set_expiring_token(token.key.clone(), expires),
                None => self.handle.set_token(token.key.clone()),
            }
        }
        self.publish(now);
    }

    /// Updates the state shown by `/status` and the metrics.
    fn publish(&self, now: Now) {
        let time = |left: Option<Duration>| now.wall.checked_add(left?).ok();
        let (expires, renews) = (self.renewal.expires_in(now), self.renewal.renews_in(now));
        let alive = self.renewal.valid_tokens(now);
        self.provider.tokens.set(time(expires), time(renews), alive);
    }

    /// Stores the tokens for the next run. A failure is reported, and has no effect on this run.
    async fn store(&self) {
        let Some(stored) = self.renewal.to_stored() else {
            return;
        };
        let file = self.file.clone();
        if let Err(error) = joined(spawn_blocking(move || file.write(&stored)).await) {
            self.provider.file_failed(&error);
        }
    }
}

#[cfg(test)]
mod tests;
