//! Tests of the classification of frames and of the fields of an event.

use super::*;
use crate::testing;

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
    let mut frames = Frames::default();
    let (kind, control) = match frames.read(frame) {
        Ok(read) => read,
        Err(error) => return error.to_string(),
    };
    let kind = match kind {
        ParsedFrame::Control(control) => words(control),
        ParsedFrame::Event(_) => "event".into(),
        ParsedFrame::Unknown => "unknown".into(),
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
fn control_key_counts_only_with_a_protocol_value() {
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
            // Without `data`, the frame can only be an unexpected answer.
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
fn event_with_an_empty_id_has_no_id() {
    for (frame, expected) in [
        (r#"{"id":"","data":{}}"#, None),
        (r#"{"id":" ","data":{}}"#, Some(" ")),
        (r#"{"id":"\"","data":{}}"#, Some("\"")),
        (r#"{"id":null,"data":{}}"#, None),
        (r#"{"id":[1],"data":{}}"#, None),
    ] {
        assert_eq!(testing::event(frame).id().as_deref(), expected, "{frame}");
    }
}

#[test]
fn fields_of_an_event_are_found() {
    let frame = r#"{"id":7,"data":{"id":8,"created":"2026-01-02T03:04:05Z","result":"n\u0065w","pid":"p","age":null}}"#;
    let event = testing::event(frame);
    assert_eq!(event.id().as_deref(), Some("7"));
    assert_eq!(event.time().as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(event.kind().as_deref(), Some("new"));
    assert!(event.body().starts_with(r#"{"id":8"#) && event.body().ends_with("null}"));
    let event = testing::event(r#"{"data":{"result":{"a":1}}}"#);
    assert_eq!((event.id(), event.time(), event.kind()), (None, None, None));
}

#[test]
fn last_of_two_equal_keys_is_used() {
    let event = testing::event(r#"{"data":{"result":"a"},"id":1,"data":{"x":1},"id":2}"#);
    assert_eq!(event.id().as_deref(), Some("2"));
    assert_eq!(event.kind(), None);
    assert_eq!(event.body(), r#"{"x":1}"#);
}

#[test]
fn control_value_of_a_learned_frame_decides_its_kind() {
    let mut frames = Frames::default();
    let mut kind_of = |frame: &str| match frames.read(frame).unwrap() {
        (ParsedFrame::Event(_), None) => "event",
        (ParsedFrame::Event(_), Some(_)) => "both",
        (ParsedFrame::Control(_), _) => "control",
        (ParsedFrame::Unknown, _) => "unknown",
    };
    for key in ["PING", "auth", "error", "\\u0065rror"] {
        for (value, data, expected) in [
            ("null", r#"{"pid":"a"}"#, "event"),
            ("false", r#"{"pid":"b"}"#, "event"),
            ("\"\"", r#"{"pid":"b"}"#, "event"),
            ("null", "{}", "event"),
            ("{\"code\":1}", "{}", "control"),
            ("{\"code\":2}", "{}", "control"),
        ] {
            let frame = format!(r#"{{"id":1,"data":{data},"{key}":{value}}}"#);
            assert_eq!(kind_of(&frame), expected, "{frame}");
            assert_eq!(kind_of(&frame), expected, "{frame}");
        }
    }
    let event = r#"{"error":null,"data":{"pid":"a"}}"#;
    let both = r#"{"error":"x","data":{"pid":"a"}}"#;
    assert_eq!(
        [event, event, both, event].map(kind_of),
        ["event", "event", "both", "event"]
    );
}
