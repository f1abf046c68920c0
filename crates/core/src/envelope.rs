//! Classifies a frame and finds the positions of the fields that rendering needs.

mod layout;

use std::borrow::Cow;

pub use self::layout::FrameReader;
use crate::json::{self, JsonError, Key, Scanner, Span};

/// A field of an event whose position is stored when the frame is read, so that no sink scans the frame
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Field {
    /// `id` of the frame. *Assumed* to equal the entry's own `id`.
    Id,
    /// The entry: an object.
    Data,
    Created,
    Result,
    Pid,
    SourceId,
    SourceName,
    SpaceId,
    SpaceName,
}

/// The number of fields.
pub const FIELDS: usize = 9;

/// The positions of the fields in an event frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    spans: [Span; FIELDS],
}

impl Envelope {
    /// Returns the position of a field.
    pub const fn span(&self, field: Field) -> Span {
        self.spans[field as usize]
    }

    /// Returns the value of a field as written in `frame`, `None` if it is missing. An empty id counts as
    /// missing: all events with an empty id would share an identity, and the id of a CloudEvent must not be
    /// empty.
    pub fn raw<'a>(&self, field: Field, frame: &'a str) -> Option<&'a str> {
        let raw = self.span(field).of(frame)?;
        (field != Field::Id || raw != "\"\"").then_some(raw)
    }

    /// Returns the text of a field, without quotes and escapes. `None` if it is missing, null, or not a
    /// scalar.
    pub fn text<'a>(&self, field: Field, frame: &'a str) -> Option<Cow<'a, str>> {
        json::text(self.raw(field, frame)?)
    }

    pub(crate) const fn spans(&self) -> &[Span; FIELDS] {
        &self.spans
    }

    pub(crate) const fn from_spans(spans: [Span; FIELDS]) -> Self {
        Self { spans }
    }

    fn set(&mut self, field: Field, span: Span) {
        self.spans[field as usize] = span;
    }
}

/// The keys of control messages, in the order in which the platform's documentation checks them.
const CONTROL_KEYS: [&str; 3] = ["PING", "auth", "error"];

/// The answer to a ping on a working connection.
const PONG: &str = "PONG";
/// The answer to AUTH if the platform accepts the token.
const AUTHENTICATED: &str = "ok";

/// The kinds of frames that the platform sends, distinguished by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A control message.
    Control(Control),
    /// An event: an object with an object as `data`.
    Event(Envelope),
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
    /// `{"error":…}`: a string, *assumed* sometimes an object.
    Error(Span),
}

/// Reads a frame once: validates the JSON, classifies the frame, and finds the positions of the fields.
///
/// Of duplicate keys the last one counts, as in every common parser. [`FrameReader`] has the same result and
/// is faster for many frames.
///
/// # Errors
/// The frame is not JSON.
pub fn read(frame: &str) -> Result<Kind, JsonError> {
    read_with_control(frame).map(|(kind, _)| kind)
}

