//! Paths, and the types of configuration values that have several notations, such as one path or a list of paths.

use std::{collections::BTreeMap, fmt, time::Duration};

use neurobridge_core::{
    condition::Condition, path::Path, positions::TimeFormat, secret::SCHEMA_FORMAT, units,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

const PATH: &str = "a path such as \"id\", \"data.0.id\" or \"$.channel\"";
const PATHS: &str = "a path such as \"id\", or a list of paths such as [\"channel\", \"id\"]";
const TIME: &str = "the path of a time in RFC 3339, or { path = \"ts\", unit = \"ms\" }";
const MESSAGE: &str = "a table for a message in JSON, or a text for plain text";
const ANSWER: &str = "conditions such as { type = \"pong\" }, or a text for plain text";
const QUERY: &str = "a text, or a list of texts";
const REWIND: &str = "a time such as \"5s\", or a whole number of 0 or more";

/// The maximum number of steps of a path.
const MAX_STEPS: usize = 32;

/// A path in a unit, or with `$.` in the frame that contains the unit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FeedPath {
    /// Whether the path begins at the frame.
    is_of_frame: bool,
    /// `None` for the whole unit or frame.
    path: Option<Path>,
}

impl FeedPath {
    /// Parses a path; `None` if the text is not a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_of_frame, rest) = match text.strip_prefix('$') {
            Some("") => {
                return Some(Self {
                    is_of_frame: true,
                    path: None,
                });
            }
            Some(rest) => (true, rest.strip_prefix('.')?),
            None => (false, text),
        };
        let path = Path::parse(rest).filter(|path| path.steps().len() <= MAX_STEPS)?;
        Some(Self {
            is_of_frame,
            path: Some(path),
        })
    }

    /// Returns whether the path begins at the frame.
    pub fn is_of_frame(&self) -> bool {
        self.is_of_frame
    }

    /// Returns the steps; empty for `$`, the frame itself.
    pub fn steps(&self) -> &[Box<str>] {
        self.path.as_ref().map_or(&[], Path::steps)
    }

    /// Returns the value at this path, as written.
    pub fn of<'a>(&self, unit: &'a str, frame: &'a str) -> Option<&'a str> {
        let from = if self.is_of_frame { frame } else { unit };
        match &self.path {
            Some(path) => path.of(from),
            None => Some(from),
        }
    }
}

impl fmt::Display for FeedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_of_frame, &self.path) {
            (true, Some(path)) => write!(f, "$.{path}"),
            (false, Some(path)) => write!(f, "{path}"),
            (_, None) => f.write_str("$"),
        }
    }
}

impl<'de> Deserialize<'de> for FeedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom(format!("found \"{text}\", expected {PATH}")))
    }
}

impl Serialize for FeedPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Conditions on fields by their paths; all must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conditions(Vec<(FeedPath, Condition)>);

impl Conditions {
    /// Returns the conditions with the path of each.
    pub fn iter(&self) -> impl Iterator<Item = &(FeedPath, Condition)> {
        self.0.iter()
    }

    /// Returns whether the conditions hold for a unit of valid JSON in its frame.
    pub fn holds(&self, unit: &str, frame: &str) -> bool {
        self.iter()
            .all(|(path, condition)| condition.holds(path.of(unit, frame)))
    }
}

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = BTreeMap::<String, Condition>::deserialize(deserializer)?;
        if table.is_empty() {
            return Err(de::Error::custom(
                "found an empty table, expected at least one field with a condition, such as { type = \"trade\" }",
            ));
        }
        let fields = table
            .into_iter()
            .map(|(key, condition)| match FeedPath::parse(&key) {
                Some(path) => Ok((path, condition)),
                None => Err(de::Error::custom(format!("found \"{key}\", expected {PATH}"))),
            });
        fields.collect::<Result<_, _>>().map(Self)
    }
}

/// One path or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Paths(Vec<FeedPath>);

impl Paths {
    /// Returns the paths, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &FeedPath> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let items = match &value {
            Value::Array(items) if !items.is_empty() => items.as_slice(),
            Value::String(_) => std::slice::from_ref(&value),
            other => return Err(unexpected(other, PATHS)),
        };
        let paths = items.iter().map(|item| {
            let path = item.as_str().and_then(FeedPath::parse);
            path.ok_or_else(|| unexpected(item, PATH))
        });
        paths.collect::<Result<_, _>>().map(Self)
    }
}

/// The path of a time, and its unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TimeField {
    /// The path.
    pub path: FeedPath,
    /// The unit.
    pub unit: TimeFormat,
}

impl<'de> Deserialize<'de> for TimeField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            path: FeedPath,
            unit: TimeFormat,
        }
        match Value::deserialize(deserializer)? {
            Value::String(text) => match FeedPath::parse(&text) {
                Some(path) => Ok(Self {
                    path,
                    unit: TimeFormat::Text,
                }),
                None => Err(unexpected(&Value::String(text), TIME)),
            },
            table @ Value::Object(_) => serde_json::from_value(table)
                .map(|Table { path, unit }| Self { path, unit })
                .map_err(de::Error::custom),
            other => Err(unexpected(&other, TIME)),
        }
    }
}

