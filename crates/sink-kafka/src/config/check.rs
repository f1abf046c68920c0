//! Checks a configuration without connecting.

use std::{net::Ipv6Addr, time::Duration};

use neurobridge_core::{
    sink_config::check_dead_letter,
    template::Template,
    units::{ByteSize, format_duration},
};

use super::{KafkaConfig, MAX_TOPIC_LENGTH, MissingTopic, is_internal, is_topic_character};
use crate::properties;

/// A smaller queue would not hold an ordinary message.
const MIN_QUEUE: ByteSize = ByteSize::from_mib(1);
/// librdkafka receives twice this value, in KiB, as a number of 31 bits.
const MAX_QUEUE: ByteSize = ByteSize::from_mib(512 * 1024);
/// With a shorter interval most of the time would be spent on commits.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// A shorter timeout could expire while a broker takes its time to answer.
const MIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest timeout that brokers accept by default (`transaction.max.timeout.ms`).
const MAX_TIMEOUT: Duration = Duration::from_secs(900);
/// With a smaller size most of the time would be spent on commits.
const MIN_TRANSACTION: ByteSize = ByteSize::from_mib(1);
/// Half of the time after which a sink counts as down if its first event has no acknowledgement.
const MAX_LINGER: Duration = Duration::from_secs(5);

impl KafkaConfig {
    /// Returns the configuration errors, found without connecting: keys below this sink's table, and for each a sentence that
    /// states what was found and what was expected. Empty if the configuration is valid. Reads no file.
    pub fn check(&self) -> Vec<(String, String)> {
        let mut errors = Vec::new();
        let mut error = |key: &str, message: String| errors.push((key.to_owned(), message));
        if let Err(message) = check_servers(&self.bootstrap_servers) {
            error("bootstrap_servers", message);
        }
        for (key, text) in self.texts() {
            if text.contains('\0') {
                error(
                    key,
                    "found a NUL character, expected text without NUL characters".into(),
                );
            }
        }
        if self.missing_topic == MissingTopic::DeadLetter && self.topic.constant().is_some() {
            error(
                "missing_topic",
                "found \"dead_letter\" beside a topic that is the same for all events, expected \"wait\": all events would \
                 become dead letters"
                    .into(),
            );
        }
        if let Err(message) = check_topic(&self.topic) {
            error("topic", message);
        }
        if self.linger > MAX_LINGER {
            error(
                "linger",
                format!(
                    "found \"{}\", expected at most \"{}\"",
                    format_duration(self.linger),
                    format_duration(MAX_LINGER)
                ),
            );
        }
        if !(MIN_QUEUE..=MAX_QUEUE).contains(&self.max_queue_size) {
            let found = self.max_queue_size;
            error(
                "max_queue_size",
                format!("found \"{found}\", expected \"{MIN_QUEUE}\" to \"{MAX_QUEUE}\""),
            );
        }
        self.check_creation(&mut error);
        self.check_transaction(&mut error);
        self.check_dead_letter(&mut error);
        self.check_security(&mut error);
        for (name, message) in properties::check(self) {
            error(&format!("properties.{name}"), message);
        }
        errors
    }

