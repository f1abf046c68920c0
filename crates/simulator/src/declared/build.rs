//! Builds frames for which the conditions of a declaration hold.

use jiff::{SignedDuration, Timestamp};
use neurobridge_core::{condition::Condition, json, path::Path};
use neurobridge_protocol::{Conditions, FeedPath};
use serde_json::{Map, Value};

/// A frame that is being built: the unit, and values outside the unit.
#[derive(Debug, Default)]
pub(super) struct Builder {
    unit: Value,
    /// The values at paths that begin with `$.`, unless the unit is the whole frame.
    frame: Vec<(FeedPath, Value)>,
}

impl Builder {
    /// Creates a frame for which conditions hold, if each condition can be satisfied independently of the others.
    pub(super) fn of(when: Option<&Conditions>) -> Self {
        let mut builder = Self {
            unit: Value::Object(Map::new()),
            frame: Vec::new(),
        };
        for (path, condition) in when.into_iter().flat_map(Conditions::iter) {
            if let Some(value) = value_for(condition) {
                builder.set(path, value);
            }
        }
        builder
    }

    pub(super) fn set(&mut self, path: &FeedPath, value: Value) {
        if path.is_of_frame() {
            self.frame.push((path.clone(), value));
        } else {
            put(&mut self.unit, path.steps(), value);
        }
    }

    /// Sets the value at a path unless the path has a value.
    pub(super) fn set_default(&mut self, path: &FeedPath, value: Value) {
        let exists = if path.is_of_frame() {
            self.frame.iter().any(|(known, _)| known == path)
        } else {
            let pointer = path.steps().iter();
            let mut found = Some(&self.unit);
            for step in pointer {
                found = found.and_then(|value| match (value, json::index(step)) {
                    (Value::Array(items), Some(index)) => items.get(index),
                    (value, _) => value.get(&**step),
                });
            }
            found.is_some_and(|value| !value.is_null())
        };
        if !exists {
            self.set(path, value);
        }
    }

    /// Returns the frame. With `array` the unit is the only element of the array at that path.
    pub(super) fn finish(self, array: Option<&FeedPath>) -> String {
        let mut frame = self.unit;
        if let Some(array) = array {
            let elements = Value::Array(vec![frame]);
            frame = Value::Null;
            put(&mut frame, array.steps(), elements);
        }
        for (path, value) in self.frame {
            put(&mut frame, path.steps(), value);
        }
        frame.to_string()
    }
}

/// Sets the value at a path, and creates missing objects and arrays along the path.
pub(super) fn put(at: &mut Value, steps: &[Box<str>], value: Value) {
    let Some((step, below)) = steps.split_first() else {
        *at = value;
        return;
    };
    let index = json::index(step);
    match (&mut *at, index) {
        (Value::Object(_), _) | (Value::Array(_), Some(_)) => {}
        (_, Some(_)) => *at = Value::Array(Vec::new()),
        (_, None) => *at = Value::Object(Map::new()),
    }
    match (at, index) {
        (Value::Array(items), Some(index)) => {
            while items.len() <= index {
                items.push(Value::Null);
            }
            put(&mut items[index], below, value);
        }
        (Value::Object(members), _) => put(
            members.entry(step.to_string()).or_insert(Value::Null),
            below,
            value,
        ),
        _ => {}
    }
}

/// Returns a value for which a condition holds. Returns `None` if the condition holds for a missing value, or if no value was
/// found.
fn value_for(condition: &Condition) -> Option<Value> {
    let mut candidates = Vec::new();
    collect(condition, &mut candidates);
    candidates
        .into_iter()
        .find(|value| condition.holds(value.as_ref().map(Value::to_string).as_deref()))
        .flatten()
}

/// Collects values that may satisfy a condition.
fn collect(condition: &Condition, out: &mut Vec<Option<Value>>) {
    match condition {
        Condition::OneOf(texts) => out.extend(texts.iter().map(|text| Some(scalar(text)))),
        Condition::Present(true) => out.push(Some(Value::from("x"))),
        Condition::Present(false) => out.push(None),
        Condition::AtLeast(bound) | Condition::Below(bound) => {
            let bound = serde_json::to_value(bound).unwrap_or(Value::Null);
            let less = match &bound {
                Value::Number(number) => match number.as_i64().and_then(|number| number.checked_sub(1)) {
                    Some(less) => Value::from(less),
                    None => number
                        .as_f64()
                        .map_or(Value::Null, |number| Value::from(number - 1.0)),
                },
                Value::String(text) => match text.parse::<Timestamp>() {
                    Ok(time) => Value::from((time - SignedDuration::from_hours(1)).to_string()),
                    Err(_) => Value::from(0),
                },
                _ => Value::Null,
            };
            out.extend([Some(bound), Some(less)]);
        }
        Condition::Prefix(prefix) => out.push(Some(Value::from(format!("{prefix}x")))),
        Condition::Any(element) => {
            let mut elements = Vec::new();
            collect(element, &mut elements);
            out.extend(
                elements
                    .into_iter()
                    .flatten()
                    .map(|element| Some(vec![element].into())),
            );
        }
        Condition::Not(condition) => {
            out.extend([None, Some(Value::from("other")), Some(Value::from(0))]);
            collect(condition, out);
        }
        Condition::All(conditions) => {
            conditions.iter().for_each(|condition| collect(condition, out));
            out.push(Some(Value::from("x")));
        }
        Condition::Fields(fields) => {
            let mut object = Value::Object(Map::new());
            for (path, condition) in fields {
                if let Some(value) = value_for(condition) {
                    put(&mut object, Path::steps(path), value);
                }
            }
            out.push(Some(object));
        }
        _ => {}
    }
}

/// Returns the scalar with this text; conditions compare scalars as texts.
fn scalar(text: &str) -> Value {
    let value = serde_json::from_str::<Value>(text).unwrap_or_default();
    let written = value.to_string();
    match value {
        Value::Bool(_) | Value::Number(_) if written == text => value,
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(when: &str, array: Option<&str>) -> (Conditions, String) {
        let when: Conditions = serde_json::from_str(when).unwrap();
        let array = array.map(|path| FeedPath::parse(path).unwrap());
        let frame = Builder::of(Some(&when)).finish(array.as_ref());
        (when, frame)
    }

    #[test]
    fn built_frame_satisfies_its_conditions() {
        for when in [
            r#"{"type":"a","n":7,"b":true}"#,
            r#"{"status":["x","y"],"id":{"present":true},"error":{"present":false}}"#,
            r#"{"a":{"prefix":"auth_"},"n":{"at_least":18,"below":65},"m":{"below":1.5}}"#,
            r#"{"at":{"at_least":"2026-01-31T12:00:00Z"},"before":{"below":"2026-01-31T12:00:00Z"}}"#,
            r#"{"data.0.id":"x","tags":{"any":"vip"},"x":{"not":["other"]},"y":{"not":{"present":false}}}"#,
            r#"{"$.arg.channel":"trades"}"#,
        ] {
            let (when, frame) = built(when, None);
            assert!(when.holds(&frame, &frame), "{frame}");
        }
    }

    #[test]
    fn built_event_is_the_only_element_of_its_array() {
        let when = r#"{"ev":"T","$.arg.channel":"trades"}"#;
        assert_eq!(
            built(when, Some("data")).1,
            r#"{"arg":{"channel":"trades"},"data":[{"ev":"T"}]}"#
        );
        assert_eq!(built(r#"{"ev":"T"}"#, Some("$")).1, r#"[{"ev":"T"}]"#);
    }
}
