//! Frame classification.

use neurobridge_core::{
    envelope::{self, Envelope, Field, FrameReader, Kind},
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
        assert_eq!(reader.read(part), envelope::read(part), "read after others");
    }
    let kind = match envelope::read(text) {
        Ok(kind) => kind,
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
    let has = |key: &str| value.get(key).is_some();
    match kind {
        Kind::Ping(span) => same(span, "PING"),
        Kind::Auth(span) => {
            assert!(!has("PING"));
            same(span, "auth");
        }
        Kind::Error(span) => {
            assert!(!has("PING") && !has("auth"));
            same(span, "error");
        }
        Kind::Event(envelope) => {
            assert!(!has("PING") && !has("auth") && !has("error"));
            compare(&envelope, text, &value);
        }
        Kind::Unknown => {
            assert!(!has("PING") && !has("auth") && !has("error"));
            assert!(!value.get("data").is_some_and(Value::is_object));
        }
    }
}

fn compare(envelope: &Envelope, text: &str, value: &Value) {
    let data = &value["data"];
    assert!(data.is_object());
    for (field, expected) in [
        (Field::Id, value.get("id")),
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
