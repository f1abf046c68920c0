//! Conditions on values of the feed: the language of filters and of declared feeds.
//!
//! | condition | holds for |
//! |---|---|
//! | `"new"`, `7`, `true` | this value |
//! | `["new", "exact"]` | one of these values |
//! | `{ equals = 7 }`, `{ one_of = [7, 8] }` | the same conditions as operators, for a table with several operators |
//! | `{ present = true }` | any value but null; with `false`, a field that is missing or null |
//! | `{ at_least = 18 }`, `{ below = 65 }` | a number or a time that is at least the bound, or less than it |
//! | `{ prefix = "orders." }` | a text that begins with this text |
//! | `{ any = "vip" }` | an array with an element for which the condition holds |
//! | `{ not = ["junk", "nm"] }` | a value for which the condition does not hold, also a missing field |
//!
//! All conditions of one table must hold. The keys of a table are either operators, or paths of fields with a condition for
//! each. A mixture of both is an error.
//!
//! Scalars are compared as text, as written in the feed: `1` and `"1"` are equal, `1` and `1.0` are not. Numbers are
//! compared exactly, whether the feed sends them as numbers or as texts.

mod bound;
mod decimal;
mod read;

use serde::{Serialize, Serializer, ser::SerializeMap};

pub(crate) use self::read::nested;
pub use self::{bound::Bound, read::OPERATORS};
use crate::{json, path::Path};

/// The description of a condition, in errors and as a title in the schema.
pub(crate) const CONDITION: &str =
    "a value, a list of values such as [\"new\", \"exact\"], or conditions such as { at_least = 18 }";

/// A condition on one value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// The text of the value equals one of these texts.
    OneOf(Vec<Box<str>>),
    /// For `true` the value is present and not null; for `false` it is missing or null.
    Present(bool),
    /// The value is not below the bound.
    AtLeast(Bound),
    /// The value is below the bound.
    Below(Bound),
    /// The text of the value begins with this text.
    Prefix(Box<str>),
    /// The condition holds for an element of the array.
    Any(Box<Condition>),
    /// The condition does not hold.
    Not(Box<Condition>),
    /// All conditions hold.
    All(Vec<Condition>),
    /// The conditions hold for the values at these paths of the object or array.
    Fields(Vec<(Path, Condition)>),
}

impl Condition {
    /// Returns whether the condition holds for a value of valid JSON, as written; `None` is a missing value.
    pub fn holds(&self, value: Option<&str>) -> bool {
        self.holds_for(Subject {
            value,
            is_element: false,
        })
    }

    fn holds_for(&self, subject: Subject<'_>) -> bool {
        match self {
            Self::OneOf(texts) => subject
                .scalar()
                .and_then(json::text)
                .is_some_and(|text| texts.iter().any(|one| **one == *text)),
            Self::Present(is_present) => subject.value.is_some_and(|value| value != "null") == *is_present,
            Self::AtLeast(bound) => subject
                .scalar()
                .and_then(|value| bound.order(value))
                .is_some_and(|order| order.is_ge()),
            Self::Below(bound) => subject
                .scalar()
                .and_then(|value| bound.order(value))
                .is_some_and(|order| order.is_lt()),
            Self::Prefix(prefix) => subject
                .scalar()
                .and_then(json::text)
                .is_some_and(|text| text.starts_with(&**prefix)),
            Self::Any(condition) => subject.value.is_some_and(|array| {
                json::any_element(array, |element| {
                    condition.holds_for(Subject {
                        value: Some(element),
                        is_element: true,
                    })
                })
            }),
            Self::Not(condition) => !condition.holds_for(subject),
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds_for(subject)),
            Self::Fields(fields) => fields
                .iter()
                .all(|(path, condition)| condition.holds(subject.value.and_then(|value| path.of(value)))),
        }
    }

    /// Returns the values named by `equals`, `one_of` and lists, except for those within `any` and nested fields.
    pub fn values(&self) -> Vec<&str> {
        match self {
            Self::OneOf(texts) => texts.iter().map(|text| &**text).collect(),
            Self::Not(condition) => condition.values(),
            Self::All(conditions) => conditions.iter().flat_map(Self::values).collect(),
            _ => Vec::new(),
        }
    }
}

/// A value to which a condition is applied.
#[derive(Clone, Copy)]
struct Subject<'a> {
    value: Option<&'a str>,
    /// Whether the value is an element of an array.
    is_element: bool,
}

impl<'a> Subject<'a> {
    /// Returns the value to compare with scalars: for an element that is an object, the value of `name`. *Assumed*: the
    /// groups of a person are names, or objects with a name.
    fn scalar(self) -> Option<&'a str> {
        match self.value {
            Some(object) if self.is_element && object.starts_with('{') => json::at(object, &["name"]),
            value => value,
        }
    }
}

/// Writes the shortest form: values as a list, all other conditions as a table.
impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::OneOf(texts) => serializer.collect_seq(texts),
            Self::Fields(fields) => serializer.collect_map(
                fields
                    .iter()
                    .map(|(path, condition)| (path.to_string(), condition)),
            ),
            Self::All(conditions) => {
                let mut map = serializer.serialize_map(Some(conditions.len()))?;
                for condition in conditions {
                    condition.write(&mut map)?;
                }
                map.end()
            }
            one => {
                let mut map = serializer.serialize_map(Some(1))?;
                one.write(&mut map)?;
                map.end()
            }
        }
    }
}

impl Condition {
    /// Writes the operator and its value.
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        match self {
            Self::OneOf(texts) => map.serialize_entry("one_of", texts),
            Self::Present(is_present) => map.serialize_entry("present", is_present),
            Self::AtLeast(bound) => map.serialize_entry("at_least", bound),
            Self::Below(bound) => map.serialize_entry("below", bound),
            Self::Prefix(prefix) => map.serialize_entry("prefix", prefix),
            Self::Any(condition) => map.serialize_entry("any", condition),
            Self::Not(condition) => map.serialize_entry("not", condition),
            // The deserialised `All` contains neither of these.
            Self::All(conditions) => conditions.iter().try_for_each(|condition| condition.write(map)),
            Self::Fields(fields) => fields
                .iter()
                .try_for_each(|(path, condition)| map.serialize_entry(&path.to_string(), condition)),
        }
    }
}

#[cfg(test)]
mod tests;