/// A message: JSON or plain text, whose strings may contain placeholders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MessageTemplate(pub(crate) Value);

impl<'de> Deserialize<'de> for MessageTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            value @ (Value::String(_) | Value::Object(_) | Value::Array(_)) => Ok(Self(value)),
            other => Err(unexpected(&other, MESSAGE)),
        }
    }
}

/// The answer to a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A frame that equals this text.
    Text(String),
    /// A frame for which the conditions hold.
    Conditions(Conditions),
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            table @ Value::Object(_) => serde_json::from_value(table)
                .map(Self::Conditions)
                .map_err(de::Error::custom),
            other => Err(unexpected(&other, ANSWER)),
        }
    }
}

/// The values of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryValues(Vec<String>);

impl QueryValues {
    /// Returns the values.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for QueryValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = |value: Value| match value {
            Value::String(text) => Ok(text),
            Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
            other => Err(unexpected(&other, QUERY)),
        };
        match Value::deserialize(deserializer)? {
            Value::Array(items) => items.into_iter().map(text).collect::<Result<_, _>>().map(Self),
            one => text(one).map(|text| Self(vec![text])),
        }
    }
}

/// The amount to subtract from the value of the last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// A duration, for a value that is a time.
    Time(Duration),
    /// A number, for a value that is a number.
    Number(u64),
}

impl<'de> Deserialize<'de> for Rewind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => units::parse_duration(&text)
                .map(Self::Time)
                .map_err(|_| unexpected(&Value::String(text), REWIND)),
            number => number
                .as_u64()
                .map(Self::Number)
                .ok_or_else(|| unexpected(&number, REWIND)),
        }
    }
}

fn unexpected<E: de::Error>(found: &Value, expected: &str) -> E {
    let found = match found {
        Value::Object(_) => "a table".to_owned(),
        Value::Array(items) if items.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Null => "nothing".to_owned(),
        scalar => scalar.to_string(),
    };
    E::custom(format!("found {found}, expected {expected}"))
}

/// The schema of a value within a message.
struct MessagePart;

/// The schema of a table of texts that errors do not show, because users may write a secret into them instead of `secrets`.
pub(crate) fn texts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "string", "format": SCHEMA_FORMAT },
    })
}

/// Implements `JsonSchema` for a type with several notations. Errors show the title as the expected value.
macro_rules! schema {
    ($type:ty, $name:literal, $generator:ident => $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

schema!(FeedPath, "FeedPath", _generator => { "type": "string", "title": PATH });
schema!(Paths, "Paths", _generator => {
    "title": PATHS,
    "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": { "type": "string", "title": PATH } }],
});
schema!(TimeField, "TimeField", generator => {
    "title": TIME,
    "anyOf": [{ "type": "string" }, {
        "type": "object",
        "properties": {
            "path": { "allOf": [generator.subschema_for::<FeedPath>()], "description": "The path." },
            "unit": { "allOf": [generator.subschema_for::<TimeFormat>()], "description": "The unit." },
        },
        "required": ["path", "unit"],
        "additionalProperties": false,
    }],
});
schema!(MessageTemplate, "MessageTemplate", generator => {
    "title": MESSAGE,
    "anyOf": [
        { "type": "string", "format": SCHEMA_FORMAT },
        { "type": "array", "items": generator.subschema_for::<MessagePart>() },
        { "type": "object", "additionalProperties": generator.subschema_for::<MessagePart>() },
    ],
});
schema!(MessagePart, "MessagePart", generator => {
    "anyOf": [
        { "type": "string", "format": SCHEMA_FORMAT },
        { "type": ["number", "boolean"] },
        { "type": "array", "items": generator.subschema_for::<Self>() },
        { "type": "object", "additionalProperties": generator.subschema_for::<Self>() },
    ],
});
schema!(Conditions, "Conditions", generator => {
    "type": "object",
    "title": "conditions such as { type = \"trade\" }",
    "minProperties": 1,
    "additionalProperties": generator.subschema_for::<Condition>(),
});
schema!(Answer, "Answer", generator => {
    "title": ANSWER,
    "anyOf": [{ "type": "string" }, generator.subschema_for::<Conditions>()],
});
schema!(QueryValues, "QueryValues", _generator => {
    "title": QUERY,
    "anyOf": [
        { "type": ["string", "number", "boolean"], "format": SCHEMA_FORMAT },
        { "type": "array", "items": { "type": ["string", "number", "boolean"], "format": SCHEMA_FORMAT } },
    ],
});
schema!(Rewind, "Rewind", _generator => {
    "title": REWIND,
    "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }],
});
