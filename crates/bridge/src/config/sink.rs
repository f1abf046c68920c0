//! A sink in the configuration: what all have in common, and what its type adds.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use neurobridge_core::{
    filter::Filter,
    redact::{Pattern, Pseudonymise},
};
use neurobridge_sink_file::FileConfig;
#[cfg(feature = "kafka")]
use neurobridge_sink_kafka::KafkaConfig;
#[cfg(feature = "nats")]
use neurobridge_sink_nats::NatsConfig;
use neurobridge_spool::Start;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The types of sinks that this build has, as they stand in `type`.
pub const KINDS: &[&str] = &[
    "file",
    #[cfg(feature = "kafka")]
    "kafka",
    #[cfg(feature = "nats")]
    "nats",
];

/// Types that other builds have, and the cargo feature that brings each.
pub(super) const KINDS_LEFT_OUT: &[(&str, &str)] = &[
    #[cfg(not(feature = "kafka"))]
    ("kafka", "kafka"),
    #[cfg(not(feature = "nats"))]
    ("nats", "nats"),
];

/// Where dead letters go.
pub(super) const DEAD_LETTER: &str = "dead_letter";

/// A sink.
#[derive(Clone, Debug)]
pub struct SinkEntry {
    /// What all sinks have in common.
    pub common: SinkCommon,
    /// What its type adds.
    pub kind: SinkKind,
    /// A file of its own for dead letters, relative to the data folder. By default they are with those of others.
    pub dead_letter_path: Option<PathBuf>,
}

/// Where dead letters go, for types of sinks that keep none themselves.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFile {
    /// A file of JSON lines; a relative path is below the data folder.
    pub path: PathBuf,
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

/// What a sink's type adds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SinkKind {
    /// JSON lines in files.
    File(FileConfig),
    /// Kafka topics.
    #[cfg(feature = "kafka")]
    Kafka(Box<KafkaConfig>),
    /// NATS subjects.
    #[cfg(feature = "nats")]
    Nats(Box<NatsConfig>),
}

impl SinkKind {
    /// As it stands in `type`.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
        }
    }
}

impl SinkEntry {
    /// A sink of this type, and all else by default.
    pub fn new(kind: SinkKind) -> Self {
        Self {
            common: SinkCommon::default(),
            kind,
            dead_letter_path: None,
        }
    }

    /// The file of its own that this sink's dead letters go to, if there is one; a relative path is below the data folder.
    pub fn dead_letter_path(&self) -> Option<&Path> {
        self.dead_letter_path.as_deref()
    }

    /// The topic or subject that this sink's dead letters go to, if there is one.
    pub fn dead_letter_topic(&self) -> Option<&str> {
        match &self.kind {
            SinkKind::File(_) => None,
            #[cfg(feature = "kafka")]
            SinkKind::Kafka(config) => config.dead_letter.as_ref()?.topic.as_deref(),
            #[cfg(feature = "nats")]
            SinkKind::Nats(config) => config.dead_letter.as_ref()?.subject.as_deref(),
        }
    }
}

impl SinkKind {
    /// As in `type`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => "kafka",
            #[cfg(feature = "nats")]
            Self::Nats(_) => "nats",
        }
    }

    /// What is wrong with it: keys below the sink's table, and for each a sentence.
    pub fn check(&self) -> Vec<(String, String)> {
        match self {
            Self::File(config) => config.check(),
            #[cfg(feature = "kafka")]
            Self::Kafka(config) => config.check(),
            #[cfg(feature = "nats")]
            Self::Nats(config) => config.check(),
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
        let kinds = [
            with_dead_letter_file(
                with_common(&common, "file", FileConfig::json_schema(generator)),
                generator,
            ),
            #[cfg(feature = "kafka")]
            with_common(&common, "kafka", KafkaConfig::json_schema(generator)),
            #[cfg(feature = "nats")]
            with_common(&common, "nats", NatsConfig::json_schema(generator)),
        ];
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

/// The schema of a type of sink that keeps no dead letters itself.
fn with_dead_letter_file(mut schema: Schema, generator: &mut SchemaGenerator) -> Schema {
    let mut place = generator.subschema_for::<DeadLetterFile>();
    place.insert(
        "description".to_owned(),
        "Where events go that are refused for themselves; a file in the data folder by default.".into(),
    );
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert(DEAD_LETTER.to_owned(), place.to_value());
    }
    schema
}
