//! Validation beyond types: names, bounds, and relations between keys.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use neurobridge_cluster::ClusterConfig;
use neurobridge_core::{
    private_folder,
    redact::{KeyFileError, Redaction},
    sink_type::{DeadLetterPlace, InCluster},
    units,
};
use neurobridge_spool::SpoolConfig;
use tracing_subscriber::EnvFilter;

use super::{
    model::{Config, DeduplicateConfig},
    validate::ConfigError,
};
use crate::exit::chain;

/// The longest name of a source or a sink: it is part of identities, metrics, and names of files.
const MAX_NAME_BYTES: usize = 64;
/// A longer drain timeout is most likely a typing error.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Validates a configuration that was deserialised, and adds all errors.
pub(super) fn check(config: &Config, errors: &mut Vec<ConfigError>) {
    check_sources(config, errors);
    check_sinks(config, errors);
    check_files(config, errors);
    for (key, message) in config.dead_letters.check() {
        errors.push(ConfigError::new(path(&["dead_letters"], &key), message));
    }
    if let Some(cluster) = &config.cluster {
        check_cluster(cluster, config, errors);
    }
    if config.data_dir.as_os_str().is_empty() {
        errors.push(ConfigError::new(
            ["data_dir"],
            "found an empty path, expected a folder such as \"data\"",
        ));
    }
    if config.drain_timeout > MAX_DRAIN_TIMEOUT {
        let found = units::format_duration(config.drain_timeout);
        let most = units::format_duration(MAX_DRAIN_TIMEOUT);
        errors.push(ConfigError::new(
            ["drain_timeout"],
            format!("found \"{found}\", expected at most \"{most}\""),
        ));
    }
    if config.deduplicate.max_events > DeduplicateConfig::MAX_EVENTS {
        let found = config.deduplicate.max_events;
        let message = format!(
            "found {found}, expected at most {}",
            DeduplicateConfig::MAX_EVENTS
        );
        errors.push(ConfigError::new(["deduplicate", "max_events"], message));
    }
    for host in config.http.hosts.iter().filter(|host| !is_host_name(host)) {
        let message = format!(
            "found \"{host}\", expected a host name such as \"bridge.example.com\", without scheme, port and path"
        );
        errors.push(ConfigError::new(["http", "hosts"], message));
    }
    check_access(config, errors);
    if let Some(filter) = &config.log.filter
        && !(filter.split(',').all(|part| part.contains('=')) && EnvFilter::builder().parse(filter).is_ok())
    {
        let message = format!(
            "found \"{filter}\", expected a level for each part of the program such as \"neurobridge_listener=debug\""
        );
        errors.push(ConfigError::new(["log", "filter"], message));
    }
}

