//! An event as stored in the spool and passed to the sinks.

use std::{borrow::Cow, fmt, num::NonZeroU64};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, Field},
    json::{self, Scanner},
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

/// An event, borrowed from its record.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The position in the spool.
    pub sequence: Sequence,
    /// The time at which the frame was read from the socket. Never decreases from one sequence to the next.
    pub received_at: Timestamp,
    /// The name of the source in the configuration.
    pub source: &'a str,
    /// A hash of the body, if an earlier event had the same identity and another body.
    pub conflict: Option<u32>,
    /// The positions of the fields in `frame`.
    pub envelope: Envelope,
    /// The frame as received, after redaction.
    pub frame: &'a str,
}

impl<'a> Event<'a> {
    /// Returns the entry: the bytes of the feed, unless a value was redacted.
    pub fn data(&self) -> &'a str {
        // Every event has `data`. Should that change, `null` keeps the body valid JSON.
        self.envelope.raw(Field::Data, self.frame).unwrap_or("null")
    }

    /// Returns the text of a field.
    pub fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        self.envelope.text(field, self.frame)
    }
}

/// The fields of an entry that the platform is known to send. An entry may contain others.
pub const ENTRY_FIELDS: [&str; 22] = [
    "id",
    "created",
    "result",
    "pid",
    "pid_created",
    "source",
    "space",
    "age",
    "sex",
    "mood",
    "liveness",
    "confidence",
    "facesize",
    "exposure",
    "pan",
    "tilt",
    "face_image",
    "full_image",
    "initial_face_image",
    "initial_full_image",
    "groups",
    "persons_groups",
];

/// The fields below `source` and `space` that the platform is known to send.
pub const NESTED_FIELDS: [&str; 4] = ["source.id", "source.name", "space.id", "space.name"];

/// A reference to a field of an event: a path of keys below `data` such as `result` or `space.id`, `id` for the feed's
/// id, or `feed` for the name of the source in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Feed,
    /// A field whose position is stored in the envelope.
    Noted(Field),
    /// A path that is searched in `data` each time.
    Path(Vec<String>),
}

impl FieldPath {
    /// Parses a path; `None` if a key is empty, or contains a brace or white space.
    pub fn parse(path: &str) -> Option<Self> {
        if path
            .split('.')
            .any(|key| key.is_empty() || key.contains(|c: char| c == '{' || c.is_whitespace()))
        {
            return None;
        }
        Some(Self(match path {
            "feed" => Place::Feed,
            "id" => Place::Noted(Field::Id),
            "created" => Place::Noted(Field::Created),
            "result" => Place::Noted(Field::Result),
            "pid" => Place::Noted(Field::Pid),
            "source.id" => Place::Noted(Field::SourceId),
            "source.name" => Place::Noted(Field::SourceName),
            "space.id" => Place::Noted(Field::SpaceId),
            "space.name" => Place::Noted(Field::SpaceName),
            path => Place::Path(path.split('.').map(str::to_owned).collect()),
        }))
    }

    /// Returns the part of the path that is not a known field of the platform: a spelling error, or a new field.
    pub fn unknown_field(&self) -> Option<String> {
        let Place::Path(keys) = &self.0 else {
            return None;
        };
        let (first, path) = (keys.first()?, keys.join("."));
        if !ENTRY_FIELDS.contains(&first.as_str()) {
            return Some(first.clone());
        }
        let is_known = keys.len() == 1 || NESTED_FIELDS.contains(&path.as_str());
        (!is_known).then_some(path)
    }

    /// Returns whether the position of the field is stored in the envelope.
    pub(crate) const fn is_noted(&self) -> bool {
        !matches!(self.0, Place::Path(_))
    }

    /// Returns the value of this field in an event, as JSON; `None` if it is missing.
    pub(crate) fn raw<'a>(&self, event: &Event<'a>) -> Option<Cow<'a, str>> {
        match &self.0 {
            Place::Feed => serde_json::to_string(event.source).ok().map(Cow::Owned),
            Place::Noted(field) => event.envelope.raw(*field, event.frame).map(Cow::Borrowed),
            Place::Path(path) => json::at(event.data(), path).map(Cow::Borrowed),
        }
    }

    /// Returns the text of this field in an event; `None` if it is missing or not a scalar.
    pub fn value<'a>(&self, event: &Event<'a>) -> Option<Cow<'a, str>> {
        match &self.0 {
            Place::Feed => Some(Cow::Borrowed(event.source)),
            Place::Noted(field) => event.text(*field),
            Place::Path(path) => lookup(event.data(), path),
        }
    }
}

/// Returns the text of the value at a path of keys in an object. Of equal keys, the last one is used.
fn lookup<'a>(object: &'a str, path: &[impl AsRef<str>]) -> Option<Cow<'a, str>> {
    let (first, rest) = path.split_first()?;
    let mut found = None;
    Scanner::new(object)
        .and_then(|mut scanner| {
            scanner.object(|scanner, key| {
                let matches = key.name() == first.as_ref();
                let value = scanner.value()?;
                if matches {
                    found = value.of(object);
                }
                Ok(())
            })
        })
        .ok()?;
    match rest {
        [] => json::text(found?),
        _ => lookup(found?, rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            let field = FieldPath::parse(path).unwrap();
            assert_eq!(field.unknown_field().as_deref(), unknown, "{path}");
        }
    }

    #[test]
    fn path_selects_a_scalar_in_nested_objects() {
        let object = r#"{"a":{"b":1},"a":{"b":{"c":"x"}},"n":null,"l":[1]}"#;
        assert_eq!(lookup(object, &["a", "b", "c"]).as_deref(), Some("x"));
        for none in [
            &["a"][..],
            &["a", "b"],
            &["n"],
            &["l"],
            &["a", "x"],
            &["n", "x"],
            &[],
        ] {
            assert_eq!(lookup(object, none), None, "{none:?}");
        }
    }
}
