//! What is legal and dangerous.

use std::net::IpAddr;

use neurobridge_core::{event::ENTRY_FIELDS, filter::Filter, redact::Redaction, units::ByteSize};
use neurobridge_listener::SourceConfig;
use neurobridge_spool::{SpoolConfig, SyncPolicy, WhenFull};

use super::{load::Loaded, model::Config, read::suggest, report::Origin, sink::SinkEntry};
use crate::data_dir;

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

fn of_sink(sink: &SinkEntry, is_in_memory: bool) -> Vec<(&'static str, String)> {
    let mut dangers = Vec::new();
    for (key, template) in sink.config.templates() {
        for field in template.fields().filter_map(|field| field.unknown_field()) {
            dangers.push((key, unknown(field, "an event without it has no value there")));
        }
    }
    dangers.extend(sink.config.warnings(!is_in_memory));
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
