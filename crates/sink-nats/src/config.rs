//! The sink's part of the configuration.

use std::{path::PathBuf, time::Duration};

use neurobridge_core::{
    secret::Secret,
    sink_config::{Format, OversizeAction},
    template::Template,
    tls::TlsFiles,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// NATS subjects, whose messages a JetStream stream stores unless `mode` is `core`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Servers, as in `nats://localhost:4222`, or `tls://` if the connection has to be encrypted. One that answers is
    /// sufficient. Name several servers of a cluster, because further ones are not discovered.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub servers: Vec<String>,
    /// The subject. It may contain fields of the event in braces: a field without a value becomes `unknown`, and a character
    /// that NATS does not allow in a token becomes `_`. The id of a person is not allowed in it.
    /// `feeds.{feed}` by default if all sources are declared feeds.
    #[serde(default = "default_subject")]
    #[schemars(extend("x-default-of-feeds" = "feeds.{feed}"))]
    pub subject: Template,
    /// Whether a stream stores the events.
    #[serde(default)]
    pub mode: Mode,
    /// The format of a message.
    #[serde(default)]
    pub format: Format,
    /// The stream that stores the events. Required unless `mode` is `core`.
    #[serde(default)]
    pub stream: Option<StreamConfig>,
    /// The guarantee of order. `strict` if this sink creates the stream, otherwise `relaxed`.
    #[serde(default)]
    pub order: Option<Order>,
    /// The largest number of events in flight. nats-server buffers 10,000 for a stream by default and rejects more.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// The time limit for an acknowledgement. After it the sink reconnects and sends unacknowledged events again.
    #[serde(default = "default_ack_timeout", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ack_timeout: Duration,
    /// What happens to an event that is larger than the server and the stream accept.
    #[serde(default)]
    pub oversize: OversizeAction,
    /// What happens to an event whose subject the stream does not accept.
    #[serde(default)]
    pub missing_stream: MissingStream,
    /// The place for events that NATS rejects; a file in the data folder by default.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterConfig>,
    /// The credentials.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// Encrypts the connection. An empty table is sufficient if the system trusts the authority of the servers'
    /// certificates.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

/// Whether a stream stores the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A JetStream stream: an event is delivered when the stream has stored it.
    #[default]
    Jetstream,
    /// No stream: an event is delivered when the server has received it. A client that does not listen at that moment, or
    /// listens too slowly, never receives it, and after a broken connection some events are sent twice.
    Core,
}

/// The guarantee of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Each event is stored once, and after the event before it, whatever happens in between: each message names the one
    /// that must be the last in the stream. No other client may publish to the stream.
    Strict,
    /// After a broken connection events may be stored out of order. Those that are sent again within the stream's duplicate
    /// window are stored once, later ones twice.
    Relaxed,
}

/// The stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The name of the stream.
    pub name: String,
    /// Creates the stream if it does not exist. Requires `max_age` and `replicas`. An existing stream is never changed.
    #[serde(default)]
    pub create: bool,
    /// The time for which a created stream stores an event.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub max_age: Option<Duration>,
    /// The number of servers that store a created stream: 1, 3 or 5.
    #[serde(default)]
    pub replicas: Option<u8>,
    /// The time for which a created stream detects that an event is sent again; 2 minutes by default.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub duplicate_window: Option<Duration>,
    /// The subjects of a created stream; those of `subject` by default.
    #[serde(default)]
    pub subjects: Option<Vec<String>>,
    /// The storage of a created stream; `file` by default.
    #[serde(default)]
    pub storage: Option<Storage>,
}

/// The storage of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// On disk. nats-server syncs it every 2 minutes unless its `sync_interval` is `always`: a power cut may remove what a
    /// stream without replicas stored since the last sync.
    #[default]
    File,
    /// In memory: lost when its servers stop.
    Memory,
}

/// What happens to an event whose subject the stream does not accept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingStream {
    /// The event, and all events after it, wait until the subject is added to the stream.
    #[default]
    Wait,
    /// The event becomes a dead letter.
    DeadLetter,
}

/// The place for dead letters: exactly one of these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// A subject of the same servers. With JetStream a stream has to store it, and with strict order another stream than
    /// that of the events.
    #[serde(default)]
    pub subject: Option<String>,
    /// A file of JSON lines; a relative path begins at the data folder.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// The credentials: user and password, a token, an nkey or a credentials file. Files are read again at each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The user name.
    #[serde(default)]
    pub user: Option<String>,
    /// The password of the user.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with the password of the user.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A token.
    #[serde(default)]
    pub token: Option<Secret>,
    /// A file with the token.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// The seed of an nkey, `SU…`.
    #[serde(default)]
    pub nkey: Option<Secret>,
    /// A file with the seed of an nkey.
    #[serde(default)]
    pub nkey_file: Option<PathBuf>,
    /// A file with the JWT and the nkey of a user, as `nsc` writes it.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}

impl NatsConfig {
    /// Creates a configuration with a server and a stream, and defaults for all other keys. The stream has to exist.
    pub fn new(server: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            subject: default_subject(),
            mode: Mode::default(),
            format: Format::default(),
            stream: Some(StreamConfig::new(stream)),
            order: None,
            max_in_flight: default_max_in_flight(),
            ack_timeout: default_ack_timeout(),
            oversize: OversizeAction::default(),
            missing_stream: MissingStream::default(),
            dead_letter: None,
            auth: None,
            tls: None,
        }
    }

    /// Returns the guarantee of order.
    pub fn order(&self) -> Order {
        let creates = self.stream.as_ref().is_some_and(|stream| stream.create);
        // A sink that creates its stream is the only writer; the writers of an existing stream are unknown.
        self.order
            .unwrap_or(if creates { Order::Strict } else { Order::Relaxed })
    }

    /// Returns whether each event is stored after the one before it, so that no other client may publish to the stream.
    pub fn is_strict(&self) -> bool {
        self.jetstream().is_some() && self.order() == Order::Strict
    }

    /// Returns the subject for dead letters, if they are published to one.
    pub(crate) fn dead_letter_subject(&self) -> Option<&str> {
        self.dead_letter.as_ref()?.subject.as_deref()
    }

    /// Returns the stream that stores the events; `None` in core mode.
    pub(crate) fn jetstream(&self) -> Option<&StreamConfig> {
        self.stream.as_ref().filter(|_| self.mode == Mode::Jetstream)
    }
}

impl StreamConfig {
    /// Creates the configuration of an existing stream.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            create: false,
            max_age: None,
            replicas: None,
            duplicate_window: None,
            subjects: None,
            storage: None,
        }
    }
}

fn default_subject() -> Template {
    "neuroio.entries.{space.id}.{source.id}.{result}"
        .parse()
        .expect("a constant that the tests parse")
}

const fn default_max_in_flight() -> u32 {
    // Far more than one round trip of a millisecond needs, and less than a server buffers for a stream (10,000).
    4096
}

const fn default_ack_timeout() -> Duration {
    Duration::from_secs(30)
}
