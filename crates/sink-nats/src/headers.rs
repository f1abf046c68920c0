//! Headers as they go over the wire, in one text.
//!
//! The client keeps headers in a map, with three allocations for each, freed by another thread: with ten headers they
//! are most of what a message costs (`cargo xtask bench --sink strict` weighs it). So the map gets one entry: the first
//! header's name, and a value that holds the others with the line breaks before them. The client writes name, colon,
//! value, and what is read is ten headers.

use std::{
    borrow::Cow,
    fmt::{Display, Write},
    sync::LazyLock,
};

use async_nats::{HeaderMap, HeaderName, HeaderValue, header::IntoHeaderName};
use serde::{Deserialize, de::value};

/// The first line of the headers, and the empty line behind them.
const OVERHEAD: usize = "NATS/1.0\r\n\r\n".len();
const COLON: &str = ": ";
const LINE_BREAK: &str = "\r\n";
/// Enough for the attributes of a usual event, with its place in the chain.
pub(crate) const ROOM_FOR_ATTRIBUTES: usize = 512;
/// Enough for an id and a place in the chain.
pub(crate) const ROOM_FOR_ID: usize = 256;

/// Whether the client takes a value with line breaks from where it need not look at it. An update may change that; then
/// headers go into the map one by one, which is slower and right all the same.
static TAKES_LINES: LazyLock<bool> = LazyLock::new(|| verbatim("a\r\nb: c".to_owned()).is_some());

/// The headers of a message.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    first: Option<Cow<'static, str>>,
    /// The first one's value; then, a line each, the others.
    text: String,
    room: usize,
}

impl Headers {
    /// None yet, and room for so many bytes of them, which is taken with the first one.
    pub(crate) fn with_room(bytes: usize) -> Self {
        Self {
            room: bytes,
            ..Self::default()
        }
    }

    /// Adds a header. There must be no line break in its value: percent-encoding, or how it is made, rules it out.
    pub(crate) fn add(&mut self, name: impl Into<Cow<'static, str>>, value: &str) {
        debug_assert!(!value.contains(['\r', '\n']), "a line break in {value:?}");
        self.begin(name.into());
        self.text.push_str(value);
    }

    /// Adds a header whose value is written in its place. The same holds for it.
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

    /// How many bytes they take on the wire, with the line before and the empty one behind them.
    pub(crate) fn size(&self) -> usize {
        let lines = self.first.as_ref().map_or(0, |first| {
            first.len() + COLON.len() + self.text.len() + LINE_BREAK.len()
        });
        OVERHEAD + lines
    }

    /// A line each, sorted, for people.
    pub(crate) fn lines(&self) -> String {
        let mut lines: Vec<_> = self
            .pairs()
            .map(|(name, value)| format!("{name}{COLON}{value}"))
            .collect();
        lines.sort();
        lines.join("\n")
    }

    /// As the client takes them; nothing where there are none.
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

/// A value that nobody looks at: that is how one is read which was stored somewhere.
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
        // If this fails after an update, the client looks at values now: see TAKES_LINES.
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
