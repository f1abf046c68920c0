//! The positions of an event's fields in its frame, in the encoding that a record stores.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 1 | format of the time: see [`TimeFormat`] |
//! | 1 | 1 | number of id parts, and times 16 the number of key parts |
//! | 2 | 1 | number of fields |
//! | 3 | 1 | number of steps from the frame to the body |
//! | 4 | 24 | body, time, type: start and end of each |
//! | 28 | 8 each | the parts of the id, then those of the key |
//! | … | 12 each | the fields: hash of the path, start, end |
//!
//! All numbers are little-endian. A field is found by the hash of its path, so a record can be read with another
//! configuration than the one that it was written with: a path without an entry is searched in the body.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::json::{self, Span};

/// The maximum number of paths of an id, and of a key.
pub const MAX_PARTS: usize = 4;
/// The maximum number of fields whose positions are stored. Fields beyond it are searched in the body.
pub const MAX_FIELDS: usize = 16;

const HEADER: usize = 4;
const SPAN: usize = 8;
const FIELD: usize = 4 + SPAN;
/// Body, time and type.
const FIXED_SPANS: usize = 3;
const IDS: usize = HEADER + FIXED_SPANS * SPAN;

/// The number of bytes of positions without an id and without fields.
pub(crate) const SHORTEST: usize = IDS;

/// How a feed writes the time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TimeFormat {
    /// A text such as `2026-01-31T12:00:00Z`, in UTC if it has no offset.
    #[default]
    #[serde(rename = "rfc3339")]
    Text,
    /// Seconds since 1970, as a number or a text, with or without a fraction.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since 1970.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds since 1970.
    #[serde(rename = "us")]
    Microseconds,
    /// Nanoseconds since 1970.
    #[serde(rename = "ns")]
    Nanoseconds,
}

impl TimeFormat {
    const ALL: [Self; 5] = [
        Self::Text,
        Self::Seconds,
        Self::Milliseconds,
        Self::Microseconds,
        Self::Nanoseconds,
    ];

    /// Returns the length of the unit in nanoseconds; `None` for a text.
    pub const fn nanoseconds(self) -> Option<u32> {
        match self {
            Self::Text => None,
            Self::Seconds => Some(1_000_000_000),
            Self::Milliseconds => Some(1_000_000),
            Self::Microseconds => Some(1_000),
            Self::Nanoseconds => Some(1),
        }
    }
}

/// The positions of an event's fields in its frame, borrowed from a record or a [`PositionsBuf`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Positions<'a> {
    /// The complete encoding: [`Self::parse`] has compared the length with the counts.
    bytes: &'a [u8],
}

impl<'a> Positions<'a> {
    /// Reads the positions at the start of `bytes`; also returns their length. `None` if they are invalid or
    /// truncated.
    #[inline]
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let [format, parts, fields, _] = *bytes.first_chunk::<HEADER>()?;
        let ((ids, keys), fields) = (counts(parts), usize::from(fields));
        if usize::from(format) >= TimeFormat::ALL.len()
            || ids > MAX_PARTS
            || keys > MAX_PARTS
            || fields > MAX_FIELDS
        {
            return None;
        }
        let length = IDS + (ids + keys) * SPAN + fields * FIELD;
        let bytes = bytes.get(..length)?;
        Some((Self { bytes }, length))
    }

    /// Returns the position of the body.
    pub fn body(self) -> Span {
        self.span(HEADER)
    }

    /// Returns the number of steps from the frame to the body.
    pub const fn body_depth(self) -> usize {
        self.bytes[3] as usize
    }

    /// Returns the position of the time of the event.
    pub fn time(self) -> Span {
        self.span(HEADER + SPAN)
    }

    /// Returns the format of the time.
    pub const fn time_format(self) -> TimeFormat {
        TimeFormat::ALL[self.bytes[0] as usize]
    }

    /// Returns the position of the type of the event.
    pub fn kind(self) -> Span {
        self.span(HEADER + 2 * SPAN)
    }

    /// Returns the positions of the parts of the id; none if events of the feed have no id.
    pub fn ids(self) -> impl ExactSizeIterator<Item = Span> + Clone {
        let (ids, _) = counts(self.bytes[1]);
        (0..ids).map(move |index| self.span(IDS + index * SPAN))
    }

    /// Returns the positions of the parts of the key; none if events of the feed have no key.
    pub fn keys(self) -> impl ExactSizeIterator<Item = Span> + Clone {
        let (ids, keys) = counts(self.bytes[1]);
        (ids..ids + keys).map(move |index| self.span(IDS + index * SPAN))
    }

    /// Returns the id of the event with these positions in `frame`: [`joined`] parts.
    #[inline]
    pub fn id(self, frame: &str) -> Option<Cow<'_, str>> {
        joined(self.ids(), frame)
    }

    /// Returns the key of the event with these positions in `frame`: [`joined`] parts.
    #[inline]
    pub fn key(self, frame: &str) -> Option<Cow<'_, str>> {
        joined(self.keys(), frame)
    }

    /// Returns the position of a field by the hash of its path; `None` if the field was not projected.
    #[inline]
    pub fn field(self, hash: u32) -> Option<Span> {
        let (_, span) = self.fields().find(|(found, _)| *found == hash)?;
        Some(span)
    }

    #[inline]
    fn fields(self) -> impl Iterator<Item = (u32, Span)> {
        self.bytes[fields_at(self.bytes[1])..]
            .chunks_exact(FIELD)
            .map(|field| {
                let hash = u32_at(field, 0);
                (hash, span_at(field, 4))
            })
    }

    #[inline]
    fn span(self, offset: usize) -> Span {
        span_at(self.bytes, offset)
    }

    /// Returns the encoding.
    pub(crate) const fn bytes(self) -> &'a [u8] {
        self.bytes
    }
}

