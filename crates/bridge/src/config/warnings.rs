//! Warnings about valid but risky settings.

use std::{collections::BTreeMap, env, net::IpAddr, path::Path};

use neurobridge_core::{
    address::Address,
    condition::OPERATORS,
    event_buf::EventBuf,
    filter::Filter,
    neuroio::{ENTRY_FIELDS, Frames, NESTED_FIELDS},
    redact::{Pattern, Pseudonymise, Redaction},
    suggest::did_you_mean,
    units::ByteSize,
};
use neurobridge_simulator::EntryResult;
use neurobridge_spool::{SpoolConfig, SyncPolicy, WhenFull};

use super::{
    feeds,
    load::Loaded,
    model::{Config, HttpConfig},
    report::Origin,
};
use crate::{data_dir, redaction::sample_event};

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
        let mut found = Found {
            origins: &self.origins,
            // The fields of declared feeds are unknown.
            fields_are_known: self.config.sources.values().all(|source| source.feed.is_none()),
            warnings: Vec::new(),
        };
        let config = &self.config;
        let file = self.file.as_deref().unwrap_or(Path::new("")).display();
        for (key, origin) in &self.origins {
            if (is_secret(key) || feeds::is_feed_secret_key(key, "value"))
                && matches!(origin, Origin::File { .. })
            {
                let instead = match key.strip_suffix(".value") {
                    Some(secret) if feeds::is_feed_secret_key(key, "value") => {
                        format!("{secret}.file or {secret}.variable")
                    }
                    _ => format!("{key}_file or an environment variable"),
                };
                let message = format!("secret in plain text in {file}; use {instead} instead");
                found.add(key, message);
            }
        }
        for (name, source) in &config.sources {
            if is_plain_remote(source.address(), "ws") {
                let message = "the token and all events are sent unencrypted; wss:// encrypts them";
                found.add(format!("sources.{name}.url"), message);
            }
            if source
                .backfill_address()
                .is_some_and(|url| is_plain_remote(url, "http"))
            {
                let message = "the token and all events are sent unencrypted; https:// encrypts them";
                let place = if source.feed.is_some() { ".feed" } else { "" };
                found.add(format!("sources.{name}{place}.backfill.url"), message);
            }
            if self.config.deduplicate.max_events == 0
                && source.feed.is_some()
                && source.backfill_address().is_some()
            {
                let message = "events that the feed sends and the bridge also fetches after a gap are published twice; \
                               deduplicate.max_events > 0 prevents it";
                found.add(format!("sources.{name}.backfill"), message);
            }
            if source
                .token_from
                .as_ref()
                .is_some_and(|from| is_plain_remote(&from.url, "http"))
            {
                let message = "the credential and the tokens are sent unencrypted; https:// encrypts them";
                found.add(format!("sources.{name}.token_from.url"), message);
            }
        }
        for (name, source) in &config.sources {
            let secrets = source.feed.iter().flat_map(|feed| &feed.secrets);
            for (secret, variable) in
                secrets.filter_map(|(name, source)| Some((name, source.variable.as_ref()?)))
            {
                if env::var_os(variable).is_none_or(|value| value.is_empty()) {
                    let message = format!("the environment variable {variable} is not set for this process");
                    found.add(format!("sources.{name}.feed.secrets.{secret}.variable"), message);
                }
            }
        }
        let event = &config.event;
        found.of_filter("event", &event.filter);
        found.of_patterns("event", &event.redact, event.pseudonymise.as_ref());
        if let Some(message) = data_dir::open_to_others(&config.data_dir) {
            found.add("data_dir", message);
        }
        found.of_spool(config);
        for (name, sink) in &config.sinks {
            let (key, common) = (format!("sinks.{name}"), &sink.common);
            found.of_filter(&key, &common.filter);
            found.of_patterns(&key, &common.redact, common.pseudonymise.as_ref());
            let has_declared = config.sources.values().any(|source| source.feed.is_some());
            for (part, template) in sink.config.templates() {
                if has_declared && template.to_string().starts_with("neuroio.") {
                    let message = "events of declared feeds have NeuroIO's name too; \"feeds.{feed}\" is one name for each source";
                    found.add(format!("{key}.{part}"), message);
                }
                if !found.fields_are_known {
                    continue;
                }
                for field in template.fields().filter_map(|field| field.unknown_field()) {
                    let message = unknown(&field, "events without it have no value there");
                    found.add(format!("{key}.{part}"), message);
                }
            }
            let is_durable = !matches!(config.spool, SpoolConfig::Memory(_));
            for (part, message) in sink.config.warnings(is_durable) {
                found.add(format!("{key}.{part}"), message);
            }
        }
        found.of_http(&config.http);
        found.warnings
    }
}

/// The warnings found so far.
struct Found<'a> {
    origins: &'a BTreeMap<String, Origin>,
    /// Whether all sources are NeuroIO's, whose fields are known.
    fields_are_known: bool,
    warnings: Vec<Warning>,
}

