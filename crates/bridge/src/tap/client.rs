//! A tail's end of the tap.

use std::{io, path::Path};

use neurobridge_core::identity::SpoolId;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::UnixStream,
};

use super::{Arrival, Folder, Greeting, SOCKET};
use crate::config::Config;

/// The longest first line; far more than a version and some numbers take.
const LONGEST_GREETING: u64 = 1024;

/// A connection to a running bridge.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    greeting: Greeting,
}

/// Why a bridge that runs can't be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TapError {
    /// The socket is another user's.
    #[error(
        "{path} cannot be opened: the bridge runs as another user, and only that user may read its events"
    )]
    Denied { path: String },
    /// The socket says no in another way.
    #[error("{path} is unreachable")]
    Io { path: String, source: io::Error },
    /// There are too many tails.
    #[error("the bridge has as many tails as it takes: end one of them")]
    TooMany,
    /// Another program, or none of ours.
    #[error("the bridge is neurobridge {found}, and this is {ours}: use its own program to look at it")]
    Version { found: String, ours: &'static str },
    /// The bridge was killed.
    #[error("connection to the bridge lost: it was killed, or this program did not read for five minutes")]
    Gone(#[source] io::Error),
}

impl Client {
    /// Connects to the bridge of a data folder; `None` when none runs there.
    ///
    /// # Errors
    /// One runs, and can't be asked.
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
            .take(LONGEST_GREETING)
            .read_until(b'\n', &mut line)
            .await;
        match read {
            Err(source) => return Err(TapError::Io { path, source }),
            Ok(0) => return Err(TapError::TooMany),
            Ok(_) => {}
        }
        let greeting: Option<Greeting> = serde_json::from_slice(&line).ok();
        let ours = env!("CARGO_PKG_VERSION");
        match greeting {
            Some(greeting) if greeting.version == ours => Ok(Some(Self { stream, greeting })),
            other => Err(TapError::Version {
                found: other.map_or_else(|| "of another version".to_owned(), |greeting| greeting.version),
                ours,
            }),
        }
    }

    /// The spool that the events are in.
    pub(crate) const fn spool(&self) -> SpoolId {
        self.greeting.spool()
    }

    /// Whether the bridge runs with this configuration.
    pub(crate) fn runs_with(&self, config: &Config) -> bool {
        self.greeting.is_of(config)
    }

    /// Waits for what comes next. A call that was cancelled may have read a part: it can't be called again then.
    ///
    /// # Errors
    /// The bridge is gone.
    pub(crate) async fn next(&mut self) -> Result<Arrival, TapError> {
        Arrival::read(&mut self.stream).await.map_err(TapError::Gone)
    }
}
