//! Excerpts of the configuration file for error reports, without possible secrets.
//!
//! A value is shown only where the schema has its key and does not mark it as secret. A value of a mistyped key, in place of a
//! table, or in invalid TOML may be a token and is replaced by an ellipsis. Of an address only scheme, host and port are shown,
//! and nothing if it does not parse or has a user: a password may contain any character.

use std::{collections::BTreeSet, ops::Range};

use neurobridge_core::address;
use serde_json::Value;

use super::{
    document::{Document, KeyPath, Place},
    shape::Shape,
};

const HIDDEN: &str = "…";

/// A line of the file with a marked span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// The line number, from 1.
    pub(super) line: usize,
    /// The line, without secrets and comments.
    pub(super) text: String,
    /// The marked span, in bytes of `text`.
    pub(super) span: Range<usize>,
}

/// Returns the line of a key. Marks the value, or the key where the key itself is invalid.
pub(super) fn of(document: &Document, shape: &Shape<'_>, key: &[String]) -> Option<Excerpt> {
    let place = document.places.get(key)?;
    let is_key_unknown = shape.at(key.iter().map(String::as_str)).is_empty();
    let text = document.text.as_str();
    let line = line_around(text, place.key.start);
    let meant = if is_key_unknown || is_table(document, key) || place.value.end > line.end {
        &place.key
    } else {
        &place.value
    };
    let mut hidden = Vec::new();
    let mut end_of_values = line.start;
    for (path, place) in &document.places {
        if !overlap(&place.key, &line) && !overlap(&place.value, &line) {
            continue;
        }
        end_of_values = end_of_values.max(place.key.end);
        if is_table(document, path) {
            continue;
        }
        end_of_values = end_of_values.max(place.value.end);
        hidden.extend(hidden_part(document, shape, path, place));
    }
    // After the last value there are only braces and a comment.
    let rest = text.get(end_of_values..line.end).unwrap_or_default();
    let end = rest.find('#').map_or(line.end, |comment| end_of_values + comment);
    Some(excerpt(text, line.start..end, hidden, meant))
}

/// Returns a line of invalid TOML. The positions of its values are unknown, so that everything after the first `=` is hidden,
/// and every line that does not begin with a key or a table of the schema.
pub(super) fn of_broken(text: &str, shape: &Shape<'_>, meant: &Range<usize>) -> Excerpt {
    let line = line_around(text, meant.start);
    let content = text.get(line.clone()).unwrap_or_default();
    let words = |part: &str| {
        part.split('.')
            .map(|word| word.trim().trim_matches('"').to_owned())
            .collect::<Vec<_>>()
    };
    let known_end = match content.split_once('=') {
        Some((key, _)) => {
            let known = words(key).last().is_some_and(|word| shape.mentions(word));
            known.then_some(key.len() + 1)
        }
        None => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "[]._- ".contains(c);
            let first = words(
                content
                    .trim_start_matches(['[', ' '])
                    .trim_end_matches([']', ' ']),
            );
            let is_header = content.starts_with('[')
                && content.chars().all(is_plain)
                && first.first().is_some_and(|word| shape.knows(word));
            is_header.then_some(content.len())
        }
    };
    let shown = line.start + known_end.unwrap_or(0);
    let rest = text.get(shown..line.end).unwrap_or_default();
    let blanks = rest.len() - rest.trim_start().len();
    if rest.trim().is_empty() {
        return excerpt(text, line, Vec::new(), meant);
    }
    let hidden = shown + blanks..line.end;
    // The position of an error within a hidden part is not visible.
    let meant = if meant.start >= hidden.start {
        &hidden
    } else {
        meant
    };
    excerpt(text, line, vec![hidden.clone()], meant)
}

/// Returns whether the value of a key must not be shown.
fn is_secret(document: &Document, shape: &Shape<'_>, path: &KeyPath) -> bool {
    let place = shape.at(path.iter().map(String::as_str));
    let is_scalar = !matches!(value_at(document, path), Some(Value::Object(_) | Value::Array(_)));
    place.is_empty()
        || place.is_secret()
        // A value in place of a table may be a token.
        || (is_scalar && !["string", "integer", "number", "boolean", "array"].iter().any(|kind| place.allows(kind)))
}

fn is_table(document: &Document, path: &[String]) -> bool {
    matches!(value_at(document, path), Some(Value::Object(_)))
}

fn value_at<'d>(document: &'d Document, path: &[String]) -> Option<&'d Value> {
    let (first, rest) = path.split_first()?;
    rest.iter()
        .try_fold(document.values.get(first)?, |value, key| match value {
            Value::Object(table) => table.get(key),
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        })
}