impl Found<'_> {
    fn add(&mut self, key: impl Into<String>, message: impl Into<String>) {
        let key = key.into();
        self.warnings.push(Warning {
            origin: self.origins.get(&key).cloned(),
            key,
            message: message.into(),
        });
    }

    fn of_http(&mut self, http: &HttpConfig) {
        if http.listen.ip().is_loopback() {
            return;
        }
        if http.password.is_none() && http.password_file.is_none() {
            self.add(
                "http.listen",
                "anyone who can reach this address can read the bridge's state without a password (events are never shown); \
                 http.password_file sets one",
            );
        } else if http.tls.is_none() {
            self.add(
                "http.listen",
                "the password is sent unencrypted; http.tls encrypts it (a proxy with TLS in front does too)",
            );
        }
    }

    fn of_spool(&mut self, config: &Config) {
        let (sync, when_full) = match &config.spool {
            SpoolConfig::Memory(memory) => {
                self.add(
                    "spool.type",
                    "the spool is in memory: undelivered events are lost when the process is killed or crashes",
                );
                (SyncPolicy::Always, memory.when_full)
            }
            SpoolConfig::Disk(disk) => (disk.sync, disk.when_full),
            _ => return,
        };
        let lost = match sync {
            SyncPolicy::Always => None,
            SyncPolicy::Interval(_) => Some("received since the last sync"),
            SyncPolicy::Never => Some("that the system has not yet written"),
        };
        if let Some(lost) = lost {
            let message = format!("a power failure may lose events {lost}; \"always\" loses none");
            self.add("spool.sync", message);
        }
        if when_full == WhenFull::DropOldest {
            self.add(
                "spool.when_full",
                "when the spool is full, the oldest events are dropped and only counted; \"block\" drops no event",
            );
        }
        let SpoolConfig::Disk(disk) = &config.spool else {
            return;
        };
        let disk_size = neurobridge_spool::file_system_size(&config.data_dir.join(&disk.path));
        if let Some(size) = disk_size.filter(|size| *size < disk.max_size.bytes()) {
            let message = format!(
                "found {}, but the file system has a size of {}: the disk fills up before the spool does",
                disk.max_size,
                ByteSize::from_kib(size / 1024)
            );
            self.add("spool.max_size", message);
        }
        if config.sources.values().any(|source| source.feed.is_none()) && keeps_pictures(config) {
            self.add(
                "event.redact",
                "pictures of faces, or links to them, are stored in the spool; redact = [\"*_image\"] removes them from the \
                 spool and from all sinks",
            );
        }
    }

    /// Warns of unknown fields and results in a filter: a filter with a mistyped name passes no event, without any error.
    fn of_filter(&mut self, table: &str, filter: &Filter) {
        if !self.fields_are_known {
            return;
        }
        for (path, field) in filter.fields() {
            if let Some(field) = field.unknown_field() {
                let message = unknown(&field, "events without it do not pass");
                self.add(format!("{table}.filter.{path}"), message);
            }
        }
        let results = EntryResult::ALL.map(EntryResult::as_str);
        let conditions = filter.conditions().filter(|(path, _)| *path == "result");
        for value in conditions.flat_map(|(_, condition)| condition.values()) {
            if !results.contains(&value) {
                let suggestion = did_you_mean(value, &results);
                let message =
                    format!("unknown result \"{value}\"{suggestion}: the platform is not known to send it");
                self.add(format!("{table}.filter.result"), message);
            }
        }
    }

    /// Warns of unknown fields in patterns: with a mistyped pattern, personal data stays in the events.
    fn of_patterns(&mut self, table: &str, redact: &[Pattern], pseudonymise: Option<&Pseudonymise>) {
        if !self.fields_are_known {
            return;
        }
        let fields = pseudonymise.map_or(&[][..], |pseudonymise| &pseudonymise.fields);
        for (list, verb, patterns) in [
            ("redact", "redacts", redact),
            ("pseudonymise.fields", "pseudonymises", fields),
        ] {
            for pattern in patterns.iter().filter(|pattern| !pattern.matches_known_field()) {
                let message = unknown(&pattern.to_string(), &format!("it {verb} no known field"));
                self.add(format!("{table}.{list}"), message);
            }
        }
    }
}

fn unknown(field: &str, effect: &str) -> String {
    let known = [&ENTRY_FIELDS[..], &NESTED_FIELDS].concat();
    let suggestion = match field.split_once('.') {
        // `age.at_last` is a path with a mistyped operator as its second step.
        Some((first, rest)) if ENTRY_FIELDS.contains(&first) && !NESTED_FIELDS.contains(&field) => {
            Some(did_you_mean(rest, &OPERATORS)).filter(|suggestion| !suggestion.is_empty())
        }
        _ => None,
    };
    let suggestion = suggestion.unwrap_or_else(|| did_you_mean(field, &known));
    format!("unknown field \"{field}\"{suggestion}: {effect}")
}

/// Returns whether a picture would reach the spool. Applies the redaction to a sample event, without pseudonyms, because a
/// pseudonym does not replace a picture.
fn keeps_pictures(config: &Config) -> bool {
    const FRAME: &str = r#"{"id":1,"data":{"face_image":"?","full_image":"?","initial_face_image":"?","initial_full_image":"?"}}"#;
    let mut frames = Frames::default();
    let (Some(positions), Ok(redaction)) = (frames.event(FRAME), Redaction::new(&config.event.redact, None))
    else {
        return true;
    };
    let event = sample_event(FRAME, positions);
    let mut redacted = EventBuf::default();
    redaction
        .apply(&event, &mut redacted)
        .map_or(true, |event| event.frame.contains('?'))
}

/// Returns whether a key holds a secret itself; `token_file` and similar keys only name a file.
fn is_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    matches!(
        name,
        "token" | "credential" | "password" | "key_password" | "nkey"
    )
}

/// Returns whether an address has the scheme `plain`, which does not encrypt, and is not on this machine.
fn is_plain_remote(url: &str, plain: &str) -> bool {
    Address::parse(url).is_ok_and(|address| {
        let is_loopback = address
            .host
            .parse::<IpAddr>()
            .is_ok_and(|host| host.is_loopback());
        address.scheme == Some(plain) && !is_loopback && address.host != "localhost"
    })
}

#[cfg(test)]
#[path = "tests/warnings.rs"]
mod tests;
