//! The `SinkConfig` and `SinkType` traits: the configuration of a kind of sink, and the creation of its sinks.
//!
//! A sink crate implements both traits for its part of the configuration. The program registers the type in one list and does not
//! distinguish kinds of sinks anywhere else.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    connect::ConnectSteps,
    epoch::Epochs,
    event::{Event, Sequence},
    identity::SpoolId,
    lead::Lead,
    reader::Cursor,
    sink::{ConnectContext, Sink, SinkFault},
    template::Template,
};

/// The configuration of one sink: its errors and warnings, its destination and files, and a preview of its messages. No
/// method connects.
pub trait SinkConfig: fmt::Debug + Send + Sync + 'static {
    /// Returns the configuration errors that the type of a single key does not exclude: the key below the sink's table, and a
    /// sentence with what was found and what was expected.
    fn errors(&self) -> Vec<(String, String)>;

    /// Returns the settings that are legal but may lose, duplicate or expose events: the key below the sink's table, and a
    /// sentence with what may happen and what prevents it. `spool_is_durable` is false for a spool in memory.
    fn warnings(&self, spool_is_durable: bool) -> Vec<(&'static str, String)>;

    /// Returns a description of the destination for people: a topic and its servers, without credentials. Relative paths
    /// begin at `data_dir`.
    fn destination(&self, data_dir: &Path) -> String;

    /// Returns the templates with the key of each, so that unknown event fields in them can be reported.
    fn templates(&self) -> Vec<(&'static str, &Template)>;

    /// Returns the files that the sink writes, with the key of each. No two sinks may write to the same file.
    fn files(&self) -> Vec<(&'static str, &Path)>;

    /// Returns where dead letters of this sink are stored.
    fn dead_letter_place(&self) -> DeadLetterPlace<'_>;

    /// Returns the behaviour of the sink on the members of a cluster.
    fn in_cluster(&self) -> InCluster;

    /// Returns whether the sink must be the only writer of its destination. If so, a replay is possible only while the bridge
    /// is stopped.
    fn is_only_writer(&self) -> bool;

    /// Returns the message that the sink would send for an event, as text for people. Limits of the destination are not known
    /// here and not applied.
    fn preview(&self, event: &Event<'_>, spool: &SpoolId) -> String;
}

/// A kind of sink: its name, the creation of its sinks, and a test of the connection.
///
/// Implement `Deserialize` and `JsonSchema` beside it. Unknown keys have to be refused (`deny_unknown_fields`); the keys that all
/// sinks have in common (`type`, `required`, `start`, `filter`, …) are removed before the type's own keys are read.
pub trait SinkType: SinkConfig {
    /// The sink that is created from this configuration.
    type Sink: Sink;

    /// The value of the key `type`.
    const NAME: &'static str;
    /// The `tracing` targets of log lines in which a client library repeats a state that the sink reports itself. These lines
    /// are not shown where that state is shown.
    const CLIENT_LOG_TARGETS: &'static [&'static str];

    /// Creates the sink, not connected yet. The configuration has no [errors](SinkConfig::errors).
    fn build(&self, context: &BuildContext<'_>) -> Self::Sink;

    /// Checks whether the sink could deliver, without publishing or creating anything. Returns one sentence for each
    /// condition under which the sink would work but may lose events. Notes each step that waits for a server in `steps`. Has
    /// no time limit of its own; dropping the future ends the attempt.
    ///
    /// # Errors
    /// The sink could not deliver.
    fn probe(
        &self,
        context: &BuildContext<'_>,
        steps: &ConnectSteps,
    ) -> impl Future<Output = Result<Vec<String>, SinkFault>> + Send;
}

/// Connects a sink as for a spool without events and closes it again. For [`SinkType::probe`], with a sink that creates nothing.
///
/// # Errors
/// As [`Sink::connect`].
pub async fn probe<S: Sink>(sink: &mut S, steps: &ConnectSteps) -> Result<(), SinkFault> {
    let cursor = Cursor::starting_at(Sequence::FIRST);
    let context = ConnectContext {
        spool: SpoolId::generate(),
        cursor: &cursor,
        epochs: &Epochs::default(),
        steps,
    };
    let connected = sink.connect(&context).await;
    sink.close().await;
    connected.map(|_| ())
}

/// The parameters of [`SinkType::build`] and [`SinkType::probe`], besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct BuildContext<'a> {
    /// The name of the sink in the configuration.
    pub name: &'a str,
    /// The folder at which relative paths begin.
    pub data_dir: &'a Path,
    /// The name of the replay that uses the sink; `None` for a delivery of the bridge.
    pub replay: Option<&'a str>,
    /// The right to publish of a member of a cluster; `None` outside of a cluster. A sink whose destination all members share
    /// publishes only while it has this right.
    pub lead: Option<&'a Lead>,
}

impl BuildContext<'_> {
    /// Returns the path of the file to write: `path`, or for a replay a separate file in the same folder
    /// (`events-replay-<run>.jsonl` for `events.jsonl`), because the bridge may be writing to `path`.
    pub fn file(&self, path: &Path) -> PathBuf {
        self.replay
            .map_or_else(|| path.to_owned(), |run| replay_file(path, run))
    }
}

/// Returns the path of the separate file of a replay, in the folder of the configured file.
pub fn replay_file(path: &Path, run: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-replay-{run}");
    if let Some(extension) = path.extension() {
        name.push('.');
        name.push_str(&extension.to_string_lossy());
    }
    path.with_file_name(name)
}

/// The behaviour of a sink on the members of a cluster, of which one publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InCluster {
    /// Every member delivers all events, to a destination of its own such as a file on its disk.
    OwnDestination,
    /// The leader publishes. A follower reads the destination and settles its own copies of the events.
    Shared {
        /// A hash of the settings that have to be equal on all members and are not visible in a message, such as the
        /// guarantee.
        settings: u128,
        /// Whether the members need each other's reports: for a destination in which a follower may miss messages. The events
        /// of missed messages wait until the follower leads. A lease in Kafka transports no reports.
        needs_reports: bool,
    },
    /// The sink cannot be part of a cluster. Contains the reason and the fix, as the end of a sentence.
    Unsupported(&'static str),
}

/// Where the dead letters of a sink are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterPlace<'a> {
    /// In the file that all sinks share.
    Shared,
    /// In a separate file of this sink; a relative path begins at the data folder.
    File(&'a Path),
    /// In the destination of the sink, which stores them itself; named for people, such as `topic faces.dead`.
    Destination(String),
}

/// The key `dead_letter` of a sink that cannot store dead letters in its destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFile {
    /// A file of JSON lines; a relative path is below the data folder.
    pub path: PathBuf,
}

impl<'a> DeadLetterPlace<'a> {
    /// Returns the place of a key `dead_letter` that names a part of the destination or a file.
    pub fn of(destination: Option<String>, path: Option<&'a Path>) -> Self {
        match (destination, path) {
            (Some(destination), _) => Self::Destination(destination),
            (None, Some(path)) => Self::File(path),
            (None, None) => Self::Shared,
        }
    }
}

impl DeadLetterFile {
    /// Returns the place of a key that may be missing.
    pub fn place(file: Option<&Self>) -> DeadLetterPlace<'_> {
        DeadLetterPlace::of(None, file.map(|file| file.path.as_path()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_writes_to_a_separate_file() {
        let context = |replay| BuildContext {
            name: "a",
            data_dir: Path::new("data"),
            replay,
            lead: None,
        };
        let path = Path::new("x/events.jsonl");
        assert_eq!(context(None).file(path), path);
        assert_eq!(
            context(Some("1")).file(path),
            Path::new("x/events-replay-1.jsonl")
        );
        assert_eq!(
            context(Some("1")).file(Path::new("log")),
            Path::new("log-replay-1")
        );
    }
}
