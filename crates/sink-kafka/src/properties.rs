//! Converts the sink's configuration to librdkafka's properties.

use std::path::Path;

use neurobridge_core::{
    secret::{self, Secret},
    sink::{FaultKind, SinkFault},
};
use rdkafka::{ClientConfig, error::KafkaError};

use crate::{config::KafkaConfig, tls};

/// The interval of the statistics: queue depths and broker states. Short enough to name an unreachable broker within seconds.
const STATISTICS_INTERVAL_MS: &str = "2000";

/// An upper bound on the bytes of a batch with one record, in addition to key, headers and value: 61 for the head of the batch,
/// and less than 67 for the record.
pub(crate) const BATCH_OVERHEAD: usize = 128;

/// librdkafka's own default: larger batches have no benefit.
const MAX_BATCH: usize = 1_000_000;
/// The smallest and the largest value that librdkafka accepts for `message.max.bytes`.
const MESSAGE_BOUNDS: (usize, usize) = (1_000, 1_000_000_000);

/// The approximate memory of librdkafka for a message with eight headers, in addition to the body; without headers 300 bytes.
const MESSAGE_OVERHEAD: usize = 1024;

/// Properties that have a key of their own in the sink's configuration.
const OWN_KEYS: &[(&str, &str)] = &[
    ("bootstrap.servers", "bootstrap_servers"),
    ("metadata.broker.list", "bootstrap_servers"),
    ("linger.ms", "linger"),
    ("queue.buffering.max.ms", "linger"),
    ("compression.type", "compression"),
    ("compression.codec", "compression"),
    ("queue.buffering.max.kbytes", "max_queue_size"),
    ("queue.buffering.max.messages", "max_queue_size"),
    ("security.protocol", "tls and sasl"),
    ("sasl.mechanism", "sasl.mechanism"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.username", "sasl.username"),
    ("sasl.password", "sasl.password"),
    ("ssl.ca.location", "tls.ca_file"),
    ("ssl.certificate.location", "tls.cert_file"),
    ("ssl.key.location", "tls.key_file"),
    ("ssl.key.password", "tls.key_password"),
    ("allow.auto.create.topics", "create"),
    (
        "transactional.id",
        "delivery = \"exactly_once\" and transaction.id",
    ),
    ("transaction.timeout.ms", "transaction.timeout"),
];

/// Properties that cannot be set, because the guarantees of the bridge depend on them, with the reasons.
const FIXED: &[(&str, &str)] = &[
    (
        "acks",
        "the bridge always sets \"all\": with less, an acknowledged event may be lost with one broker",
    ),
    (
        "request.required.acks",
        "the bridge always sets \"all\": with less, an acknowledged event may be lost with one broker",
    ),
    (
        "enable.idempotence",
        "the bridge always enables idempotence: otherwise a retry may store events twice and out of order",
    ),
    (
        "enable.gapless.guarantee",
        "the bridge itself detects and closes gaps",
    ),
    (
        "message.timeout.ms",
        "an event never times out: it waits for its broker without limit",
    ),
    (
        "delivery.timeout.ms",
        "an event never times out: it waits for its broker without limit",
    ),
    ("retries", "a batch is retried without limit"),
    ("message.send.max.retries", "a batch is retried without limit"),
    ("max.in.flight", "idempotence limits the requests in flight to 5"),
    (
        "max.in.flight.requests.per.connection",
        "idempotence limits the requests in flight to 5",
    ),
    (
        "partitioner",
        "the bridge always sets \"murmur2_random\", which chooses the same partition as Java clients",
    ),
    ("queuing.strategy", "events are sent in their order"),
    (
        "isolation.level",
        "the bridge chooses the isolation level for each topic that it reads",
    ),
    (
        "delivery.report.only.error",
        "the bridge needs the report of every event",
    ),
    (
        "statistics.interval.ms",
        "the bridge reads the statistics every 2 seconds for the state of the brokers",
    ),
];

/// Returns the errors of `properties`: properties that must not be set, and those that librdkafka rejects.
pub(crate) fn check(config: &KafkaConfig) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut allowed = ClientConfig::new();
    for (name, value) in &config.properties {
        if name.contains('\0') || value.expose().contains('\0') {
            // librdkafka would take a NUL for the end of the text.
            let name = name.replace('\0', "\u{fffd}");
            errors.push((
                name,
                "found a NUL character, expected text without NUL characters".to_owned(),
            ));
        } else if let Some((_, own)) = OWN_KEYS.iter().find(|(property, _)| property == name) {
            errors.push((
                name.clone(),
                format!("found among the properties, expected {own} of the sink instead"),
            ));
        } else if let Some((_, reason)) = FIXED.iter().find(|(property, _)| property == name) {
            errors.push((
                name.clone(),
                format!("found a value, expected no value: {reason}"),
            ));
        } else {
            allowed.set(name, value.expose());
        }
    }
    // librdkafka reports one invalid property at a time.
    while let Err(KafkaError::ClientConfig(_, message, name, _)) = allowed.create_native_config() {
        allowed.remove(&name);
        errors.push((
            name,
            format!("librdkafka rejects this property: {}", without_value(&message)),
        ));
    }
    errors
}

