//! An event as stored in the spool and passed to the sinks.

use std::{borrow::Cow, fmt, num::NonZeroU64};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3;

use crate::{
    json::{self, Span},
    neuroio::{ENTRY_FIELDS, LISTS, NESTED_FIELDS},
    path::Path,
    positions::{Positions, joined},
};

/// The position of an event in the spool: 1 for the first event, then consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(NonZeroU64);

impl Sequence {
    /// The first sequence.
    pub const FIRST: Self = Self(NonZeroU64::MIN);
    /// The largest sequence; sorts after every event.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// Creates a sequence; `None` for 0.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Returns the sequence `events` after this one.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        // At a million events per second the numbers last for half a million years.
        Self(self.0.saturating_add(events))
    }

    /// Returns the next sequence.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// Returns the number of events from `earlier` to this sequence; 0 if `earlier` is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.get().saturating_sub(earlier.get())
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How an event came to the bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Received from the feed.
    #[default]
    Feed,
    /// Read from the list of a platform after a gap, before the later events of the feed were read.
    Backfill,
    /// Read from the list of a platform after a gap. Later events of the feed may precede it.
    LateBackfill,
    /// Made by the bridge: the report about a gap. It passes all filters.
    GapReport,
    /// Received from the feed, after later events of the feed: these were received over another connection, or were published by
    /// another member of the cluster.
    LateFeed,
}

impl Origin {
    /// Returns whether the event was read from the list of a platform.
    pub const fn is_backfill(self) -> bool {
        matches!(self, Self::Backfill | Self::LateBackfill)
    }

    /// Returns whether the event was received from the feed.
    pub const fn is_feed(self) -> bool {
        matches!(self, Self::Feed | Self::LateFeed)
    }

    /// Returns whether later events of the feed may precede the event.
    pub const fn is_late(self) -> bool {
        matches!(self, Self::LateBackfill | Self::LateFeed)
    }

    /// Returns the origin for an event that is preceded by later events of the feed.
    #[must_use]
    pub const fn into_late(self) -> Self {
        match self {
            Self::Feed => Self::LateFeed,
            Self::Backfill => Self::LateBackfill,
            other => other,
        }
    }
}

/// An event, borrowed from its record.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The position in the spool.
    pub sequence: Sequence,
    /// The time at which the frame was read from the socket. Never decreases from one sequence to the next.
    pub received_at: Timestamp,
    /// The name of the source in the configuration.
    pub source: &'a str,
    /// The CloudEvents attribute `source`.
    pub source_uri: &'a str,
    /// The part of the CloudEvents attribute `type` before the type of the event.
    pub type_prefix: &'a str,
    /// A hash of the body, if an earlier event had the same identity and another body.
    pub conflict: Option<u32>,
    /// How the event came to the bridge.
    pub origin: Origin,
    /// The positions of the fields in `frame`.
    pub positions: Positions<'a>,
    /// The frame as received, after redaction. If the frame had several events, only the part of this event.
    pub frame: &'a str,
}

impl<'a> Event<'a> {
    /// Returns the body: the bytes of the feed, unless a value was redacted.
    pub fn body(&self) -> &'a str {
        // Every event has a body. Should that change, `null` keeps the message valid JSON.
        self.positions.body().of(self.frame).unwrap_or("null")
    }

    /// Returns the id that the feed gives the event, with its parts [`joined`]. `None` if the id is missing or empty.
    pub fn id(&self) -> Option<Cow<'a, str>> {
        self.positions.id(self.frame)
    }

    /// Returns the key of the event, with its parts [`joined`]; for NeuroIO the recognised person, `pid`. `None` if the key is
    /// missing or empty.
    pub fn key(&self) -> Option<Cow<'a, str>> {
        self.positions.key(self.frame)
    }

    /// Returns the type of the event within its feed; for NeuroIO the result of the recognition.
    pub fn kind(&self) -> Option<Cow<'a, str>> {
        self.text(self.positions.kind())
    }

    /// Returns the time of the event as the feed has written it, in the format
    /// [`time_format`](Positions::time_format).
    pub fn time(&self) -> Option<Cow<'a, str>> {
        self.text(self.positions.time())
    }

    /// Returns the text of a scalar value of the frame.
    fn text(&self, span: Span) -> Option<Cow<'a, str>> {
        json::text(span.of(self.frame)?)
    }
}

/// A reference to a field of an event: a path of keys and array indexes below the body such as `result`, `space.id` or
/// `groups.0`; `$.` and a path for a value outside of the body; `id` for the feed's id; `key` for the event's key, which is
/// the person (`pid`) for NeuroIO; `feed` for the name of the source in the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldPath(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Feed,
    Id,
    Key,
    Path {
        /// The hash by which a record finds the position of the field.
        hash: u32,
        /// Whether the path starts at the frame. Otherwise it starts at the body.
        is_absolute: bool,
        path: Path,
    },
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Feed => f.write_str("feed"),
            Place::Id => f.write_str("id"),
            Place::Key => f.write_str("key"),
            Place::Path {
                is_absolute: true,
                path,
                ..
            } => write!(f, "{FRAME_PREFIX}{path}"),
            Place::Path { path, .. } => write!(f, "{path}"),
        }
    }
}

impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldPath({self})")
    }
}

/// The prefix of a path that starts at the frame, not at the body.
const FRAME_PREFIX: &str = "$.";

