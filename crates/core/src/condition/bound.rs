//! The bounds of `at_least` and `below`: numbers and times.

use std::{cmp::Ordering, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::decimal::Decimal;
use crate::{cloudevents, json, positions::TimeFormat};

/// The description of a bound, in errors and as a title in the schema.
pub(super) const BOUND: &str = "a number, or a time in quotes such as \"2026-01-31T12:00:00Z\"";

/// A number or a time with which values are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    text: Box<str>,
    time: Option<Timestamp>,
}

impl Bound {
    /// Creates a bound from the text of a number in JSON, or a time in RFC 3339.
    fn parse(text: &str) -> Option<Self> {
        let time = cloudevents::timestamp(text, TimeFormat::Text);
        (time.is_some() || Decimal::parse(text).is_some()).then(|| Self {
            text: text.into(),
            time,
        })
    }

    /// Compares a value, as written in JSON, with this bound. `None` if the value is not of the bound's type, number or
    /// time. A number may be written as a text; a time without an offset is in UTC.
    pub(super) fn order(&self, value: &str) -> Option<Ordering> {
        let text = json::text(value)?;
        match self.time {
            Some(time) => Some(cloudevents::timestamp(&text, TimeFormat::Text)?.cmp(&time)),
            None => Some(Decimal::parse(&text)?.order(Decimal::parse(&self.text)?)),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<serde_json::Number>(&self.text) {
            Ok(number) if number.to_string() == *self.text => number.serialize(serializer),
            _ => serializer.serialize_str(&self.text),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BoundVisitor)
    }
}

struct BoundVisitor;

impl de::Visitor<'_> for BoundVisitor {
    type Value = Bound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(BOUND)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bound, E> {
        Bound::parse(text).ok_or_else(|| E::custom(format!("found \"{text}\", expected {BOUND}")))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bound, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bound, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Bound, E> {
        // `Debug` writes the shortest text that parses to this number, so the text of the configuration is restored.
        self.visit_str(&format!("{value:?}"))
    }
}
