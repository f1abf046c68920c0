//! The sink's part of the configuration.

use std::{path::PathBuf, time::Duration};

use neurobridge_core::{
    secret::Secret,
    sink_config::{Format, Oversize},
    template::Template,
    tls::TlsFiles,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// NATS subjects, kept by a JetStream stream unless `mode` says otherwise.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Servers, as in `nats://localhost:4222`, or `tls://` where the connection has to be encrypted. One that answers
    /// will do: name several of a cluster, others are not learned from these.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub servers: Vec<String>,
    /// The subject. Fields of the event may stand in it between braces; a field without a value becomes `unknown`, and
    /// what a token of a subject may not contain becomes `_`. A person's id may not be in it.
    #[serde(default = "default_subject")]
    pub subject: Template,
    /// Who keeps the events.
    #[serde(default)]
    pub mode: Mode,
    /// How an event becomes a message.
    #[serde(default)]
    pub format: Format,
    /// The stream that keeps the events. Needed unless `mode` is `core`.
    #[serde(default)]
    pub stream: Option<StreamConfig>,
    /// What is promised of the order. `strict` where this sink creates the stream, else `relaxed`.
    #[serde(default)]
    pub order: Option<Order>,
    /// How many events may be on their way at a time. nats-server holds back 10,000 for a stream by default and refuses
    /// more.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// How long an acknowledgement may take. After it the connection is made anew, and what is not acknowledged is
    /// sent again.
    #[serde(default = "default_ack_timeout", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ack_timeout: Duration,
    /// What becomes of an event that is larger than server and stream take.
    #[serde(default)]
    pub oversize: Oversize,
    /// What becomes of an event whose subject the stream does not take.
    #[serde(default)]
    pub missing_stream: MissingStream,
    /// Where events go that are refused for themselves; a file in the data folder by default.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterConfig>,
    /// Says who we are.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// Encrypts the connection. An empty table will do where the system's roots know the servers' certificates.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

/// Who keeps the events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A stream of JetStream: an event is delivered when the stream has stored it.
    #[default]
    Jetstream,
    /// Nobody: an event is delivered when the server has taken it. Whoever does not listen at that moment, or listens
    /// too slowly, never gets it, and after a broken connection some events come twice.
    Core,
}

/// What is promised of the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Each event is stored behind the one before it, and once, whatever happens in between: each message names the one
    /// that has to be the last in the stream. Nobody else may write into the stream.
    Strict,
    /// After a broken connection events may be stored out of order; those sent again within the stream's duplicate
    /// window are stored once, later ones twice.
    Relaxed,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// Creates the stream if it is not there. Needs `max_age` and `replicas`. One that is there is never changed.
    #[serde(default)]
    pub create: bool,
    /// How long a created stream keeps an event.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub max_age: Option<Duration>,
    /// On how many servers a created stream is kept: 1, 3 or 5.
    #[serde(default)]
    pub replicas: Option<u8>,
    /// For how long a created stream knows an event again that is sent twice; 2 minutes by default.
    #[serde(default, with = "neurobridge_core::units::optional_duration")]
    #[schemars(with = "Option<neurobridge_core::units::DurationText>")]
    pub duplicate_window: Option<Duration>,
    /// The subjects of a created stream; those that come of `subject` by default.
    #[serde(default)]
    pub subjects: Option<Vec<String>>,
    /// Where a created stream keeps events; `file` by default.
    #[serde(default)]
    pub storage: Option<Storage>,
}

/// Where a stream keeps events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// On disk. nats-server syncs it every 2 minutes unless its `sync_interval` says `always`: what a power cut may take
    /// from a stream without replicas.
    #[default]
    File,
    /// In memory: gone when its servers end.
    Memory,
}

/// What becomes of an event whose subject the stream does not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingStream {
    /// It waits, and the events after it wait with it, until the subject is added to the stream.
    #[default]
    Wait,
    /// It becomes a dead letter.
    DeadLetter,
}

/// Where dead letters go: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// A subject of the same servers. With JetStream a stream has to keep it, with strict order another one than that
    /// of the events.
    #[serde(default)]
    pub subject: Option<String>,
    /// A file of JSON lines; a relative path is below the data folder.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// Who we are: user and password, a token, an nkey or a credentials file. Files are read again at each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// The user's name.
    #[serde(default)]
    pub user: Option<String>,
    /// The user's password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with the user's password.
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
    /// A file with a user's JWT and nkey, as `nsc` makes them.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
}

impl NatsConfig {
    /// One with defaults for all but server and stream. The stream is expected to be there.
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
            oversize: Oversize::default(),
            missing_stream: MissingStream::default(),
            dead_letter: None,
            auth: None,
            tls: None,
        }
    }

    /// What is promised of the order.
    pub fn order(&self) -> Order {
        let creates = self.stream.as_ref().is_some_and(|stream| stream.create);
        // Who creates the stream is its only writer; of a stream of others nobody knows.
        self.order
            .unwrap_or(if creates { Order::Strict } else { Order::Relaxed })
    }

    /// Whether each event is stored behind the one before it, so that nobody else may publish to the stream.
    pub fn is_strict(&self) -> bool {
        self.kept_by().is_some() && self.order() == Order::Strict
    }

    /// The subject for dead letters, if they go to one.
    pub(crate) fn dead_letter_subject(&self) -> Option<&str> {
        self.dead_letter.as_ref()?.subject.as_deref()
    }

    /// The stream, if there is to be one.
    pub(crate) fn kept_by(&self) -> Option<&StreamConfig> {
        self.stream.as_ref().filter(|_| self.mode == Mode::Jetstream)
    }
}

impl StreamConfig {
    /// One that is expected to be there.
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
        .expect("a constant, tried by the tests")
}

const fn default_max_in_flight() -> u32 {
    // Far more than are on their way at once over a millisecond, and below what a server holds back for a stream.
    4096
}

const fn default_ack_timeout() -> Duration {
    Duration::from_secs(30)
}
