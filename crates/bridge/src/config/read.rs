//! From values to types: every mistake in a table is found, not the first alone.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

use super::{document::KeyPath, excerpt, shape::Shape};
use crate::sinks::ParseError;

/// A mistake at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The key; a missing one too.
    pub(super) key: KeyPath,
    /// A sentence.
    pub(super) message: String,
    /// What was meant, perhaps: another word for the last part of the key.
    pub(super) meant: Option<String>,
    /// What to do.
    pub(super) hint: Option<String>,
}

impl Mistake {
    pub(super) fn new(key: impl IntoIterator<Item = impl Into<String>>, message: impl Into<String>) -> Self {
        Self {
            key: key.into_iter().map(Into::into).collect(),
            message: message.into(),
            meant: None,
            hint: None,
        }
    }

    /// Says which of the words that would be right was meant, perhaps.
    pub(super) fn with_suggestion(self, found: &str, candidates: &[&str]) -> Self {
        let meant = suggest(found, candidates);
        Self {
            meant: meant.map(str::to_owned),
            hint: meant.map(|meant| format!("perhaps \"{meant}\" was meant")),
            ..self
        }
    }
}

/// Leaves out what follows from other mistakes: where a key is mistyped, the right one is not missing, it only has another
/// name; where a key is wrong, what stands in for it is not wrong too.
pub(super) fn without_consequences(mistakes: Vec<Mistake>) -> Vec<Mistake> {
    let meant: BTreeSet<KeyPath> = mistakes
        .iter()
        .filter_map(|mistake| {
            let (_, table) = mistake.key.split_last()?;
            Some(table.iter().chain([mistake.meant.as_ref()?]).cloned().collect())
        })
        .collect();
    let mut told = BTreeSet::new();
    mistakes
        .into_iter()
        .filter(|mistake| !meant.contains(&mistake.key) && told.insert(mistake.key.clone()))
        .collect()
}

/// Reads a type from a value. A key with a mistake is noted, taken out, and the rest read again, until nothing is wrong
/// any more: serde itself stops at the first. `None` when even the rest is nothing.
pub(super) fn read<T: DeserializeOwned>(
    value: Value,
    at: &[String],
    shape: &Shape<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    read_with(
        |value| serde_path_to_error::deserialize(value),
        value,
        at,
        shape,
        mistakes,
    )
}

/// As [`read`], for a type that `parse` reads.
pub(super) fn read_with<T>(
    parse: impl Fn(&Value) -> Result<T, ParseError>,
    mut value: Value,
    at: &[String],
    shape: &Shape<'_>,
    mistakes: &mut Vec<Mistake>,
) -> Option<T> {
    // What is told of already: found wrong and taken out, or missing.
    let mut told = BTreeSet::new();
    let mut stand_ins = BTreeSet::new();
    loop {
        let error = match parse(&value) {
            Ok(read) => return Some(read),
            Err(error) => error,
        };
        let mut path = keys(error.path());
        let text = error.inner().to_string();
        // The error names the table around such a key.
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
        if told.insert(below.clone()) {
            let message = if is_missing {
                "missing, and needed".to_owned()
            } else {
                sentence(&text, place.is_secret(), excerpt::is_address(shape, &below))
            };
            mistakes.push(Mistake::new([at, &below].concat(), message));
        }
        if is_missing && stand_ins.insert(below.clone()) && put(&mut value, &below, place.stand_in()) {
            continue;
        }
        if !remove(&mut value, &path) {
            return None;
        }
    }
}

/// Notes keys that the schema does not know, and keys that it needs and that are not there, at all depths; takes the
/// unknown ones out.
pub(super) fn check_keys(
    table: &mut Map<String, Value>,
    at: &mut KeyPath,
    shape: &Shape<'_>,
    mistakes: &mut Vec<Mistake>,
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
            check_below(value, at, &shape.child(key), mistakes);
        } else {
            let known = shape.keys();
            mistakes.push(match of_another_type(key, all_types, &shape) {
                Some(message) => Mistake::new(at.clone(), message),
                None => {
                    let message = format!("found an unknown key, expected one of {}", list(&known));
                    Mistake::new(at.clone(), message).with_suggestion(key, &known)
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
                Some(description) => format!("missing, and needed: {description}"),
                None => "missing, and needed".to_owned(),
            };
            mistakes.push(Mistake::new(at.clone(), message));
            at.pop();
        }
    }
}