/// Returns the numbers of parts of the id and of the key.
#[inline]
const fn counts(parts: u8) -> (usize, usize) {
    ((parts & 15) as usize, (parts >> 4) as usize)
}

/// Returns the offset of the fields.
#[inline]
const fn fields_at(parts: u8) -> usize {
    let (ids, keys) = counts(parts);
    IDS + (ids + keys) * SPAN
}

impl fmt::Debug for Positions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Positions")
            .field("body", &self.body())
            .field("time", &self.time())
            .field("kind", &self.kind())
            .field("ids", &self.ids().collect::<Vec<_>>())
            .field("keys", &self.keys().collect::<Vec<_>>())
            .field("fields", &self.fields().collect::<Vec<_>>())
            .finish()
    }
}

/// Returns the texts of several values as one, with `/` between them. `None` if there is no value, or if one is missing, null,
/// empty, an object or an array: all events with an empty id would share an identity.
///
/// A single text is unchanged. Of several texts, `/` and `%` are written as `%2F` and `%25`, so that different texts are never
/// joined to the same one.
#[inline]
pub fn joined(parts: impl IntoIterator<Item = Span>, frame: &str) -> Option<Cow<'_, str>> {
    let text = |span: Span| json::text(span.of(frame)?).filter(|text| !text.is_empty());
    let mut parts = parts.into_iter();
    let first = text(parts.next()?)?;
    let Some(second) = parts.next() else {
        return Some(first);
    };
    let mut joined = escaped(&first).into_owned();
    for part in std::iter::once(second).chain(parts) {
        joined.push('/');
        joined.push_str(&escaped(&text(part)?));
    }
    Some(Cow::Owned(joined))
}

/// Escapes the separator of [`joined`] texts, and the escape character.
fn escaped(part: &str) -> Cow<'_, str> {
    if part.contains(['/', '%']) {
        Cow::Owned(part.replace('%', "%25").replace('/', "%2F"))
    } else {
        Cow::Borrowed(part)
    }
}

/// Positions in a buffer of their own, which is reused from one event to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PositionsBuf {
    bytes: Vec<u8>,
}

impl From<Positions<'_>> for PositionsBuf {
    fn from(positions: Positions<'_>) -> Self {
        Self {
            bytes: positions.bytes.to_vec(),
        }
    }
}

/// The positions of an event without any field.
static NONE: [u8; SHORTEST] = [0; SHORTEST];

