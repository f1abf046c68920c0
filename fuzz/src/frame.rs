//! Fuzzes the classification of frames.

use neurobridge_core::{
    event::{Event, FieldPath},
    json::{JsonError, Span},
    neuroio::{Control, Frames, ParsedFrame},
};
use serde_json::{Value, value::RawValue};

use crate::event;

/// The projected fields, besides id, time, type and body.
const FIELDS: [&str; 6] = ["pid", "source.id", "space.name", "groups.0", "a.b", "$.id"];

fn fields() -> Vec<FieldPath> {
    FIELDS.iter().filter_map(|path| FieldPath::parse(path)).collect()
}

/// Checks that a frame is valid exactly if `serde_json` accepts it, that the fields are those found by `serde_json`, and that
/// frames read earlier have no influence.
pub fn frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut reader = Frames::new(&fields());
    for part in text.split('\n').chain([text]) {
        let mut fresh = Frames::new(&fields());
        assert_eq!(
            reader.read(part),
            fresh.read(part),
            "frames read earlier have changed the result"
        );
    }
    let (kind, control) = match reader.read(text) {
        Ok(read) => read,
        Err(JsonError::TooDeep { .. }) => return,
        Err(error) => {
            assert!(
                serde_json::from_str::<&RawValue>(text).is_err(),
                "valid JSON was rejected: {error}"
            );
            return;
        }
    };
    assert!(
        serde_json::from_str::<&RawValue>(text).is_ok(),
        "invalid JSON was accepted"
    );
    // A `Value` cannot hold half a surrogate pair or a number beyond the range of `f64`. Such a frame cannot be compared.
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let same = |span: Span, key: &str| assert_eq!(parse(span.of(text)), value.get(key).cloned(), "{key}");
    let check_control = |control| match control {
        Control::Ping(span) => same(span, "PING"),
        Control::Auth(span) => same(span, "auth"),
        Control::Error(span) => same(span, "error"),
    };
    let data = value.get("data");
    let has_content = !matches!(data, None | Some(Value::Null)) && !is_empty(data);
    match kind {
        ParsedFrame::Control(control) => {
            assert!(
                !has_content,
                "a frame with data was classified as a control frame"
            );
            check_control(control);
        }
        ParsedFrame::Event(positions) => compare(&event(positions, text), &value),
        ParsedFrame::Unknown => {
            assert!(!data.is_some_and(Value::is_object));
            let has_control = ["PING", "auth", "error"]
                .iter()
                .any(|key| value.get(key).is_some());
            assert!(has_content || !has_control);
        }
    }
    if let Some(control) = control {
        assert!(has_content && !matches!(kind, ParsedFrame::Control(_)));
        check_control(control);
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

fn compare(event: &Event<'_>, value: &Value) {
    let data = &value["data"];
    assert!(data.is_object());
    assert_eq!(parse(Some(event.body())).as_ref(), Some(data));
    let text_of = |value: Option<&Value>| match value? {
        Value::String(text) => Some(text.clone()),
        // The empty text means that only the presence is checked: `Value` does not keep the spelling of a number.
        Value::Bool(_) | Value::Number(_) => Some(String::new()),
        _ => None,
    };
    let same = |found: Option<&str>, expected: Option<&Value>| match text_of(expected) {
        Some(text) if text.is_empty() => assert!(found.is_some(), "{expected:?}"),
        expected => assert_eq!(found, expected.as_deref()),
    };
    same(event.id().as_deref(), value.get("id").filter(|id| *id != ""));
    same(event.time().as_deref(), data.get("created"));
    same(event.kind().as_deref(), data.get("result"));
    for (path, pointer) in FIELDS.iter().zip([
        "/data/pid",
        "/data/source/id",
        "/data/space/name",
        "/data/groups/0",
        "/data/a/b",
        "/id",
    ]) {
        let field = FieldPath::parse(path).expect("a path");
        let found = parse(field.locate(event.positions, event.frame));
        assert_eq!(found.as_ref(), value.pointer(pointer), "{path}");
    }
}

fn parse(raw: Option<&str>) -> Option<Value> {
    raw.map(|raw| serde_json::from_str(raw).expect("the whole frame was read as a value"))
}
