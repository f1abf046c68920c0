//! A sink in the configuration: what all have in common, and what its type adds.

use std::{borrow::Cow, sync::Arc};

use neurobridge_core::{
    filter::Filter,
    redact::{Pattern, Pseudonymise},
    sink_type::SinkType,
};
use neurobridge_spool::Start;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::sinks::{self, AnySink};

/// A sink.
#[derive(Clone, Debug)]
pub struct SinkEntry {
    /// What all sinks have in common.
    pub common: SinkCommon,
    /// What its type adds.
    pub config: Arc<dyn AnySink>,
}

/// What can be said of every sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SinkCommon {
    /// Whether the bridge is ready (`/readyz`) only while this sink is up.
    pub required: bool,
    /// Where it begins when the spool does not know it yet: at the `end` (with what comes next), or with the `oldest` event
    /// that the spool has.
    pub start: Start,
    /// Which events this sink gets, of those that passed `event.filter`. All by default.
    pub filter: Filter,
    /// Fields whose values are replaced by null for this sink, beyond those of `event.redact`.
    pub redact: Vec<Pattern>,
    /// Fields whose values are replaced by pseudonyms for this sink.
    pub pseudonymise: Option<Pseudonymise>,
    /// So many dead letters in a row stop the sink: then it is not the events that are wrong.
    pub max_dead_letters_in_a_row: u64,
}

impl Default for SinkCommon {
    fn default() -> Self {
        Self {
            required: true,
            start: Start::default(),
            filter: Filter::default(),
            redact: Vec::new(),
            pseudonymise: None,
            max_dead_letters_in_a_row: 100,
        }
    }
}

impl SinkCommon {
    /// Whether anything is taken out of events for this sink.
    pub fn redacts(&self) -> bool {
        !self.redact.is_empty() || self.pseudonymise.is_some()
    }
}

impl SinkEntry {
    /// Returns a sink of this configuration, with the defaults of what all sinks have in common.
    pub fn new(config: impl SinkType) -> Self {
        Self {
            common: SinkCommon::default(),
            config: Arc::new(config),
        }
    }
}

/// Takes the keys that all sinks have in common out of a sink's table. What is left is its type's own, which is read
/// by that type: serde can't flatten one into the other and refuse unknown keys as well.
pub(super) fn split_common(table: &mut Map<String, Value>) -> Map<String, Value> {
    let schema = schemars::schema_for!(SinkCommon);
    let keys = schema.get("properties").and_then(Value::as_object);
    keys.into_iter()
        .flat_map(Map::keys)
        .filter_map(|key| table.remove_entry(key))
        .collect()
}

impl JsonSchema for SinkEntry {
    fn schema_name() -> Cow<'static, str> {
        "Sink".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let common = SinkCommon::json_schema(generator);
        let kinds: Vec<Schema> = sinks::all()
            .map(|sink_type| with_common(&common, sink_type.name, (sink_type.schema)(generator)))
            .collect();
        json_schema!({ "oneOf": kinds })
    }
}

/// The schema of a type of sink, with the keys that all have in common and `type`.
fn with_common(common: &Schema, kind: &str, specific: Schema) -> Schema {
    let mut schema = specific;
    let object = schema.ensure_object();
    let properties = object
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(
            "type".to_owned(),
            serde_json::json!({ "type": "string", "const": kind, "description": "The type of the sink." }),
        );
        if let Some(common) = common.get("properties").and_then(Value::as_object) {
            properties.extend(common.clone());
        }
    }
    let required = object
        .entry("required")
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Some(required) = required.as_array_mut() {
        required.push("type".into());
    }
    schema
}
