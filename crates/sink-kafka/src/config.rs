//! The sink's part of the configuration.

mod check;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use neurobridge_core::{
    secret::Secret,
    sink_config::{Format, OversizeAction},
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

/// A Kafka topic, or several topics by a template.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// Initial brokers: `host:port`, separated by commas. The addresses of the other brokers come from the
    /// metadata of these.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub bootstrap_servers: String,
    /// The topic. It may contain fields of the event in braces, as in `entries.{space.id}`: a field without a value becomes
    /// `unknown`, and a character that Kafka does not allow in a topic becomes `_`. The id of a person is not allowed in it.
    /// `feeds.{feed}` by default if all sources are declared feeds.
    #[serde(default = "default_topic")]
    #[schemars(extend("x-default-of-feeds" = "feeds.{feed}"))]
    pub topic: Template,
    /// The key of a record: Kafka keeps the order of records with the same key. If a field in it has no value, the record
    /// has no key and may go to any partition.
    #[serde(default = "default_key")]
    pub key: Template,
    /// The format of a record.
    #[serde(default)]
    pub format: Format,
    /// The compression of batches.
    #[serde(default)]
    pub compression: Compression,
    /// The time for which the client waits for more records before it sends a batch; at most 5 s.
    #[serde(default = "default_linger", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub linger: Duration,
    /// The size of the client's queue: the limit on the total size of the bodies. It also limits the number of records, to one
    /// for each KiB. Keys and headers are not counted. While the queue is full, events wait in the spool. An event that is larger
    /// than the queue is too large.
    #[serde(default = "default_max_queue_size")]
    pub max_queue_size: ByteSize,
    /// Creates missing topics. Requires `partitions` and `replicas`.
    #[serde(default)]
    pub create: bool,
    /// The number of partitions of a created topic. If it is increased later, keys move to other partitions.
    #[serde(default)]
    pub partitions: Option<u32>,
    /// The replication factor of a created topic.
    #[serde(default)]
    pub replicas: Option<u16>,
    /// What happens to an event whose topic does not exist. If the topic cannot exist (an internal name, or one that
    /// collides with another topic), the event becomes a dead letter in any case.
    #[serde(default)]
    pub missing_topic: MissingTopic,
    /// What happens to an event that is larger than its topic allows.
    #[serde(default)]
    pub oversize: OversizeAction,
    /// The delivery guarantee.
    #[serde(default)]
    pub delivery: Delivery,
    /// The transactions; only for `delivery = "exactly_once"`.
    #[serde(default)]
    pub transaction: Option<TransactionConfig>,
    /// The place for events that Kafka rejects; a file in the data folder by default.
    #[serde(default)]
    pub dead_letter: Option<DeadLetterConfig>,
    /// Encrypts the connections. An empty table is sufficient if the system trusts the authority of the brokers'
    /// certificates.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Authentication by user name and password.
    #[serde(default)]
    pub sasl: Option<SaslConfig>,
    /// Further properties of librdkafka, by their names. Those on which the guarantees of the bridge depend are rejected.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
}

/// The compression of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// No compression.
    None,
    /// Small and slow.
    Gzip,
    /// Fast.
    Snappy,
    /// Fast, with the lowest total cost, because less data is sent and stored.
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

/// What happens to an event whose topic does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MissingTopic {
    /// The sink waits until the topic exists; no event is skipped.
    #[default]
    Wait,
    /// The event becomes a dead letter, and the next one is published. Only for a topic that is a template.
    DeadLetter,
}

/// The delivery guarantee.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Each event is stored once, and after a fault or a restart possibly once more, with the same id.
    #[default]
    AtLeastOnce,
    /// Each event is stored once, for readers with `isolation.level = "read_committed"`: events and the cursor are committed
    /// together. Readers receive events later, by up to `transaction.interval` and the duration of a commit.
    ExactlyOnce,
}

/// The transactions of `delivery = "exactly_once"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionConfig {
    /// The `transactional.id`, also the key of the cursor's record; `neurobridge-` and the sink's name by default. Two sinks
    /// with the same id fence each other: the members of a cluster share the id, all other bridges need their own.
    pub id: Option<String>,
    /// The topic that stores the cursor: compacted; only its partition 0 is used, and several sinks may share it. Created
    /// with `replicas` if `create` is set.
    pub cursor_topic: String,
    /// The age at which a transaction is committed. A commit usually takes at most some tenths of a second, and nothing is sent
    /// meanwhile.
    #[serde(with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub interval: Duration,
    /// The size at which a transaction is committed.
    pub max_size: ByteSize,
    /// The time after which Kafka aborts an open transaction. A bridge that was killed may block readers for this time,
    /// unless it is restarted before.
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

/// The place for dead letters: exactly one of these keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterConfig {
    /// A topic of the same cluster.
    #[serde(default)]
    pub topic: Option<String>,
    /// A file of JSON lines; a relative path begins at the data folder.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

/// TLS.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates (PEM) of the authorities that sign the brokers' certificates, instead of those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The client certificate (PEM) with its chain, for brokers that require one. Requires `key_file`.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// The private key (PEM) of `cert_file`.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The passphrase of the private key, if it is encrypted.
    #[serde(default)]
    pub key_password: Option<Secret>,
    /// A file with the passphrase of the private key.
    #[serde(default)]
    pub key_password_file: Option<PathBuf>,
}

/// Authentication by user name and password (SASL).
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    /// The mechanism that proves the password.
    pub mechanism: SaslMechanism,
    /// The user name.
    pub username: String,
    /// The password. Exactly one of `password` and `password_file` is required.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with the password, read at each connection.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// The mechanism that proves the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// The password itself is sent; use it only over TLS.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM-SHA-256: the password is not sent.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// SCRAM-SHA-512: the password is not sent.
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
            oversize: OversizeAction::default(),
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
    "{key}".parse().expect("a name between braces is a template")
}

const fn default_linger() -> Duration {
    Duration::from_millis(5)
}

/// Has room for 4,096 small events, which load a broker on the same machine as much as a larger number. Measured with headers, 16
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
