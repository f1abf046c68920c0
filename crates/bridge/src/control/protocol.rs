//! The protocol of the control socket: a greeting, a request and an answer, each as one line of JSON. The answer to a tail is
//! followed by messages, each with a kind, a length and a body.
//!
//! Records are sent in the spool's format. The greeting ensures that a tail has the same version as the bridge.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
};

use bytes::Bytes;
use jiff::Timestamp;
use neurobridge_core::{
    event::Sequence,
    identity::SpoolId,
    record::{self, SealedBatch},
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{config::Config, exit::Exit};

const EVENTS: u8 = b'e';
const MISSED: u8 = b'm';
const END: u8 = b'.';
/// The size of a message head: a kind and a length.
const HEAD_BYTES: usize = 5;

/// The line that the client sends after the greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Sends the events that are stored from now on.
    Tail,
    /// Loads the configuration again. Configuration errors are rendered for this terminal.
    Reload { colours: bool, width: usize },
    /// Fetches the events of a period from the platform's list, and stores them.
    Backfill {
        source: String,
        from: Timestamp,
        to: Timestamp,
        after: Option<String>,
    },
    /// Shows the members of the cluster.
    Cluster,
    /// Hands the leadership of the cluster over.
    HandOver,
}

/// The line that the bridge sends after a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The exit code of the command that has sent the request.
    pub(crate) exit: u8,
    /// The result or the error, for people.
    pub(crate) text: String,
}

impl Answer {
    /// Returns an answer that reports an error.
    pub(crate) fn failed(exit: Exit, text: impl Into<String>) -> Self {
        Self {
            exit: exit.code(),
            text: text.into(),
        }
    }
}

/// Writes a value as one line of JSON.
pub(super) async fn write_line(to: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Reads a line of at most `limit` bytes. Returns an empty line at the end of the connection.
pub(super) async fn read_line(from: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(limit).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// The first line that the bridge sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The version of the bridge.
    pub(crate) version: String,
    /// The id of the bridge's spool.
    spool: [u8; 16],
    /// A hash of the bridge's configuration.
    configuration: u64,
}

/// Returns the version of this program and that of the record format, in which tails receive events.
pub(super) fn version() -> String {
    format!(
        "{} (record format {})",
        env!("CARGO_PKG_VERSION"),
        record::FORMAT_VERSION
    )
}

impl Greeting {
    pub(crate) fn new(spool: &SpoolId, config: &Config) -> Self {
        Self {
            version: version(),
            spool: *spool.as_bytes(),
            configuration: hash(config),
        }
    }

    pub(crate) const fn spool(&self) -> SpoolId {
        SpoolId::from_bytes(self.spool)
    }

    /// Returns whether the bridge runs with this configuration.
    pub(crate) fn is_of(&self, config: &Config) -> bool {
        self.configuration == hash(config)
    }
}

/// Returns a hash of the configuration without its secrets, which do not affect messages.
fn hash(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{config:?}").hash(&mut hasher);
    hasher.finish()
}

/// A message to a tail.
#[derive(Clone, Debug)]
pub(crate) enum TailMessage {
    Events(SealedBatch),
    /// The number of events that the tail has missed, because it was too slow.
    Missed(u64),
    /// The bridge has stopped, and all events were sent.
    End,
}

impl TailMessage {
    pub(super) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let head_of = |kind: u8, length: u32| {
            let mut head = Vec::with_capacity(HEAD_BYTES + 16);
            head.push(kind);
            head.extend(length.to_le_bytes());
            head
        };
        match self {
            Self::Events(batch) => {
                let length = u32::try_from(batch.bytes().len() + 16)
                    .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a batch of more than 4 GiB"))?;
                let mut head = head_of(EVENTS, length);
                head.extend(batch.first().get().to_le_bytes());
                head.extend(batch.events().to_le_bytes());
                to.write_all(&head).await?;
                to.write_all(batch.bytes()).await
            }
            Self::Missed(events) => {
                let mut missed = head_of(MISSED, 8);
                missed.extend(events.to_le_bytes());
                to.write_all(&missed).await
            }
            Self::End => to.write_all(&head_of(END, 0)).await,
        }
    }

    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let kind = from.read_u8().await?;
        let length = from.read_u32_le().await?;
        match kind {
            EVENTS => {
                let first = Sequence::new(from.read_u64_le().await?).ok_or(io::ErrorKind::InvalidData)?;
                let events = from.read_u64_le().await?;
                // The buffer grows with the received bytes: the length is not trusted for an allocation.
                let mut bytes = Vec::new();
                let records = u64::from(length.saturating_sub(16));
                if from.take(records).read_to_end(&mut bytes).await? as u64 != records {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Self::Events(SealedBatch::from_parts(
                    first,
                    events,
                    Bytes::from(bytes),
                )))
            }
            MISSED => Ok(Self::Missed(from.read_u64_le().await?)),
            END => Ok(Self::End),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