/// Returns the part of a value that must not be shown.
fn hidden_part(
    document: &Document,
    shape: &Shape<'_>,
    path: &KeyPath,
    place: &Place,
) -> Option<Range<usize>> {
    if is_secret(document, shape, path) {
        return Some(place.value.clone());
    }
    let Some(Value::String(value)) = value_at(document, path) else {
        // A number, a boolean, or an array, whose items have places of their own.
        return None;
    };
    let may_be_address = value.contains("://") && value.contains(['@', '?', '#']);
    if !is_address(shape, path) && !may_be_address {
        return None;
    }
    if value.contains(',') && address::shown_list(value) != "…" {
        return None;
    }
    let shown = address::shown_bytes(value).filter(|_| !value.contains(','));
    match shown {
        Some(length) if matches!(&value[length..], "" | "/") => None,
        // Without escapes, the text between the quotes is the value.
        Some(length) if document.text.get(place.value.start + 1..place.value.end - 1) == Some(value) => {
            Some(place.value.start + 1 + length..place.value.end - 1)
        }
        _ => Some(place.value.clone()),
    }
}

/// Returns whether a key holds an address, or is an item of an array of addresses.
pub(super) fn is_address(shape: &Shape<'_>, path: &[String]) -> bool {
    let at = |path: &[String]| shape.at(path.iter().map(String::as_str)).is_address();
    at(path)
        || path
            .split_last()
            .is_some_and(|(last, array)| last.parse::<usize>().is_ok() && at(array))
}

/// Returns the line with ellipses for hidden parts, and the marked span in it.
fn excerpt(text: &str, line: Range<usize>, mut hidden: Vec<Range<usize>>, meant: &Range<usize>) -> Excerpt {
    hidden.retain(|range| overlap(range, &line));
    hidden.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
    let number = text.get(..line.start).unwrap_or_default().matches('\n').count() + 1;
    let (mut shown, mut at) = (String::new(), line.start);
    // The marked span moves with every hidden part.
    let (mut start, mut end) = (None, None);
    let mut note = |from: usize, to: usize, shown_from: usize, shown_to: usize, is_hidden: bool| {
        let place = |offset: usize| {
            if is_hidden {
                shown_from
            } else {
                shown_from + offset - from
            }
        };
        if start.is_none() && meant.start < to {
            start = Some(place(meant.start.max(from)));
        }
        if end.is_none() && meant.end <= to {
            end = Some(if is_hidden {
                shown_to
            } else {
                place(meant.end.max(from))
            });
        }
    };
    let mut push = |from: usize, to: usize, replacement: Option<&str>, shown: &mut String| {
        let begin = shown.len();
        shown.push_str(replacement.unwrap_or_else(|| text.get(from..to).unwrap_or_default()));
        note(from, to, begin, shown.len(), replacement.is_some());
    };
    for range in hidden {
        let (from, to) = (range.start.max(line.start), range.end.min(line.end));
        // Within a part that is hidden already.
        if to <= at {
            continue;
        }
        let from = from.max(at);
        push(at, from, None, &mut shown);
        push(from, to, Some(HIDDEN), &mut shown);
        at = to;
    }
    push(at, line.end, None, &mut shown);
    let length = shown.trim_end().len();
    shown.truncate(length);
    let start = start.unwrap_or(length).min(length);
    let end = end.unwrap_or(length).clamp(start, length);
    Excerpt {
        line: number,
        text: shown,
        span: start..end,
    }
}