/// Returns the properties that all clients of this sink share: the brokers and the credentials. Reads the files of secrets, so
/// that a new client uses their current contents.
///
/// # Errors
/// A secret cannot be read.
pub(crate) fn client(config: &KafkaConfig, sink: &str) -> Result<ClientConfig, SinkFault> {
    let mut client = ClientConfig::new();
    for (name, value) in &config.properties {
        client.set(name, value.expose());
    }
    client
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("client.id", format!("neurobridge-{sink}"))
        // The default of producers is true: a deleted topic would be created again, empty and with the broker's defaults.
        .set("allow.auto.create.topics", "false");
    client.set(
        "security.protocol",
        match (&config.tls, &config.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        },
    );
    if let Some(tls) = &config.tls {
        // Read here, within a time limit: librdkafka would block on a disk that hangs, and does not name an invalid file.
        match &tls.ca_file {
            Some(path) => client.set("ssl.ca.pem", tls::authorities(path)?),
            // The vendored OpenSSL would look for its roots in /usr/local/ssl, where there are none.
            None => client.set("ssl.ca.location", "probe"),
        };
        if let Some(path) = &tls.cert_file {
            client.set("ssl.certificate.pem", tls::read("cert_file", path)?.as_str());
        }
        if let Some(path) = &tls.key_file {
            client.set("ssl.key.pem", tls::read("key_file", path)?.as_str());
        }
        let password = resolve(
            "tls.key_password",
            tls.key_password.as_ref(),
            tls.key_password_file.as_deref(),
        )?;
        if let Some(password) = password {
            client.set("ssl.key.password", password.expose());
        }
    }
    if let Some(sasl) = &config.sasl {
        client
            .set("sasl.mechanism", sasl.mechanism.name())
            .set("sasl.username", &sasl.username);
        let password = resolve(
            "sasl.password",
            sasl.password.as_ref(),
            sasl.password_file.as_deref(),
        )?;
        client.set("sasl.password", password.as_ref().map_or("", Secret::expose));
    }
    Ok(client)
}

/// The size limits of a producer's messages and batches, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `message.max.bytes`.
    pub(crate) message: usize,
    /// `batch.size`.
    pub(crate) batch: usize,
}

impl Limits {
    /// Computes the limits for topics whose `max.message.bytes` lie between two bounds. A batch that is too large for its topic
    /// fails with all of its messages; so the smallest bound limits the batches, the largest the messages, and each message is
    /// checked against the limit of its own topic before it is sent.
    pub(crate) fn between(least: usize, most: usize, config: &KafkaConfig) -> Self {
        let cap = |name: &str| {
            config
                .properties
                .get(name)
                .and_then(|value| value.expose().trim().parse().ok())
        };
        let message = cap("message.max.bytes")
            .unwrap_or(usize::MAX)
            .min(most.saturating_sub(BATCH_OVERHEAD));
        let batch = cap("batch.size")
            .unwrap_or(MAX_BATCH)
            .min(least.saturating_sub(BATCH_OVERHEAD));
        Self {
            message: message.clamp(MESSAGE_BOUNDS.0, MESSAGE_BOUNDS.1),
            batch: batch.max(1),
        }
    }
}

/// The limits of the client's queue. Both are needed: the bytes limit large bodies, the number limits the overhead of small
/// messages, which is about twice the size of their bodies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueBounds {
    /// The total size of the bodies.
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
}

impl QueueBounds {
    pub(crate) fn of(config: &KafkaConfig) -> Self {
        let bytes = usize::try_from(config.max_queue_size.bytes()).unwrap_or(usize::MAX);
        let messages = (bytes / MESSAGE_OVERHEAD).max(1);
        Self { bytes, messages }
    }
}

/// Returns the properties of a producer, based on those of a client.
pub(crate) fn producer(
    client: &ClientConfig,
    config: &KafkaConfig,
    limits: Limits,
    transactional_id: Option<&str>,
) -> ClientConfig {
    let queue = QueueBounds::of(config);
    let mut producer = client.clone();
    producer
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // librdkafka must never give up a message by itself: that would leave a gap that later messages overtake.
        .set("message.timeout.ms", "0")
        .set("linger.ms", config.linger.as_millis().to_string())
        .set("compression.type", config.compression.name())
        // The default is CRC32, with which Java programs would look for a person's events in another partition.
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", limits.message.to_string())
        .set("batch.size", limits.batch.to_string())
        // The sink enforces the limits before it queues a message. Twice as much always has room for reported messages that are
        // not freed yet, and for the next message.
        .set(
            "queue.buffering.max.messages",
            queue.messages.saturating_mul(2).to_string(),
        )
        .set(
            "queue.buffering.max.kbytes",
            queue.bytes.div_ceil(1024).saturating_mul(2).to_string(),
        )
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
    if let (Some(transactions), Some(id)) = (config.transactions(), transactional_id) {
        producer.set("transactional.id", id).set(
            "transaction.timeout.ms",
            transactions.timeout.as_millis().to_string(),
        );
    }
    producer
}

