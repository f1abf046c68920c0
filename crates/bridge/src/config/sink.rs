//! A sink in the configuration: the common keys and those of its type.

use std::{borrow::Cow, sync::Arc};

use neurobridge_core::{
    filter::Filter,
    redact::{Pattern, Pseudonymise},
    sink_type::SinkType,
};
use neurobridge_spool::Start;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::sinks::{self, AnySink};

/// The configuration of a sink.
#[derive(Clone, Debug)]
pub struct ConfiguredSink {
    /// The common keys.
    pub common: SinkCommon,
    /// The keys of the sink's type.
    pub config: Arc<dyn AnySink>,
}

/// The keys that all sinks have.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SinkCommon {
    /// Whether the bridge is ready (`/readyz`) only while this sink is up.
    pub required: bool,
    /// The start position of a sink without a cursor in the spool: the `end` (with the next event), or the `oldest` event in
    /// the spool.
    pub start: Start,
    /// The filter of this sink, applied after `event.filter`. All events pass by default.
    pub filter: Filter,
    /// Fields whose values are replaced by null for this sink, in addition to those of `event.redact`.
    pub redact: Vec<Pattern>,
    /// Fields whose values are replaced by pseudonyms for this sink.
    pub pseudonymise: Option<Pseudonymise>,
    /// The number of consecutive dead letters that stops the sink, because the events are then not the likely cause.
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
    /// Returns whether values are removed from events for this sink.
    pub fn redacts(&self) -> bool {
        !self.redact.is_empty() || self.pseudonymise.is_some()
    }
}

impl ConfiguredSink {
    /// Returns a sink with this configuration and defaults for the common keys.
    pub fn new(config: impl SinkType) -> Self {
        Self {
            common: SinkCommon::default(),
            config: Arc::new(config),
        }
    }
}

/// Removes the common keys from a sink's table and returns them. The rest is deserialised by the sink's type: serde cannot
/// both flatten one into the other and reject unknown keys.
pub(super) fn split_common(table: &mut Map<String, Value>) -> Map<String, Value> {
    let schema = schemars::schema_for!(SinkCommon);
    let keys = schema.get("properties").and_then(Value::as_object);
    keys.into_iter()
        .flat_map(Map::keys)
        .filter_map(|key| table.remove_entry(key))
        .collect()
}

impl JsonSchema for ConfiguredSink {
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

/// Returns the schema of a sink type, with the common keys and `type`.
fn with_common(common: &Schema, kind: &str, specific: Schema) -> Schema {
    let mut schema = specific;
    let object = schema.ensure_object();
    let properties = object.entry("properties").or_insert_with(|| json!({}));
    properties["type"] = json!({ "type": "string", "const": kind, "description": "The type of the sink." });
    let keys = common.get("properties").and_then(Value::as_object);
    for (key, schema) in keys.into_iter().flatten() {
        properties[key] = schema.clone();
    }
    let required = object.entry("required").or_insert_with(|| json!([]));
    required
        .as_array_mut()
        .into_iter()
        .for_each(|keys| keys.push("type".into()));
    schema
}
