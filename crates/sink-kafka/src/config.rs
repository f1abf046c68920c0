//! The sink's part of the configuration.

mod check;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::{
    secret::Secret,
    sink_config::{Format, Oversize},
    template::Template,
    units::ByteSize,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest name that Kafka allows for a topic.
pub(crate) const MAX_TOPIC_LENGTH: usize = 249;

/// Kafka's own topics.
const INTERNAL_TOPICS: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// A Kafka topic, or several by template.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Brokers to begin with, `host:port` with commas between them; the others are learned from these.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub bootstrap_servers: String,
    /// The topic. Fields of the event may stand in it between braces, as in `entries.{space.id}`; a field without a
    /// value becomes `unknown`, and what a topic's name may not contain becomes `_`. A person's id may not be in it.
    #[serde(default = "default_topic")]
    pub topic: Template,
    /// The record's key: events of one key keep their order. Where a field in it has no value, the record has no key
    /// and goes to any partition.
    #[serde(default = "default_key")]
    pub key: Template,
    /// How an event becomes a record.
    #[serde(default)]
    pub format: Format,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// How long the client waits for more records before it sends a batch; at most 5 s.
    #[serde(default = "default_linger", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub linger: Duration,
    /// The most that waits inside the client: so many bytes of bodies, and one record for each KiB of it; keys and
    /// headers come on top. When it is full, events wait in the spool. A larger event than this is too large.
    #[serde(default = "default_max_queue_size")]
    pub max_queue_size: ByteSize,
    /// Creates topics that are not there. Needs `partitions` and `replicas`.
    #[serde(default)]
    pub create: bool,
    /// How many partitions a created topic has. Keys move to other partitions when this is raised later.
    #[serde(default)]
    pub partitions: Option<u32>,
    /// On how many brokers each partition of a created topic is kept.
    #[serde(default)]
    pub replicas: Option<u16>,
    /// What becomes of an event whose topic does not exist. A topic that cannot exist (an internal name, or one that collides
    /// with another topic) makes the event a dead letter in any case.
    #[serde(default)]
    pub missing_topic: MissingTopic,
    /// What becomes of an event that is larger than its topic allows.
    #[serde(default)]
    pub oversize: Oversize,
    /// How often an event may stand in Kafka.
    #[serde(default)]
    pub delivery: Delivery,
    /// Of `delivery = "exactly_once"` only: its transactions.
    #[serde(default)]
    pub transaction: Option<TransactionConfig>,
    /// Where events go that are refused for themselves; a file in the data folder by default.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterConfig>,
    /// Encrypts the connections. An empty table will do where the system's roots know the brokers' certificates.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Says who we are by name and password.
    #[serde(default)]
    pub sasl: Option<SaslConfig>,
    /// Further properties of librdkafka, by its names. Those that the promises of the bridge rest on are refused.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// Small, slow.
    Gzip,
    /// Fast.
    Snappy,
    /// Fast, and the cheapest on the whole: less to send and to store than without.
    #[default]
    Lz4,
    /// Small.
    Zstd,
}

impl Compression {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What becomes of an event whose topic does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingTopic {
    /// The sink waits until the topic exists: no event is passed over.
    #[default]
    Wait,
    /// The event becomes a dead letter, and the next one follows. Only for a topic that is a template.
    DeadLetter,
}

/// How often an event may stand in Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Once, and after a fault or a restart perhaps once more, with the same identity.
    #[default]
    AtLeastOnce,
    /// Once, for readers with `isolation.level = "read_committed"`: events and the cursor behind them are committed
    /// together. Readers get them later, by up to `transaction.interval` and the time of a commit.
    ExactlyOnce,
}

/// The transactions of `delivery = "exactly_once"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionConfig {
    /// The `transactional.id`, also the key of the cursor's record; `neurobridge-` and the sink's name by default. Two that
    /// run with one id stop each other, so it must be another one for each bridge of a cluster.
    pub id: Option<String>,
    /// The topic that keeps the cursor: compacted, only its partition 0 is used, several sinks may share it. Created, with
    /// `replicas`, if `create` is set.
    pub cursor_topic: String,
    /// A transaction is committed when it is so old. A commit takes some tenths of a second at worst, and nothing is sent
    /// meanwhile.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub interval: Duration,
    /// A transaction is committed when it has so many bytes.
    pub max_size: ByteSize,
    /// When Kafka gives up a transaction that nobody ends. So long may a bridge that was killed hold up readers, if it is
    /// not started again before.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub timeout: Duration,
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            id: None,
            cursor_topic: "neurobridge.cursors".to_owned(),
            interval: Duration::from_millis(500),
            max_size: ByteSize::from_mib(32),
            timeout: Duration::from_secs(60),
        }
    }
}

/// Where dead letters go: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// A topic of the same cluster.
    #[serde(default)]
    pub topic: Option<String>,
    /// A file of JSON lines; a relative path is below the data folder.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// TLS.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file of the authority that signs the brokers' certificates; the system's roots by default.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate, for brokers that ask for one. Needs `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// PEM file of our own certificate's private key.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The password of the private key, if it has one.
    #[serde(default)]
    pub key_password: Option<Secret>,
    /// A file with the password of the private key.
    #[serde(default)]
    pub key_password_file: Option<PathBuf>,
}

/// SASL: name and password.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    /// How the password is proved.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub username: String,
    /// The password. One of `password` and `password_file` is needed.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with the password, read again at each connect.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// How a password is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// It is sent: only over TLS.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM-SHA-256: it is proved without being sent.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// SCRAM-SHA-512: it is proved without being sent.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl SaslMechanism {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl KafkaConfig {
    /// Creates a configuration with default values for everything except the brokers.
    pub fn new(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            topic: default_topic(),
            key: default_key(),
            format: Format::default(),
            compression: Compression::default(),
            linger: default_linger(),
            max_queue_size: default_max_queue_size(),
            create: false,
            partitions: None,
            replicas: None,
            missing_topic: MissingTopic::default(),
            oversize: Oversize::default(),
            delivery: Delivery::default(),
            transaction: None,
            dead_letter: None,
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
        }
    }

    /// Returns the topic for dead letters, if they are published to one.
    pub(crate) fn dead_letter_topic(&self) -> Option<&str> {
        self.dead_letter.as_ref()?.topic.as_deref()
    }

    /// Returns the transaction settings for exactly-once delivery; otherwise `None`.
    pub(crate) fn transactions(&self) -> Option<TransactionConfig> {
        (self.delivery == Delivery::ExactlyOnce).then(|| self.transaction.clone().unwrap_or_default())
    }
}

/// Returns whether Kafka allows a character in a topic's name.
pub(crate) const fn is_topic_character(character: char) -> bool {
    matches!(character, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-')
}

fn default_topic() -> Template {
    "neuroio.entries"
        .parse()
        .expect("a text without braces is a template")
}

fn default_key() -> Template {
    "{pid}".parse().expect("a name between braces is a template")
}

const fn default_linger() -> Duration {
    Duration::from_millis(5)
}

/// Corresponds to 4,096 small events, which keep a broker on the same machine as busy as more would. Measured with headers, 16
/// MiB cost a fifth more processor time and 40 MiB more memory, without a benefit.
const fn default_max_queue_size() -> ByteSize {
    ByteSize::from_mib(4)
}

/// Returns whether a name is one of Kafka's internal topics, which accept no other records.
pub(crate) fn is_internal(topic: &str) -> bool {
    INTERNAL_TOPICS.contains(&topic)
}

#[cfg(test)]
mod tests;
