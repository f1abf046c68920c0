//! The client of the tap, used by `tail`.

use std::{io, path::Path};

use neurobridge_core::identity::SpoolId;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
};

use super::{Arrival, Folder, Greeting, SOCKET, protocol::version};
use crate::config::Config;

/// The largest greeting: far more than a version and some numbers need.
const MAX_GREETING_BYTES: u64 = 1024;

/// A connection to a running bridge.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    greeting: Greeting,
}

/// The reason why `tail` cannot read from a running bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    /// The socket belongs to another user.
    #[error(
        "{path} cannot be opened: the bridge runs as another user, and only that user may read its events"
    )]
    Denied { path: String },
    /// Another error of the socket.
    #[error("{path} is unreachable")]
    Io { path: String, source: io::Error },
    /// The bridge has closed the connection, since the limit of tails is reached.
    #[error("limit of tails exceeded at this bridge; end one of them")]
    TooMany,
    /// The bridge has another version, or another program uses the socket.
    #[error(
        "the bridge is neurobridge {found}, but this program is {ours}; run tail with the bridge's program"
    )]
    Version { found: String, ours: String },
    /// The connection ended without the end marker: the bridge was killed, or has closed it.
    #[error("connection to the bridge lost: it was killed, or this program did not read for five minutes")]
    Gone(#[source] io::Error),
}

impl Client {
    /// Connects to the bridge of a data folder. Returns `None` if no bridge runs there.
    ///
    /// # Errors
    /// Returns an error if a bridge runs and the connection fails.
    pub(crate) async fn connect(data_dir: &Path) -> Result<Option<Self>, TapError> {
        let path = super::path(data_dir).display().to_string();
        let stream = match Folder::open(data_dir) {
            Ok(folder) => UnixStream::connect(folder.join(SOCKET)).await,
            Err(error) => Err(error),
        };
        let mut stream = match stream {
            Ok(stream) => BufReader::new(stream),
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory => Ok(None),
                    io::ErrorKind::PermissionDenied => Err(TapError::Denied { path }),
                    _ => Err(TapError::Io { path, source: error }),
                };
            }
        };
        let mut line = Vec::new();
        let read = (&mut stream)
            .take(MAX_GREETING_BYTES)
            .read_until(b'\n', &mut line)
            .await;
        match read {
            Err(source) => return Err(TapError::Io { path, source }),
            Ok(0) => return Err(TapError::TooMany),
            Ok(_) => {}
        }
        let greeting: Option<Greeting> = serde_json::from_slice(&line).ok();
        let ours = version();
        match greeting {
            Some(greeting) if greeting.version == ours => Ok(Some(Self { stream, greeting })),
            other => Err(TapError::Version {
                found: other.map_or_else(|| "of another version".to_owned(), |greeting| greeting.version),
                ours,
            }),
        }
    }

    /// Returns the id of the bridge's spool.
    pub(crate) const fn spool(&self) -> SpoolId {
        self.greeting.spool()
    }

    /// Returns whether the bridge runs with this configuration.
    pub(crate) fn runs_with(&self, config: &Config) -> bool {
        self.greeting.is_of(config)
    }

    /// Waits for the next message. Not cancel-safe: must not be called again after a cancellation, which may have lost a
    /// part of a message.
    ///
    /// # Errors
    /// Returns an error if the connection was lost.
    pub(crate) async fn next(&mut self) -> Result<Arrival, TapError> {
        Arrival::read(&mut self.stream).await.map_err(TapError::Gone)
    }
}