/// Reads the keys of pseudonymisation, and adds an error for each key that is unreadable or invalid. A timeout adds none: a
/// disk that hangs may recover, so it is no configuration error.
pub(super) fn check_keys(config: &Config, errors: &mut Vec<ConfigError>) {
    let event = (vec!["event"], &config.event.pseudonymise);
    let sinks = config.sinks.iter();
    let sinks = sinks.map(|(name, sink)| (vec!["sinks", name], &sink.common.pseudonymise));
    for (at, pseudonymise) in std::iter::once(event).chain(sinks) {
        let Some(pseudonymise) = pseudonymise else {
            continue;
        };
        match Redaction::new(&[], Some(pseudonymise)) {
            Ok(_) => {}
            Err(KeyFileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {}
            Err(error) => {
                let key = [&at[..], &["pseudonymise", "key_file"]].concat();
                errors.push(ConfigError::new(key, chain(&error)));
            }
        }
    }
}

fn check_cluster(cluster: &ClusterConfig, config: &Config, errors: &mut Vec<ConfigError>) {
    for (key, message) in cluster.check() {
        errors.push(ConfigError::new(path(&["cluster"], &key), message));
    }
    if matches!(config.spool, SpoolConfig::Memory(_)) {
        let message = "found a spool in memory, expected type = \"disk\": the events that a member of a cluster has not published have to \
                       survive a restart";
        errors.push(ConfigError::new(["spool", "type"], message));
    }
    for (name, source) in &config.sources {
        if source.feed.as_ref().is_some_and(|feed| feed.event.id.is_none()) {
            let message = "found a feed without event.id, expected event.id, by which the members of a cluster recognise the events that \
                           another member has published";
            errors.push(ConfigError::new(["sources", name, "feed"], message));
        }
    }
    for (name, sink) in &config.sinks {
        let reason = match sink.config.in_cluster() {
            InCluster::Unsupported(reason) => reason,
            InCluster::Shared {
                needs_reports: true, ..
            } if !cluster.lease.has_reports() => {
                "the members of the cluster need each other's reports, which a lease in Kafka does not transport; \
                 set a lease in NATS"
            }
            InCluster::OwnDestination | InCluster::Shared { .. } => continue,
        };
        let message = format!("this sink cannot be part of a cluster: {reason}");
        errors.push(ConfigError::new(["sinks", name], message));
    }
}

fn check_access(config: &Config, errors: &mut Vec<ConfigError>) {
    let http = &config.http;
    match (&http.password, &http.password_file) {
        (Some(_), Some(_)) => errors.push(ConfigError::new(
            ["http", "password"],
            "found together with password_file, expected one of them",
        )),
        (Some(password), None) if password.expose().is_empty() => errors.push(ConfigError::new(
            ["http", "password"],
            "found an empty password, expected at least one character; remove the key to require no password",
        )),
        _ => {}
    }
    // In HTTP Basic the first colon ends the user.
    if http.user.is_empty() || http.user.contains(':') {
        errors.push(ConfigError::new(
            ["http", "user"],
            "found an empty name or a name with a colon, expected at least one character and no colon",
        ));
    }
}

fn check_sources(config: &Config, errors: &mut Vec<ConfigError>) {
    // An invalid source was removed from the configuration, and its error is sufficient.
    let has_errors = errors
        .iter()
        .any(|error| error.key.first().is_some_and(|key| key == "sources"));
    if config.sources.is_empty() && !has_errors {
        errors.push(ConfigError {
            hint: Some(
                "write a table [sources.main] with token_file = \"…\", or set NEUROBRIDGE__SOURCES__MAIN__TOKEN".to_owned(),
            ),
            ..ConfigError::new(["sources"], "found no source, expected at least one event feed to listen to")
        });
    }
    for (name, source) in &config.sources {
        check_name("sources", name, errors);
        for problem in source.check() {
            let key = ["sources", name]
                .map(str::to_owned)
                .into_iter()
                .chain(problem.key);
            errors.push(ConfigError {
                hint: problem.hint,
                ..ConfigError::new(key, problem.message)
            });
        }
    }
}

fn check_sinks(config: &Config, errors: &mut Vec<ConfigError>) {
    let has_neuroio = config.sources.values().any(|source| source.feed.is_none());
    for (name, sink) in &config.sinks {
        // The key of NeuroIO's events is the id of a person, which must not be in the name of a destination.
        for (part, template) in sink.config.templates() {
            if has_neuroio && part != "key" && template.fields().any(|field| field.to_string() == "key") {
                let message = format!(
                    "found \"{template}\", expected no {{key}}, which is the id of a person in NeuroIO's events"
                );
                errors.push(ConfigError::new(["sinks", name, part], message));
            }
        }
        check_name("sinks", name, errors);
        for (key, message) in sink.config.errors() {
            errors.push(ConfigError::new(path(&["sinks", name], &key), message));
        }
        if sink.common.max_dead_letters_in_a_row == 0 {
            let message = "found 0, expected a number of 1 or more";
            errors.push(ConfigError::new(
                ["sinks", name, "max_dead_letters_in_a_row"],
                message,
            ));
        }
    }
}

/// Reports files that two writers share, also under different spellings, and files that are not regular: two writers would
/// corrupt a file, and a device stores nothing.
fn check_files(config: &Config, errors: &mut Vec<ConfigError>) {
    let history = real_path(&config.data_dir.join(crate::data_dir::HISTORY));
    let mut writers = BTreeMap::from([(history, "the history of the bridge".to_owned())]);
    let mut claim = |file: &Path, key: Vec<&str>, errors: &mut Vec<ConfigError>| {
        let file = config.data_dir.join(file);
        if let Ok(metadata) = fs::metadata(&file)
            && !metadata.is_file()
        {
            let message = format!(
                "found \"{}\", which is not a regular file; expected a regular file, or a path that does not exist",
                file.display()
            );
            errors.push(ConfigError::new(key, message));
            return;
        }
        let real = real_path(&file);
        let writer = key.join(".");
        if let Some(other) = writers.get(&real) {
            let message = format!(
                "found \"{}\", expected a file different from {other}",
                file.display()
            );
            errors.push(ConfigError::new(key, message));
        } else {
            writers.insert(real, writer);
        }
    };
    for (name, sink) in &config.sinks {
        for (key, path) in sink.config.files() {
            claim(path, vec!["sinks", name, key], errors);
        }
    }
    claim(&config.dead_letters.path, vec!["dead_letters", "path"], errors);
    for (name, sink) in &config.sinks {
        if let DeadLetterPlace::File(path) = sink.config.dead_letter_place() {
            claim(path, vec!["sinks", name, "dead_letter", "path"], errors);
        }
    }
}

/// Resolves links and dots in a path, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent != path => real_path(private_folder::parent(path)).join(name),
        _ => path.to_owned(),
    }
}

fn is_host_name(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&host.len()) && host.bytes().all(is_allowed)
}

fn check_name(table: &str, name: &str, errors: &mut Vec<ConfigError>) {
    let is_valid = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_valid {
        let message = format!(
            "found the name \"{name}\", expected 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9 and _"
        );
        errors.push(ConfigError::new([table, name], message));
    }
}

/// Splits a dotted key. The name of a property of librdkafka is one key, even with dots in it.
fn path(around: &[&str], key: &str) -> Vec<String> {
    let keys = match key.split_once('.') {
        Some(("properties", property)) => vec!["properties", property],
        _ => key.split('.').collect(),
    };
    around.iter().copied().chain(keys).map(str::to_owned).collect()
}