/// Returns the line around an offset, without its line break.
fn line_around(text: &str, offset: usize) -> Range<usize> {
    let offset = offset.min(text.len());
    let before = text.get(..offset).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = text.get(start..).unwrap_or_default();
    let end = rest.find('\n').map_or(text.len(), |newline| start + newline);
    start..end
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Collects the names of all keys in a schema.
pub(super) fn names<'s>(schema: &'s Value, found: &mut BTreeSet<&'s str>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                found.extend(properties.keys().map(String::as_str));
            }
            object.values().for_each(|value| names(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::schema;

    fn shown(text: &str, key: &str) -> String {
        let schema = schema();
        let shape = Shape::root(&schema);
        let document = Document::parse(Path::new("n.toml"), text, &shape).unwrap();
        let key: KeyPath = key.split('.').map(str::to_owned).collect();
        let excerpt = of(&document, &shape, &key).unwrap();
        format!(
            "{} {} [{}]",
            excerpt.line,
            excerpt.text,
            &excerpt.text[excerpt.span.clone()]
        )
    }

    #[test]
    fn marked_span_is_shown_and_secrets_are_hidden() {
        for (text, key, expected) in [
            (
                "drain_timeout = 8 # hunter2",
                "drain_timeout",
                "1 drain_timeout = 8 [8]",
            ),
            (
                "\n[sources.main]\ntokne = \"hunter2\"",
                "sources.main.tokne",
                "3 tokne = … [tokne]",
            ),
            (
                "[sources.main]\n token = 'hunter2' # x",
                "sources.main.token",
                "2  token = … […]",
            ),
            (
                "sources.main = \"hunter2\"",
                "sources.main",
                "1 sources.main = … […]",
            ),
            (
                "sources.main = { token = \"hunter2\", urrl = \"hunter2\", ping_interval = 5 }",
                "sources.main.ping_interval",
                "1 sources.main = { token = …, urrl = …, ping_interval = 5 } [5]",
            ),
            (
                "[sources.main]\nurl = \"wss://u:hunter2@h/?t=hunter2\" ",
                "sources.main.url",
                "2 url = … […]",
            ),
            (
                "[sources.main]\nurl = \"wss://h:81/hunter2?t=hunter2\" ",
                "sources.main.url",
                "2 url = \"wss://h:81…\" [\"wss://h:81…\"]",
            ),
            (
                "[sources.main]\nproxy = \"bob:hunt^er2@p:3128\"",
                "sources.main.proxy",
                "2 proxy = … […]",
            ),
            (
                "[sinks.n]\ntype = \"nats\"\nservers = [\"nats://a:hunter2@h\", 5]",
                "sinks.n.servers.1",
                "3 servers = […, 5] [5]",
            ),
            (
                "[sinks.n]\ntype = \"nats\"\nservers = [\"nats://bob:1,hunter2@h\", 'tls://h:1', \"tls://h:hunter2\"]",
                "sinks.n.servers.1",
                "3 servers = […, 'tls://h:1', …] ['tls://h:1']",
            ),
            (
                "[sources.Big]\ntoken_file = \"x\"",
                "sources.Big",
                "1 [sources.Big] [Big]",
            ),
            (
                "[sources.main]\ntoken = \"\"\"\nhunter2\n\"\"\"",
                "sources.main.token",
                "2 token = … [token]",
            ),
            ("[event]\nredact = [\n 'a',\n 7]", "event.redact.1", "4  7] [7]"),
        ] {
            // Without its crate the keys of a sink are unknown, and their values hidden.
            if cfg!(feature = "nats") || !text.contains("nats") {
                assert_eq!(shown(text, key), expected, "{text}");
            }
        }
    }

    #[test]
    fn only_known_keys_of_invalid_toml_are_shown() {
        let schema = schema();
        let shape = Shape::root(&schema);
        for (text, at, expected) in [
            ("token = \"hunter2", 8, "token = … […]"),
            ("url = hunter2", 0, "url = … [url = …]"),
            ("hunter2", 0, "… […]"),
            ("aHVudGVyMg==", 3, "… […]"),
            ("tokne = hunter2", 8, "… […]"),
            ("[sources.main", 13, "[sources.main []"),
            ("[hunter2", 1, "… […]"),
            ("token =", 7, "token = []"),
        ] {
            let excerpt = of_broken(text, &shape, &(at..text.len()));
            let shown = format!("{} [{}]", excerpt.text, &excerpt.text[excerpt.span.clone()]);
            assert_eq!(shown, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_password_of_an_address_is_shown(
            start in "(|http://|wss://|nats://|bob:)", middle in "[ -~]{0,8}", end in "[ -~]{0,8}", more in "(|, 'tls://h:1')",
        ) {
            let address = format!("{start}bob:{middle}hunter2{end}@proxy:3128");
            let quoted = serde_json::to_string(&address).unwrap();
            let schema = schema();
            let shape = Shape::root(&schema);
            let text = format!(
                "[sources.main]\nurl = {quoted}\nproxy = {quoted}\n[sinks.n]\ntype = \"nats\"\nservers = [{quoted}{more}]\n[sinks.m]\ntype = \"nats\"\nservers = {quoted}"
            );
            let path = std::env::temp_dir();
            let document = Document::parse(&path, &text, &shape).unwrap();
            for key in document.places.keys() {
                let excerpt = of(&document, &shape, key).unwrap();
                prop_assert!(!excerpt.text.contains("hunter2"), "{}", excerpt.text);
            }
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("n.toml");
            std::fs::write(&file, &text).unwrap();
            let report = crate::config::load::load_from(Some(&file), [], []).unwrap_err().to_string();
            prop_assert!(!report.contains("hunter2"), "{}", report);
        }

        #[test]
        fn no_line_of_any_text_is_cut_within_a_character(
            text in "[a-z\\[\\]=\"' #\n.é…0-9]{0,60}", start in 0usize..60, length in 0usize..20,
        ) {
            let schema = schema();
            let shape = Shape::root(&schema);
            let start = text.floor_char_boundary(start);
            let end = text.floor_char_boundary(start + length).max(start);
            let excerpt = of_broken(&text, &shape, &(start..end));
            prop_assert!(excerpt.text.get(excerpt.span).is_some());
            if let Ok(document) = Document::parse(Path::new("n"), &text, &shape) {
                for key in document.places.keys() {
                    let excerpt = of(&document, &shape, key).unwrap();
                    prop_assert!(excerpt.text.get(excerpt.span).is_some());
                }
            }
        }
    }
}
