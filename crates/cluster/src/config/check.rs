//! The checks of the configuration that need no connection.

use std::time::Duration;

use neurobridge_core::units::format_duration;

#[cfg(feature = "kafka")]
use super::KafkaLease;
#[cfg(feature = "nats")]
use super::NatsLease;
use super::{ClusterConfig, LeaseConfig, Standby};
use crate::record::{MAX_NAME, MAX_TTL};

/// With a shorter ttl, each pause of a process or server would end the leadership.
#[cfg(feature = "nats")]
const MIN_TTL: Duration = Duration::from_secs(1);

/// A leader whose lease ends closes its connections to the feeds within a fifth of the ttl, for which it needs up to a second.
#[cfg(feature = "nats")]
const MIN_COLD_TTL: Duration = Duration::from_secs(10);

impl ClusterConfig {
    /// Returns the name of a member: the configured one, otherwise the name of the host.
    ///
    /// # Errors
    /// Returns a sentence if the name of the host is not a valid name of a member.
    pub fn member_on(&self, host: &str) -> Result<String, String> {
        let name = self.member.as_deref().unwrap_or(host);
        check_name(name).map_err(|message| {
            format!("{message}; set cluster.member, because the host name is not valid")
        })?;
        Ok(name.to_owned())
    }

    /// Returns the errors of the configuration without connecting: keys below the table `cluster`, and for each a text with
    /// the found and the expected value. Reads no file.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        let mut error = |key: &str, message: String| errors.push((key.to_owned(), message));
        if let Err(message) = check_name(&self.name) {
            error("name", message);
        }
        if let Some(Err(message)) = self.member.as_deref().map(check_name) {
            error("member", message);
        }
        if let Err(message) = self.check_standby() {
            error("standby", message);
        }
        let mut lease_error = |key: &str, message| error(&format!("lease.{key}"), message);
        match self.lease {
            #[cfg(feature = "nats")]
            LeaseConfig::Nats(ref lease) => lease.check(&mut lease_error),
            #[cfg(feature = "kafka")]
            LeaseConfig::Kafka(ref lease) => lease.check(&mut lease_error),
        }
        errors
    }
}

impl ClusterConfig {
    fn check_standby(&self) -> Result<(), String> {
        match self.lease {
            _ if self.standby == Standby::Hot => Ok(()),
            #[cfg(feature = "nats")]
            LeaseConfig::Nats(ref lease) if lease.ttl < MIN_COLD_TTL => Err(format!(
                "found \"cold\" with lease.ttl = \"{}\", expected at least \"{}\": within a fifth of the ttl a \
                 leader has to close its connections to the feeds",
                format_duration(lease.ttl),
                format_duration(MIN_COLD_TTL)
            )),
            #[cfg(feature = "nats")]
            LeaseConfig::Nats(_) => Ok(()),
            #[cfg(feature = "kafka")]
            LeaseConfig::Kafka(_) => Err(
                "found \"cold\" with a lease in Kafka, expected lease.type = \"nats\": a consumer group does not transport how far the \
                 leader has published, so a new leader would not know which events are missed; use a lease in NATS, or standby = \"hot\""
                    .to_owned(),
            ),
        }
    }
}

/// Reports the errors of a sink with the same settings, but only those of the keys that concern the connection.
fn check_connection(errors: Vec<(String, String)>, keys: &[&str], error: &mut impl FnMut(&str, String)) {
    for (key, message) in errors {
        if keys.iter().any(|own| key.split('.').next() == Some(*own)) {
            error(&key, message);
        }
    }
}

#[cfg(feature = "kafka")]
impl KafkaLease {
    fn check(&self, error: &mut impl FnMut(&str, String)) {
        let keys = ["bootstrap_servers", "tls", "sasl", "properties"];
        check_connection(self.connection().check(), &keys, error);
        for property in self
            .properties
            .keys()
            .filter(|property| OF_THE_LEASE.contains(&property.as_str()))
        {
            error(
                &format!("properties.{property}"),
                "found a value, expected no value: the bridge itself sets this property for the lease".into(),
            );
        }
        if self.group.is_empty() || self.group.len() > 249 || self.group.chars().any(char::is_control) {
            let found = neurobridge_core::foreign_text::clean(&self.group);
            error(
                "group",
                format!("found \"{found}\", expected a name of 1 to 249 printable characters"),
            );
        }
        // A topic of the lease passes the checks of a sink's topic, but must not be a template.
        let mut connection = self.connection();
        match self.topic.parse() {
            Ok(topic) if !self.topic.contains('{') => {
                connection.topic = topic;
                check_connection(connection.check(), &["topic"], error);
            }
            _ => error(
                "topic",
                format!(
                    "found \"{}\", expected the fixed name of a topic, without fields in braces",
                    neurobridge_core::foreign_text::clean(&self.topic)
                ),
            ),
        }
        check_ttl(self.ttl, MIN_SESSION, error);
    }
}

/// The shortest session that brokers accept by default.
#[cfg(feature = "kafka")]
const MIN_SESSION: Duration = Duration::from_secs(6);

/// The properties of librdkafka on which the lease depends.
#[cfg(feature = "kafka")]
const OF_THE_LEASE: &[&str] = &[
    "auto.offset.reset",
    "client.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "heartbeat.interval.ms",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "session.timeout.ms",
    "socket.timeout.ms",
];