impl PositionsBuf {
    /// Returns the positions; all are missing before the first event.
    pub fn positions(&self) -> Positions<'_> {
        Positions {
            bytes: if self.bytes.is_empty() { &NONE } else { &self.bytes },
        }
    }

    /// Replaces the positions. `spans` are those of the body, the time, the type, the `ids` parts of the id, the `keys`
    /// parts of the key, and the fields with the hashes `fields`, in this order.
    ///
    /// # Panics
    /// Panics if there are fewer spans than positions, more than [`MAX_PARTS`] parts, or more than [`MAX_FIELDS`]
    /// fields.
    pub(crate) fn set(
        &mut self,
        format: TimeFormat,
        body_depth: u8,
        (ids, keys): (usize, usize),
        fields: &[u32],
        spans: &[Span],
    ) {
        assert!(ids <= MAX_PARTS && keys <= MAX_PARTS && fields.len() <= MAX_FIELDS);
        let (fixed, projected) = spans.split_at(FIXED_SPANS + ids + keys);
        let parts = (ids | keys << 4) as u8;
        // Overwritten in place: all events of a source have the same number of positions.
        let fields_at = fields_at(parts);
        self.bytes.resize(fields_at + fields.len() * FIELD, 0);
        let (places, field_places) = self.bytes.split_at_mut(fields_at);
        places[..HEADER].copy_from_slice(&[format as u8, parts, fields.len() as u8, body_depth]);
        for (place, span) in places[HEADER..].chunks_exact_mut(SPAN).zip(fixed) {
            place.copy_from_slice(&encoded(*span));
        }
        let fields = fields.iter().zip(&projected[..fields.len()]);
        for (place, (hash, span)) in field_places.chunks_exact_mut(FIELD).zip(fields) {
            place[..4].copy_from_slice(&hash.to_le_bytes());
            place[4..].copy_from_slice(&encoded(*span));
        }
    }

    /// Replaces the positions by `positions`, each changed by `shift`.
    pub(crate) fn set_shifted(&mut self, positions: Positions<'_>, shift: impl Fn(Span) -> Span) {
        self.bytes.clear();
        self.bytes.extend_from_slice(positions.bytes);
        let (fixed, fields) = self.bytes.split_at_mut(fields_at(positions.bytes[1]));
        let fixed = fixed[HEADER..].chunks_exact_mut(SPAN);
        let fields = fields.chunks_exact_mut(FIELD).map(|field| &mut field[4..]);
        for place in fixed.chain(fields) {
            let span = shift(span_at(place, 0));
            place.copy_from_slice(&encoded(span));
        }
    }
}

fn encoded(span: Span) -> [u8; SPAN] {
    (u64::from(span.end) << 32 | u64::from(span.start)).to_le_bytes()
}

#[inline]
fn span_at(bytes: &[u8], offset: usize) -> Span {
    Span {
        start: u32_at(bytes, offset),
        end: u32_at(bytes, offset + 4),
    }
}

#[inline]
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32) -> Span {
        Span {
            start,
            end: start + 1,
        }
    }

    #[test]
    fn positions_are_found_by_index_and_hash() {
        let mut buffer = PositionsBuf::default();
        assert_eq!(buffer.positions().body(), Span::ABSENT);
        let spans: Vec<Span> = (10..18).map(span).collect();
        buffer.set(TimeFormat::Milliseconds, 1, (2, 1), &[7, 9], &spans);
        let positions = buffer.positions();
        assert_eq!(positions.body(), span(10));
        assert_eq!((positions.time(), positions.kind()), (span(11), span(12)));
        assert_eq!(positions.time_format(), TimeFormat::Milliseconds);
        assert_eq!(positions.ids().collect::<Vec<_>>(), [span(13), span(14)]);
        assert_eq!(positions.keys().collect::<Vec<_>>(), [span(15)]);
        assert_eq!(positions.field(9), Some(span(17)));
        assert_eq!(positions.field(8), None);

        let mut shifted = PositionsBuf::default();
        shifted.set_shifted(positions, |span| Span {
            start: span.start + 100,
            end: span.end + 100,
        });
        assert_eq!(shifted.positions().body(), span(110));
        assert_eq!(shifted.positions().keys().collect::<Vec<_>>(), [span(115)]);
        assert_eq!(shifted.positions().field(7), Some(span(116)));
        assert_eq!(shifted.positions().body_depth(), 1);
    }

    #[test]
    fn truncated_and_impossible_positions_are_rejected() {
        let mut buffer = PositionsBuf::default();
        buffer.set(TimeFormat::Text, 0, (1, 0), &[7], &[span(1); 5]);
        let bytes = buffer.positions().bytes().to_vec();
        assert_eq!(Positions::parse(&bytes).unwrap().1, bytes.len());
        for length in 0..bytes.len() {
            assert!(Positions::parse(&bytes[..length]).is_none(), "{length}");
        }
        for (offset, value) in [(0, 5), (1, MAX_PARTS as u8 + 1), (2, MAX_FIELDS as u8 + 1)] {
            let mut bytes = [0; 1000];
            bytes[offset] = value;
            assert!(Positions::parse(&bytes).is_none(), "{offset}");
        }
    }
}
