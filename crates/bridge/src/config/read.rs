//! Deserialises tables and finds every configuration error in them, not the first alone.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::{document::KeyPath, excerpt, shape::Shape};
use crate::sinks::ParseError;

/// A configuration error at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigError {
    /// The key; for a missing key, the one that is expected.
    pub(super) key: KeyPath,
    /// The error in one sentence: what was found, what was expected.
    pub(super) message: String,
    /// The suggested replacement of the last part of the key.
    pub(super) meant: Option<String>,
    /// The suggested action.
    pub(super) hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(key: impl IntoIterator<Item = impl Into<String>>, message: impl Into<String>) -> Self {
        Self {
            key: key.into_iter().map(Into::into).collect(),
            message: message.into(),
            meant: None,
            hint: None,
        }
    }

    /// Adds the nearest of the valid words as a suggestion.
    pub(super) fn with_suggestion(self, found: &str, candidates: &[&str]) -> Self {
        let meant = suggest(found, candidates);
        Self {
            meant: meant.map(str::to_owned),
            hint: meant.map(|meant| format!("did you mean \"{meant}\"?")),
            ..self
        }
    }
}

/// Removes errors that follow from other errors: a required key that was mistyped is not reported as missing too, and the
/// placeholder of an invalid value is not reported as invalid.
pub(super) fn without_consequences(errors: Vec<ConfigError>) -> Vec<ConfigError> {
    let meant: BTreeSet<KeyPath> = errors
        .iter()
        .filter_map(|error| {
            let (_, table) = error.key.split_last()?;
            Some(table.iter().chain([error.meant.as_ref()?]).cloned().collect())
        })
        .collect();
    let mut reported = BTreeSet::new();
    errors
        .into_iter()
        .filter(|error| !meant.contains(&error.key) && reported.insert(error.key.clone()))
        .collect()
}

/// Deserialises a value. Because serde stops at the first error, an invalid key is reported and removed, and the rest is
/// deserialised again until no error is left. Returns `None` when the rest is invalid as a whole.
pub(super) fn read<T: DeserializeOwned>(
    value: Value,
    at: &[String],
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    read_with(
        |value| serde_path_to_error::deserialize(value),
        value,
        at,
        shape,
        errors,
    )
}

/// Deserialises a value as [`read`] does, with `parse`.
pub(super) fn read_with<T>(
    parse: impl Fn(&Value) -> Result<T, ParseError>,
    mut value: Value,
    at: &[String],
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> Option<T> {
    // Keys that were reported: invalid and removed, or missing.
    let mut reported = BTreeSet::new();
    let mut stand_ins = BTreeSet::new();
    loop {
        let error = match parse(&value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let mut path = keys(error.path());
        let text = error.inner().to_string();
        // For these errors serde's path is that of the enclosing table.
        let field = quoted_after(&text, "missing field ").or_else(|| quoted_after(&text, "unknown field "));
        let is_missing = text.starts_with("missing field");
        let mut below = path.clone();
        if let Some(field) = field
            && path.last() != Some(&field)
        {
            below.push(field.clone());
            if !is_missing {
                path.push(field);
            }
        }
        let place = shape.at(below.iter().map(String::as_str));
        if reported.insert(below.clone()) {
            let message = if is_missing {
                "missing key".to_owned()
            } else {
                sentence(&text, place.is_secret(), excerpt::is_address(shape, &below))
            };
            errors.push(ConfigError::new([at, &below].concat(), message));
        }
        if is_missing && stand_ins.insert(below.clone()) && put(&mut value, &below, place.stand_in()) {
            continue;
        }
        if !remove(&mut value, &path) {
            return None;
        }
    }
}

/// Reports unknown and missing keys at all depths, and removes the unknown ones.
pub(super) fn check_keys(
    table: &mut Map<String, Value>,
    at: &mut KeyPath,
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) {
    let all_types = shape;
    let shape = shape.narrow(table);
    if shape.is_empty() || !shape.allows("object") {
        return;
    }
    table.retain(|key, value| {
        at.push(key.clone());
        let is_known = shape.knows(key);
        if is_known {
            check_below(value, at, &shape.child(key), errors);
        } else {
            let known = shape.keys();
            errors.push(match of_another_type(key, all_types, &shape) {
                Some(message) => ConfigError::new(at.clone(), message),
                None => {
                    let message = format!("unknown key, expected one of {}", list(&known));
                    ConfigError::new(at.clone(), message).with_suggestion(key, &known)
                }
            });
        }
        at.pop();
        is_known
    });
    for key in shape.required() {
        if !table.contains_key(key) {
            at.push(key.to_owned());
            let message = match shape.child(key).description() {
                Some(description) => format!("missing key: {description}"),
                None => "missing key".to_owned(),
            };
            errors.push(ConfigError::new(at.clone(), message));
            at.pop();
        }
    }
}

/// Returns the error text for a key that only a table of another type has. Usually the line with the type is missing, which
/// cannot be distinguished from a wrong type here, as defaults are filled in.
fn of_another_type(key: &str, all_types: &Shape<'_>, own: &Shape<'_>) -> Option<String> {
    let others = all_types.tags_of(key);
    let (tag, _) = others.first()?;
    let (_, own_type) = *own.tags_of(tag).first()?;
    let lines: Vec<_> = others
        .iter()
        .map(|(tag, value)| format!("{tag} = {value}"))
        .collect();
    Some(format!(
        "found a key of {0} in a table of {tag} = {own_type}, expected {0} in this table, or one of {1}",
        lines.join(" or "),
        list(&own.keys())
    ))
}

/// Returns the candidate that is most similar to a mistyped word, if any is similar enough.
pub(super) fn suggest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // With a third of the characters different, it is another word.
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), *candidate))
        .filter(|(distance, candidate)| {
            *distance <= limit
                || (word.len() > 3 && (candidate.starts_with(&word) || word.starts_with(candidate)))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Formats words as a list: `"a", "b"`.
pub(super) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn check_below(value: &mut Value, at: &mut KeyPath, shape: &Shape<'_>, errors: &mut Vec<ConfigError>) {
    match value {
        Value::Object(table) => check_keys(table, at, shape, errors),
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                at.push(place.to_string());
                check_below(item, at, &shape.items(), errors);
                at.pop();
            }
        }
        _ => {}
    }
}