/// Reads a frame as [`read`] does. Also returns a control message that is in the same frame as a non-empty
/// `data`, so that neither is lost.
///
/// Next to a non-empty `data`, a control key counts only with a value that the protocol defines: `PONG`,
/// `ok`, and for an error a string or a non-empty object. Any other value (`"error": null`) is a field of the
/// event. Without `data` every value counts, so that an unexpected answer to AUTH is reported as such.
///
/// # Errors
/// The frame is not JSON.
pub fn read_with_control(frame: &str) -> Result<(Kind, Option<Control>), JsonError> {
    let mut scanner = Scanner::new(frame)?;
    if !scanner.at_object() {
        scanner.value()?;
        scanner.end()?;
        return Ok((Kind::Unknown, None));
    }
    let mut controls = [Span::ABSENT; CONTROL_KEYS.len()];
    let mut envelope = Envelope::default();
    let mut has_content = false;
    scanner.object(|scanner, key| {
        let name = key.name();
        match name.as_ref() {
            "data" => has_content = read_data(scanner, frame, &mut envelope)?,
            "id" => envelope.set(Field::Id, scanner.value()?),
            name => {
                let value = scanner.value()?;
                if let Some(control) = control_index(name) {
                    controls[control] = value;
                }
            }
        }
        Ok(())
    })?;
    scanner.end()?;
    let has_data = !envelope.span(Field::Data).is_absent();
    let content = if has_data {
        Kind::Event(envelope)
    } else {
        Kind::Unknown
    };
    let control = |counts: fn(usize, &str) -> bool| {
        let index = (0..controls.len()).find(|index| {
            controls[*index]
                .of(frame)
                .is_some_and(|value| counts(*index, value))
        })?;
        let kind = [Control::Ping, Control::Auth, Control::Error][index];
        Some(kind(controls[index]))
    };
    if has_content {
        return Ok((content, control(is_of_the_protocol)));
    }
    let control = if has_data {
        control(|_, value| value.starts_with(['"', '{']) && !is_empty(value))
    } else {
        control(|_, value| value != "null").or_else(|| control(|_, _| true))
    };
    Ok((control.map_or(content, Kind::Control), None))
}

/// Returns the index of a key in [`CONTROL_KEYS`].
fn control_index(key: &str) -> Option<usize> {
    CONTROL_KEYS.iter().position(|control| *control == key)
}

/// Returns whether the protocol defines this value for the control key with this index.
fn is_of_the_protocol(control: usize, value: &str) -> bool {
    match CONTROL_KEYS[control] {
        "error" => value.starts_with(['"', '{']) && !is_empty(value),
        "PING" => is_text(value, PONG),
        _ => is_text(value, AUTHENTICATED),
    }
}

/// Returns whether a value is this string.
fn is_text(value: &str, expected: &str) -> bool {
    value.starts_with('"') && json::text(value).as_deref() == Some(expected)
}

/// Returns whether a value is null, or an empty string, array or object.
fn is_empty(value: &str) -> bool {
    match value.as_bytes() {
        [b'"', inner @ .., b'"'] => inner.is_empty(),
        [b'[' | b'{', inner @ .., _] => inner.trim_ascii().is_empty(),
        value => value == b"null",
    }
}