    /// Returns the texts that librdkafka receives as C strings, which a NUL would end. Other texts are checked separately.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let sasl = self.sasl.iter();
        let sasl = sasl.flat_map(|sasl| {
            let password = sasl
                .password
                .as_ref()
                .map(|password| ("sasl.password", password.expose()));
            [Some(("sasl.username", sasl.username.as_str())), password]
        });
        let key_password = self.tls.as_ref().and_then(|tls| tls.key_password.as_ref());
        let key_password = key_password.map(|password| ("tls.key_password", password.expose()));
        let id = self
            .transaction
            .as_ref()
            .and_then(|transaction| transaction.id.as_deref());
        let id = id.map(|id| ("transaction.id", id));
        sasl.chain([key_password, id]).flatten()
    }

    fn check_transaction(&self, error: &mut impl FnMut(&str, String)) {
        let Some(transaction) = self.transactions() else {
            if self.transaction.is_some() {
                error(
                    "transaction",
                    "found without transactions, expected delivery = \"exactly_once\" beside it".into(),
                );
            }
            return;
        };
        if transaction.id.as_ref().is_some_and(String::is_empty) {
            error(
                "transaction.id",
                "found an empty text, expected a name that no other bridge uses".into(),
            );
        }
        let cursors = &transaction.cursor_topic;
        let is_used = [self.topic.constant(), self.dead_letter_topic()].contains(&Some(cursors));
        if let Err(message) = check_topic_name(cursors) {
            error("transaction.cursor_topic", message);
        } else if is_used {
            error(
                "transaction.cursor_topic",
                format!("found \"{cursors}\", expected another topic than those of events and dead letters"),
            );
        }
        if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&transaction.timeout) {
            error(
                "transaction.timeout",
                format!(
                    "found \"{}\", expected \"{}\" to \"{}\"",
                    format_duration(transaction.timeout),
                    format_duration(MIN_TIMEOUT),
                    format_duration(MAX_TIMEOUT)
                ),
            );
        }
        let most = transaction.timeout / 4;
        if !(MIN_INTERVAL..=most).contains(&transaction.interval) {
            error(
                "transaction.interval",
                format!(
                    "found \"{}\", expected \"{}\" to \"{}\", a quarter of transaction.timeout",
                    format_duration(transaction.interval),
                    format_duration(MIN_INTERVAL),
                    format_duration(most)
                ),
            );
        }
        if transaction.max_size < MIN_TRANSACTION {
            error(
                "transaction.max_size",
                format!(
                    "found \"{}\", expected at least \"{MIN_TRANSACTION}\": a commit takes as long as some hundred events",
                    transaction.max_size
                ),
            );
        }
    }

    fn check_creation(&self, error: &mut impl FnMut(&str, String)) {
        if !self.create {
            for (key, set) in [
                ("partitions", self.partitions.is_some()),
                ("replicas", self.replicas.is_some()),
            ] {
                if set {
                    error(
                        key,
                        format!("found {key} without create, expected create = true in the same table"),
                    );
                }
            }
            return;
        }
        // The largest value that the protocol can carry.
        if !self
            .partitions
            .is_some_and(|partitions| (1..=i32::MAX as u32).contains(&partitions))
        {
            let found = found(self.partitions);
            error(
                "partitions",
                format!("found {found}, expected a number of 1 or more: create = true needs this number"),
            );
        }
        if !self
            .replicas
            .is_some_and(|replicas| (1..=i16::MAX as u16).contains(&replicas))
        {
            let found = found(self.replicas);
            error(
                "replicas",
                format!("found {found}, expected a number of 1 or more: create = true needs this number"),
            );
        }
    }

    fn check_dead_letter(&self, error: &mut impl FnMut(&str, String)) {
        let Some(place) = &self.dead_letter else { return };
        let valid = check_dead_letter("topic", place.topic.is_some(), place.path.is_some());
        match (valid, &place.topic) {
            (Err(message), _) => error("dead_letter", message),
            (Ok(()), Some(topic)) => {
                if let Err(message) = check_topic_name(topic) {
                    error("dead_letter.topic", message);
                } else if self.topic.constant() == Some(topic) {
                    error(
                        "dead_letter.topic",
                        format!("found \"{topic}\", expected another topic than that of the events"),
                    );
                }
            }
            (Ok(()), None) => {}
        }
    }

    fn check_security(&self, error: &mut impl FnMut(&str, String)) {
        if let Some(tls) = &self.tls {
            if tls.cert_file.is_some() != tls.key_file.is_some() {
                error(
                    "tls",
                    "found one of cert_file and key_file, expected both or none".into(),
                );
            }
            if tls.key_password.is_some() && tls.key_password_file.is_some() {
                error(
                    "tls.key_password",
                    "found together with key_password_file, expected one of them".into(),
                );
            }
        }
        if let Some(sasl) = &self.sasl {
            if sasl.username.is_empty() {
                error(
                    "sasl.username",
                    "found an empty text, expected the user's name".into(),
                );
            }
            match (&sasl.password, &sasl.password_file) {
                (Some(_), None) | (None, Some(_)) => {}
                (Some(_), Some(_)) => {
                    error(
                        "sasl.password",
                        "found together with password_file, expected one of them".into(),
                    );
                }
                (None, None) => error(
                    "sasl.password",
                    "found neither password nor password_file, expected one of them".into(),
                ),
            }
        }
    }
}