fn keys(path: &Path) -> KeyPath {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        })
        .collect()
}

/// Removes a key, or the nearest enclosing table that exists: an item of an array cannot be removed alone.
fn remove(value: &mut Value, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let Some(table) = value.as_object_mut() else {
        return false;
    };
    let Some(child) = table.get_mut(first) else {
        return false;
    };
    if rest.is_empty() || !remove(child, rest) {
        table.remove(first);
    }
    true
}

/// Inserts a placeholder for a missing key.
fn put(value: &mut Value, path: &[String], stand_in: Option<Value>) -> bool {
    let (Some((last, around)), Some(stand_in)) = (path.split_last(), stand_in) else {
        return false;
    };
    let table = around
        .iter()
        .try_fold(value, |value, key| value.as_object_mut()?.get_mut(key));
    let Some(Value::Object(table)) = table else {
        return false;
    };
    table.insert(last.clone(), stand_in);
    true
}

/// Returns the text in backquotes after `start`.
fn quoted_after(text: &str, start: &str) -> Option<String> {
    let quoted = text.strip_prefix(start)?.strip_prefix('`')?;
    quoted.split_once('`').map(|(word, _)| word.to_owned())
}

/// Rewrites serde's error in the project's form: what was found, what was expected.
fn sentence(text: &str, is_secret: bool, is_address: bool) -> String {
    if let Some(variant) = quoted_after(text, "unknown variant ") {
        let expected = text
            .split_once(", expected ")
            .map_or("", |(_, expected)| expected)
            .replace('`', "\"");
        return format!("found \"{variant}\", expected {expected}");
    }
    let found_and_expected = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| text.strip_prefix(start))
        .and_then(|rest| {
            Some((
                rest.split_once(", expected ")?.0,
                rest.rsplit_once(", expected ")?.1,
            ))
        });
    match found_and_expected {
        Some((_, expected)) if is_secret => {
            format!(
                "found another type (not shown, it may be the secret), expected {}",
                expected_in_words(expected)
            )
        }
        Some((found, expected)) => {
            let expected = expected_in_words(expected);
            // A value in place of a table may be a token; an address may contain a password.
            let found = if expected == "a table" || (is_address && found.starts_with("string ")) {
                kind_in_words(found)
            } else {
                found_in_words(found)
            };
            format!("found {found}, expected {expected}")
        }
        None => text.to_owned(),
    }
}

