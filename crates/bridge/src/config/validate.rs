//! Validates values against the JSON Schema, and removes or replaces invalid values. The result can be deserialised, except for
//! texts with a syntax of their own, such as durations.

use std::collections::BTreeSet;

use neurobridge_core::suggest::nearest;
use serde_json::{Map, Value};

use super::{document::KeyPath, shape::Shape};

/// A configuration error at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigError {
    /// The key, which for a missing key is the expected one.
    pub(super) key: KeyPath,
    /// The error in one sentence: what was found, what was expected.
    pub(super) message: String,
    /// For an unknown key, the valid key with the most similar name.
    pub(super) suggestion: Option<String>,
    /// The suggested action.
    pub(super) hint: Option<String>,
}

impl ConfigError {
    pub(super) fn new(key: impl IntoIterator<Item = impl Into<String>>, message: impl Into<String>) -> Self {
        Self {
            key: key.into_iter().map(Into::into).collect(),
            message: message.into(),
            suggestion: None,
            hint: None,
        }
    }

    /// Adds the nearest of the valid words as a suggestion.
    pub(super) fn with_suggestion(self, found: &str, candidates: &[&str]) -> Self {
        let hint = nearest(found, candidates).map(|suggestion| format!("did you mean \"{suggestion}\"?"));
        Self { hint, ..self }
    }
}

/// Removes errors that follow from others: a mistyped key is not also reported as missing, and no key is reported twice.
pub(super) fn without_consequences(errors: Vec<ConfigError>) -> Vec<ConfigError> {
    let suggestion = |error: &ConfigError| {
        let (_, table) = error.key.split_last()?;
        Some([table, &[error.suggestion.clone()?]].concat())
    };
    let mut reported: BTreeSet<KeyPath> = errors.iter().filter_map(suggestion).collect();
    let mut errors = errors;
    errors.retain(|error| reported.insert(error.key.clone()));
    errors
}

/// Reports unknown keys, missing keys, and values that are not valid for their type, at all depths. Removes unknown keys, adds
/// missing ones, and replaces invalid values by valid ones. Returns whether the value itself is valid.
pub(super) fn validate(
    value: &mut Value,
    at: &mut KeyPath,
    shape: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) -> bool {
    if let Some(error) = mismatch(value, at, shape) {
        errors.push(error);
        return false;
    }
    match value {
        Value::Object(table) => {
            validate_table(table, at, shape, errors);
            true
        }
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .fold(true, |is_valid, (index, item)| {
                at.push(index.to_string());
                let is_item_valid = validate(item, at, &shape.items(), errors);
                at.pop();
                is_valid && is_item_valid
            }),
        _ => true,
    }
}

fn validate_table(
    table: &mut Map<String, Value>,
    at: &mut KeyPath,
    all_types: &Shape<'_>,
    errors: &mut Vec<ConfigError>,
) {
    let tags = all_types.child("type").words();
    let is_tag = |key: &str| key == "type" && !tags.is_empty();
    let tag = table
        .get("type")
        .and_then(Value::as_str)
        .and_then(|tag| nearest(tag, &tags));
    // With an invalid `type`, the keys of all types are valid.
    let is_unclear = tag.is_none() && !tags.is_empty() && table.contains_key("type");
    let shape = Some(all_types.of_type(tag)).filter(|shape| !is_unclear && !shape.is_empty());
    let shape = shape.as_ref().unwrap_or(all_types);
    table.retain(|key, value| {
        let place = if is_tag(key) { all_types } else { shape }.child(key);
        at.push(key.clone());
        let is_valid = if place.is_empty() {
            errors.push(unknown_key(at, key, all_types, shape));
            false
        } else {
            validate(value, at, &place, errors)
        };
        at.pop();
        if is_valid || (is_tag(key) && is_unclear) {
            return true;
        }
        let stand_in = shape.child(key).stand_in();
        stand_in.is_some_and(|stand_in| {
            *value = stand_in;
            true
        })
    });
    for key in shape.keys() {
        if shape.requires(key) && !table.contains_key(key) {
            let place = shape.child(key);
            let what = place.description().unwrap_or_default();
            let expected = match place.words()[..] {
                [] => String::new(),
                ref words => format!(", expected {}", one_of(words)),
            };
            errors.push(ConfigError::new(
                [&at[..], &[key.to_owned()]].concat(),
                format!("missing key: {what}{expected}"),
            ));
            if let Some(stand_in) = place.stand_in().filter(|_| !is_tag(key)) {
                table.insert(key.to_owned(), stand_in);
            }
        }
    }
}

