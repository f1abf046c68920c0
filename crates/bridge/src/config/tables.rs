//! Deserialises the merged values table by table, so that each table reports its own errors.

use std::{collections::BTreeMap, time::Duration};

use neurobridge_listener::SourceConfig;
use neurobridge_spool::SpoolConfig;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    checks,
    model::Config,
    read::{self, ConfigError},
    shape::Shape,
    sink::{self, SinkCommon, SinkEntry},
};
use crate::sinks;

/// Deserialises the configuration, and returns all errors. Invalid values are replaced by their defaults.
pub(super) fn read(mut table: Map<String, Value>, shape: &Shape<'_>) -> (Config, Vec<ConfigError>) {
    let mut errors = Vec::new();
    // The type has a default, so that a size alone is valid.
    if let Some(Value::Object(spool)) = table.get_mut("spool") {
        spool.entry("type").or_insert_with(|| "memory".into());
    }
    read::check_keys(&mut table, &mut Vec::new(), shape, &mut errors);
    let mut tables = Tables { table, shape, errors };
    let defaults = Config::default();
    let mut config = Config {
        data_dir: tables.section("data_dir").unwrap_or(defaults.data_dir),
        drain_timeout: tables
            .section("drain_timeout")
            .map_or(defaults.drain_timeout, |DurationText(duration)| duration),
        sources: tables.sources(),
        event: tables.section("event").unwrap_or_default(),
        deduplicate: tables.section("deduplicate").unwrap_or_default(),
        spool: tables.spool(),
        sinks: tables.sinks(),
        dead_letters: tables.section("dead_letters").unwrap_or_default(),
        http: tables.section("http").unwrap_or_default(),
        log: tables.section("log").unwrap_or_default(),
    };
    let mut errors = tables.errors;
    checks::check(&config, &mut errors);
    config.add_default_sink();
    (config, read::without_consequences(errors))
}

#[derive(Deserialize)]
struct DurationText(#[serde(with = "neurobridge_core::units::duration")] Duration);

/// The tables that are not read yet.
struct Tables<'a> {
    table: Map<String, Value>,
    shape: &'a Shape<'a>,
    errors: Vec<ConfigError>,
}

impl Tables<'_> {
    fn section<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.table.remove(key)?;
        self.read(value, &[key.to_owned()])
    }

    fn read<T: DeserializeOwned>(&mut self, value: Value, at: &[String]) -> Option<T> {
        let shape = self.shape.at(at.iter().map(String::as_str));
        read::read(value, at, &shape, &mut self.errors)
    }

    fn error(&mut self, key: &[&str], message: String) {
        self.errors.push(ConfigError::new(key.iter().copied(), message));
    }

    /// Reads a table of named tables.
    fn named(&mut self, key: &str) -> Map<String, Value> {
        match self.table.remove(key) {
            None => Map::new(),
            Some(Value::Object(tables)) => tables,
            Some(_) => {
                self.error(
                    &[key],
                    format!("found a value, expected tables such as [{key}.main]"),
                );
                Map::new()
            }
        }
    }

    fn sources(&mut self) -> BTreeMap<String, SourceConfig> {
        let mut sources = BTreeMap::new();
        for (name, value) in self.named("sources") {
            if let Some(source) = self.read(value, &["sources".to_owned(), name.clone()]) {
                sources.insert(name, source);
            }
        }
        sources
    }

    fn spool(&mut self) -> SpoolConfig {
        let Some(mut value) = self.table.remove("spool") else {
            return SpoolConfig::default();
        };
        // The type comes first: once it is known, each key of a table of that type reports its own error.
        let kind = value.get("type").cloned().unwrap_or_default();
        if let (Some(kind @ ("memory" | "disk")), Some(table)) = (kind.as_str(), value.as_object_mut()) {
            table.remove("type");
            let at = ["spool".to_owned()];
            let spool = match kind {
                "disk" => self.read(value, &at).map(SpoolConfig::Disk),
                _ => self.read(value, &at).map(SpoolConfig::Memory),
            };
            return spool.unwrap_or_default();
        }
        self.read::<SpoolConfig>(value, &["spool".to_owned()])
            .unwrap_or_default()
    }

    fn sinks(&mut self) -> BTreeMap<String, SinkEntry> {
        let mut sinks = BTreeMap::new();
        for (name, value) in self.named("sinks") {
            if let Some(sink) = self.sink(&name, value) {
                sinks.insert(name, sink);
            }
        }
        sinks
    }

    fn sink(&mut self, name: &str, value: Value) -> Option<SinkEntry> {
        let Value::Object(mut table) = value else {
            self.error(&["sinks", name], "found a value, expected a table".to_owned());
            return None;
        };
        let at = ["sinks".to_owned(), name.to_owned()];
        let kind = match table.remove("type") {
            Some(Value::String(kind)) => kind,
            Some(_) => return self.unknown_kind(name, "a value that is not a string"),
            None => return self.unknown_kind(name, "nothing"),
        };
        let Some(sink_type) = sinks::find(&kind) else {
            return self.unknown_kind(name, &format!("\"{kind}\""));
        };
        let common = Value::Object(sink::split_common(&mut table));
        let common: Option<SinkCommon> = self.read(common, &at);
        let shape = self.shape.at(at.iter().map(String::as_str));
        let config = read::read_with(
            sink_type.parse,
            Value::Object(table),
            &at,
            &shape,
            &mut self.errors,
        );
        Some(SinkEntry {
            common: common.unwrap_or_default(),
            config: config?,
        })
    }

    fn unknown_kind(&mut self, name: &str, found: &str) -> Option<SinkEntry> {
        let word = found.trim_matches('"');
        let known: Vec<&str> = sinks::all().map(|sink_type| sink_type.name).collect();
        let is_left_out = sinks::LEFT_OUT.contains(&word);
        let message = if is_left_out {
            format!(
                "found \"{word}\", which this build of neurobridge does not include; expected one of {}, or a build with the cargo \
                 feature \"{word}\"",
                read::list(&known)
            )
        } else {
            format!(
                "found {found}, expected the type of the sink, one of {}",
                read::list(&known)
            )
        };
        let error = ConfigError::new(["sinks", name, "type"], message);
        self.errors.push(if is_left_out {
            error
        } else {
            error.with_suggestion(word, &known)
        });
        None
    }
}
