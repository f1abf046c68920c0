//! Tests of the validation against a JSON Schema.

use serde_json::{Value, json};

use crate::config::{shape::Shape, validate::*};

fn schema() -> Value {
    json!({ "type": "object", "additionalProperties": false, "required": ["name"], "properties": {
        "flag": { "type": "boolean" },
        "name": { "type": "string", "description": "The name. It is long.", "examples": ["n"] },
        "number": { "type": "integer", "minimum": 0, "maximum": 255 },
        "words": { "type": "array", "items": { "type": "string" } },
        "choice": { "oneOf": [{ "type": "string", "const": "near" }, { "type": "string", "const": "far" }] },
        "token": { "type": ["string", "integer"], "format": "password" },
        "servers": { "type": "array", "items": { "type": "string" }, "format": "address" },
        "inner": { "anyOf": [{ "$ref": "#/$defs/Inner" }, { "type": "null" }] },
    }, "$defs": { "Inner": { "type": "object", "additionalProperties": false, "properties": {} } } })
}

/// Validates a value. Returns the errors, one per line, and the value without its invalid parts.
fn checked(mut value: Value) -> (String, Value) {
    let schema = schema();
    let mut errors = Vec::new();
    validate(&mut value, &mut Vec::new(), &Shape::root(&schema), &mut errors);
    let lines: Vec<_> = errors
        .iter()
        .map(|error| format!("{}: {}", error.key.join("."), error.message))
        .collect();
    (lines.join("\n"), value)
}

#[test]
fn all_errors_are_found_and_invalid_values_replaced() {
    let (errors, left) = checked(json!({
        "flag": "yes", "number": -1, "words": ["a", 7], "choice": "fra", "token": ["hunter2"], "inner": "hunter2",
        "servers": "nats://bob:hunter2@h", "other": 1,
    }));
    insta::assert_snapshot!(errors, @r#"
    choice: found "fra", expected "near" or "far"
    flag: found "yes", expected true or false
    inner: found a text, expected a table
    number: found -1, expected a whole number from 0 to 255
    other: unknown key, expected one of "choice", "flag", "inner", "name", "number", "servers", "token", "words"
    servers: found a text, expected an array
    token: found a value of another type (not shown, because it may be the secret), expected a text
    words.1: found 7, expected a text
    name: missing key: The name
    "#);
    assert_eq!(left, json!({ "choice": "near", "name": "n", "token": "…" }));
}

#[test]
fn valid_values_are_left_as_they_are() {
    let value = json!({ "flag": true, "number": 255, "words": [], "choice": "far", "token": 7, "inner": {}, "name": "" });
    assert_eq!(checked(value.clone()), (String::new(), value));
}

#[test]
fn whole_number_key_rejects_fraction_date_and_too_large_value() {
    for (value, found) in [
        (json!(1.0), "1.0"),
        (Value::Null, "a date or a time"),
        (json!(256), "256"),
    ] {
        let (errors, _) = checked(json!({ "name": "n", "number": value }));
        assert_eq!(
            errors,
            format!("number: found {found}, expected a whole number from 0 to 255")
        );
    }
}
