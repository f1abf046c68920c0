//! Warnings about valid but risky settings.

use std::net::IpAddr;

use neurobridge_core::{
    condition::OPERATORS,
    event::{ENTRY_FIELDS, NESTED_FIELDS},
    filter::Filter,
    redact::{Pattern, Pseudonymise, Redaction},
    suggest::did_you_mean,
    units::ByteSize,
};
use neurobridge_listener::SourceConfig;
use neurobridge_simulator::EntryResult;
use neurobridge_spool::{SpoolConfig, SyncPolicy, WhenFull};

use super::{
    load::Loaded,
    model::{Config, HttpConfig},
    report::Origin,
    sink::SinkEntry,
};
use crate::data_dir;

/// A valid but risky setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The dotted key.
    pub key: String,
    /// The position at which the key is set; `None` for a default.
    pub origin: Option<Origin>,
    /// The risk, and the setting that avoids it, in one sentence.
    pub message: String,
}

impl Loaded {
    /// Returns the warnings about this configuration.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut add = |key: String, message: String| {
            warnings.push(Warning {
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
                format!("secret in plain text in {file}; use {key}_file or an environment variable instead");
            add(key.clone(), message);
        }
        for (name, source) in &self.config.sources {
            if is_plain_and_far(source) {
                let message =
                    "the token and all events are sent unencrypted; wss:// encrypts them".to_owned();
                add(format!("sources.{name}.url"), message);
            }
        }
        let event = &self.config.event;
        let of_event = of_filter("event.filter", &event.filter);
        for (key, message) in
            of_event
                .into_iter()
                .chain(of_patterns("event", &event.redact, event.pseudonymise.as_ref()))
        {
            add(key, message);
        }
        if let Some(message) = data_dir::open_to_others(&self.config.data_dir) {
            add("data_dir".to_owned(), message);
        }
        spool(&self.config, &mut add);
        let is_in_memory = matches!(self.config.spool, SpoolConfig::Memory(_));
        for (name, sink) in &self.config.sinks {
            let common = &sink.common;
            let of_common = of_filter(&format!("sinks.{name}.filter"), &common.filter);
            let of_patterns = of_patterns(
                &format!("sinks.{name}"),
                &common.redact,
                common.pseudonymise.as_ref(),
            );
            for (key, message) in of_common.into_iter().chain(of_patterns) {
                add(key, message);
            }
            for (key, message) in of_sink(sink, is_in_memory) {
                add(format!("sinks.{name}.{key}"), message);
            }
        }
        if let Some(message) = of_http(&self.config.http) {
            add("http.listen".to_owned(), message.to_owned());
        }
        warnings
    }
}

fn of_http(http: &HttpConfig) -> Option<&'static str> {
    let has_password = http.password.is_some() || http.password_file.is_some();
    if http.listen.ip().is_loopback() {
        None
    } else if !has_password {
        Some(
            "anyone who can reach this address can read the bridge's state without a password (events are never shown); \
             http.password_file sets one",
        )
    } else if http.tls.is_none() {
        Some("the password is sent unencrypted; http.tls encrypts it (a proxy with TLS in front does too)")
    } else {
        None
    }
}

fn spool(config: &Config, add: &mut impl FnMut(String, String)) {
    let drops = |when_full: WhenFull| {
        if when_full == WhenFull::DropOldest {
            let message = "when the spool is full, the oldest events are dropped and only counted; \"block\" drops no event";
            Some(message.to_owned())
        } else {
            None
        }
    };
    match &config.spool {
        SpoolConfig::Memory(memory) => {
            let message =
                "the spool is in memory: undelivered events are lost when the process is killed or crashes";
            add("spool.type".to_owned(), message.to_owned());
            if let Some(message) = drops(memory.when_full) {
                add("spool.when_full".to_owned(), message);
            }
        }
        SpoolConfig::Disk(disk) => {
            let message = match disk.sync {
                SyncPolicy::Always => None,
                SyncPolicy::Interval(_) => Some(
                    "a power failure may lose events received since the last sync; \"always\" loses none",
                ),
                SyncPolicy::Never => Some(
                    "a power failure may lose events that the system has not yet written; \"always\" loses none",
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
                    "found {}, but the file system has a size of {}: the disk fills up before the spool does",
                    disk.max_size,
                    ByteSize::from_kib(size / 1024)
                );
                add("spool.max_size".to_owned(), message);
            }
            if keeps_pictures(config) {
                let message = "pictures of faces, or links to them, are stored in the spool; redact = [\"*_image\"] removes \
                               them from the spool and from all sinks";
                add("event.redact".to_owned(), message.to_owned());
            }
        }
        _ => {}
    }
}

