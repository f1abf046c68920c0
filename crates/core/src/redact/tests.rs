//! Compares redacted frames with expected texts, and with a reference over parsed trees.

use std::fs;

use std::io::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{event::FieldPath, path::Path, projection::EventPaths, testing};

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef\n";

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn with_key(redact: &[&str], fields: &[&str], key: &[u8]) -> Redaction {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(key).unwrap();
    let pseudonymise = Pseudonymise {
        fields: patterns(fields),
        key_file: file.path().to_owned(),
    };
    Redaction::new(&patterns(redact), Some(&pseudonymise)).unwrap()
}

/// Returns an event of any JSON whose body is `data`.
fn located(frame: &str) -> Event<'_> {
    let paths = EventPaths {
        body: Path::new(["data"]),
        id: vec![Path::new(["id"])],
        kind: Some(Path::new(["data", "space", "id"])),
        ..EventPaths::default()
    };
    let fields = ["pid", "space", "face_image", "$.more"].map(|path| FieldPath::parse(path).unwrap());
    testing::event_at_paths(frame, &paths, &fields)
}

/// Returns the frame after redaction, or `None` if it is unchanged. Checks that the positions of the fields are those of a scan.
fn apply(redaction: &Redaction, frame: &str) -> Option<String> {
    let event = located(frame);
    let mut out = EventBuf::default();
    let after = redaction.apply(&event, &mut out).unwrap();
    assert_eq!(
        after.positions,
        located(after.frame).positions,
        "{frame}\n{}",
        after.frame
    );
    (after.frame != frame).then(|| after.frame.to_owned())
}

fn redacted(redact: &[&str], frame: &str) -> Option<String> {
    apply(&Redaction::new(&patterns(redact), None).unwrap(), frame)
}

#[test]
fn only_selected_values_are_replaced() {
    for (pattern, frame, expected) in [
        (
            "*_image",
            r#"{ "id" : 1, "data":{"face_image": "x",  "a":[{"full_image":[1,{"b":2}]}] } }"#,
            r#"{ "id" : 1, "data":{"face_image": null,  "a":[{"full_image":null}] } }"#,
        ),
        (
            "face_image",
            r#"{"data":{"face\u005fimage":"x","face_image":"y","face_image":"z"}}"#,
            r#"{"data":{"face\u005fimage":null,"face_image":null,"face_image":null}}"#,
        ),
        (
            "id",
            r#"{"id":1,"data":{"id":2,"space":{"id":3}}}"#,
            r#"{"id":1,"data":{"id":null,"space":{"id":null}}}"#,
        ),
        (
            "*",
            r#"{"id":{"x":1},"data":{"data":1},"data":{"b":{}},"more":true}"#,
            r#"{"id":{"x":null},"data":null,"data":{"b":null},"more":null}"#,
        ),
        (
            "space.name",
            r#"{"data":{"name":1,"space":{"name":2,"deep":{"name":3}},"x":{"space":{"name":4}}}}"#,
            r#"{"data":{"name":1,"space":{"name":null,"deep":{"name":3}},"x":{"space":{"name":4}}}}"#,
        ),
        (
            "data.pid",
            r#"{"data":{"pid":1,"x":{"pid":2}}}"#,
            r#"{"data":{"pid":null,"x":{"pid":2}}}"#,
        ),
        (
            "faces.*.url",
            r#"{"data":{"faces":[[{"a":{"url":1},"url":2}]]}}"#,
            r#"{"data":{"faces":[[{"a":{"url":null},"url":2}]]}}"#,
        ),
        (
            "harmless",
            r#"{"data":{"\ud800face_image":"x"}}"#,
            r#"{"data":{"\ud800face_image":null}}"#,
        ),
    ] {
        assert_eq!(
            redacted(&[pattern], frame).as_deref(),
            Some(expected),
            "{pattern}"
        );
    }
}

#[test]
fn frame_without_a_match_is_unchanged() {
    let frame = r#"{"id":1,"data":{"pid":null,"result":"new"}}"#;
    assert_eq!(redacted(&["pid", "space.name"], frame), None);
    assert_eq!(redacted(&[], frame), None);
    assert!(Redaction::default().is_empty());
}

