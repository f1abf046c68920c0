//! The table `cluster` of the configuration.

mod check;

#[cfg(feature = "kafka")]
use std::collections::BTreeMap;
use std::time::Duration;

#[cfg(feature = "kafka")]
use neurobridge_core::secret::Secret;
#[cfg(feature = "nats")]
use neurobridge_core::tls::TlsFiles;
#[cfg(feature = "kafka")]
use neurobridge_sink_kafka::{KafkaConfig, SaslConfig, TlsConfig};
#[cfg(feature = "nats")]
use neurobridge_sink_nats::{AuthConfig, NatsConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cluster of bridges that read the same feeds, of which one publishes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// The name of the cluster, the same for all of its members.
    pub name: String,
    /// The name of this member, different for each. The host name by default.
    #[serde(default)]
    pub member: Option<String>,
    /// What a follower does, the same for all members.
    #[serde(default)]
    pub standby: Standby,
    /// The lease that the leader holds.
    pub lease: LeaseConfig,
}

/// What a follower does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standby {
    /// It listens to the feeds and stores events, so that it continues without a gap.
    #[default]
    Hot,
    /// It does not connect to the feeds, for a platform that allows one connection. A new leader connects, and fetches the
    /// events missed since the connection of the former leader, or reports them. Needs a lease in NATS.
    Cold,
}

/// The engine that keeps the lease.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LeaseConfig {
    /// A key-value bucket of NATS JetStream.
    #[cfg(feature = "nats")]
    Nats(NatsLease),
    /// A consumer group of Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaLease),
}

/// A function that reads the table of a lease without its key `type`. Returns the first error, with its path in the table.
pub type ReadLease =
    fn(&serde_json::Value) -> Result<LeaseConfig, serde_path_to_error::Error<serde_json::Error>>;

impl LeaseConfig {
    /// Returns whether the lease transports the reports of the members.
    pub const fn has_reports(&self) -> bool {
        #[cfg(feature = "kafka")]
        if matches!(self, Self::Kafka(_)) {
            return false;
        }
        true
    }

    /// Returns the function that reads the table of a lease of this type. `None` if this build does not have the type.
    pub fn reader(kind: &str) -> Option<ReadLease> {
        match kind {
            #[cfg(feature = "nats")]
            "nats" => Some(|table| serde_path_to_error::deserialize(table).map(Self::Nats)),
            #[cfg(feature = "kafka")]
            "kafka" => Some(|table| serde_path_to_error::deserialize(table).map(Self::Kafka)),
            _ => None,
        }
    }
}

/// A lease as a consumer group of Kafka: the member to which the partition of a topic is assigned leads.
#[cfg(feature = "kafka")]
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaLease {
    /// Initial brokers: `host:port`, separated by commas.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub bootstrap_servers: String,
    /// The consumer group, used by this cluster only.
    pub group: String,
    /// A topic with one partition. It has to exist; nothing is written to it.
    #[serde(default = "default_topic")]
    pub topic: String,
    /// The time after which another member leads when the leader is silent: the session time-out of the group, for which
    /// brokers accept 6 s and more by default. The leader stops publishing after four fifths of it without a renewal.
    #[serde(default = "default_ttl", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ttl: Duration,
    /// Encrypts the connections, as those of a sink.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Authentication by user name and password, as that of a sink.
    #[serde(default)]
    pub sasl: Option<SaslConfig>,
    /// Further properties of librdkafka, by their names.
    #[serde(default)]
    pub properties: BTreeMap<String, Secret>,
}

#[cfg(feature = "kafka")]
impl KafkaLease {
    /// Returns the settings of a connection, as the configuration of a sink.
    pub(crate) fn connection(&self) -> KafkaConfig {
        let mut config = KafkaConfig::new(&self.bootstrap_servers);
        config.tls.clone_from(&self.tls);
        config.sasl.clone_from(&self.sasl);
        config.properties.clone_from(&self.properties);
        config
    }
}

#[cfg(feature = "kafka")]
fn default_topic() -> String {
    "neurobridge.lease".to_owned()
}

/// A lease in a key-value bucket of NATS JetStream.
#[cfg(feature = "nats")]
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsLease {
    /// Servers, as in `nats://localhost:4222`, or `tls://` if the connection has to be encrypted. Name several servers of a
    /// cluster, because further ones are not discovered.
    #[schemars(extend("format" = neurobridge_core::address::SCHEMA_FORMAT))]
    pub servers: Vec<String>,
    /// The bucket. Several clusters may share it.
    pub bucket: String,
    /// Creates the bucket if it does not exist. Requires `replicas`. An existing bucket is never changed.
    #[serde(default)]
    pub create: bool,
    /// The number of servers that store a created bucket: 1, 3 or 5.
    #[serde(default)]
    pub replicas: Option<u8>,
    /// The time after which another member leads when the leader is silent. It has to be longer than NATS takes to elect the
    /// leader of a stream. The leader stops publishing after four fifths of it without a renewal.
    #[serde(default = "default_ttl", with = "neurobridge_core::units::duration")]
    #[schemars(with = "neurobridge_core::units::DurationText")]
    pub ttl: Duration,
    /// The credentials, as those of a sink.
    #[serde(default)]
    pub auth: Option<AuthConfig>,
    /// Encrypts the connection, as that of a sink.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
}

#[cfg(feature = "nats")]
impl NatsLease {
    /// Returns the settings of a connection, as the configuration of a sink whose stream is that of the bucket.
    pub(crate) fn connection(&self) -> NatsConfig {
        let mut config = NatsConfig::new("", stream_of(&self.bucket));
        config.servers.clone_from(&self.servers);
        config.auth.clone_from(&self.auth);
        config.tls.clone_from(&self.tls);
        config
    }
}

/// Returns the stream that stores a bucket.
#[cfg(feature = "nats")]
pub(crate) fn stream_of(bucket: &str) -> String {
    format!("KV_{bucket}")
}

const fn default_ttl() -> Duration {
    // A server elects a new leader of a stream within some seconds.
    Duration::from_secs(10)
}
