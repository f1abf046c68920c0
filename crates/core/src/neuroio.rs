//! The frames of NeuroIO's event feed: their kinds, and the fields of an event.

use crate::{
    event::FieldPath,
    frame_reader::FrameReader,
    json::{self, JsonError, Span},
    path::Path,
    positions::{Positions, PositionsBuf, TimeFormat},
    projection::{EventPaths, Projection},
};

/// The part of the CloudEvents type before the result of an entry.
pub const TYPE_PREFIX: &str = "com.neuroio.entry.";

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

/// The fields that are lists, of names or of objects with a name.
pub const LISTS: [&str; 2] = ["groups", "persons_groups"];

/// The keys of control messages, in the order in which the platform's documentation checks them.
const CONTROL_KEYS: [&str; 3] = ["PING", "auth", "error"];

/// The answer to a ping on a working connection.
const PONG: &str = "PONG";
/// The answer to AUTH if the platform accepts the token.
const AUTHENTICATED: &str = "ok";

/// Returns the CloudEvents attribute `source` of the events of a source. `source` is the name in the configuration.
pub fn source_uri(source: &str) -> String {
    format!("/neuroio/{source}")
}

/// A parsed frame of the platform. The kinds are distinguished by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsedFrame<'a> {
    /// A control message.
    Control(Control),
    /// An event: an object with an object as `data`.
    Event(Positions<'a>),
    /// Any other JSON.
    Unknown,
}

/// A control message, with the position of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// `{"PING":…}`: the answer to a ping.
    Ping(Span),
    /// `{"auth":…}`: the answer to AUTH.
    Auth(Span),
    /// `{"error":…}`: a string; *assumed*: sometimes an object.
    Error(Span),
}

impl Control {
    const fn new(key: usize, value: Span) -> Self {
        match key {
            0 => Self::Ping(value),
            1 => Self::Auth(value),
            _ => Self::Error(value),
        }
    }
}

/// Classifies the frames of a feed, and finds the fields of its events.
#[derive(Clone, Debug)]
pub struct Frames {
    projection: Projection,
    /// Finds the projected fields, then the values of [`CONTROL_KEYS`].
    reader: FrameReader,
    positions: PositionsBuf,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new([])
    }
}

impl Frames {
    /// Creates a classifier that also finds these fields of an entry.
    pub fn new<'a>(fields: impl IntoIterator<Item = &'a FieldPath>) -> Self {
        let event = EventPaths {
            body: Path::new(["data"]),
            id: vec![Path::new(["id"])],
            key: vec![Path::new(["data", "pid"])],
            time: Some(Path::new(["data", "created"])),
            time_format: TimeFormat::Text,
            kind: Some(Path::new(["data", "result"])),
        };
        let projection = Projection::new(&event, fields);
        let controls = CONTROL_KEYS.map(|key| Path::new([key]));
        let paths = projection.paths().iter().map(Option::as_ref);
        let reader = FrameReader::new(paths.chain(controls.iter().map(Some)));
        Self {
            projection,
            reader,
            positions: PositionsBuf::default(),
        }
    }

    /// Reads a frame once: validates the JSON, classifies the frame, and finds the positions of the fields. Also returns a
    /// control message that is in the same frame as a non-empty `data`, so that neither is lost.
    ///
    /// Next to a non-empty `data`, a control key counts only with a value that the protocol defines: `PONG`,
    /// `ok`, and for an error a string or a non-empty object. Any other value (`"error": null`) is a field of the
    /// event. Without `data` every value counts, so that an unexpected answer to AUTH is reported as such.
    ///
    /// # Errors
    /// The frame is not JSON.
    pub fn read(&mut self, frame: &str) -> Result<(ParsedFrame<'_>, Option<Control>), JsonError> {
        let spans = self.reader.read(frame)?;
        let controls = Controls {
            frame,
            spans: &spans[self.projection.paths().len()..],
        };
        let data = spans[0].of(frame).unwrap_or_default();
        let is_event = data.starts_with('{');
        let (control, beside) = if !controls.any() {
            (None, None)
        } else if !is_empty(data) {
            (None, controls.find(is_of_the_protocol))
        } else if is_event {
            (controls.find(|_, value| is_message(value)), None)
        } else {
            let not_null = controls.find(|_, value| value != "null");
            (not_null.or_else(|| controls.find(|_, _| true)), None)
        };
        if let Some(control) = control {
            return Ok((ParsedFrame::Control(control), None));
        }
        if !is_event {
            return Ok((ParsedFrame::Unknown, beside));
        }
        self.projection.write(spans, &mut self.positions);
        if beside.is_none() {
            self.reader.learn(frame);
        }
        Ok((ParsedFrame::Event(self.positions.positions()), beside))
    }

    /// Reads a frame that is expected to be an event. `None` for any other frame.
    pub fn event(&mut self, frame: &str) -> Option<Positions<'_>> {
        match self.read(frame) {
            Ok((ParsedFrame::Event(positions), _)) => Some(positions),
            _ => None,
        }
    }
}

/// The values of the control keys of a frame.
struct Controls<'a> {
    frame: &'a str,
    spans: &'a [Span],
}

impl Controls<'_> {
    fn any(&self) -> bool {
        self.spans.iter().any(|span| !span.is_absent())
    }

    /// Returns the first control message whose value counts.
    fn find(&self, counts: impl Fn(usize, &str) -> bool) -> Option<Control> {
        let (key, value) = self
            .spans
            .iter()
            .enumerate()
            .find(|(key, span)| span.of(self.frame).is_some_and(|value| counts(*key, value)))?;
        Some(Control::new(key, *value))
    }
}

/// Returns whether the protocol defines this value for the control key with this index.
fn is_of_the_protocol(key: usize, value: &str) -> bool {
    match CONTROL_KEYS[key] {
        "error" => is_message(value),
        "PING" => is_text(value, PONG),
        _ => is_text(value, AUTHENTICATED),
    }
}

/// Returns whether a value is a non-empty string or object.
fn is_message(value: &str) -> bool {
    value.starts_with(['"', '{']) && !is_empty(value)
}

/// Returns whether a value is this string.
fn is_text(value: &str, expected: &str) -> bool {
    value.starts_with('"') && json::text(value).as_deref() == Some(expected)
}

/// Returns whether a value is missing, null, or an empty string, array or object.
fn is_empty(value: &str) -> bool {
    match value.as_bytes() {
        [b'"', inner @ .., b'"'] => inner.is_empty(),
        [b'[' | b'{', inner @ .., _] => inner.trim_ascii().is_empty(),
        value => value.is_empty() || value == b"null",
    }
}

#[cfg(test)]
mod tests;