#[test]
fn invalid_json_is_not_redacted() {
    let redaction = Redaction::new(&patterns(&["pid"]), None).unwrap();
    for frame in [r#"{"data":{"pid":"p"}"#, "secret", r#"{"data":{}} {"pid":1}"#] {
        let event = Event {
            frame,
            ..testing::event(r#"{"data":{}}"#)
        };
        let mut out = EventBuf::default();
        assert!(redaction.apply(&event, &mut out).is_err(), "{frame}");
    }
}

#[test]
fn value_around_the_body_is_replaced_except_the_body() {
    let paths = EventPaths {
        body: Path::new(["payload", "items", "0"]),
        id: vec![Path::new(["payload", "key"])],
        ..EventPaths::default()
    };
    let event = testing::event_at_paths(
        r#"{"payload":{"key":"k","secret":"s","items":[{"a":1,"name":"n"},{"b":2}]},"name":"m"}"#,
        &paths,
        &[],
    );
    let redact = |redact: &[&str]| {
        let mut out = EventBuf::default();
        let redaction = Redaction::new(&patterns(redact), None).unwrap();
        let after = redaction.apply(&event, &mut out).unwrap();
        (
            after.frame.to_owned(),
            after.body().to_owned(),
            after.id().unwrap().into_owned(),
        )
    };
    let expected = r#"{"payload":{"key":"k","secret":null,"items":[{"a":1,"name":"n"},null]},"name":"m"}"#;
    assert_eq!(
        redact(&["payload"]),
        (expected.into(), r#"{"a":1,"name":"n"}"#.into(), "k".into())
    );
    let expected =
        r#"{"payload":{"key":"k","secret":"s","items":[{"a":1,"name":null},{"b":2}]},"name":null}"#;
    assert_eq!(
        redact(&["name", "key"]),
        (expected.into(), r#"{"a":1,"name":null}"#.into(), "k".into())
    );
}

#[test]
fn pseudonyms_are_the_hmac_of_the_text() {
    let redaction = with_key(&["age"], &["pid", "age"], KEY);
    let frame =
        r#"{"data":{"pid":"p1","age":5,"a":{"pid":{"x":1}},"b":{"pid":null},"c":{"pid":"\u0070\u0031"}}}"#;
    // printf p1 | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
    let pseudonym = "3744dd8e688a4f3a212e73d03c765df5f24b0d001eec144f467c221c0d4dbac5";
    assert_eq!(
        apply(&redaction, frame).unwrap(),
        format!(
            r#"{{"data":{{"pid":"{pseudonym}","age":null,"a":{{"pid":null}},"b":{{"pid":null}},"c":{{"pid":"{pseudonym}"}}}}}}"#
        )
    );
    let other = apply(&with_key(&[], &["pid"], b"another key of enough bytes"), frame).unwrap();
    assert!(!other.contains(pseudonym));
    assert!(!format!("{redaction:?}").contains("0123456789abcdef"));
}

#[test]
fn invalid_key_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let error = || {
        let pseudonymise = Pseudonymise {
            fields: patterns(&["pid"]),
            key_file: path.clone(),
        };
        Redaction::new(&[], Some(&pseudonymise)).unwrap_err()
    };
    let missing = error();
    assert!(matches!(missing, KeyFileError::Unreadable { .. }));
    assert!(missing.to_string().contains(path.to_str().unwrap()));
    fs::write(&path, "\n").unwrap();
    assert!(matches!(error(), KeyFileError::TooShort { found: 0, .. }));
    fs::write(&path, "0123456789abcde \n").unwrap();
    assert_eq!(
        error().to_string(),
        format!(
            "found a pseudonymisation key of 15 bytes in {}, expected at least 16 (openssl rand -hex 32)",
            path.display()
        )
    );
}

#[test]
fn redaction_around_the_body_wins_over_a_pseudonym() {
    let paths = EventPaths {
        body: Path::new(["data", "0"]),
        id: vec![Path::new(["meta", "id"])],
        ..EventPaths::default()
    };
    let event = testing::event_at_paths(
        r#"{"meta":{"user":"x","id":1},"data":{"0":{"space":{"name":"n","id":2}}}}"#,
        &paths,
        &[],
    );
    let mut out = EventBuf::default();
    let redaction = with_key(&["meta", "space.name"], &["user"], KEY);
    assert_eq!(
        redaction.apply(&event, &mut out).unwrap().frame,
        r#"{"meta":{"user":null,"id":1},"data":{"0":{"space":{"name":null,"id":2}}}}"#
    );
}

/// Returns values that are long enough to be unique, so that a test can search for each of them in the text.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (1_000_000_000u64..).prop_map(Value::from),
        "<[a-z\"\\\\é\n]{8,12}>".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((any_key(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("pid".to_owned()),
        Just("face_image".to_owned()),
        Just("full_image".to_owned()),
        Just("space".to_owned()),
        Just("name".to_owned()),
        Just("data".to_owned()),
        "[a-c]{1,2}",
    ]
}

/// Returns the expected result for a value, computed on a parsed tree.
fn expected(value: &Value, path: &mut Vec<String>, redaction: &Redaction) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(key, value)| {
                    path.push(key.clone());
                    let exempt = path.len() == 1 && (key == "data" || key == "id");
                    let is_secret = key.ends_with("_image")
                        || path[..] == ["space", "name"]
                        || path[1..] == ["space", "name"];
                    let new = if exempt {
                        expected(value, path, redaction)
                    } else if is_secret {
                        Value::Null
                    } else if key == "pid" {
                        match value {
                            Value::Null | Value::Object(_) | Value::Array(_) => Value::Null,
                            scalar => {
                                let mut quoted = String::new();
                                redaction.push_pseudonym(&scalar.to_string(), &mut quoted);
                                serde_json::from_str(&quoted).unwrap()
                            }
                        }
                    } else {
                        expected(value, path, redaction)
                    };
                    path.pop();
                    (key.clone(), new)
                })
                .collect(),
        ),
        Value::Array(elements) => elements
            .iter()
            .map(|element| expected(element, path, redaction))
            .collect(),
        scalar => scalar.clone(),
    }
}