/// Translates serde's description of the found value into TOML's terms.
fn found_in_words(found: &str) -> String {
    match found {
        "map" => "a table".to_owned(),
        "sequence" => "an array".to_owned(),
        "null" | "unit value" | "Option value" => "nothing".to_owned(),
        _ => ["string ", "integer ", "boolean ", "floating point "]
            .iter()
            .find_map(|start| found.strip_prefix(start))
            .map_or_else(|| found.to_owned(), |value| value.trim_matches('`').to_owned()),
    }
}

/// Translates as [`found_in_words`] does, without the value itself.
fn kind_in_words(found: &str) -> String {
    let kinds = [
        ("string ", "a text"),
        ("integer ", "a number"),
        ("floating point ", "a number"),
        ("boolean ", "a boolean"),
    ];
    kinds
        .iter()
        .find(|(start, _)| found.starts_with(start))
        .map_or_else(|| found_in_words(found), |(_, kind)| (*kind).to_owned())
}

/// Translates serde's description of the expected type into TOML's terms.
fn expected_in_words(expected: &str) -> String {
    match expected {
        "a boolean" => "true or false",
        "a string" | "string" => "a text",
        "path string" | "a path string" => "a path",
        "a map" => "a table",
        "a sequence" => "an array",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Table {
        flag: bool,
        #[serde(with = "neurobridge_core::units::duration")]
        pause: std::time::Duration,
        words: Vec<String>,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        number: u16,
        name: String,
    }

    fn read_table(value: Value) -> (Option<Table>, Vec<String>) {
        let schema = json!({ "properties": { "inner": { "properties": { "name": { "type": "string" } } } } });
        let mut errors = Vec::new();
        let table = read(value, &["t".to_owned()], &Shape::root(&schema), &mut errors);
        let lines = errors
            .iter()
            .map(|error| format!("{}: {}", error.key.join("."), error.message))
            .collect();
        (table, lines)
    }

    #[test]
    fn all_errors_of_a_table_are_found_and_the_rest_is_read() {
        let (table, errors) = read_table(json!({
            "flag": "yes", "pause": 5, "words": ["a", 7], "inner": { "number": -1, "name": "n" },
        }));
        insta::assert_snapshot!(errors.join("\n"), @r#"
        t.flag: found "yes", expected true or false
        t.inner.number: found -1, expected a whole number of 0 or more
        t.pause: found 5, expected a duration such as "250ms", "5s", "1h 30m" or "7d"
        t.words.1: found 7, expected a text
        "#);
        assert_eq!(table, Some(Table::default()));
    }

    #[test]
    fn a_missing_key_is_named_in_full() {
        let (table, errors) = read_table(json!({ "flag": true, "inner": { "number": 1 } }));
        assert_eq!(errors, ["t.inner.name: missing key"]);
        let inner = Inner {
            number: 1,
            name: String::new(),
        };
        assert_eq!(
            table.unwrap(),
            Table {
                flag: true,
                inner: Some(inner),
                ..Table::default()
            }
        );
        assert_eq!(read_table(json!("x")).0, None);
    }

    #[test]
    fn invalid_required_key_is_reported_once() {
        let (table, errors) = read_table(json!({ "inner": { "number": 1, "name": 7 }, "flag": 1 }));
        assert_eq!(
            errors,
            [
                "t.flag: found 1, expected true or false",
                "t.inner.name: found 7, expected a text"
            ]
        );
        assert!(table.unwrap().inner.is_some(), "the rest is validated");
    }

    #[test]
    fn a_secret_is_not_quoted() {
        let text = "invalid type: integer `4711`, expected a string";
        assert_eq!(sentence(text, false, false), "found 4711, expected a text");
        assert!(!sentence(text, true, false).contains("4711"));
        let text = "invalid type: string \"nats://bob:hunter2@h\", expected a sequence";
        assert_eq!(sentence(text, false, true), "found a text, expected an array");
    }

    #[test]
    fn only_similar_words_are_suggested() {
        let keys = ["token", "token_file", "url", "ping_interval"];
        assert_eq!(suggest("tokn", &keys), Some("token"));
        assert_eq!(suggest("ping-interval", &keys), Some("ping_interval"));
        assert_eq!(suggest("ulr", &keys), Some("url"));
        assert_eq!(suggest("password", &keys), None);
    }
}
