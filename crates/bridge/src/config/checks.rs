//! What no type can say: names, bounds, and what keys mean for one another.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use neurobridge_core::{sink_type::DeadLetterPlace, units};
use tracing_subscriber::EnvFilter;

use super::{
    model::{Config, DeduplicateConfig},
    read::Mistake,
};

/// The longest name of a source or a sink: it is part of identities, metrics, and names of files.
const MAX_NAME_BYTES: usize = 64;
/// Whoever waits longer for an end has made a typing mistake.
const MAX_DRAIN_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Notes all that is wrong with a configuration that could be read.
pub(super) fn check(config: &Config, mistakes: &mut Vec<Mistake>) {
    check_sources(config, mistakes);
    check_sinks(config, mistakes);
    check_files(config, mistakes);
    for (key, message) in config.dead_letters.check() {
        mistakes.push(Mistake::new(path(&["dead_letters"], &key), message));
    }
    if config.data_dir.as_os_str().is_empty() {
        mistakes.push(Mistake::new(
            ["data_dir"],
            "found an empty path, expected a folder such as \"data\"",
        ));
    }
    if config.drain_timeout > MAX_DRAIN_TIMEOUT {
        let found = units::format_duration(config.drain_timeout);
        let most = units::format_duration(MAX_DRAIN_TIMEOUT);
        mistakes.push(Mistake::new(
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
        mistakes.push(Mistake::new(["deduplicate", "max_events"], message));
    }
    for host in config.http.hosts.iter().filter(|host| !is_host_name(host)) {
        let message = format!(
            "found \"{host}\", expected a host name such as \"bridge.example.com\", without scheme, port and path"
        );
        mistakes.push(Mistake::new(["http", "hosts"], message));
    }
    if let Err(error) = EnvFilter::builder().parse(&config.log.level) {
        let message = format!(
            "found \"{}\" ({error}), expected error, warn, info, debug or trace, or one for each part such as \
             \"info,neurobridge_listener=debug\"",
            config.log.level
        );
        mistakes.push(Mistake::new(["log", "level"], message));
    }
}

fn check_sources(config: &Config, mistakes: &mut Vec<Mistake>) {
    // Where a source could not be read, that is what has to be told.
    let has_mistakes = mistakes
        .iter()
        .any(|mistake| mistake.key.first().is_some_and(|key| key == "sources"));
    if config.sources.is_empty() && !has_mistakes {
        mistakes.push(Mistake {
            hint: Some(
                "write a table [sources.main] with token_file = \"…\", or set NEUROBRIDGE__SOURCES__MAIN__TOKEN".to_owned(),
            ),
            ..Mistake::new(["sources"], "found no source, expected at least one event feed to listen to")
        });
    }
    for (name, source) in &config.sources {
        check_name("sources", name, mistakes);
        for (key, message) in source.check() {
            mistakes.push(Mistake::new(path(&["sources", name], key), message));
        }
    }
}

fn check_sinks(config: &Config, mistakes: &mut Vec<Mistake>) {
    for (name, sink) in &config.sinks {
        check_name("sinks", name, mistakes);
        for (key, message) in sink.config.errors() {
            mistakes.push(Mistake::new(path(&["sinks", name], &key), message));
        }
        if sink.common.max_dead_letters_in_a_row == 0 {
            let message = "found 0, expected a number of 1 or more";
            mistakes.push(Mistake::new(
                ["sinks", name, "max_dead_letters_in_a_row"],
                message,
            ));
        }
    }
}

/// Two that write to one file would spoil it, under whatever spelling; a device keeps nothing.
fn check_files(config: &Config, mistakes: &mut Vec<Mistake>) {
    let mut writers: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut claim = |file: &Path, key: Vec<&str>, mistakes: &mut Vec<Mistake>| {
        let file = config.data_dir.join(file);
        if let Ok(metadata) = fs::metadata(&file)
            && !metadata.is_file()
        {
            let message = format!(
                "found \"{}\", which is there and no regular file; expected a regular file or a free name",
                file.display()
            );
            mistakes.push(Mistake::new(key, message));
            return;
        }
        let real = real_path(&file);
        let writer = key.join(".");
        if let Some(other) = writers.get(&real) {
            let message = format!(
                "found \"{}\", expected another file than that of {other}",
                file.display()
            );
            mistakes.push(Mistake::new(key, message));
        } else {
            writers.insert(real, writer);
        }
    };
    for (name, sink) in &config.sinks {
        for (key, path) in sink.config.files() {
            claim(path, vec!["sinks", name, key], mistakes);
        }
    }
    claim(&config.dead_letters.path, vec!["dead_letters", "path"], mistakes);
    for (name, sink) in &config.sinks {
        if let DeadLetterPlace::File(path) = sink.config.dead_letter_place() {
            claim(path, vec!["sinks", name, "dead_letter", "path"], mistakes);
        }
    }
}

/// The path without links and dots, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent != path => {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            real_path(parent).join(name)
        }
        _ => path.to_owned(),
    }
}

fn is_host_name(host: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=253).contains(&host.len()) && host.bytes().all(is_allowed)
}

fn check_name(table: &str, name: &str, mistakes: &mut Vec<Mistake>) {
    let is_fine = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_fine {
        let message = format!(
            "found the name \"{name}\", expected 1 to {MAX_NAME_BYTES} of the characters a-z, 0-9 and _"
        );
        mistakes.push(Mistake::new([table, name], message));
    }
}

/// The keys of a path. What stands in a table of librdkafka's properties is one key, whatever dots it has.
fn path(around: &[&str], key: &str) -> Vec<String> {
    let keys = match key.split_once('.') {
        Some(("properties", property)) => vec!["properties", property],
        _ => key.split('.').collect(),
    };
    around.iter().copied().chain(keys).map(str::to_owned).collect()
}
