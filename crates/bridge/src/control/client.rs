//! The client of the control socket.

use std::{io, path::Path, time::Duration};

use neurobridge_core::identity::SpoolId;
use tokio::{io::BufReader, net::UnixStream, time::timeout};

use super::{
    Answer, Folder, Greeting, Request, SOCKET, TailMessage,
    protocol::{read_line, version, write_line},
};
use crate::config::Config;

/// The largest line of the bridge: a greeting, or an answer with all errors of a configuration.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// The time limit of an answer: far longer than the bridge waits for the completion of a change.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// The time limit of an answer to a request for missed events. The bridge continues to fetch after the limit.
const BACKFILL_LIMIT: Duration = Duration::from_secs(3_600);

/// A connection to a running bridge.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    greeting: Greeting,
}

/// The reason why a command cannot use the control socket of a running bridge.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The socket belongs to another user.
    #[error(
        "{path} cannot be opened: the bridge runs as another user, and only that user may control it and read its events"
    )]
    PermissionDenied { path: String },
    /// Connecting to the socket or reading from it failed.
    #[error("control socket {path} is unreachable")]
    Unreachable { path: String, source: io::Error },
    /// The bridge has closed the connection because its limit of tails is reached.
    #[error("tail limit of this bridge exceeded; stop one of the running tails")]
    TailLimitExceeded,
    /// The bridge has another version, or another program uses the socket.
    #[error(
        "the bridge is neurobridge {found}, but this program is {ours}; run this command with the bridge's program"
    )]
    VersionMismatch { found: String, ours: String },
    /// The bridge hangs, or its disk does.
    #[error("the bridge did not answer in time; its log shows whether the request was carried out")]
    NoAnswer,
    /// The connection ended without the end marker: the bridge was killed, or has closed it.
    #[error(
        "connection to the bridge lost: it was killed, or closed the connection because this command read nothing for five minutes"
    )]
    ConnectionLost(#[source] io::Error),
}

impl Client {
    /// Connects to the bridge of a data folder to read its events. Returns `None` if no bridge runs there.
    ///
    /// # Errors
    /// Returns an error if a bridge runs and the connection fails.
    pub(crate) async fn connect(data_dir: &Path) -> Result<Option<Self>, ControlError> {
        let Some(mut client) = Self::open(data_dir).await? else {
            return Ok(None);
        };
        let (found, ours) = (client.greeting.version.clone(), version());
        if found != ours {
            return Err(ControlError::VersionMismatch { found, ours });
        }
        client.send(Request::Tail).await?;
        Ok(Some(client))
    }

    /// Sends a request to the bridge of a data folder, and returns its answer. Returns `None` if no bridge runs there.
    ///
    /// # Errors
    /// Returns an error if a bridge runs and the connection fails.
    pub(crate) async fn request(data_dir: &Path, request: Request) -> Result<Option<Answer>, ControlError> {
        let Some(mut client) = Self::open(data_dir).await? else {
            return Ok(None);
        };
        client.send(request).await.map(Some)
    }

    /// Connects, and receives the greeting.
    async fn open(data_dir: &Path) -> Result<Option<Self>, ControlError> {
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
                    io::ErrorKind::PermissionDenied => Err(ControlError::PermissionDenied { path }),
                    _ => Err(ControlError::Unreachable { path, source: error }),
                };
            }
        };
        let greeting = timeout(ANSWER_LIMIT, read_line(&mut stream, MAX_LINE_BYTES));
        let line = match greeting.await.map_err(|_| ControlError::NoAnswer)? {
            Err(source) => return Err(ControlError::Unreachable { path, source }),
            Ok(line) if line.is_empty() => return Err(ControlError::TailLimitExceeded),
            Ok(line) => line,
        };
        match serde_json::from_slice(&line) {
            Ok(greeting) => Ok(Some(Self { stream, greeting })),
            Err(_) => Err(ControlError::VersionMismatch {
                found: "of another version".to_owned(),
                ours: version(),
            }),
        }
    }

    /// Sends a request, and waits for the answer.
    async fn send(&mut self, request: Request) -> Result<Answer, ControlError> {
        let limit = match request {
            Request::Backfill { .. } => BACKFILL_LIMIT,
            Request::Tail | Request::Reload { .. } | Request::Cluster | Request::HandOver => ANSWER_LIMIT,
        };
        let exchange = async {
            write_line(&mut self.stream, &request).await?;
            read_line(&mut self.stream, MAX_LINE_BYTES).await
        };
        let line = timeout(limit, exchange)
            .await
            .map_err(|_| ControlError::NoAnswer)?
            .map_err(ControlError::ConnectionLost)?;
        if line.is_empty() {
            return Err(match request {
                Request::Tail => ControlError::TailLimitExceeded,
                Request::Reload { .. } | Request::Backfill { .. } | Request::Cluster | Request::HandOver => {
                    ControlError::ConnectionLost(io::ErrorKind::UnexpectedEof.into())
                }
            });
        }
        serde_json::from_slice(&line).map_err(|error| ControlError::ConnectionLost(error.into()))
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
    pub(crate) async fn next(&mut self) -> Result<TailMessage, ControlError> {
        TailMessage::read(&mut self.stream)
            .await
            .map_err(ControlError::ConnectionLost)
    }
}
