//! Filters that select events by the values of their fields.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess},
};

use crate::{
    condition::{self, Condition},
    event::{Event, FieldPath, Origin},
};

/// A filter as in the configuration: `{ result = ["new", "exact"], age = { at_least = 18 }, "space.id" = [1, "a"] }`.
///
/// An event passes if the [`Condition`] of each field holds. A path can also be written as nested tables:
/// `{ space = { id = [1] } }`. A filter without fields passes every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: String,
    field: FieldPath,
    condition: Condition,
}

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
    #[error("no value is allowed for \"{path}\"; expected at least one value, or remove the condition")]
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
        fields: impl IntoIterator<Item = (impl Into<String>, impl IntoIterator<Item = V>)>,
    ) -> Result<Self, FilterError> {
        let mut entries = Vec::new();
        for (path, allowed) in fields {
            let path = path.into();
            let allowed: Vec<Box<str>> = allowed
                .into_iter()
                .map(|value| value.into().into_boxed_str())
                .collect();
            if allowed.is_empty() {
                return Err(FilterError::NoValues { path });
            }
            entries.push((path, Condition::OneOf(allowed)));
        }
        Self::compile(entries)
    }

    fn compile(conditions: impl IntoIterator<Item = (String, Condition)>) -> Result<Self, FilterError> {
        let mut entries = Vec::new();
        for (path, condition) in conditions {
            let field = FieldPath::parse(&path).ok_or_else(|| FilterError::NoPath { found: path.clone() })?;
            entries.push(Entry {
                path,
                field,
                condition,
            });
        }
        Ok(Self { entries })
    }

    /// Returns whether the filter passes every event.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the filtered fields, with their paths.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldPath)> {
        self.entries
            .iter()
            .map(|entry| (entry.path.as_str(), &entry.field))
    }

    /// Returns the conditions of the fields, with their paths.
    pub fn conditions(&self) -> impl Iterator<Item = (&str, &Condition)> {
        self.entries
            .iter()
            .map(|entry| (entry.path.as_str(), &entry.condition))
    }

    /// Returns whether an event passes. A gap report always passes, because a consumer of selected events must learn as well
    /// that events may be missing.
    pub fn matches(&self, event: &Event<'_>) -> bool {
        event.origin == Origin::GapReport
            || self
                .entries
                .iter()
                .all(|entry| entry.condition.holds(entry.field.raw(event).as_deref()))
    }
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields =
            condition::nested(deserializer.deserialize_map(TableVisitor)?).map_err(de::Error::custom)?;
        Self::compile(
            fields
                .into_iter()
                .map(|(path, condition)| (path.to_string(), condition)),
        )
        .map_err(de::Error::custom)
    }
}

/// Reads the outermost table of a filter. Its keys are always paths, whereas the keys of an inner table may be operators.
struct TableVisitor;

impl<'de> de::Visitor<'de> for TableVisitor {
    type Value = Vec<(String, Condition)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of fields and their conditions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = map.next_entry()? {
            table.push(entry);
        }
        Ok(table)
    }
}

impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.conditions())
    }
}

impl JsonSchema for Filter {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Filter".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "A condition for each field, by its path below `data`; an event passes when all hold.",
            "additionalProperties": generator.subschema_for::<Condition>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn passes(filter: &str, frame: &str) -> bool {
        let filter: Filter = serde_json::from_str(filter).unwrap();
        filter.matches(&testing::event(frame))
    }

    #[test]
    fn empty_id_is_missing() {
        let frame = r#"{"id":"","data":{}}"#;
        for (filter, expected) in [
            (r#"{"id":[""]}"#, false),
            (r#"{"id":{"present":true}}"#, false),
            (r#"{"id":{"present":false}}"#, true),
        ] {
            assert_eq!(passes(filter, frame), expected, "{filter}");
        }
        assert!(passes(r#"{"id":{"at_least":7}}"#, r#"{"id":7,"data":{}}"#));
    }

    #[test]
    fn event_passes_if_all_conditions_hold() {
        let frame = r#"{"id":7,"data":{"result":"n\u0065w","space":{"id":1},"live":true,"score":1.0,"pid":null,"groups":["x",{"name":"vip"}]}}"#;
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
            (r#"{"result":"new","live":true,"id":7}"#, true),
            (r#"{"result":{"prefix":"n","not":["nm"]}}"#, true),
            (r#"{"score":{"at_least":1,"below":1.01}}"#, true),
            (r#"{"pid":{"present":false},"space.id":{"present":true}}"#, true),
            (r#"{"feed":{"prefix":"ma"},"id":{"below":7}}"#, false),
            (r#"{"space":{"not":{"id":2}},"groups":{"any":["vip"]}}"#, true),
            (r#"{"groups":{"any":"staff"}}"#, false),
        ] {
            assert_eq!(passes(filter, frame), expected, "{filter}");
        }
    }

    #[test]
    fn invalid_filter_error_states_found_and_expected_value() {
        let error = |filter: &str| serde_json::from_str::<Filter>(filter).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"space..id":[1]}"#),
            "found \"space..id\", expected the path of a field such as \"result\" or \"space.id\""
        );
        assert_eq!(
            error(r#"{"result":[]}"#),
            "found an empty list, expected at least one value, or no condition on this field at line 1 column 12"
        );
        assert!(error(r#"{"space":{}}"#).starts_with("found an empty table, expected a value, a list"));
        assert!(error(r#"{"result":[null]}"#).contains("expected a text, a number, true or false"));
        assert!(error(r#"{"result":null}"#).contains("expected a value, a list of values"));
        assert!(
            error(r#"{"age":{"at_last":18,"below":65}}"#).starts_with(
                "found \"at_last\" (did you mean \"at_least\"?) beside the operator \"below\", expected only operators (equals, "
            )
        );
    }

    #[test]
    fn filter_serialises_in_canonical_form() {
        let filter: Filter = serde_json::from_str(
            r#"{"a":{"b":[1]},"result":"new","live":{"at_least":5,"not":{"x":{"y":true}}}}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&filter).unwrap(),
            r#"{"a.b":["1"],"result":["new"],"live":{"at_least":5,"not":{"x.y":["true"]}}}"#
        );
    }
}