/// Checks a list of `host:port`. librdkafka accepts invalid addresses without an error and never connects.
fn check_servers(servers: &str) -> Result<(), String> {
    const EXPECTED: &str = "expected host:port such as \"localhost:9092\"";
    let mut servers = servers
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .peekable();
    if servers.peek().is_none() {
        return Err(format!("found no broker, {EXPECTED}"));
    }
    for (number, server) in (1..).zip(servers) {
        // The text itself is not shown, because it may contain a password.
        check_server(server).map_err(|what| {
            let hint = if what == SCHEME { SCHEME_HINT } else { "" };
            format!("found {what} in address {number}, {EXPECTED}{hint}")
        })?;
    }
    Ok(())
}

const SCHEME: &str = "a scheme";
/// The hint for an address copied from a listener, such as `SASL_SSL://host:9092`.
const SCHEME_HINT: &str =
    "; leave out PLAINTEXT://, and instead of SSL:// or SASL_SSL:// add the tables tls and sasl to the sink";

/// Checks one `host:port`; the port is optional. Returns what is wrong as the error.
fn check_server(server: &str) -> Result<(), &'static str> {
    if server.contains("://") {
        return Err(SCHEME);
    }
    // An IPv6 address is enclosed in brackets.
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => return Ok(()),
        Some((host, rest)) if host.parse::<Ipv6Addr>().is_ok() => {
            let port = rest
                .strip_prefix(':')
                .ok_or("text other than a port after \"]\"")?;
            ("", Some(port))
        }
        Some(_) => return Err("no IPv6 address between brackets"),
        None => match server.split_once(':') {
            Some(("", _)) => return Err("no host"),
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let is_host = |character: char| character.is_alphanumeric() || matches!(character, '.' | '-' | '_');
    if !host.chars().all(is_host) {
        return Err("a character that a host name cannot contain");
    }
    match port {
        Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) => Err("a port that is not a number"),
        Some(port) if !port.parse::<u16>().is_ok_and(|port| port > 0) => {
            Err("a port that is not between 1 and 65535")
        }
        _ => Ok(()),
    }
}

fn check_topic(topic: &Template) -> Result<(), String> {
    // The name of a topic is visible to everyone who may list topics, and each person would have a separate topic.
    for person in ["pid", "initial_pid"] {
        if topic.uses(person) {
            return Err(format!(
                "found \"{topic}\", expected a topic without {{{person}}}: use this field in key instead"
            ));
        }
    }
    match topic.constant() {
        Some(name) => check_topic_name(name),
        None => {
            // Checks only the literal parts; fields are replaced when a topic is rendered.
            let text = topic.to_string();
            let mut depth = false;
            let wrong = text.chars().find(|character| {
                match character {
                    '{' => depth = true,
                    '}' => depth = false,
                    _ => return !depth && !is_topic_character(*character),
                }
                false
            });
            wrong.map_or(Ok(()), |wrong| Err(wrong_character(&text, wrong)))
        }
    }
}

fn check_topic_name(name: &str) -> Result<(), String> {
    if let Some(wrong) = name.chars().find(|character| !is_topic_character(*character)) {
        return Err(wrong_character(name, wrong));
    }
    if name.is_empty() || name == "." || name == ".." || name.len() > MAX_TOPIC_LENGTH {
        return Err(format!(
            "found \"{name}\", expected 1 to {MAX_TOPIC_LENGTH} characters, and not \".\" or \"..\""
        ));
    }
    if is_internal(name) {
        return Err(format!(
            "found \"{name}\", which is a topic of Kafka itself, expected another topic"
        ));
    }
    Ok(())
}

fn wrong_character(name: &str, wrong: char) -> String {
    format!("found {wrong:?} in \"{name}\", expected letters, digits, \".\", \"_\" and \"-\" only")
}

fn found<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}
