//! The `HttpDialler`: opens connections to the HTTP interfaces of a platform, with the proxy, the certificates and the time
//! limit of the connections to its feed.

use std::time::Duration;

use neurobridge_core::secret::SecretSet;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{backfill, config::SourceConfig, connection::Dialler, error::DialError, tls::TlsError};

/// Opens connections to an HTTP interface of the platform.
pub struct HttpDialler {
    dialler: Dialler,
    authority: String,
    path: String,
}

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpDialError(#[from] DialError);

impl HttpDialError {
    /// Returns the delay that a proxy requested.
    pub const fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after()
    }
}

impl HttpDialler {
    /// Creates a dialler for `url`, `https://host[:port][/path]`, with the settings of a source. Adds the password of
    /// a proxy to `secrets` when it is sent. Blocks while it reads the certificates.
    ///
    /// # Errors
    /// The invalid key of the source (`backfill.url` for `url`), and a sentence with what was found and what was expected.
    pub fn new(config: &SourceConfig, url: &str, secrets: SecretSet) -> Result<Self, (&'static str, String)> {
        let endpoint = backfill::parse_endpoint(url).map_err(|error| ("backfill.url", error))?;
        let proxy = config
            .proxy_choice()
            .and_then(|choice| choice.resolve(&endpoint))
            .map_err(|error| ("proxy", error))?;
        let authority = endpoint
            .uri
            .authority()
            .map_or_else(String::new, ToString::to_string);
        let path = endpoint.uri.path().to_owned();
        let dialler = Dialler::new(config, endpoint, proxy, secrets)
            .map_err(|error| ("tls", crate::error::sentence(&TlsError::from(error))))?;
        Ok(Self {
            dialler,
            authority,
            path,
        })
    }

    /// Opens a connection, within `open_timeout` of the source. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// The host cannot be reached, or a proxy or the TLS handshake refuses the connection.
    pub async fn dial(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, HttpDialError> {
        Ok(self.dialler.open_stream().await?)
    }

    /// Returns the host, and the port if the URL contains it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the path of the URL, at least `/`.
    pub fn path(&self) -> &str {
        &self.path
    }
}