/// Returns the error for a key that a table does not have. If a table of another type has the key, usually the line with the type
/// is missing.
fn unknown_key(at: &KeyPath, key: &str, all_types: &Shape<'_>, shape: &Shape<'_>) -> ConfigError {
    let known = shape.keys();
    let others = all_types.types_with(key);
    if let ([own], [_, ..]) = (&shape.types_with("type")[..], &others[..]) {
        let lines: Vec<_> = others.iter().map(|tag| format!("type = \"{tag}\"")).collect();
        let lines = lines.join(" or ");
        let message = format!(
            "found a key of {lines} in a table of type = \"{own}\", expected {lines} in this table, or one of {}",
            list(&known)
        );
        return ConfigError::new(at.clone(), message);
    }
    let error = ConfigError::new(
        at.clone(),
        format!("unknown key, expected one of {}", list(&known)),
    );
    ConfigError {
        suggestion: nearest(key, &known).map(str::to_owned),
        ..error.with_suggestion(key, &known)
    }
}

/// Returns the error for a value that the schema does not allow at this key.
fn mismatch(value: &Value, at: &KeyPath, shape: &Shape<'_>) -> Option<ConfigError> {
    let words = shape.words();
    let json_type = match value {
        Value::Null => "",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_valid = match value {
        Value::String(word) if !words.is_empty() => words.contains(&word.as_str()),
        Value::Number(number) if json_type == "integer" && shape.allows("integer") => number
            .as_i128()
            .is_some_and(|number| range(shape).contains(&number)),
        _ => shape.allows(json_type) || (json_type == "integer" && shape.allows("number")),
    };
    if is_valid {
        return None;
    }
    // A value in place of a table may be a token, an address may have a password.
    let is_table = !shape.allows_scalar() && !shape.allows("array");
    let found = match value {
        _ if shape.is_secret() => {
            "a value of another type (not shown, because it may be the secret)".to_owned()
        }
        Value::Null => "a date or a time".to_owned(),
        Value::Object(_) => "a table".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::String(_) if is_table || shape.is_address() => "a text".to_owned(),
        Value::Number(_) if is_table => "a number".to_owned(),
        Value::Bool(_) if is_table => "a boolean".to_owned(),
        value => value.to_string(),
    };
    let error = ConfigError::new(
        at.clone(),
        format!("found {found}, expected {}", expected(at, shape, &words)),
    );
    Some(match value {
        Value::String(word) => error.with_suggestion(word, &words),
        _ => error,
    })
}

/// Returns the range of valid integers.
fn range(shape: &Shape<'_>) -> std::ops::RangeInclusive<i128> {
    let bound = |keyword| shape.keyword(keyword).and_then(Value::as_i64).map(i128::from);
    let is_32_bit = shape.keyword("format").is_some_and(|format| format == "uint32");
    let largest = if is_32_bit {
        u32::MAX.into()
    } else {
        i64::MAX.into()
    };
    bound("minimum").unwrap_or(i64::MIN.into())..=bound("maximum").unwrap_or(largest)
}

/// Describes the valid values of a key.
fn expected(at: &KeyPath, shape: &Shape<'_>, words: &[&str]) -> String {
    if !words.is_empty() {
        return one_of(words);
    }
    if let Some(title) = shape.keyword("title").and_then(Value::as_str) {
        return title.to_owned();
    }
    let kind = if shape.allows("string") && shape.allows("boolean") {
        "text, a number or a boolean".to_owned()
    } else if shape.allows("string") {
        "a text".to_owned()
    } else if shape.allows("integer") {
        match range(shape).into_inner() {
            (from, to) if to < u32::MAX.into() => format!("a whole number from {from} to {to}"),
            (from, _) => format!("a whole number of {from} or more"),
        }
    } else if shape.allows("boolean") {
        "true or false".to_owned()
    } else if shape.allows("array") {
        "an array".to_owned()
    } else {
        return match &at[..] {
            [table] if !shape.child("").is_empty() => format!("tables such as [{table}.main]"),
            _ => "a table".to_owned(),
        };
    };
    match shape.example() {
        Some(Value::String(example)) => format!("{kind} such as \"{example}\""),
        Some(Value::Array(example)) if !example.is_empty() => {
            format!("{kind} such as {}", Value::from(example.clone()))
        }
        _ => kind,
    }
}

/// Formats words as a list: `"a", "b"`.
pub(super) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn one_of(words: &[&str]) -> String {
    match words {
        [one, other] => format!("\"{one}\" or \"{other}\""),
        words => format!("one of {}", list(words)),
    }
}
