//! Frame classification.

use neurobridge_core::{
    envelope::{self, Control, Envelope, Field, FrameReader, Kind},
    json::{JsonError, Span},
};
use serde_json::{Value, value::RawValue};

/// A frame is judged as `serde_json` judges it, and its fields are those that `serde_json` finds. What came before it does
/// not matter.
pub fn frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut reader = FrameReader::default();
    for part in text.split('\n').chain([text]) {
        assert_eq!(
            reader.read_with_control(part),
            envelope::read_with_control(part),
            "read after others"
        );
    }
    let (kind, control) = match envelope::read_with_control(text) {
        Ok(read) => read,
        Err(JsonError::TooDeep { .. }) => return,
        Err(error) => {
            assert!(
                serde_json::from_str::<&RawValue>(text).is_err(),
                "refused, and is JSON: {error}"
            );
            return;
        }
    };
    assert!(
        serde_json::from_str::<&RawValue>(text).is_ok(),
        "taken, and is no JSON"
    );
    // What a `Value` can't hold (half a surrogate pair, a number beyond f64) goes through untouched; there is nothing
    // to compare it with.
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let same = |span: Span, key: &str| assert_eq!(parse(span.of(text)), value.get(key).cloned(), "{key}");
    let counts = |control| match control {
        Control::Ping(span) => same(span, "PING"),
        Control::Auth(span) => same(span, "auth"),
        Control::Error(span) => same(span, "error"),
    };
    let data = value.get("data");
    let has_content = !matches!(data, None | Some(Value::Null)) && !is_empty(data);
    match kind {
        Kind::Control(control) => {
            assert!(!has_content, "data has gone");
            counts(control);
        }
        Kind::Event(envelope) => compare(&envelope, text, &value),
        Kind::Unknown => {
            assert!(!data.is_some_and(Value::is_object));
            let has_control = ["PING", "auth", "error"].iter().any(|key| value.get(key).is_some());
            assert!(has_content || !has_control);
        }
    }
    if let Some(control) = control {
        assert!(has_content && !matches!(kind, Kind::Control(_)));
        counts(control);
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        _ => false,
    }
}

fn compare(envelope: &Envelope, text: &str, value: &Value) {
    let data = &value["data"];
    assert!(data.is_object());
    for (field, expected) in [
        (Field::Id, value.get("id").filter(|id| *id != "")),
        (Field::Data, Some(data)),
        (Field::Created, data.get("created")),
        (Field::Result, data.get("result")),
        (Field::Pid, data.get("pid")),
        (
            Field::SourceId,
            data.get("source").and_then(|source| source.get("id")),
        ),
        (
            Field::SourceName,
            data.get("source").and_then(|source| source.get("name")),
        ),
        (
            Field::SpaceId,
            data.get("space").and_then(|space| space.get("id")),
        ),
        (
            Field::SpaceName,
            data.get("space").and_then(|space| space.get("name")),
        ),
    ] {
        assert_eq!(parse(envelope.raw(field, text)).as_ref(), expected, "{field:?}");
        let as_text = envelope.text(field, text);
        match expected {
            Some(Value::String(string)) => assert_eq!(as_text.as_deref(), Some(string.as_str()), "{field:?}"),
            Some(Value::Bool(_) | Value::Number(_)) => assert!(as_text.is_some(), "{field:?}"),
            _ => assert_eq!(as_text, None, "{field:?}"),
        }
    }
}

fn parse(raw: Option<&str>) -> Option<Value> {
    raw.map(|raw| serde_json::from_str(raw).expect("the whole frame was read as a value"))
}
