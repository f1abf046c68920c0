//! Parses a page of NeuroIO's list, in both documented shapes: `{"results": […]}` and `[…]`.

use neurobridge_core::{frame_reader::FrameReader, path::Path};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// The expected shapes, for error texts.
pub(crate) const EXPECTED: &str = "{\"results\": […]} or […], with entries as objects";

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    pub(crate) entries: Vec<RawEntry<'a>>,
    /// Whether this is the last page, where the answer states it.
    pub(crate) is_last: bool,
    /// Identifies the answer, so that a repeated page is detected.
    pub(crate) fingerprint: u64,
}

/// An entry as the interface returned it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawEntry<'a> {
    /// The id, if it is a non-negative whole number.
    pub(crate) id: Option<u64>,
    pub(crate) text: &'a str,
}

/// The reason why an answer is not a page.
#[derive(Debug)]
pub(crate) enum PageError {
    NotJson,
    OtherShape(String),
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
    count: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    next: Option<Option<IgnoredAny>>,
}

/// Distinguishes null from a missing key.
fn present<'de, D: Deserializer<'de>>(next: D) -> Result<Option<Option<IgnoredAny>>, D::Error> {
    Option::deserialize(next).map(Some)
}

/// Parses an answer. `offset` is the position of its first entry in the list.
pub(crate) fn parse(body: &[u8], offset: u64) -> Result<Page<'_>, PageError> {
    let text = str::from_utf8(body).map_err(|_| PageError::NotJson)?.trim();
    let explain = |error: serde_json::Error| match error.classify() {
        serde_json::error::Category::Data => PageError::OtherShape(error.to_string()),
        _ => PageError::NotJson,
    };
    let (values, is_last) = match text.as_bytes().first() {
        Some(b'{') => {
            let Results { results, count, next } = serde_json::from_str(text).map_err(explain)?;
            let end = offset.saturating_add(results.len() as u64);
            let is_last = next.is_some_and(|next| next.is_none()) || count.is_some_and(|count| end >= count);
            (results, is_last)
        }
        Some(b'[') => (serde_json::from_str(text).map_err(explain)?, false),
        _ => match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => return Err(PageError::OtherShape("found a single value".to_owned())),
            Err(_) => return Err(PageError::NotJson),
        },
    };
    let path = Path::new(["id"]);
    let mut reader = FrameReader::new([Some(&path)]);
    let entries = values.into_iter().map(|value| {
        let text = value.get();
        if !text.starts_with('{') {
            return Err(PageError::OtherShape(
                "found an element of the list that is not an object".to_owned(),
            ));
        }
        let spans = reader.read(text).map_err(|_| PageError::NotJson)?;
        let id = spans.first().and_then(|span| span.of(text)?.parse().ok());
        Ok(RawEntry { id, text })
    });
    Ok(Page {
        entries: entries.collect::<Result<_, _>>()?,
        is_last,
        fingerprint: xxh3_64(text.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(body: &str) -> Vec<Option<u64>> {
        let page = parse(body.as_bytes(), 0).unwrap();
        page.entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn page_is_read_as_a_list_or_an_object_with_results() {
        let all = [Some(2), None, None, None, Some(5)];
        let list = r#"[{"x":{"id":9},"id":2},{},{"id":"7"},{"id":-1},{"id":1,"id":5}]"#;
        assert_eq!(ids(list), all);
        assert_eq!(ids(&format!(" {{\"more\":[1],\"results\": {list} }}\n")), all);
        assert_eq!(ids("[]"), []);
    }

    #[test]
    fn last_page_is_recognised_by_next_or_count() {
        for (body, offset, is_last) in [
            (r#"[{"id":1}]"#, 0, false),
            (r#"{"results":[{"id":1}]}"#, 0, false),
            (r#"{"results":[{"id":1}],"next":null}"#, 0, true),
            (r#"{"results":[{"id":1}],"next":"http://x/?offset=1"}"#, 0, false),
            (r#"{"results":[{"id":1}],"count":2}"#, 0, false),
            (r#"{"results":[{"id":1}],"count":2}"#, 1, true),
            (r#"{"results":[{"id":1}],"count":null}"#, 1, false),
        ] {
            let page = parse(body.as_bytes(), offset).unwrap();
            assert_eq!(page.is_last, is_last, "{body} {offset}");
        }
    }

    #[test]
    fn invalid_or_unexpected_json_is_an_error() {
        for body in [
            "",
            "<html>",
            "{",
            "[{\"id\":1}",
            "\u{feff}x",
            "[1",
            "{\"results\":[{\"id\":}]}",
        ] {
            assert!(
                matches!(parse(body.as_bytes(), 0), Err(PageError::NotJson)),
                "{body}"
            );
        }
        assert!(matches!(parse(b"[\"\xff\"]", 0), Err(PageError::NotJson)));
        for body in [
            "1",
            "null",
            "{}",
            r#"{"items":[]}"#,
            r#"{"results":7}"#,
            "[1]",
            r#"{"results":[null]}"#,
        ] {
            assert!(
                matches!(parse(body.as_bytes(), 0), Err(PageError::OtherShape(_))),
                "{body}"
            );
        }
    }
}