/// Reads `data`, and returns whether it is non-empty.
fn read_data(scanner: &mut Scanner<'_>, frame: &str, envelope: &mut Envelope) -> Result<bool, JsonError> {
    // A second `data` replaces the first one and all fields found in it.
    let id = envelope.span(Field::Id);
    *envelope = Envelope::default();
    envelope.set(Field::Id, id);
    if !scanner.at_object() {
        let data = scanner.value()?;
        return Ok(data.of(frame).is_some_and(|data| !is_empty(data)));
    }
    let mut has_content = false;
    let data = scanner.object(|scanner, key| {
        has_content = true;
        match key.name().as_ref() {
            "created" => envelope.set(Field::Created, scanner.value()?),
            "result" => envelope.set(Field::Result, scanner.value()?),
            "pid" => envelope.set(Field::Pid, scanner.value()?),
            "source" => read_named(scanner, envelope, Field::SourceId, Field::SourceName)?,
            "space" => read_named(scanner, envelope, Field::SpaceId, Field::SpaceName)?,
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    envelope.set(Field::Data, data);
    Ok(has_content)
}

/// Reads an `{id, name, …}` object; any other value has neither field.
fn read_named(
    scanner: &mut Scanner<'_>,
    envelope: &mut Envelope,
    id: Field,
    name: Field,
) -> Result<(), JsonError> {
    envelope.set(id, Span::ABSENT);
    envelope.set(name, Span::ABSENT);
    if !scanner.at_object() {
        return scanner.value().map(drop);
    }
    scanner.object(|scanner, key: Key<'_>| {
        match key.name().as_ref() {
            "id" => envelope.set(id, scanner.value()?),
            "name" => envelope.set(name, scanner.value()?),
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(frame: &str) -> Envelope {
        match read(frame).unwrap() {
            Kind::Event(envelope) => envelope,
            kind => panic!("{kind:?}"),
        }
    }

    /// Describes a frame in words.
    fn kind(frame: &str) -> String {
        let words = |control: Control| {
            let (word, span) = match control {
                Control::Ping(span) => ("ping", span),
                Control::Auth(span) => ("auth", span),
                Control::Error(span) => ("error", span),
            };
            format!("{word} {}", span.of(frame).unwrap())
        };
        let (kind, control) = match read_with_control(frame) {
            Ok(read) => read,
            Err(error) => return error.to_string(),
        };
        let kind = match kind {
            Kind::Control(control) => words(control),
            Kind::Event(_) => "event".into(),
            Kind::Unknown => "unknown".into(),
        };
        control.map_or(kind.clone(), |control| format!("{kind} and {}", words(control)))
    }

    #[test]
    fn kinds_are_classified_in_the_documented_order() {
        assert_eq!(kind(r#"{"PING":"PONG"}"#), r#"ping "PONG""#);
        assert_eq!(kind(r#"{"auth":"ok"}"#), r#"auth "ok""#);
        assert_eq!(kind(r#"{"error":{"code":1}}"#), r#"error {"code":1}"#);
        assert_eq!(kind(r#"{"id":1,"data":{}}"#), "event");
        assert_eq!(
            kind(r#"{"data":{},"error":"x","auth":"ok","PING":null}"#),
            r#"auth "ok""#
        );
        assert_eq!(kind(r#"{"error":"x","auth":"ok","PING":"no"}"#), r#"ping "no""#);
        assert_eq!(kind(r#"{"\u0050ING":"PONG"}"#), r#"ping "PONG""#);
        assert_eq!(kind(r#"{"id":1,"data":null}"#), "unknown");
        assert_eq!(kind("[1]"), "unknown");
        assert_eq!(
            kind("not json"),
            "unexpected byte 0x6f at offset 1, expected null"
        );
    }

    #[test]
    fn control_key_needs_a_value_of_the_protocol() {
        for key in ["PING", "auth"] {
            for value in [r#""no""#, r#"{"code":1}"#] {
                let frame = format!(r#"{{"id":1,"data":{{"pid":"a"}},"{key}":{value}}}"#);
                assert_eq!(kind(&frame), "event", "{frame}");
            }
        }
        for value in ["null", "false", "true", "0", "[]", r#"["x"]"#, "\"\"", "{ }"] {
            for key in CONTROL_KEYS {
                let frame = format!(r#"{{"id":1,"data":{{"pid":"a"}},"{key}":{value}}}"#);
                assert_eq!(kind(&frame), "event", "{frame}");
                let frame = format!(r#"{{"{key}":{value},"id":1,"data":{{}}}}"#);
                assert_eq!(kind(&frame), "event", "{frame}");
                let frame = format!(r#"{{"{key}":{value},"data":["a"]}}"#);
                assert_eq!(kind(&frame), "unknown", "{frame}");
                // Without data it can only be an unexpected answer.
                let word = key.to_ascii_lowercase();
                for frame in [
                    format!(r#"{{"{key}":{value}}}"#),
                    format!(r#"{{"{key}":{value},"data":null}}"#),
                ] {
                    assert_eq!(kind(&frame), format!("{word} {value}"), "{frame}");
                }
            }
        }
        assert_eq!(kind(r#"{"PING":null,"auth":"ok","error":null}"#), r#"auth "ok""#);
    }

    #[test]
    fn data_next_to_a_control_key_is_kept() {
        for (frame, expected) in [
            (
                r#"{"error":"blurred","data":{"pid":"a"}}"#,
                r#"event and error "blurred""#,
            ),
            (r#"{"data":{"account":1},"auth":"ok"}"#, r#"event and auth "ok""#),
            (
                r#"{"data":{"account":1},"PING":"PONG"}"#,
                r#"event and ping "PONG""#,
            ),
            (
                r#"{"error":{"code":1},"data":[1]}"#,
                r#"unknown and error {"code":1}"#,
            ),
            (r#"{"error":"x","data":"text"}"#, r#"unknown and error "x""#),
            (
                r#"{"auth":"o\u006b","data":{"a":1}}"#,
                r#"event and auth "o\u006b""#,
            ),
            // `data` is empty.
            (r#"{"auth":"denied","data":{}}"#, r#"auth "denied""#),
            (r#"{"PING":"PONG","data":{}}"#, r#"ping "PONG""#),
            (r#"{"PING":"PONG","data":null}"#, r#"ping "PONG""#),
            (r#"{"auth":"ok","data":[]}"#, r#"auth "ok""#),
        ] {
            assert_eq!(kind(frame), expected, "{frame}");
        }
    }

    #[test]
    fn empty_id_is_no_id() {
        for (frame, expected) in [
            (r#"{"id":"","data":{}}"#, None),
            (r#"{"id":" ","data":{}}"#, Some(" ")),
            (r#"{"id":"\"","data":{}}"#, Some("\"")),
        ] {
            let envelope = event(frame);
            assert_eq!(envelope.text(Field::Id, frame).as_deref(), expected, "{frame}");
        }
        let frame = r#"{"data":{"pid":"","source":{"id":"","name":""}}}"#;
        for field in [Field::Pid, Field::SourceId, Field::SourceName] {
            assert_eq!(
                event(frame).text(field, frame).as_deref(),
                Some(""),
                "its own field only"
            );
        }
    }

    #[test]
    fn field_positions_are_found() {
        let frame = r#"{"id":7,"data":{"id":8,"created":"2026-01-02T03:04:05Z","result":"new","pid":"a\u0062c",
            "source":{"id":3,"name":"Door \"A\"","pid":"not this"},"space":{"id":"s","result":"nor this"},"age":null}}"#;
        let envelope = event(frame);
        let text = |field| envelope.text(field, frame).map(Cow::into_owned);
        assert_eq!(text(Field::Id).as_deref(), Some("7"));
        assert_eq!(text(Field::Created).as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(text(Field::Result).as_deref(), Some("new"));
        assert_eq!(text(Field::Pid).as_deref(), Some("abc"));
        assert_eq!(text(Field::SourceId).as_deref(), Some("3"));
        assert_eq!(text(Field::SourceName).as_deref(), Some("Door \"A\""));
        assert_eq!(text(Field::SpaceId).as_deref(), Some("s"));
        assert_eq!(text(Field::SpaceName), None);
        let data = envelope.raw(Field::Data, frame).unwrap();
        assert!(data.starts_with(r#"{"id":8"#) && data.ends_with("null}"));
    }

    #[test]
    fn last_of_two_equal_keys_is_used() {
        let frame =
            r#"{"data":{"pid":"a","source":{"id":1}},"id":1,"data":{"source":{"id":2},"source":5},"id":2}"#;
        let envelope = event(frame);
        assert_eq!(envelope.raw(Field::Id, frame), Some("2"));
        assert_eq!(envelope.raw(Field::Pid, frame), None);
        assert_eq!(envelope.raw(Field::SourceId, frame), None);
    }

    #[test]
    fn missing_null_and_structured_fields_have_no_text() {
        let frame = r#"{"id":null,"data":{"pid":{"a":1},"result":true}}"#;
        let envelope = event(frame);
        assert_eq!(envelope.text(Field::Id, frame), None);
        assert_eq!(envelope.text(Field::Pid, frame), None);
        assert_eq!(envelope.text(Field::Result, frame).as_deref(), Some("true"));
        assert_eq!(envelope.text(Field::Created, frame), None);
    }
}