fn of_sink(sink: &SinkEntry, is_in_memory: bool) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    for (key, template) in sink.config.templates() {
        for field in template.fields().filter_map(|field| field.unknown_field()) {
            warnings.push((key, unknown(&field, "events without it have no value there")));
        }
    }
    warnings.extend(sink.config.warnings(!is_in_memory));
    warnings
}

/// Returns warnings about unknown fields and results: with a mistyped one a filter passes no event, and nothing else reports it.
fn of_filter(key: &str, filter: &Filter) -> Vec<(String, String)> {
    let fields = filter.fields().filter_map(|(path, field)| {
        let message = unknown(&field.unknown_field()?, "events without it do not pass");
        Some((format!("{key}.{path}"), message))
    });
    let results = EntryResult::ALL.map(EntryResult::as_str);
    let is_known = |value: &str| results.contains(&value);
    let values = filter
        .conditions()
        .filter(|(path, _)| *path == "result")
        .flat_map(|(_, condition)| condition.values());
    let values = values.filter(|value| !is_known(value)).map(|value| {
        let meant = did_you_mean(value, &results);
        let message = format!("unknown result \"{value}\"{meant}: the platform is not known to send it");
        (format!("{key}.result"), message)
    });
    fields.chain(values).collect()
}

/// Returns warnings about names of unknown fields: a mistyped one leaves personal data in the events.
fn of_patterns(key: &str, redact: &[Pattern], pseudonymise: Option<&Pseudonymise>) -> Vec<(String, String)> {
    let fields = pseudonymise.map_or(&[][..], |pseudonymise| &pseudonymise.fields);
    let lists = [
        ("redact", "redacts", redact),
        ("pseudonymise.fields", "pseudonymises", fields),
    ];
    let mut warnings = Vec::new();
    for (list, verb, patterns) in lists {
        for pattern in patterns.iter().filter(|pattern| !pattern.matches_known_field()) {
            let message = unknown(&pattern.to_string(), &format!("it {verb} no known field"));
            warnings.push((format!("{key}.{list}"), message));
        }
    }
    warnings
}

fn unknown(field: &str, effect: &str) -> String {
    let known = [&ENTRY_FIELDS[..], &NESTED_FIELDS].concat();
    let meant = match field.split_once('.') {
        // A mistyped operator is read as the rest of a path.
        Some((first, rest)) if ENTRY_FIELDS.contains(&first) && !NESTED_FIELDS.contains(&field) => {
            Some(did_you_mean(rest, &OPERATORS)).filter(|meant| !meant.is_empty())
        }
        _ => None,
    };
    let meant = meant.unwrap_or_else(|| did_you_mean(field, &known));
    format!("unknown field \"{field}\"{meant}: {effect}")
}

/// Returns whether a picture would reach the spool. Applies the redaction to a sample, without pseudonyms, which pictures
/// never have.
fn keeps_pictures(config: &Config) -> bool {
    const FRAME: &str = r#"{"id":1,"data":{"face_image":"?","full_image":"?","initial_face_image":"?","initial_full_image":"?"}}"#;
    let mut redacted = String::new();
    match Redaction::new(&config.event.redact, None) {
        Ok(redaction) if redaction.apply(FRAME, &mut redacted) => redacted.contains('?'),
        _ => true,
    }
}

/// Returns whether a key holds a secret itself; `token_file` and similar keys only name a file.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    matches!(name, "token" | "password" | "key_password" | "nkey")
}

/// Returns whether the token is sent unencrypted over a network.
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
#[path = "tests/warnings.rs"]
mod tests;
