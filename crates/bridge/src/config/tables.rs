//! Reads the configuration from the merged values, and finds every configuration error in them, not only the first.

use std::collections::BTreeMap;

use neurobridge_cluster::{ClusterConfig, LeaseConfig};
use neurobridge_spool::SpoolConfig;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{
    checks,
    document::KeyPath,
    model::Config,
    shape::Shape,
    sink::{self, ConfiguredSink},
    validate::{self, ConfigError},
};
use crate::sinks::{self, ParseError};

/// Reads the configuration, and returns all errors. Invalid values are replaced by valid ones.
pub(super) fn read(mut table: Map<String, Value>, shape: &Shape<'_>) -> (Config, Vec<ConfigError>) {
    let mut errors = Vec::new();
    remove_left_out_sinks(&mut table, &mut errors);
    let mut value = Value::Object(table);
    validate::validate(&mut value, &mut Vec::new(), shape, &mut errors);
    let mut take = |key| value.as_object_mut().and_then(|table| table.remove(key));
    let (sinks, spool, cluster) = (take("sinks"), take("spool"), take("cluster"));
    let mut config: Config = read_value(parse, &mut value, &[], shape, &mut errors).unwrap_or_default();
    let at = ["spool".to_owned()];
    if let Some(spool) =
        spool.and_then(|mut spool| read_typed(&mut spool, &at, spool_parser, shape, &mut errors))
    {
        config.spool = spool;
    }
    config.cluster = cluster.and_then(|cluster| read_cluster(cluster, shape, &mut errors));
    if let Some(Value::Object(sinks)) = sinks {
        config.sinks = read_sinks(sinks, shape, &mut errors);
    }
    checks::check(&config, &mut errors);
    config.add_default_sink();
    (config, validate::without_consequences(errors))
}

/// Reports and removes each sink whose type this build does not include: the keys of such a type are unknown.
fn remove_left_out_sinks(table: &mut Map<String, Value>, errors: &mut Vec<ConfigError>) {
    let known: Vec<&str> = sinks::all().map(|sink_type| sink_type.name).collect();
    let Some(Value::Object(sinks)) = table.get_mut("sinks") else {
        return;
    };
    sinks.retain(|name, sink| {
        let Some(kind) = sink.get("type").and_then(Value::as_str).filter(|kind| sinks::LEFT_OUT.contains(kind)) else {
            return true;
        };
        let message = format!(
            "found \"{kind}\", which this build of neurobridge does not include; expected one of {}, or a build with the cargo \
             feature \"{kind}\"",
            validate::list(&known)
        );
        errors.push(ConfigError::new(["sinks", name, "type"], message));
        false
    });
}

fn spool_parser(kind: &str) -> Option<Parse<SpoolConfig>> {
    match kind {
        "memory" => Some(|table| parse(table).map(SpoolConfig::Memory)),
        "disk" => Some(|table| parse(table).map(SpoolConfig::Disk)),
        _ => None,
    }
}

fn read_cluster(mut value: Value, shape: &Shape<'_>, errors: &mut Vec<ConfigError>) -> Option<ClusterConfig> {
    let at = ["cluster".to_owned(), "lease".to_owned()];
    read_typed(value.get_mut("lease")?, &at, LeaseConfig::reader, shape, errors)?;
    read_value(parse, &mut value, &at[..1], shape, errors)
}

fn read_sinks(
    sinks: Map<String, Value>,
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> BTreeMap<String, ConfiguredSink> {
    let mut read = BTreeMap::new();
    for (name, mut value) in sinks {
        let Value::Object(table) = &mut value else {
            continue;
        };
        let at = ["sinks".to_owned(), name.clone()];
        let mut common = Value::Object(sink::split_common(table));
        let common = read_value(parse, &mut common, &at, shape, errors).unwrap_or_default();
        let parser = |kind: &str| sinks::find(kind).map(|sink_type| sink_type.parse);
        if let Some(config) = read_typed(&mut value, &at, parser, shape, errors) {
            read.insert(name, ConfiguredSink { common, config });
        }
    }
    read
}

/// Deserialises a table; an error has the path of the invalid value.
type Parse<T> = fn(&Value) -> Result<T, ParseError>;

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, ParseError> {
    serde_path_to_error::deserialize(value)
}

/// Deserialises a table whose `type` selects the other keys, by the parser of that type: a parser for all types would report an
/// error without its path. Returns `None` for an unknown type, whose keys are unknown too.
fn read_typed<T>(
    table: &mut Value,
    at: &[String],
    parser: impl Fn(&str) -> Option<Parse<T>>,
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    // Only a spool has a default type.
    let kind = table.as_object_mut()?.remove("type").unwrap_or("memory".into());
    let read = read_value(parser(kind.as_str()?)?, table, at, shape, errors);
    table.as_object_mut()?.insert("type".to_owned(), kind);
    read
}

/// Deserialises a validated value. The remaining errors come from types that parse a text. serde stops at the first error, so the
/// invalid value is replaced, and the whole is deserialised again. Returns `None` if the invalid value cannot be replaced.
fn read_value<T>(
    parse: impl Fn(&Value) -> Result<T, ParseError>,
    value: &mut Value,
    at: &[String],
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    let shape = shape.at(at);
    loop {
        let error = match parse(value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let keys = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        let path: KeyPath = keys.collect();
        errors.push(ConfigError::new([at, &path].concat(), error.inner().to_string()));
        if !replace(value, &path, &shape) {
            return None;
        }
    }
}

/// Replaces an invalid value by a valid one, or removes its key if no valid value is known. An array is replaced as a whole.
fn replace(value: &mut Value, path: &[String], shape: &Shape<'_>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let Some(table) = value.as_object_mut() else {
        return false;
    };
    let Some(child) = table.get_mut(first) else {
        return false;
    };
    let shape = shape.child(first);
    if !rest.is_empty() && replace(child, rest, &shape) {
        return true;
    }
    match shape.stand_in().filter(|stand_in| stand_in != child) {
        Some(stand_in) => *child = stand_in,
        None => {
            table.remove(first);
        }
    }
    true
}
