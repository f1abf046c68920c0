//! Fuzzes redaction and pseudonymisation.

use std::{io::Write, sync::LazyLock};

use neurobridge_core::{
    event_buf::EventBuf,
    neuroio::Frames,
    redact::{Pattern, Pseudonymise, Redaction},
};
use serde_json::Value;

use crate::event;

static KEY_FILE: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
    let mut file = tempfile::NamedTempFile::new().expect("the folder for temporary files can be written to");
    file.write_all(b"0123456789abcdef")
        .expect("there is room for 16 bytes");
    file
});

/// Checks that the selected values are removed or replaced by pseudonyms, and that all others are unchanged. The first
/// line of the input is a list of patterns, separated by commas: a pattern after a `!` selects values for pseudonyms, the
/// others select values to remove. The other lines are a frame.
pub fn redaction(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Some((first, frame)) = text.split_once('\n') else {
        return;
    };
    let mut frames = Frames::default();
    let Some(positions) = frames.event(frame) else {
        return;
    };
    let event = event(positions, frame);
    let (mut redact, mut fields): (Vec<Pattern>, Vec<Pattern>) = (Vec::new(), Vec::new());
    for pattern in first.split(',').take(16) {
        match pattern.strip_prefix('!') {
            Some(pattern) => fields.extend(pattern.parse::<Pattern>()),
            None => redact.extend(pattern.parse::<Pattern>()),
        }
    }
    let pseudonymise = Pseudonymise {
        fields: fields.clone(),
        key_file: KEY_FILE.path().to_owned(),
    };
    let redaction = Redaction::new(&redact, Some(&pseudonymise)).expect("the key is long enough");
    let mut out = EventBuf::default();
    let redacted = redaction.apply(&event, &mut out).expect("the frame is JSON");
    let after = redacted.frame;
    assert!(after == frame || !redaction.is_empty());
    assert_eq!(
        Some(redacted.positions),
        Frames::default().event(after),
        "the shifted positions differ from those of a new scan: {after}"
    );
    if let Ok(value) = serde_json::from_str::<Value>(after) {
        check_redacted(&value, &redact, &fields, 0);
    }
    if let (Ok(before), Ok(after), true) = (
        serde_json::from_str::<Value>(frame),
        serde_json::from_str::<Value>(after),
        redact.iter().chain(&fields).all(|pattern| !pattern.is_path()),
    ) {
        check_unchanged(&before, &after, &redact, &fields, 0);
    }
    let redaction = Redaction::new(&redact, None).expect("no key is needed");
    let mut again = EventBuf::default();
    let twice = redaction.apply(&redacted, &mut again).expect("the frame is JSON");
    assert_eq!(twice.frame, after, "a second redaction has changed the frame");
}

/// Returns whether a pattern without a dot matches a key, determined by an independent matcher.
fn is_selected(patterns: &[Pattern], key: &str) -> bool {
    patterns
        .iter()
        .filter(|pattern| !pattern.is_path())
        .any(|pattern| matches(pattern.to_string().as_bytes(), key.as_bytes()))
}

fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut at, mut in_key, mut star) = (0, 0, None);
    while in_key < key.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, in_key));
            at += 1;
        } else if pattern.get(at) == Some(&key[in_key]) {
            at += 1;
            in_key += 1;
        } else if let Some((star_at, from)) = star {
            star = Some((star_at, from + 1));
            at = star_at + 1;
            in_key = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

fn is_exempt(depth: usize, key: &str) -> bool {
    depth == 0 && (key == "id" || key == "data")
}

fn check_redacted(value: &Value, redact: &[Pattern], fields: &[Pattern], depth: usize) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                if is_exempt(depth, key) {
                } else if is_selected(redact, key) {
                    assert!(value.is_null(), "{key}: {value}");
                } else if is_selected(fields, key) {
                    let is_pseudonym = value.as_str().is_some_and(|text| {
                        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
                    });
                    assert!(value.is_null() || is_pseudonym, "{key}: {value}");
                }
                check_redacted(value, redact, fields, depth + 1);
            }
        }
        Value::Array(elements) => elements
            .iter()
            .for_each(|element| check_redacted(element, redact, fields, depth.max(1))),
        _ => {}
    }
}

fn check_unchanged(before: &Value, after: &Value, redact: &[Pattern], fields: &[Pattern], depth: usize) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            for (key, value) in before {
                if is_exempt(depth, key) || !(is_selected(redact, key) || is_selected(fields, key)) {
                    check_unchanged(value, &after[key], redact, fields, depth + 1);
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            for (before, after) in before.iter().zip(after) {
                check_unchanged(before, after, redact, fields, depth.max(1));
            }
        }
        _ => assert_eq!(before, after),
    }
}