#[cfg(feature = "nats")]
impl NatsLease {
    fn check(&self, error: &mut impl FnMut(&str, String)) {
        check_connection(self.connection().check(), &["servers", "auth", "tls"], error);
        let is_bucket_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if self.bucket.is_empty() || !self.bucket.chars().all(is_bucket_character) {
            let found = neurobridge_core::foreign_text::clean(&self.bucket);
            error(
                "bucket",
                format!("found \"{found}\", expected a name of letters, digits, \"-\" and \"_\""),
            );
        }
        match (self.create, self.replicas) {
            (false, Some(_)) => error(
                "replicas",
                "found replicas without create, expected create = true in the same table".into(),
            ),
            (true, None) => error(
                "replicas",
                "found none, expected 1, 3 or 5: create = true needs the number of replicas".into(),
            ),
            (true, Some(found)) if !matches!(found, 1 | 3 | 5) => error(
                "replicas",
                format!("found {found}, expected 1, 3 or 5: create = true needs the number of replicas"),
            ),
            _ => {}
        }
        check_ttl(self.ttl, MIN_TTL, error);
    }
}

/// Checks the ttl of a lease.
fn check_ttl(ttl: Duration, least: Duration, error: &mut impl FnMut(&str, String)) {
    if !(least..=MAX_TTL).contains(&ttl) {
        error(
            "ttl",
            format!(
                "found \"{}\", expected \"{}\" to \"{}\"",
                format_duration(ttl),
                format_duration(least),
                format_duration(MAX_TTL)
            ),
        );
    }
}

/// Checks a name, which is part of a key of the engine.
///
/// # Errors
/// Returns what was found and what was expected.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let is_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_token = |token: &str| !token.is_empty();
    if name.len() <= MAX_NAME && name.chars().all(is_character) && name.split('.').all(is_token) {
        return Ok(());
    }
    let found = neurobridge_core::foreign_text::clean(name);
    Err(format!(
        "found \"{found}\", expected a name of at most {MAX_NAME} letters, digits, \"-\" and \"_\", with single dots between"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(value: serde_json::Value) -> String {
        let config: ClusterConfig = serde_json::from_value(value).unwrap();
        let lines: Vec<_> = config
            .check()
            .into_iter()
            .map(|(key, message)| format!("{key}: {message}"))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn defaults_are_valid() {
        let found = errors(serde_json::json!({
            "name": "faces",
            "member": "bridge-0.example.com",
            "lease": { "type": "nats", "servers": ["localhost"], "bucket": "neurobridge" },
        }));
        assert_eq!(found, "");
    }

    #[test]
    fn all_errors_are_reported() {
        insta::assert_snapshot!(errors(serde_json::json!({
            "name": "",
            "member": "a..b",
            "lease": {
                "type": "nats", "servers": ["nats://u:hunter2@localhost"], "bucket": "a.b", "ttl": "10ms",
                "create": true, "replicas": 2, "auth": {}, "tls": { "cert_file": "c" },
            },
        })), @r#"
        name: found "", expected a name of at most 128 letters, digits, "-" and "_", with single dots between
        member: found "a..b", expected a name of at most 128 letters, digits, "-" and "_", with single dots between
        lease.servers.0: found a URL with a user or password in it, expected auth = { user = …, password_file = … }
        lease.auth: found 0 kinds of credentials, expected one of user and password, token, nkey, credentials_file
        lease.tls: found one of cert_file and key_file, expected both or none
        lease.bucket: found "a.b", expected a name of letters, digits, "-" and "_"
        lease.replicas: found 2, expected 1, 3 or 5: create = true needs the number of replicas
        lease.ttl: found "10ms", expected "1s" to "5m"
        "#);
    }

    #[test]
    fn errors_of_a_kafka_lease_are_reported() {
        insta::assert_snapshot!(errors(serde_json::json!({
            "name": "faces",
            "lease": {
                "type": "kafka", "bootstrap_servers": "", "group": "", "topic": "a b", "ttl": "1s",
                "sasl": { "mechanism": "plain", "username": "" }, "properties": { "group.instance.id": "a" },
            },
        })), @r#"
        lease.bootstrap_servers: found no broker, expected host:port such as "localhost:9092"
        lease.sasl.username: found an empty text, expected the user's name
        lease.sasl.password: found neither password nor password_file, expected one of them
        lease.properties.group.instance.id: found a value, expected no value: the bridge itself sets this property for the lease
        lease.group: found "", expected a name of 1 to 249 printable characters
        lease.topic: found ' ' in "a b", expected letters, digits, ".", "_" and "-" only
        lease.ttl: found "1s", expected "6s" to "5m"
        "#);
    }

    #[test]
    fn cold_standby_needs_a_lease_that_transports_the_position() {
        let with = |lease: serde_json::Value| {
            errors(serde_json::json!({ "name": "faces", "standby": "cold", "lease": lease }))
        };
        let kafka = serde_json::json!({ "type": "kafka", "bootstrap_servers": "h:9092", "group": "g" });
        let found = with(kafka);
        assert!(
            found
                .starts_with("standby: found \"cold\" with a lease in Kafka, expected lease.type = \"nats\""),
            "{found}"
        );
        let nats = |ttl: &str| serde_json::json!({ "type": "nats", "servers": ["nats://h"], "bucket": "b", "ttl": ttl });
        let found = with(nats("9s"));
        assert!(
            found.contains("lease.ttl = \"9s\", expected at least \"10s\""),
            "{found}"
        );
        assert_eq!(with(nats("10s")), "");
    }
}
