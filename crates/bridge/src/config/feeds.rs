//! Declarations of feeds in files of their own: a source names a shipped declaration, or the path of a file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use neurobridge_core::suggest::did_you_mean;
use neurobridge_protocol::{Declaration, SHIPPED, shipped};
use serde_json::Value;

use super::{
    document::{Document, ReadError, read_text},
    report::{Problem, Report},
    shape::Shape,
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
        .with_context(|| format!("--feed: the declaration {named}"))
        .or_exit(Exit::Config)
}

/// Returns the names of the shipped declarations.
fn names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// Replaces the name of a shipped declaration, and the path of a file, by the declaration.
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
        // A declaration that cannot be read has no further errors.
        if let Some(source) = document
            .values
            .get_mut("sources")
            .and_then(|sources| sources.get_mut(&key[1]))
            .and_then(Value::as_object_mut)
        {
            source.insert("feed".to_owned(), stand_in());
        }
    }
}

/// Reports time limits of NeuroIO's protocol beside a declared feed, which has its own.
pub(super) fn check(document: &Document, shape: &Shape<'_>, report: &mut Report) {
    let Some(Value::Object(sources)) = document.values.get("sources") else {
        return;
    };
    for (source, table) in sources.iter().filter(|(_, table)| table.get("feed").is_some()) {
        for (key, instead) in [
            ("auth_timeout", "feed.open.0.timeout"),
            ("ping_interval", "feed.heartbeat.interval"),
            ("pong_timeout", "feed.heartbeat.timeout"),
        ] {
            if table.get(key).is_none() {
                continue;
            }
            let key = ["sources".to_owned(), source.clone(), key.to_owned()];
            let (origin, at) = document.origin(&key);
            let message = format!(
                "found a key of NeuroIO's protocol beside a declared feed, expected \"{instead}\" in its place"
            );
            report.push(Problem {
                excerpt: super::excerpt::of(document, shape, at),
                ..Problem::new(origin, &key, message)
            });
        }
    }
}

/// The keyword in the schema of a sink's key with the default for declared feeds.
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
    let names = names();
    let refuse = |document: &Document, found: String| {
        let mut report = Report::default();
        let message = format!(
            "{found}, expected a declaration, the path of a file such as \"feeds/example.toml\", or one of {}",
            super::validate::list(&names)
        );
        let (origin, at) = document.origin(key);
        let hint = did_you_mean(named, &names);
        report.push(Problem {
            hint: (!hint.is_empty()).then(|| hint.trim().trim_matches(['(', ')']).to_owned()),
            excerpt: super::excerpt::of(document, shape, at),
            ..Problem::new(origin, key, message)
        });
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

/// Returns a valid declaration, which takes the place of an invalid one; it is never used.
fn stand_in() -> Value {
    serde_json::json!({ "url": "ws://localhost", "rules": [{ "is": "event" }] })
}

#[cfg(test)]
#[path = "tests/feeds.rs"]
mod tests;
