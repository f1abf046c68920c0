//! Headers in their wire format, in one text.
//!
//! The client stores headers in a map, with three allocations for each, freed by another thread: with ten headers they are
//! most of the cost of a message (`cargo xtask bench --sink strict` measures it). So the map gets one entry: the first
//! header's name, and a value that contains the other headers with the line breaks before them. The client writes name, colon
//! and value, and the receiver reads ten headers.

use std::{
    borrow::Cow,
    fmt::{Display, Write},
    sync::LazyLock,
};

use async_nats::{HeaderMap, HeaderName, HeaderValue, header::IntoHeaderName};
use serde::{Deserialize, de::value};

/// The first line of the headers, and the empty line after them.
const OVERHEAD: usize = "NATS/1.0\r\n\r\n".len();
const COLON: &str = ": ";
const LINE_BREAK: &str = "\r\n";
/// Enough for the attributes of a usual event and the chain's headers, in bytes.
pub(crate) const ROOM_FOR_ATTRIBUTES: usize = 512;
/// Enough for an id and the chain's headers, in bytes.
pub(crate) const ROOM_FOR_ID: usize = 256;

/// Whether the client accepts a value with line breaks when it is deserialised, which skips the client's validation. An update
/// may change that; then headers are added to the map one by one, which is slower and still correct.
static TAKES_LINES: LazyLock<bool> = LazyLock::new(|| verbatim("a\r\nb: c".to_owned()).is_some());

/// The headers of a message.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    first: Option<Cow<'static, str>>,
    /// The value of the first header, followed by the other headers, one line each.
    text: String,
    room: usize,
}

impl Headers {
    /// Creates empty headers with a capacity in bytes, which is allocated with the first header.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self {
            room: bytes,
            ..Self::default()
        }
    }

    /// Adds a header. The value must not contain a line break: percent-encoding or its construction excludes one.
    pub(crate) fn add(&mut self, name: impl Into<Cow<'static, str>>, value: &str) {
        debug_assert!(!value.contains(['\r', '\n']), "a line break in {value:?}");
        self.begin(name.into());
        self.text.push_str(value);
    }

    /// Adds a header whose value is formatted in place. The value must not contain a line break.
    pub(crate) fn add_written(&mut self, name: impl Into<Cow<'static, str>>, value: impl Display) {
        self.begin(name.into());
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
    }

    fn begin(&mut self, name: Cow<'static, str>) {
        if self.first.is_none() {
            self.first = Some(name);
            self.text.reserve(self.room);
        } else {
            self.text.push_str(LINE_BREAK);
            self.text.push_str(&name);
            self.text.push_str(COLON);
        }
    }

    /// Returns the size on the wire in bytes, including the line before the headers and the empty line after them.
    pub(crate) fn size(&self) -> usize {
        let lines = self.first.as_ref().map_or(0, |first| {
            first.len() + COLON.len() + self.text.len() + LINE_BREAK.len()
        });
        OVERHEAD + lines
    }

    /// Formats the headers as human-readable text, one line each, sorted.
    pub(crate) fn lines(&self) -> String {
        let mut lines: Vec<_> = self
            .pairs()
            .map(|(name, value)| format!("{name}{COLON}{value}"))
            .collect();
        lines.sort();
        lines.join("\n")
    }

    /// Returns the map for the client; `None` without headers.
    pub(crate) fn into_map(self) -> Option<HeaderMap> {
        self.first.as_ref()?;
        let mut map = HeaderMap::new();
        if !*TAKES_LINES {
            for (name, value) in self.pairs() {
                map.insert(name, value);
            }
            return Some(map);
        }
        let name = match self.first? {
            Cow::Borrowed(name) => HeaderName::from_static(name),
            Cow::Owned(name) => name.into_header_name(),
        };
        map.insert(name, verbatim(self.text)?);
        Some(map)
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut lines = self.text.split(LINE_BREAK);
        let first = self.first.as_deref().zip(lines.next());
        first
            .into_iter()
            .chain(lines.filter_map(|line| line.split_once(COLON)))
    }
}

/// Creates a value without validation, by deserialising it as if it had been stored before.
fn verbatim(text: String) -> Option<HeaderValue> {
    HeaderValue::deserialize(value::StringDeserializer::<value::Error>::new(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Headers {
        let mut headers = Headers::default();
        headers.add("Nats-Msg-Id", "main/7");
        headers.add_written("ce-sequence", 42);
        headers.add("ce-source", "/neuroio/main: a");
        headers
    }

    #[test]
    fn headers_are_one_entry_with_three_lines() {
        let headers = headers();
        assert_eq!(
            headers.lines(),
            "Nats-Msg-Id: main/7\nce-sequence: 42\nce-source: /neuroio/main: a"
        );
        let wire =
            "NATS/1.0\r\nNats-Msg-Id: main/7\r\nce-sequence: 42\r\nce-source: /neuroio/main: a\r\n\r\n";
        assert_eq!(headers.size(), wire.len());
        let map = headers.into_map().unwrap();
        // If this fails after an update, the client validates deserialised values: see `TAKES_LINES`.
        assert_eq!(map.len(), 1);
        assert_eq!(
            map.get("Nats-Msg-Id").unwrap().as_str(),
            "main/7\r\nce-sequence: 42\r\nce-source: /neuroio/main: a"
        );
    }

    #[test]
    fn pairs_equal_the_written_headers() {
        let headers = headers();
        let pairs: Vec<_> = headers.pairs().collect();
        assert_eq!(
            pairs,
            [
                ("Nats-Msg-Id", "main/7"),
                ("ce-sequence", "42"),
                ("ce-source", "/neuroio/main: a")
            ]
        );
    }

    #[test]
    fn empty_headers_convert_to_none() {
        assert_eq!(Headers::default().size(), OVERHEAD);
        assert!(Headers::default().into_map().is_none());
    }
}