/// What is wrong with a key that only a table of another type has: mostly, the line with the type is missing.
/// Whether it is, or says something else, can't be told here, where defaults are filled in.
fn of_another_type(key: &str, all_types: &Shape<'_>, own: &Shape<'_>) -> Option<String> {
    let others = all_types.tags_of(key);
    let (tag, _) = others.first()?;
    let (_, own_type) = *own.tags_of(tag).first()?;
    let lines: Vec<_> = others
        .iter()
        .map(|(tag, value)| format!("{tag} = {value}"))
        .collect();
    Some(format!(
        "found a key of {0}, where the {tag} is {own_type}, expected {0} in this table, or one of {1}",
        lines.join(" or "),
        list(&own.keys())
    ))
}

/// The candidate that a mistyped word was to be, if one is near.
pub(super) fn suggest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    // A third of the letters wrong is another word.
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

/// Words as people list them: `"a", "b"`.
pub(super) fn list(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

fn check_below(value: &mut Value, at: &mut KeyPath, shape: &Shape<'_>, mistakes: &mut Vec<Mistake>) {
    match value {
        Value::Object(table) => check_keys(table, at, shape, mistakes),
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                at.push(place.to_string());
                check_below(item, at, &shape.items(), mistakes);
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

/// Takes a key out, or the nearest table's around it that is there: the value of an array can't be missed alone.
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

/// Puts a value into the table where it is missing.
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

/// What stands in backquotes after `start`.
fn quoted_after(text: &str, start: &str) -> Option<String> {
    let quoted = text.strip_prefix(start)?.strip_prefix('`')?;
    quoted.split_once('`').map(|(word, _)| word.to_owned())
}

/// serde's error as a sentence like all others: what was found, what was expected.
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
                "found something else (not shown, it may be the secret), expected {}",
                expected_in_words(expected)
            )
        }
        Some((found, expected)) => {
            let expected = expected_in_words(expected);
            // Whoever writes a value instead of a table may have written a token; an address may hold a password.
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

/// What serde calls what it found, in TOML's words.
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

/// As [`found_in_words`], without the value itself.
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

/// What serde calls what it expected, in TOML's words.
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
        let mut mistakes = Vec::new();
        let table = read(value, &["t".to_owned()], &Shape::root(&schema), &mut mistakes);
        let lines = mistakes
            .iter()
            .map(|mistake| format!("{}: {}", mistake.key.join("."), mistake.message))
            .collect();
        (table, lines)
    }

    #[test]
    fn all_mistakes_of_a_table_are_found_and_the_rest_is_read() {
        let (table, mistakes) = read_table(json!({
            "flag": "yes", "pause": 5, "words": ["a", 7], "inner": { "number": -1, "name": "n" },
        }));
        insta::assert_snapshot!(mistakes.join("\n"), @r#"
        t.flag: found "yes", expected true or false
        t.inner.number: found -1, expected a whole number of 0 or more
        t.pause: found 5, expected a duration such as "250ms", "5s", "1h 30m" or "7d"
        t.words.1: found 7, expected a text
        "#);
        assert_eq!(table, Some(Table::default()));
    }

    #[test]
    fn a_missing_key_is_named_in_full() {
        let (table, mistakes) = read_table(json!({ "flag": true, "inner": { "number": 1 } }));
        assert_eq!(mistakes, ["t.inner.name: missing, and needed"]);
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
    fn what_is_wrong_and_needed_is_told_once_and_hides_nothing() {
        let (table, mistakes) = read_table(json!({ "inner": { "number": 1, "name": 7 }, "flag": 1 }));
        assert_eq!(
            mistakes,
            [
                "t.flag: found 1, expected true or false",
                "t.inner.name: found 7, expected a text"
            ]
        );
        assert!(table.unwrap().inner.is_some(), "the rest is looked at");
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
    fn near_words_are_suggested_and_far_ones_not() {
        let keys = ["token", "token_file", "url", "ping_interval"];
        assert_eq!(suggest("tokn", &keys), Some("token"));
        assert_eq!(suggest("ping-interval", &keys), Some("ping_interval"));
        assert_eq!(suggest("ulr", &keys), Some("url"));
        assert_eq!(suggest("password", &keys), None);
    }
}
