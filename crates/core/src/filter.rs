//! Filters that select events by the values of their fields.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, value::MapAccessDeserializer},
};

use crate::event::{Event, FieldPath};

/// A filter as in the configuration: `{ result = ["new", "exact"], "space.id" = [1, "a"] }`.
///
/// An event passes if each field has one of its listed values. A field that is missing, null or not a scalar
/// has no value. Values are compared as text, as written in the feed: `1` and `"1"` are equal, `1` and `1.0`
/// are not. A path can also be written as nested tables: `{ space = { id = [1] } }`. A filter without fields
/// passes every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The conditions. Those on fields with a known position come first, because they need no scan of the
    /// body.
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    path: String,
    field: FieldPath,
    allowed: Vec<Box<str>>,
}

const VALUES: &str = "a list of values such as [\"new\", \"exact\"]";

/// Why a filter is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// The key is not the path of a field.
    #[error("found \"{found}\", expected the path of a field such as \"result\" or \"space.id\"")]
    NoPath {
        /// The key.
        found: String,
    },
    /// The list of allowed values is empty, so that no event would ever pass.
    #[error("found no value for \"{path}\", expected a list with at least one, or no \"{path}\" at all")]
    NoValues {
        /// The path of the field.
        path: String,
    },
}

impl Filter {
    /// Creates a filter from paths and the values allowed for each.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn new<V: Into<String>>(
        conditions: impl IntoIterator<Item = (impl Into<String>, impl IntoIterator<Item = V>)>,
    ) -> Result<Self, FilterError> {
        let mut compiled = Vec::new();
        for (path, allowed) in conditions {
            let path = path.into();
            let field = FieldPath::parse(&path).ok_or_else(|| FilterError::NoPath { found: path.clone() })?;
            let allowed: Vec<Box<str>> = allowed
                .into_iter()
                .map(|value| value.into().into_boxed_str())
                .collect();
            if allowed.is_empty() {
                return Err(FilterError::NoValues { path });
            }
            compiled.push(Condition { path, field, allowed });
        }
        compiled.sort_by_key(|condition| !condition.field.is_noted());
        Ok(Self { conditions: compiled })
    }

    /// Returns whether the filter passes every event.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns the filtered fields, with their paths.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldPath)> {
        self.conditions
            .iter()
            .map(|condition| (condition.path.as_str(), &condition.field))
    }

    /// Returns the values allowed for a field, with its path.
    pub fn values(&self) -> impl Iterator<Item = (&str, &[Box<str>])> {
        self.conditions
            .iter()
            .map(|condition| (condition.path.as_str(), condition.allowed.as_slice()))
    }

    /// Returns whether an event passes.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        self.conditions.iter().all(|condition| {
            condition
                .field
                .value(event)
                .is_some_and(|value| condition.allowed.iter().any(|allowed| **allowed == *value))
        })
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = BTreeMap::<String, Node>::deserialize(deserializer)?;
        let mut conditions = Vec::new();
        flatten(String::new(), tree, &mut conditions);
        Self::new(conditions).map_err(de::Error::custom)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.conditions
                .iter()
                .map(|condition| (&condition.path, &condition.allowed)),
        )
    }
}

impl JsonSchema for Filter {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Filter".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "Values allowed for each field, by its path below `data`; an event passes when each field has one of its values.",
            // Values, or the rest of a path.
            "additionalProperties": { "anyOf": [
                {
                    "type": "array",
                    "title": VALUES,
                    "minItems": 1,
                    "items": { "type": ["string", "number", "boolean"] },
                },
                generator.subschema_for::<Self>(),
            ] },
        })
    }
}

/// The value of a key in the filter: allowed values, or the rest of the path.
enum Node {
    Values(Vec<String>),
    Keys(BTreeMap<String, Node>),
}

fn flatten(prefix: String, tree: BTreeMap<String, Node>, conditions: &mut Vec<(String, Vec<String>)>) {
    for (key, node) in tree {
        let path = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match node {
            Node::Values(values) => conditions.push((path, values)),
            // An error, as an empty list is.
            Node::Keys(keys) if keys.is_empty() => conditions.push((path, Vec::new())),
            Node::Keys(keys) => flatten(path, keys, conditions),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> de::Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VALUES)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node, A::Error> {
        let mut values = Vec::new();
        while let Some(Scalar(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Node::Values(values))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Node, A::Error> {
        BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Node::Keys)
    }
}

/// A scalar as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> de::Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        // `Debug` keeps the decimal point: `1.0` stays `1.0`.
        Ok(Scalar(format!("{value:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Kind, read},
        event::Sequence,
    };

    fn passes(filter: &str, frame: &str) -> bool {
        let filter: Filter = serde_json::from_str(filter).unwrap();
        let Kind::Event(envelope) = read(frame).unwrap() else {
            panic!("no event")
        };
        filter.matches(&Event {
            sequence: Sequence::FIRST,
            received_at: jiff::Timestamp::UNIX_EPOCH,
            source: "main",
            conflict: None,
            envelope,
            frame,
        })
    }

    #[test]
    fn every_field_must_have_one_of_its_values() {
        let frame =
            r#"{"id":7,"data":{"result":"n\u0065w","space":{"id":1},"live":true,"score":1.0,"pid":null}}"#;
        for (filter, expected) in [
            (r#"{}"#, true),
            (r#"{"result":["new","exact"]}"#, true),
            (r#"{"result":["exact"]}"#, false),
            (r#"{"result":["new"],"space.id":[1,"a"]}"#, true),
            (r#"{"result":["new"],"space.id":["1"]}"#, true),
            (r#"{"result":["new"],"space.id":[2]}"#, false),
            (r#"{"space":{"id":[1]},"live":[true]}"#, true),
            (r#"{"score":[1.0]}"#, true),
            (r#"{"score":[1]}"#, false),
            (r#"{"feed":["main"],"id":[7]}"#, true),
            (r#"{"pid":["null"]}"#, false),
            (r#"{"space":["1"]}"#, false),
            (r#"{"no.such":[""]}"#, false),
        ] {
            assert_eq!(passes(filter, frame), expected, "{filter}");
        }
    }

    #[test]
    fn a_mistake_is_named() {
        let error = |filter: &str| serde_json::from_str::<Filter>(filter).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"space..id":[1]}"#),
            "found \"space..id\", expected the path of a field such as \"result\" or \"space.id\""
        );
        assert_eq!(
            error(r#"{"result":[]}"#),
            "found no value for \"result\", expected a list with at least one, or no \"result\" at all"
        );
        assert!(error(r#"{"space":{}}"#).starts_with("found no value for \"space\""));
        assert!(
            error(r#"{"result":"new"}"#).contains("expected a list of values such as [\"new\", \"exact\"]")
        );
        assert!(error(r#"{"result":[null]}"#).contains("expected a text, a number, true or false"));
    }

    #[test]
    fn filter_serialises_in_canonical_form() {
        let filter: Filter =
            serde_json::from_str(r#"{"a":{"b":[1]},"result":["new"],"live":[true]}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&filter).unwrap(),
            r#"{"result":["new"],"a.b":["1"],"live":["true"]}"#
        );
    }
}
