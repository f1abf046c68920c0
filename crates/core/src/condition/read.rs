//! Deserialises conditions of the configuration, and returns their JSON Schema.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess},
};

use super::{CONDITION, Condition, bound::BOUND};
use crate::path::Path;
use crate::suggest::did_you_mean;

/// The operators of a condition.
pub const OPERATORS: [&str; 8] = [
    "equals", "one_of", "present", "at_least", "below", "prefix", "any", "not",
];

const SCALAR: &str = "a text, a number, true or false";
const VALUES: &str = "a list of values such as [\"new\", \"exact\"]";

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConditionVisitor)
    }
}

struct ConditionVisitor;

impl<'de> de::Visitor<'de> for ConditionVisitor {
    type Value = Condition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CONDITION)
    }

    fn visit_str<E>(self, text: &str) -> Result<Condition, E> {
        Ok(equals(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Condition, E> {
        ScalarVisitor.visit_bool(value).map(|Scalar(text)| equals(text))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Condition, E> {
        ScalarVisitor.visit_i64(value).map(|Scalar(text)| equals(text))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Condition, E> {
        ScalarVisitor.visit_u64(value).map(|Scalar(text)| equals(text))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Condition, E> {
        ScalarVisitor.visit_f64(value).map(|Scalar(text)| equals(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Condition, A::Error> {
        ListVisitor
            .visit_seq(sequence)
            .map(|List(texts)| Condition::OneOf(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Condition, A::Error> {
        let (mut conditions, mut fields, mut operators) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(key) = map.next_key::<String>()? {
            let condition = match key.as_str() {
                "equals" => map.next_value().map(|Scalar(text)| equals(text))?,
                "one_of" => map.next_value().map(|List(texts)| Condition::OneOf(texts))?,
                "present" => Condition::Present(map.next_value()?),
                "at_least" => Condition::AtLeast(map.next_value()?),
                "below" => Condition::Below(map.next_value()?),
                "prefix" => Condition::Prefix(map.next_value()?),
                "any" => Condition::Any(map.next_value()?),
                "not" => Condition::Not(map.next_value()?),
                _ => {
                    fields.push((key, map.next_value()?));
                    continue;
                }
            };
            conditions.push(condition);
            operators.push(key);
        }
        match (operators.first(), fields.first()) {
            (Some(operator), Some((path, _))) => {
                let suggestion = did_you_mean(path, &OPERATORS);
                Err(de::Error::custom(format!(
                    "found \"{path}\"{suggestion} beside the operator \"{operator}\", expected only operators ({}), or only paths of \
                     fields; a field with the name of an operator is written with its whole path in quotes",
                    OPERATORS.join(", ")
                )))
            }
            (None, None) => Err(de::Error::custom(format!(
                "found an empty table, expected {CONDITION}"
            ))),
            (None, Some(_)) => nested(fields).map(Condition::Fields).map_err(de::Error::custom),
            (Some(_), None) if conditions.len() == 1 => Ok(conditions.remove(0)),
            (Some(_), None) => Ok(Condition::All(conditions)),
        }
    }
}

/// Returns the fields of a table with their conditions. The path of a field in a nested table begins with the path of that table.
///
/// # Errors
/// A key is not a path. The error contains the found and the expected text.
pub(crate) fn nested(table: Vec<(String, Condition)>) -> Result<Vec<(Path, Condition)>, String> {
    let mut fields = Vec::new();
    for (key, condition) in table {
        let Some(path) = Path::parse(&key) else {
            return Err(format!(
                "found \"{key}\", expected the path of a field such as \"result\" or \"space.id\""
            ));
        };
        match condition {
            Condition::Fields(below) => {
                fields.extend(
                    below
                        .into_iter()
                        .map(|(rest, condition)| (path.join(&rest), condition)),
                );
            }
            condition => fields.push((path, condition)),
        }
    }
    Ok(fields)
}

fn equals(text: String) -> Condition {
    Condition::OneOf(vec![text.into_boxed_str()])
}

/// A scalar as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl de::Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCALAR)
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

/// A non-empty list of scalars; an empty list would hold for no value.
struct List(Vec<Box<str>>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

struct ListVisitor;

impl<'de> de::Visitor<'de> for ListVisitor {
    type Value = List;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VALUES)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<List, A::Error> {
        let mut texts = Vec::new();
        while let Some(Scalar(text)) = sequence.next_element()? {
            texts.push(text.into_boxed_str());
        }
        if texts.is_empty() {
            return Err(de::Error::custom(
                "found an empty list, expected at least one value, or no condition on this field",
            ));
        }
        Ok(List(texts))
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let condition = generator.subschema_for::<Self>();
        let scalars = ["string", "number", "boolean"];
        json_schema!({
            "title": CONDITION,
            "description": "A condition on a value.",
            "anyOf": [
                { "type": scalars },
                { "type": "array", "minItems": 1, "items": { "type": scalars, "title": SCALAR } },
                {
                    "type": "object",
                    "minProperties": 1,
                    "properties": {
                        "equals": { "type": scalars, "title": SCALAR, "description": "The value equals this value." },
                        "one_of": {
                            "type": "array", "title": VALUES, "minItems": 1, "items": { "type": scalars, "title": SCALAR },
                            "description": "The value equals one of these values."
                        },
                        "present": {
                            "type": "boolean",
                            "description": "With `true`, the value is present and not null; with `false`, it is missing or null."
                        },
                        "at_least": {
                            "type": ["number", "string"], "title": BOUND,
                            "description": "The value is a number or a time that is at least this bound."
                        },
                        "below": {
                            "type": ["number", "string"], "title": BOUND,
                            "description": "The value is a number or a time that is less than this bound."
                        },
                        "prefix": { "type": "string", "description": "The value is a text that begins with this text." },
                        "any": { "allOf": [condition], "description": "The condition holds for an element of the array." },
                        "not": { "allOf": [condition], "description": "The condition does not hold." },
                    },
                    // Any other key is a part of a path.
                    "additionalProperties": condition,
                },
            ],
        })
    }
}
