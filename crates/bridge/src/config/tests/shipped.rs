//! Tests of the shipped configuration files: each is valid, and `neurobridge.toml` explains every key.

// These tests need a build with all sinks.
#![cfg(all(feature = "kafka", feature = "nats"))]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::config::{Report, document::Document, feeds, load, shape::Shape, tables};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

/// Reads `neurobridge.toml` including the commented keys: a line that begins with `#` and no space is a key.
fn all_keys() -> Document {
    let text = fs::read_to_string(folder().join("neurobridge.toml")).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest,
        _ => line,
    });
    let schema = load::schema();
    let text = lines.collect::<Vec<_>>().join("\n");
    Document::parse(Path::new("neurobridge.toml"), &text, &Shape::root(&schema)).unwrap()
}

#[test]
fn every_shipped_file_is_valid() {
    let mut files = vec![folder().join("neurobridge.toml")];
    for examples in ["examples", "recipes"] {
        let found = fs::read_dir(folder().join(examples)).unwrap();
        files.extend(found.map(|entry| entry.unwrap().path()));
    }
    files.push(folder().join("kubernetes-overlay/neurobridge.toml"));
    assert!(files.len() >= 11, "{files:?}");
    for file in files {
        if let Err(report) = load::load_from(Some(&file), [], [], load::Keys::Unread) {
            panic!("{}: {report}", file.display());
        }
    }
}

#[test]
fn complete_example_has_each_key_of_the_schema_and_no_other() {
    let schema = load::schema();
    let mut expected = BTreeSet::new();
    keys(&Shape::root(&schema), &all_keys().values, "", &mut expected);
    let written: BTreeSet<String> = all_keys()
        .key_origins
        .keys()
        .filter(|key| key.iter().all(|part| part.parse::<usize>().is_err()))
        .map(|key| key.join("."))
        .filter(|key| {
            ![
                "event.filter.",
                "sinks.kafka.filter.",
                "sinks.nats.filter.",
                "sinks.archive.filter.",
                "sinks.kafka.properties.",
            ]
            .iter()
            .any(|free| key.starts_with(free))
        })
        .collect();
    // The keys of a declaration are explained with the feeds.
    let of_declaration = |key: &&String| key.starts_with("sources.main.feed.");
    let missing: Vec<_> = expected
        .difference(&written)
        .filter(|key| !of_declaration(key))
        .collect();
    let unknown: Vec<_> = written.difference(&expected).collect();
    // One of two alternatives is written, and the other is explained in a comment.
    assert_eq!(
        missing,
        [
            "http.password",
            "sinks.kafka.dead_letter.path",
            "sinks.nats.dead_letter.path"
        ]
    );
    assert_eq!(unknown, Vec::<&String>::new());
}

/// Returns the shape of a table, without the keys of other types.
fn chosen<'a>(shape: &Shape<'a>, table: &Map<String, Value>) -> Shape<'a> {
    shape.of_type(table.get("type").and_then(Value::as_str))
}

/// Collects all keys of a schema, with the names of sources and sinks in `table`.
fn keys(shape: &Shape<'_>, table: &Map<String, Value>, path: &str, found: &mut BTreeSet<String>) {
    let shape = chosen(shape, table);
    let named = shape.keys().into_iter().map(str::to_owned);
    let names = table
        .keys()
        .filter(|_| matches!(path, "sources" | "sinks"))
        .cloned();
    for key in named.chain(names) {
        let below = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let empty = Map::new();
        let table = table.get(&key).and_then(Value::as_object).unwrap_or(&empty);
        keys(&shape.child(&key), table, &below, found);
        found.insert(below);
    }
}

#[test]
fn schema_has_a_description_and_an_example_for_every_key() {
    let schema = load::schema();
    let document = all_keys();
    let (mut described, mut with_examples) = (0, 0);
    for key in document.key_origins.keys() {
        let Some((last, around)) = key.split_last() else {
            continue;
        };
        let table = match around {
            [] => Some(&document.values),
            around => document.value(around).and_then(Value::as_object),
        };
        let shape = Shape::root(&schema).at(around);
        let shape = table.map_or_else(|| shape.clone(), |table| chosen(&shape, table));
        if shape.is_empty() || last.parse::<usize>().is_ok() || !shape.keys().contains(&last.as_str()) {
            continue;
        }
        let name = key.join(".");
        assert!(shape.child(last).description().is_some(), "{name}");
        described += 1;
        let is_table = document.value(key).is_some_and(Value::is_object);
        if !is_table && !shape.child(last).is_secret() && last != "type" {
            assert!(shape.child(last).example().is_some(), "{name}");
            with_examples += 1;
        }
    }
    assert!(
        described > 100 && with_examples > 60,
        "{described}, {with_examples}"
    );
}