/// Strings and long numbers within a value, as written in JSON.
fn leaves(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.values().for_each(|value| leaves(value, into)),
        Value::Array(elements) => elements.iter().for_each(|value| leaves(value, into)),
        Value::String(_) | Value::Number(_) => into.push(value.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}

proptest! {
    #[test]
    fn only_matching_values_are_redacted(data in any_value(), more in any_value(), pretty in any::<bool>()) {
        let redaction = with_key(&["*_image", "space.name"], &["pid"], KEY);
        let frame = serde_json::json!({ "id": 1, "data": data, "more": more });
        let text = if pretty { serde_json::to_string_pretty(&frame) } else { serde_json::to_string(&frame) }.unwrap();
        let wanted = expected(&frame, &mut Vec::new(), &redaction);
        let out = apply(&redaction, &text);
        prop_assert_eq!(out.is_some(), wanted != frame);
        let out = out.unwrap_or(text);
        prop_assert_eq!(&serde_json::from_str::<Value>(&out).unwrap(), &wanted);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        leaves(&frame, &mut before);
        leaves(&wanted, &mut after);
        for gone in before.iter().filter(|leaf| !after.contains(leaf)) {
            prop_assert!(!out.contains(gone.as_str()), "{} in {}", gone, out);
        }
    }

    #[test]
    fn redaction_is_idempotent(data in any_value()) {
        let frame = serde_json::json!({ "data": data }).to_string();
        if let Some(once) = redacted(&["*_image", "space.name"], &frame) {
            prop_assert_eq!(redacted(&["*_image", "space.name"], &once), None);
        }
    }

    #[test]
    fn pseudonyms_are_equal_only_for_equal_values(one in any::<String>(), other in any::<String>()) {
        let redaction = with_key(&[], &["pid"], KEY);
        let pseudonym = |text: &str| apply(&redaction, &serde_json::json!({ "data": { "pid": text } }).to_string()).unwrap();
        prop_assert_eq!(pseudonym(&one), pseudonym(&one));
        prop_assert_eq!(pseudonym(&one) == pseudonym(&other), one == other);
    }
}
