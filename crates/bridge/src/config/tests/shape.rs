//! Tests of queries on a JSON Schema.

use serde_json::{Value, json};

use crate::config::shape::*;

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": ["string", "null"] },
            "sinks": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Sink" } },
            "token": { "type": "string", "format": "password" },
        },
        "additionalProperties": false,
        "$defs": { "Sink": { "oneOf": [
            { "type": "object", "required": ["type", "path"], "additionalProperties": false,
              "properties": { "type": { "const": "file" }, "path": { "type": "string" } } },
            { "type": "object", "required": ["type"], "additionalProperties": false,
              "properties": { "type": { "const": "kafka" }, "servers": { "type": "array", "items": { "type": "string" } } } },
        ] } },
    })
}

#[test]
fn keys_are_found_through_references_and_alternatives() {
    let schema = schema();
    let root = Shape::root(&schema);
    assert_eq!(root.keys(), ["name", "sinks", "token"]);
    assert!(root.child("nmae").is_empty());
    let sink = root.at(&["sinks", "any_name"]);
    assert_eq!(sink.keys(), ["path", "servers", "type"]);
    assert!(sink.requires("type") && !sink.requires("path"));
    assert!(sink.at(&["servers", "0"]).allows("string"));
}

#[test]
fn table_of_one_type_has_only_the_keys_of_that_type() {
    let schema = schema();
    let sink = Shape::root(&schema).at(&["sinks", "x"]);
    let file = sink.of_type(Some("file"));
    assert_eq!(file.keys(), ["path", "type"]);
    assert!(file.requires("path"));
    assert_eq!(sink.types_with("servers"), ["kafka"]);
    assert_eq!(sink.child("type").words(), ["file", "kafka"]);
    assert!(sink.of_type(Some("nats")).is_empty() && sink.of_type(None).is_empty());
}

#[test]
fn optional_table_knows_its_required_keys() {
    let schema = json!({ "properties": { "sasl": { "anyOf": [
        { "type": "object", "required": ["user"], "properties": { "user": { "type": "string" } } },
        { "type": "null" },
    ] } } });
    assert!(Shape::root(&schema).child("sasl").requires("user"));
}

#[test]
fn stand_in_of_a_key_is_its_word_default_or_example() {
    let schema = json!({ "properties": {
        "choice": { "oneOf": [{ "type": "string", "const": "a" }, { "type": "string", "const": "b" }] },
        "words": { "type": "array", "default": [], "examples": [["x"]] },
        "text": { "type": ["string", "null"], "default": null, "examples": ["x"] },
        "token": { "type": "string", "format": "password" },
        "number": { "type": "integer" },
    } });
    let stand_in = |key| Shape::root(&schema).child(key).stand_in();
    assert_eq!(stand_in("choice"), Some(json!("a")));
    assert_eq!(stand_in("words"), Some(json!([])));
    assert_eq!(stand_in("text"), Some(json!("x")));
    assert_eq!(stand_in("token"), Some(json!("…")));
    assert_eq!(stand_in("number"), None);
}

#[test]
fn types_and_secrets_are_read_from_the_schema() {
    let schema = schema();
    let root = Shape::root(&schema);
    assert!(root.child("name").allows("string") && !root.child("name").allows("integer"));
    assert!(root.child("token").is_secret() && !root.child("name").is_secret());
}