#[test]
fn commented_keys_show_their_defaults() {
    let schema = load::schema();
    let document = all_keys();
    // Tables, and keys whose default is empty, for which the file shows an example.
    let examples = [
        "deduplicate",
        "dead_letters",
        "event",
        "http",
        "http.hosts",
        "log",
        "spool",
        "event.filter",
        "sinks.kafka.filter",
        "sinks.nats.filter",
        "sinks.archive.filter",
        "sinks.kafka.properties",
        "sources.main.tls",
        "sources.main.backoff",
        "sources",
        "sinks",
    ];
    let mut compared = 0;
    for key in document.key_origins.keys() {
        let name = key.join(".");
        let table = key
            .split_last()
            .and_then(|(_, around)| document.value(around)?.as_object());
        let around = key.split_last().map(|(_, around)| around).unwrap_or_default();
        let shape = Shape::root(&schema).at(around);
        let shape = table.map_or_else(|| shape.clone(), |table| chosen(&shape, table));
        let Some(default) = key
            .last()
            .and_then(|last| shape.child(last).keyword("default"))
            .filter(|default| !default.is_null())
        else {
            continue;
        };
        if !examples.contains(&name.as_str()) {
            assert_eq!(document.value(key), Some(default), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn examples_of_keys_are_valid_except_exclusive_pairs() {
    let schema = load::schema();
    let shape = Shape::root(&schema);
    let mut document = all_keys();
    feeds::include(&mut document, &shape, &mut Report::default());
    let (_, errors) = tables::read(document.values, &shape);
    let errors: Vec<_> = errors.into_iter().map(|error| error.key.join(".")).collect();
    // The file shows both keys of pairs of which only one is allowed, a token and backfill beside a declared feed, and
    // create = false allows no numbers.
    assert_eq!(
        errors,
        [
            "sources.main.token",
            "sources.main.token_file",
            "sources.main.token_from",
            "sources.main.proxy",
            "sources.main.backfill.url",
            "sources.main.backfill.enabled",
            "sinks.kafka.partitions",
            "sinks.kafka.replicas",
            "sinks.kafka.transaction",
            "sinks.kafka.tls.key_password",
            "sinks.kafka.sasl.password",
            "sinks.nats.stream.max_age",
            "sinks.nats.stream.replicas",
            "sinks.nats.stream.duplicate_window",
            "sinks.nats.stream.subjects",
            "sinks.nats.stream.storage",
            "sinks.nats.auth.password",
            "sinks.nats.auth.token",
            "sinks.nats.auth.nkey",
            "sinks.nats.auth",
            "cluster.lease.auth.password",
            "cluster.lease.auth.token",
            "cluster.lease.auth.nkey",
            "cluster.lease.auth",
            "cluster.lease.replicas",
        ]
    );
}

#[test]
fn error_for_a_value_of_any_type_has_no_words_of_serde() {
    let schema = load::schema();
    let shape = Shape::root(&schema);
    let document = all_keys();
    let values = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(1.0),
        json!(99_999_999_999_u64),
        json!("?"),
        json!([[]]),
        json!([7]),
        json!({ "?": 1 }),
    ];
    let mut compared = 0;
    for key in document.key_origins.keys() {
        for value in &values {
            let mut document = all_keys();
            document.set(key, value.clone(), "V");
            feeds::include(&mut document, &shape, &mut Report::default());
            let (_, errors) = tables::read(document.values, &shape);
            for error in errors {
                for foreign in [
                    "invalid type",
                    "invalid value",
                    "missing field",
                    "unknown field",
                    "unknown variant",
                ] {
                    assert!(
                        !error.message.contains(foreign),
                        "{key:?} = {value}: {}",
                        error.message
                    );
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 1_000, "{compared}");
}
