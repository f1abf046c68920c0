//! What is legal and dangerous.

use std::net::IpAddr;
#[cfg(feature = "nats")]
use std::time::Duration;

#[cfg(feature = "nats")]
use neurobridge_core::units;
use neurobridge_core::{event::ENTRY_FIELDS, filter::Filter, redact::Redaction, units::ByteSize};
use neurobridge_listener::SourceConfig;
use neurobridge_spool::{SpoolConfig, SyncPolicy, WhenFull};

use super::{
    load::Loaded,
    model::Config,
    read::suggest,
    report::Origin,
    sink::{SinkEntry, SinkKind},
};
use crate::data_dir;

/// What nats-server gives a stream for which nothing is said.
#[cfg(feature = "nats")]
const USUAL_DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// A broker that is being mended is away for so long.
#[cfg(feature = "nats")]
const LONG_OUTAGE: Duration = Duration::from_secs(3600);

/// Something that is legal and dangerous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    /// The key, with dots between its parts.
    pub key: String,
    /// Where it comes from, unless it is so by default.
    pub origin: Option<Origin>,
    /// A sentence: what may happen, what avoids it.
    pub message: String,
}

impl Loaded {
    /// What is legal and dangerous in this configuration.
    pub fn dangers(&self) -> Vec<Danger> {
        let mut dangers = Vec::new();
        let mut add = |key: String, message: String| {
            dangers.push(Danger {
                origin: self.origins.get(&key).cloned(),
                key,
                message,
            });
        };
        let in_file =
            |(key, origin): &(&String, &Origin)| is_secret(key) && matches!(origin, Origin::File { .. });
        for (key, _) in self.origins.iter().filter(in_file) {
            let file = self
                .file
                .as_deref()
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            let message =
                format!("a secret stands in {file} itself; {key}_file, or the environment, keeps it apart");
            add(key.clone(), message);
        }
        for (name, source) in &self.config.sources {
            if is_plain_and_far(source) {
                let message = "the token and all events travel in the clear; wss:// encrypts them".to_owned();
                add(format!("sources.{name}.url"), message);
            }
        }
        for (key, message) in of_filter("event.filter", &self.config.event.filter) {
            add(key, message);
        }
        if let Some(message) = data_dir::open_to_others(&self.config.data_dir) {
            add("data_dir".to_owned(), message);
        }
        spool(&self.config, &mut add);
        let is_in_memory = matches!(self.config.spool, SpoolConfig::Memory(_));
        for (name, sink) in &self.config.sinks {
            for (key, message) in of_filter(&format!("sinks.{name}.filter"), &sink.common.filter) {
                add(key, message);
            }
            for (key, message) in of_sink(sink, is_in_memory) {
                add(format!("sinks.{name}.{key}"), message);
            }
        }
        if !self.config.http.listen.ip().is_loopback() {
            let message = "whoever reaches this address sees what the bridge does, without a password (though never an event)";
            add("http.listen".to_owned(), message.to_owned());
        }
        dangers
    }
}

fn spool(config: &Config, add: &mut impl FnMut(String, String)) {
    let drops = |when_full: WhenFull| {
        if when_full == WhenFull::DropOldest {
            let message = "when the spool is full, the oldest events are dropped and only counted; \"block\" drops none";
            Some(message.to_owned())
        } else {
            None
        }
    };
    match &config.spool {
        SpoolConfig::Memory(memory) => {
            let message =
                "the spool is in memory: what is not delivered is lost when the process is killed or crashes";
            add("spool.type".to_owned(), message.to_owned());
            if let Some(message) = drops(memory.when_full) {
                add("spool.when_full".to_owned(), message);
            }
        }
        SpoolConfig::Disk(disk) => {
            let message = match disk.sync {
                SyncPolicy::Always => None,
                SyncPolicy::Interval(_) => {
                    Some("a power cut may take what was received since the last sync; \"always\" takes none")
                }
                SyncPolicy::Never => Some(
                    "a power cut may take whatever the system had not yet written; \"always\" takes none",
                ),
            };
            if let Some(message) = message {
                add("spool.sync".to_owned(), message.to_owned());
            }
            if let Some(message) = drops(disk.when_full) {
                add("spool.when_full".to_owned(), message);
            }
            let max_size = disk.max_size.bytes();
            if let Some(size) = neurobridge_spool::file_system_size(&config.data_dir.join(&disk.path))
                .filter(|size| *size < max_size)
            {
                let message = format!(
                    "found {}, but the file system has {} in all: the disk is full before the spool is",
                    disk.max_size,
                    ByteSize::from_kib(size / 1024)
                );
                add("spool.max_size".to_owned(), message);
            }
            if keeps_pictures(config) {
                let message = "pictures of faces, or where they are to be had, are kept in the spool; redact = \
                               [\"*_image\"] keeps them out of it, and out of all sinks";
                add("event.redact".to_owned(), message.to_owned());
            }
        }
        _ => {}
    }
}

