//! Configuration keys from environment variables such as `NEUROBRIDGE__SINKS__KAFKA__TOPIC`.

use std::{collections::BTreeMap, ffi::OsString};

use serde_json::Value;

use super::{
    document::{Document, KeyPath},
    report::{Origin, Problem, Report},
    shape::Shape,
};

/// The prefix of the bridge's variables. It has two underscores because Kubernetes sets `NEUROBRIDGE_PORT` and similar
/// variables in every container for a service called `neurobridge`.
pub const PREFIX: &str = "NEUROBRIDGE__";

/// The separator between the keys of a path.
const SEPARATOR: &str = "__";
/// The prefix of variables that were written with single underscores by mistake.
const SHORT_PREFIX: &str = "NEUROBRIDGE_";
/// The value that replaces an invalid one, so that the key is not reported as missing too. It is never used, because the
/// configuration is rejected.
const STAND_IN: &str = "invalid";

/// Sets the keys of a document to the values of the bridge's variables, and reports invalid variables.
///
/// A value stays a text where the configuration expects a text: figment, which parses the other values, would turn the tokens
/// `007`, `true` and `[x]` into a number, a boolean and an array.
pub(super) fn read(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    shape: &Shape<'_>,
    document: &mut Document,
    report: &mut Report,
) {
    // Sorted, so that the outcome does not depend on the order of the environment, and a table comes before its keys.
    let ours: BTreeMap<String, OsString> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| begins_with(name, SHORT_PREFIX))
        .collect();
    for (name, value) in ours {
        let mut refuse = |key: &[String], message: String| {
            report.push(Problem::new(Origin::Variable(name.clone()), key, message));
        };
        if !begins_with(&name, PREFIX) {
            let words = name[SHORT_PREFIX.len()..].to_ascii_lowercase();
            let words: Vec<&str> = words.split('_').collect();
            // If the variable were ignored, the bridge would run with another value than its operator believes.
            if let Some(key) = suggestion(shape, &words) {
                let name = key.join(SEPARATOR).to_uppercase();
                let message = format!(
                    "found single underscores in its name, expected two before each key: {PREFIX}{name}"
                );
                refuse(&[], message);
            }
            continue;
        }
        let keys = name[PREFIX.len()..].to_ascii_lowercase();
        let path: KeyPath = keys.split(SEPARATOR).map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            let message = "found an empty key in its name, expected keys with two underscores between them, as in \
                           NEUROBRIDGE__HTTP__LISTEN";
            refuse(&[], message.to_owned());
            continue;
        }
        match value.into_string() {
            Ok(text) if text.is_empty() && path.last().is_some_and(|key| key.ends_with("_file")) => {
                refuse(
                    &path,
                    "found an empty value, expected the path of a file, or no such variable".to_owned(),
                );
                document.set(&path, STAND_IN.into(), &name);
            }
            Ok(text) => document.set(&path, parse(text, &shape.at(&path)), &name),
            Err(_) => {
                refuse(&path, "found invalid UTF-8, expected text".to_owned());
                document.set(&path, STAND_IN.into(), &name);
            }
        }
    }
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns the key path that the words between underscores spell, if it exists and its value is not a table.
fn suggestion(shape: &Shape<'_>, words: &[&str]) -> Option<KeyPath> {
    if words.is_empty() {
        return (shape.allows_scalar() || shape.allows("array")).then(KeyPath::new);
    }
    (1..=words.len()).find_map(|length| {
        let (key, rest) = words.split_at(length);
        let key = key.join("_");
        let below = Some(shape.child(&key)).filter(|below| !key.is_empty() && !below.is_empty())?;
        Some([vec![key], suggestion(&below, rest)?].concat())
    })
}

/// Parses a value according to the schema: arrays and tables in figment's notation, strings unchanged.
fn parse(text: String, place: &Shape<'_>) -> Value {
    let start = text.trim_start();
    let is_text = place.allows("string")
        && !(start.starts_with('[') && place.allows("array"))
        && !(start.starts_with('{') && place.allows("object"));
    if is_text {
        return Value::String(text);
    }
    // Parsing never fails: figment reads anything but a number, a boolean, an array or a table as a text.
    let Ok(value) = text.parse::<figment::value::Value>();
    serde_json::to_value(value).unwrap_or(Value::String(text))
}
