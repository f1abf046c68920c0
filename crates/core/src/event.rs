//! An event as the spool holds it and the sinks see it.

use std::{borrow::Cow, fmt, num::NonZeroU64};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::{Envelope, Field},
    json::{self, Scanner},
};

/// The place of an event in the spool: 1 for the first one ever, without holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sequence(NonZeroU64);

impl Sequence {
    /// The first one.
    pub const FIRST: Self = Self(NonZeroU64::MIN);
    /// Behind all that there will ever be.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// The sequence of this number, `None` for 0.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The one that stands `events` after this one.
    #[must_use]
    pub const fn plus(self, events: u64) -> Self {
        // At a million events a second the numbers last for half a million years.
        Self(self.0.saturating_add(events))
    }

    /// The one after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many events lie between an earlier sequence and this one; 0 when it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.get().saturating_sub(earlier.get())
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An event, borrowed from the record that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Its place in the spool.
    pub sequence: Sequence,
    /// When its frame was read from the socket. Never runs backwards from one sequence to the next.
    pub received_at: Timestamp,
    /// The name of the source in the configuration.
    pub source: &'a str,
    /// Set when another event of the same identity and another body came before: a hash of this one's body.
    pub conflict: Option<u32>,
    /// Where the fields stand in `frame`.
    pub envelope: Envelope,
    /// The frame as it came, after redaction.
    pub frame: &'a str,
}

impl<'a> Event<'a> {
    /// The entry: the very bytes of the feed unless something was redacted.
    pub fn data(&self) -> &'a str {
        // An event without `data` is none; `null` keeps the rule that a body is JSON should that ever change.
        self.envelope.raw(Field::Data, self.frame).unwrap_or("null")
    }

    /// The text of a field.
    pub fn text(&self, field: Field) -> Option<Cow<'a, str>> {
        self.envelope.text(field, self.frame)
    }
}

/// The fields of an entry that the platform is known to send. Others may come.
pub const ENTRY_FIELDS: [&str; 20] = [
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
];

/// Which field of an event is meant: a path of keys below `data` such as `result` or `space.id`, `id` for the feed's
/// id, `feed` for the name of the source in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Feed,
    /// Noted when the frame was read.
    Noted(Field),
    /// Looked for in `data` each time.
    Path(Vec<String>),
}

impl FieldPath {
    /// Reads a path; `None` when a key is empty, or holds a brace or white space.
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

    /// Its first key, if the platform is not known to send a field of this name: a mistake, or something new.
    pub fn unknown_field(&self) -> Option<&str> {
        match &self.0 {
            Place::Path(keys) => {
                let first = keys.first()?.as_str();
                (!ENTRY_FIELDS.contains(&first)).then_some(first)
            }
            Place::Feed | Place::Noted(_) => None,
        }
    }

    /// Whether its place is known without a look into the body.
    pub(crate) const fn is_noted(&self) -> bool {
        !matches!(self.0, Place::Path(_))
    }

    /// The text of this field in an event; `None` when there is no scalar.
    pub fn value<'a>(&self, event: &Event<'a>) -> Option<Cow<'a, str>> {
        match &self.0 {
            Place::Feed => Some(Cow::Borrowed(event.source)),
            Place::Noted(field) => event.text(*field),
            Place::Path(path) => lookup(event.data(), path),
        }
    }
}

/// The text of the value at a path of keys in an object; the last of equal keys counts.
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
    fn a_path_leads_through_objects_to_a_scalar() {
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