#[cfg_attr(
    not(feature = "kafka"),
    expect(unused_variables, reason = "where the spool is matters to transactions alone")
)]
fn of_sink(sink: &SinkEntry, is_in_memory: bool) -> Vec<(&'static str, String)> {
    let mut dangers = Vec::new();
    match &sink.kind {
        SinkKind::File(file) => {
            if file.max_age.is_none() {
                let message =
                    "files are kept for ever, and faces with them; max_age = \"30d\" removes old ones";
                dangers.push(("max_age", message.to_owned()));
            }
            if file.sync == neurobridge_sink_file::SyncMode::Never {
                let message = "events count as delivered before they are on the disk: a power cut loses them";
                dangers.push(("sync", message.to_owned()));
            }
        }
        #[cfg(feature = "kafka")]
        SinkKind::Kafka(kafka) => {
            of_template("topic", &kafka.topic, &mut dangers);
            of_template("key", &kafka.key, &mut dangers);
            if kafka.sasl.is_some() && kafka.tls.is_none() {
                let message = "name, password or its proof, and all events travel in the clear; a [tls] table encrypts them";
                dangers.push(("sasl", message.to_owned()));
            }
            if kafka.create && kafka.replicas == Some(1) {
                let message =
                    "a topic made with one replica is gone with its broker; 3 survive the loss of one";
                dangers.push(("replicas", message.to_owned()));
            }
            if kafka.delivery == neurobridge_sink_kafka::Delivery::ExactlyOnce && is_in_memory {
                let message = "with the spool in memory, \"exactly_once\" keeps events from standing twice in Kafka, and loses \
                               what was not delivered when the process ends; spool.type = \"disk\" loses none";
                dangers.push(("delivery", message.to_owned()));
            }
        }
        #[cfg(feature = "nats")]
        SinkKind::Nats(nats) => {
            of_template("subject", &nats.subject, &mut dangers);
            if nats.mode == neurobridge_sink_nats::Mode::Core {
                let message = "nobody keeps the events: who does not listen at the moment of an event never gets it; \
                               mode = \"jetstream\" has a stream keep them";
                dangers.push(("mode", message.to_owned()));
            }
            if let Some(stream) = nats.stream.as_ref().filter(|stream| stream.create) {
                if stream.replicas == Some(1) {
                    let message =
                        "a stream made with one replica is gone with its server; 3 survive the loss of one";
                    dangers.push(("stream.replicas", message.to_owned()));
                }
                let window = stream.duplicate_window.unwrap_or(USUAL_DUPLICATE_WINDOW);
                if nats.order() == neurobridge_sink_nats::Order::Relaxed && window < LONG_OUTAGE {
                    let message = format!(
                        "after an outage of more than {} what is sent again is stored twice; a window as long as the \
                         longest outage to be expected, or order = \"strict\", prevents it",
                        units::format_duration(window)
                    );
                    dangers.push(("stream.duplicate_window", message));
                }
            }
        }
    }
    dangers
}

/// Fields that the platform is not known to send: a mistyped one lets no event pass, for ever, and nothing else tells.
fn of_filter(key: &str, filter: &Filter) -> Vec<(String, String)> {
    let unknown = filter.fields().filter_map(|(path, field)| {
        let message = unknown(field.unknown_field()?, "an event without it does not pass");
        Some((format!("{key}.{path}"), message))
    });
    unknown.collect()
}

#[cfg(any(feature = "kafka", feature = "nats"))]
fn of_template(
    key: &'static str,
    template: &neurobridge_core::template::Template,
    dangers: &mut Vec<(&'static str, String)>,
) {
    for field in template.fields().filter_map(|field| field.unknown_field()) {
        dangers.push((key, unknown(field, "an event without it has no value there")));
    }
}

fn unknown(field: &str, effect: &str) -> String {
    let meant = suggest(field, &ENTRY_FIELDS)
        .map(|meant| format!(", perhaps \"{meant}\" is meant"))
        .unwrap_or_default();
    format!("the platform is not known to send a field \"{field}\"{meant}: {effect}")
}

/// Whether a picture would reach the spool. Redaction itself is asked, of which pseudonyms are no part: a picture has none.
fn keeps_pictures(config: &Config) -> bool {
    const FRAME: &str = r#"{"id":1,"data":{"face_image":"?","full_image":"?","initial_face_image":"?","initial_full_image":"?"}}"#;
    let mut redacted = String::new();
    match Redaction::new(&config.event.redact, None) {
        Ok(redaction) if redaction.apply(FRAME, &mut redacted) => redacted.contains('?'),
        _ => true,
    }
}

/// Keys that hold a secret themselves; `token_file` and the like only say where it is.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    matches!(name, "token" | "password" | "key_password" | "nkey")
}

/// Whether the token travels in the clear over a network.
fn is_plain_and_far(source: &SourceConfig) -> bool {
    let Some(rest) = source.url.strip_prefix("ws://") else {
        return false;
    };
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or(address),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !is_loopback && host != "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_is_far() {
        let far = |url: &str| is_plain_and_far(&SourceConfig::new(url, "t"));
        for url in [
            "ws://events.example.com/",
            "ws://10.0.0.1:80",
            "ws://localhost.example.com",
        ] {
            assert!(far(url), "{url}");
        }
        for url in [
            "wss://events.example.com",
            "ws://localhost:1/",
            "ws://127.0.0.1:8765",
            "ws://[::1]:1/x",
        ] {
            assert!(!far(url), "{url}");
        }
    }

    #[test]
    fn a_field_that_nobody_sends_is_named_with_the_one_that_is_meant() {
        let filter = Filter::new([("resutl", ["new"]), ("space.id", ["1"]), ("feed", ["main"])]).unwrap();
        assert_eq!(
            of_filter("event.filter", &filter),
            [(
                "event.filter.resutl".to_owned(),
                "the platform is not known to send a field \"resutl\", perhaps \"result\" is meant: an event without it does not pass"
                    .to_owned()
            )]
        );
    }

    #[test]
    fn a_secret_is_not_a_file_with_one() {
        assert!(is_secret("sources.main.token") && is_secret("sinks.kafka.sasl.password"));
        assert!(!is_secret("sources.main.token_file") && !is_secret("sinks.kafka.tls.key_file"));
    }
}