impl FieldPath {
    /// Parses a path; `None` if a step is empty, or contains an opening brace or white space.
    pub fn parse(text: &str) -> Option<Self> {
        let from_frame = text.strip_prefix(FRAME_PREFIX);
        let path = Path::parse(from_frame.unwrap_or(text))?;
        Some(Self(match text {
            "feed" => Place::Feed,
            "id" => Place::Id,
            "key" => Place::Key,
            text => Place::Path {
                hash: xxh3::xxh3_64(text.as_bytes()) as u32,
                is_absolute: from_frame.is_some(),
                path,
            },
        }))
    }

    /// Returns the part of the path that is not a known field of NeuroIO, because of a spelling error or a new field.
    pub fn unknown_field(&self) -> Option<String> {
        let Place::Path {
            is_absolute: false,
            path,
            ..
        } = &self.0
        else {
            return None;
        };
        let (first, text) = (path.steps().first()?, path.to_string());
        if !ENTRY_FIELDS.contains(&&**first) {
            return Some(first.to_string());
        }
        let is_known = match path.steps() {
            [_] => true,
            // An element of a list of names, or of objects with a name.
            [list, element, name @ ..] if LISTS.contains(&&**list) && json::index(element).is_some() => {
                name.is_empty() || *name == ["name".into()]
            }
            _ => NESTED_FIELDS.contains(&text.as_str()),
        };
        (!is_known).then_some(text)
    }

    /// Returns the hash and the path from the frame of a field whose position can be stored, given the path of the body.
    pub(crate) fn projected(&self, body: &Path) -> Option<(u32, Path)> {
        match &self.0 {
            Place::Feed | Place::Id | Place::Key => None,
            Place::Path {
                hash,
                is_absolute,
                path,
            } => Some((
                *hash,
                if *is_absolute {
                    path.clone()
                } else {
                    body.join(path)
                },
            )),
        }
    }

    /// Returns the value of this field in an event, as JSON; `None` if it is missing.
    pub(crate) fn raw<'a>(&self, event: &Event<'a>) -> Option<Cow<'a, str>> {
        match &self.0 {
            Place::Feed => serde_json::to_string(event.source).ok().map(Cow::Owned),
            Place::Id => raw_parts(event.positions.ids(), event.frame),
            Place::Key => raw_parts(event.positions.keys(), event.frame),
            Place::Path { .. } => self.locate(event.positions, event.frame).map(Cow::Borrowed),
        }
    }

    /// Returns the text of this field in an event; `None` if it is missing or not a scalar.
    pub fn value<'a>(&self, event: &Event<'a>) -> Option<Cow<'a, str>> {
        match &self.0 {
            Place::Feed => Some(Cow::Borrowed(event.source)),
            Place::Id => event.id(),
            Place::Key => event.key(),
            Place::Path { .. } => json::text(self.locate(event.positions, event.frame)?),
        }
    }

    /// Returns the value at this path as written in a frame, given the positions of its fields; `None` if it is missing.
    ///
    /// Searches for a field without a stored position, which takes as long as scanning the body once.
    pub fn locate<'a>(&self, positions: Positions<'_>, frame: &'a str) -> Option<&'a str> {
        let Place::Path {
            hash,
            is_absolute,
            path,
        } = &self.0
        else {
            return None;
        };
        match positions.field(*hash) {
            Some(span) => span.of(frame),
            None if *is_absolute => path.of(frame),
            None => path.of(positions.body().of(frame)?),
        }
    }
}

/// Returns an id or a key as JSON, given the positions of its parts.
fn raw_parts(mut parts: impl ExactSizeIterator<Item = Span> + Clone, frame: &str) -> Option<Cow<'_, str>> {
    let all = parts.clone();
    match parts.next() {
        // A number stays a number, so that it can be compared with other numbers.
        Some(part) if all.len() == 1 => part.of(frame).filter(|raw| *raw != "\"\"").map(Cow::Borrowed),
        _ => serde_json::to_string(&joined(all, frame)?).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{projection::EventPaths, testing};

    #[test]
    fn id_of_several_parts_is_unambiguous() {
        let frame = r#"{"a":"x/y","b":"z","c":"x","d":"y/z","n":null}"#;
        let id = |parts: &[&str]| {
            let paths = EventPaths {
                id: parts.iter().map(|part| Path::new([*part])).collect(),
                ..EventPaths::default()
            };
            let event = testing::event_at_paths(frame, &paths, &[]);
            assert_eq!(event.body(), frame);
            event.id().map(Cow::into_owned)
        };
        assert_eq!(id(&["a"]).as_deref(), Some("x/y"));
        assert_eq!(id(&["a", "b"]).as_deref(), Some("x%2Fy/z"));
        assert_eq!(id(&["c", "d"]).as_deref(), Some("x/y%2Fz"));
        assert_eq!(id(&["a", "n"]), None);
        assert_eq!(id(&["a", "missing"]), None);
        assert_eq!(id(&[]), None);
    }

    #[test]
    fn fields_that_the_platform_does_not_send_are_unknown() {
        for (path, unknown) in [
            ("result", None),
            ("age", None),
            ("space.id", None),
            ("feed", None),
            ("space.idd", Some("space.idd")),
            ("mood.x", Some("mood.x")),
            ("spaec.id", Some("spaec")),
            ("groups.0", None),
            ("persons_groups.1.name", None),
            ("groups.x", Some("groups.x")),
            ("groups.0.x", Some("groups.0.x")),
        ] {
            let field = FieldPath::parse(path).unwrap();
            assert_eq!(field.unknown_field().as_deref(), unknown, "{path}");
        }
    }
}
