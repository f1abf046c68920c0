//! Excerpts of the configuration file for error reports, without possible secrets.
//!
//! A value is shown only where the schema has its key and does not mark it as secret. A value of a mistyped key, in place of a
//! table, or in invalid TOML may be a token and is replaced by an ellipsis. Of an address only scheme, host and port are shown,
//! or nothing if the address is invalid or has a user: a password may contain any character.

use std::ops::Range;

use neurobridge_core::address;
use serde_json::Value;

use super::{
    document::{Document, KeyOrigin},
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

/// Returns the line of a key of the file. Marks the value, or the key if the schema has no such key, the value is a table, or the
/// value ends on a later line.
pub(super) fn of(document: &Document, shape: &Shape<'_>, key: &[String]) -> Option<Excerpt> {
    let Some(KeyOrigin::File {
        file,
        key: name,
        value,
    }) = document.key_origins.get(key)
    else {
        return None;
    };
    let text = document.files.get(*file)?.text.as_str();
    let line = line_around(text, name.start);
    let is_table = |key: &[String]| matches!(document.value(key), Some(Value::Object(_)));
    let marks_key = shape.at(key).is_empty() || is_table(key) || value.end > line.end;
    let mut hidden = Vec::new();
    let mut end_of_values = line.start;
    for (path, key_origin) in &document.key_origins {
        let KeyOrigin::File {
            file: other,
            key,
            value,
        } = key_origin
        else {
            continue;
        };
        if other != file {
            continue;
        }
        if !overlap(key, &line) && !overlap(value, &line) {
            continue;
        }
        end_of_values = end_of_values.max(key.end);
        if !is_table(path) {
            end_of_values = end_of_values.max(value.end);
            hidden.extend(hidden_part(document, text, shape, path, value));
        }
    }
    // After the last value there are only braces and a comment.
    let rest = text.get(end_of_values..line.end).unwrap_or_default();
    let end = rest.find('#').map_or(line.end, |comment| end_of_values + comment);
    let marked = if marks_key { name } else { value };
    Some(excerpt(text, line.start..end, hidden, marked))
}

/// Returns a line of invalid TOML. The positions of its values are unknown, so everything after the first `=` is hidden. A line that
/// begins with neither a known key nor a known table header is hidden completely.
pub(super) fn of_broken(text: &str, shape: &Shape<'_>, marked: &Range<usize>) -> Excerpt {
    let line = line_around(text, marked.start);
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
                && first.first().is_some_and(|word| !shape.child(word).is_empty());
            is_header.then_some(content.len())
        }
    };
    let shown = line.start + known_end.unwrap_or(0);
    let rest = text.get(shown..line.end).unwrap_or_default();
    let blanks = rest.len() - rest.trim_start().len();
    if rest.trim().is_empty() {
        return excerpt(text, line, Vec::new(), marked);
    }
    let hidden = shown + blanks..line.end;
    // The position of an error within a hidden part is not visible.
    let marked = if marked.start >= hidden.start {
        &hidden
    } else {
        marked
    };
    excerpt(text, line, vec![hidden.clone()], marked)
}

/// Returns the part of a value that must not be shown. A value in place of a table may be a token.
fn hidden_part(
    document: &Document,
    text: &str,
    shape: &Shape<'_>,
    path: &[String],
    range: &Range<usize>,
) -> Option<Range<usize>> {
    let schema = shape.at(path);
    let value = document.value(path);
    let is_misplaced =
        !matches!(value, Some(Value::Array(_))) && !schema.allows_scalar() && !schema.allows("array");
    if schema.is_empty() || schema.is_secret() || is_misplaced {
        return Some(range.clone());
    }
    let Some(Value::String(value)) = value else {
        // A number, a boolean, or an array, whose items have places of their own.
        return None;
    };
    let is_item_of_addresses = path
        .split_last()
        .is_some_and(|(last, array)| last.parse::<usize>().is_ok() && shape.at(array).is_address());
    let may_be_address = value.contains("://") && value.contains(['@', '?', '#']);
    if !schema.is_address() && !is_item_of_addresses && !may_be_address {
        return None;
    }
    if value.contains(',') && address::shown_list(value) != "…" {
        return None;
    }
    let shown = address::shown_bytes(value).filter(|_| !value.contains(','));
    match shown {
        Some(length) if matches!(&value[length..], "" | "/") => None,
        // Without escapes, the text between the quotes is the value.
        Some(length) if text.get(range.start + 1..range.end - 1) == Some(value) => {
            Some(range.start + 1 + length..range.end - 1)
        }
        _ => Some(range.clone()),
    }
}

/// Returns the line with ellipses for hidden parts, and the marked span in it.
fn excerpt(text: &str, line: Range<usize>, mut hidden: Vec<Range<usize>>, marked: &Range<usize>) -> Excerpt {
    hidden.retain(|range| overlap(range, &line));
    hidden.sort_by_key(|range| (range.start, std::cmp::Reverse(range.end)));
    let (mut shown, mut at) = (String::new(), line.start);
    let mut span = 0..0;
    // An empty hidden part at the end of the line, so that the loop also copies the text after the last real one.
    for range in hidden.into_iter().chain(std::iter::once(line.end..line.end)) {
        let (from, to) = (range.start.max(at), range.end.min(line.end));
        // The range lies within a part that is hidden already.
        if to < at || (to == at && from < line.end) {
            continue;
        }
        // Maps an offset in the file to an offset in the shortened line.
        let moved = |offset: usize| shown.len() + offset.clamp(at, from) - at;
        if (at..to).contains(&marked.start) {
            span.start = moved(marked.start);
        }
        if marked.end > at {
            span.end = moved(marked.end)
                + if marked.end > from && to > from {
                    HIDDEN.len()
                } else {
                    0
                };
        }
        shown.push_str(text.get(at..from).unwrap_or_default());
        if to > from {
            shown.push_str(HIDDEN);
        }
        at = to;
    }
    if marked.start >= line.end {
        span.start = shown.len();
    }
    shown.truncate(shown.trim_end().len());
    let start = span.start.min(shown.len());
    Excerpt {
        line: text.get(..line.start).unwrap_or_default().matches('\n').count() + 1,
        span: start..span.end.clamp(start, shown.len()),
        text: shown,
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

#[cfg(test)]
#[path = "tests/excerpt.rs"]
mod tests;
