//! Declarations of feeds in files of their own: a source names a shipped declaration, or the path of a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use neurobridge_protocol::{Declaration, SHIPPED, shipped};
use serde_json::Value;

use super::{
    document::{Document, ReadError, read_text},
    report::Report,
    shape::Shape,
    validate::{self, ConfigError},
};
use crate::exit::{Exit, Failure, OrExit};

/// Reads a declaration for a simulation: a shipped one, or a file.
///
/// # Errors
/// There is no such declaration, or it is invalid.
pub(crate) fn declaration(named: &str) -> Result<Declaration, Failure> {
    let text = match shipped(named) {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(named)
            .with_context(|| {
                format!(
                    "--feed: found \"{named}\", expected a file, or one of {}",
                    names().join(", ")
                )
            })
            .or_exit(Exit::Usage)?,
    };
    toml::from_str(&text)
        .with_context(|| format!("--feed: invalid declaration {named}"))
        .or_exit(Exit::Config)
}

/// Returns the names of the shipped declarations.
fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// Replaces each `feed` value that names a shipped declaration or a file by the declaration itself.
pub(super) fn include(document: &mut Document, shape: &Shape<'_>, report: &mut Report) {
    let Some(Value::Object(sources)) = document.values.get("sources") else {
        return;
    };
    let named: Vec<(String, String)> = sources
        .iter()
        .filter_map(|(source, table)| Some((source.clone(), table.get("feed")?.as_str()?.to_owned())))
        .collect();
    for (source, named) in named {
        let key = ["sources".to_owned(), source, "feed".to_owned()];
        let result = match shipped(&named) {
            Some(text) => document.include(
                &key,
                Path::new(&format!("feeds/{named}.toml")),
                text,
                &shape.at(&key),
            ),
            None => include_file(document, &key, &named, shape),
        };
        let Err(problems) = result else {
            continue;
        };
        for problem in problems.into_problems() {
            report.push(problem);
        }
        // A valid stand-in prevents consequential errors. It is never used, because the report already contains an error.
        let valid = serde_json::json!({ "url": "ws://localhost", "rules": [{ "is": "event" }] });
        document.replace(&key, valid);
    }
}

/// Returns an error for each timing key of NeuroIO's protocol that is set on a source with a declared feed; the declaration has its
/// own keys for these times.
pub(super) fn check(document: &Document) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let sources = document.values.get("sources").and_then(Value::as_object);
    let declared = sources
        .into_iter()
        .flatten()
        .filter(|(_, table)| table.get("feed").is_some());
    for (source, table) in declared {
        for (key, instead) in [
            ("auth_timeout", "feed.open.0.timeout"),
            ("ping_interval", "feed.heartbeat.interval"),
            ("pong_timeout", "feed.heartbeat.timeout"),
        ] {
            if table.get(key).is_some() {
                let message = format!(
                    "found a key of NeuroIO's protocol beside a declared feed, expected \"{instead}\" in its place"
                );
                errors.push(ConfigError::new(["sources", source, key], message));
            }
        }
    }
    errors
}

/// Returns whether a dotted key has the form `sources.NAME.feed.secrets.SECRET.<field>`.
pub(super) fn is_feed_secret_key(key: &str, field: &str) -> bool {
    let secret = key.strip_suffix(field).filter(|_| key.starts_with("sources."));
    secret.is_some_and(|secret| secret.contains(".feed.secrets.") && secret.ends_with('.'))
}

/// The schema keyword with the default of a sink's key for declared feeds.
const DEFAULT_OF_FEEDS: &str = "x-default-of-feeds";

/// Sets the keys of sinks that have another default if all sources are declared feeds, such as topic and subject.
pub(super) fn set_defaults(document: &mut Document, shape: &Shape<'_>) {
    let values = &mut document.values;
    let sources = values.get("sources").and_then(Value::as_object);
    let is_declared = |source: &Value| source.get("feed").is_some();
    if !sources.is_some_and(|sources| !sources.is_empty() && sources.values().all(is_declared)) {
        return;
    }
    let Some(Value::Object(sinks)) = values.get_mut("sinks") else {
        return;
    };
    for (name, sink) in sinks {
        let Value::Object(sink) = sink else {
            continue;
        };
        let kind = sink.get("type").and_then(Value::as_str);
        let of_sink = shape.at(&["sinks", name]).of_type(kind);
        for key in of_sink.keys() {
            if let Some(default) = of_sink.child(key).keyword(DEFAULT_OF_FEEDS) {
                sink.entry(key).or_insert_with(|| default.clone());
            }
        }
    }
}

/// Includes a file; a relative path begins at the folder of the configuration file.
fn include_file(
    document: &mut Document,
    key: &[String],
    named: &str,
    shape: &Shape<'_>,
) -> Result<(), Report> {
    let refuse = |document: &Document, found: String| {
        let names = names();
        let message = format!(
            "{found}, expected a declaration, the path of a file such as \"feeds/example.toml\", or one of {}",
            validate::list(&names)
        );
        let error = ConfigError::new(key, message).with_suggestion(named, &names);
        let mut report = Report::default();
        report.locate([error], document, shape);
        report
    };
    if Path::new(named)
        .extension()
        .is_none_or(|extension| extension != "toml")
    {
        return Err(refuse(document, format!("found \"{named}\"")));
    }
    let folder = document
        .path()
        .and_then(Path::parent)
        .map(PathBuf::from)
        .unwrap_or_default();
    let path = folder.join(named);
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(ReadError::Report(report)) => return Err(report),
        Err(ReadError::Io(error)) => {
            return Err(refuse(
                document,
                format!("file {} cannot be read ({error})", path.display()),
            ));
        }
    };
    document.include(key, &path, &text, &shape.at(key))
}

#[cfg(test)]
#[path = "tests/feeds.rs"]
mod tests;
