//! What the bridge reads of a frame: its kind, and where the fields stand that rendering needs.

mod layout;

use std::borrow::Cow;

pub use self::layout::FrameReader;
use crate::json::{self, JsonError, Key, Scanner, Span};

/// A field of an event whose place is noted when the frame is read, so that no sink has to look for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub enum Field {
    /// `id` of the frame. *Assumed* to be the entry's own `id` too.
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

/// How many fields there are.
pub const FIELDS: usize = 9;

/// Where the fields of an event frame stand in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    spans: [Span; FIELDS],
}

impl Envelope {
    /// Where a field stands.
    pub const fn span(&self, field: Field) -> Span {
        self.spans[field as usize]
    }

    /// The value of a field as it is written in `frame`, `None` when it is not there.
    pub fn raw<'a>(&self, field: Field, frame: &'a str) -> Option<&'a str> {
        self.span(field).of(frame)
    }

    /// The text of a field, without quotes and escapes; `None` when it is missing, null, or no scalar.
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

/// The kinds of frames that the platform sends, told apart by their keys, in the order in which its documentation
/// tests them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `{"PING":…}`; holds where the answer stands.
    Ping(Span),
    /// `{"auth":…}`; holds where the answer stands.
    Auth(Span),
    /// `{"error":…}`; holds where the error stands: a string, *assumed* sometimes an object.
    Error(Span),
    /// An event: an object with an object as `data`.
    Event(Envelope),
    /// JSON, but none of the above.
    Unknown,
}

/// Reads a frame once: checks that it is JSON, tells its kind, and notes where the fields stand.
///
/// Where a key stands twice, the last one counts, as for every common parser. [`FrameReader`] tells the same of many
/// frames in less time.
///
/// # Errors
/// The frame is no JSON.
pub fn read(frame: &str) -> Result<Kind, JsonError> {
    let mut scanner = Scanner::new(frame)?;
    if !scanner.at_object() {
        scanner.value()?;
        scanner.end()?;
        return Ok(Kind::Unknown);
    }
    let (mut ping, mut auth, mut error) = (Span::ABSENT, Span::ABSENT, Span::ABSENT);
    let mut envelope = Envelope::default();
    scanner.object(|scanner, key| {
        match key.name().as_ref() {
            "data" => read_data(scanner, &mut envelope)?,
            "id" => envelope.set(Field::Id, scanner.value()?),
            "PING" => ping = scanner.value()?,
            "auth" => auth = scanner.value()?,
            "error" => error = scanner.value()?,
            _ => drop(scanner.value()?),
        }
        Ok(())
    })?;
    scanner.end()?;
    Ok(if !ping.is_absent() {
        Kind::Ping(ping)
    } else if !auth.is_absent() {
        Kind::Auth(auth)
    } else if !error.is_absent() {
        Kind::Error(error)
    } else if !envelope.span(Field::Data).is_absent() {
        Kind::Event(envelope)
    } else {
        Kind::Unknown
    })
}

fn read_data(scanner: &mut Scanner<'_>, envelope: &mut Envelope) -> Result<(), JsonError> {
    // A second `data` replaces the first with all that was found in it.
    let id = envelope.span(Field::Id);
    *envelope = Envelope::default();
    envelope.set(Field::Id, id);
    if !scanner.at_object() {
        return scanner.value().map(drop);
    }
    let data = scanner.object(|scanner, key| {
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
    Ok(())
}

/// Reads an `{id, name, …}` object; anything else has neither.
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

    #[test]
    fn kinds_are_told_apart_in_the_documented_order() {
        let kind = |frame: &str| match read(frame) {
            Ok(Kind::Ping(span)) => format!("ping {}", span.of(frame).unwrap()),
            Ok(Kind::Auth(span)) => format!("auth {}", span.of(frame).unwrap()),
            Ok(Kind::Error(span)) => format!("error {}", span.of(frame).unwrap()),
            Ok(Kind::Event(_)) => "event".into(),
            Ok(Kind::Unknown) => "unknown".into(),
            Err(error) => error.to_string(),
        };
        assert_eq!(kind(r#"{"PING":"PONG"}"#), r#"ping "PONG""#);
        assert_eq!(kind(r#"{"auth":"ok"}"#), r#"auth "ok""#);
        assert_eq!(kind(r#"{"error":{"code":1}}"#), r#"error {"code":1}"#);
        assert_eq!(kind(r#"{"id":1,"data":{}}"#), "event");
        assert_eq!(
            kind(r#"{"data":{},"error":"x","auth":"ok","PING":null}"#),
            "ping null"
        );
        assert_eq!(kind(r#"{"\u0050ING":"PONG"}"#), r#"ping "PONG""#);
        assert_eq!(kind(r#"{"id":1,"data":null}"#), "unknown");
        assert_eq!(kind("[1]"), "unknown");
        assert_eq!(
            kind("not json"),
            "unexpected byte 0x6f at offset 1, expected null"
        );
    }

    #[test]
    fn fields_are_found_where_they_stand() {
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
    fn the_last_of_two_keys_counts() {
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