/// The property with the time for which a broker delays the answer to a request for records while there are none.
pub(crate) const FETCH_WAIT: &str = "fetch.wait.max.ms";

/// Returns the properties of a consumer that reads to the end of a topic. It joins no group, but librdkafka requires a group id.
pub(crate) fn consumer(client: &ClientConfig, isolation: &str) -> ClientConfig {
    let mut consumer = client.clone();
    if client.get(FETCH_WAIT).is_none() {
        // The reader knows that it has reached the end when a request has returned no records. A takeover waits for that answer.
        consumer.set(FETCH_WAIT, "10");
    }
    consumer
        .set("group.id", "neurobridge")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation);
    consumer
}

fn resolve(
    key: &'static str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, SinkFault> {
    let found = secret::resolve(key, value, file).map_err(|error| {
        let cause = std::error::Error::source(&error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        SinkFault::new(FaultKind::Unauthorised, format!("{error}{cause}"))
    })?;
    if let (Some(secret), Some(file)) = (&found, file)
        && secret.expose().contains('\0')
    {
        let reason = format!(
            "{key}: found a NUL character in \"{}\", expected text without NUL characters; write the file again",
            file.display()
        );
        return Err(SinkFault::new(FaultKind::Unauthorised, reason));
    }
    Ok(found)
}

/// Removes the value from librdkafka's message, since the quoted value may be a secret.
fn without_value(message: &str) -> &str {
    message.split(['"', ':']).next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_file_is_named() {
        let mut config = KafkaConfig::new("127.0.0.1:1");
        config.tls = Some(crate::TlsConfig {
            ca_file: Some("no/such.pem".into()),
            ..Default::default()
        });
        let Err(fault) = client(&config, "kafka") else {
            panic!("a file that does not exist was accepted");
        };
        assert!(fault.reason.contains("tls.ca_file = \"no/such.pem\""), "{fault}");
    }

    fn config(properties: &[(&str, &str)]) -> KafkaConfig {
        let mut config = KafkaConfig::new("localhost:9092");
        config.properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new(*value)))
            .collect();
        config
    }

    #[test]
    fn every_producer_has_the_guaranteed_properties() {
        let config = config(&[("socket.keepalive.enable", "true")]);
        let client = client(&config, "kafka").unwrap();
        let producer = producer(
            &client,
            &config,
            Limits::between(1_048_588, 1_048_588, &config),
            None,
        );
        let text: Vec<String> = producer
            .config_map()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        insta::assert_snapshot!(text.join("\n"));
        producer.create_native_config().unwrap();
    }

    #[test]
    fn properties_that_break_guarantees_are_rejected() {
        let names: Vec<_> = OWN_KEYS
            .iter()
            .chain(FIXED)
            .map(|(name, _)| (*name, "1"))
            .collect();
        let refused = check(&config(&names));
        assert_eq!(refused.len(), names.len());
        // Checks that librdkafka knows each property: with a misspelt name, the real property would be accepted.
        for (name, _) in names {
            let result = ClientConfig::new()
                .set(name, "no such value")
                .create_native_config();
            let text = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!text.contains("No such configuration property"), "{name}: {text}");
        }
    }

    #[test]
    fn other_properties_are_checked_by_librdkafka() {
        let wrong = check(&config(&[
            ("no.such.property", "hunter2"),
            ("socket.timeout.ms", "hunter3"),
            ("ssl.cipher.suites", "DEFAULT"),
        ]));
        let text = format!("{wrong:?}");
        assert_eq!(wrong.len(), 2, "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }

    #[test]
    fn smallest_topic_limits_batches_and_largest_limits_messages() {
        let limits = Limits::between(2_000, 10_000, &config(&[]));
        assert_eq!(
            limits,
            Limits {
                message: 10_000 - BATCH_OVERHEAD,
                batch: 2_000 - BATCH_OVERHEAD
            }
        );
        let capped = Limits::between(
            2_000_000,
            2_000_000,
            &config(&[("message.max.bytes", "5000"), ("batch.size", "4000")]),
        );
        assert_eq!(
            capped,
            Limits {
                message: 5_000,
                batch: 4_000
            }
        );
        assert_eq!(
            Limits::between(10, 10, &config(&[])),
            Limits {
                message: 1_000,
                batch: 1
            }
        );
    }

    #[test]
    fn changed_password_file_is_used_by_the_next_client() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let mut config = config(&[]);
        config.tls = Some(crate::TlsConfig::default());
        config.sasl = Some(crate::SaslConfig {
            mechanism: crate::SaslMechanism::ScramSha512,
            username: "bob".into(),
            password: None,
            password_file: Some(file.clone()),
        });
        let fault = client(&config, "kafka").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unauthorised);
        assert!(
            fault.reason.contains("password") && fault.reason.contains("No such file"),
            "{fault}"
        );
        for password in ["one", "two"] {
            std::fs::write(&file, password).unwrap();
            let client = client(&config, "kafka").unwrap();
            assert_eq!(client.get("sasl.password"), Some(password));
            assert_eq!(client.get("ssl.ca.location"), Some("probe"));
            assert_eq!(client.get("security.protocol"), Some("sasl_ssl"));
        }
    }
}
