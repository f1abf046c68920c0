//! Adds the values of `config/neurobridge.toml`, which explains every key, to the schema as examples for editors.

use serde_json::{Map, Value};

/// The file whose commented keys are the examples.
const ALL_KEYS: &str = include_str!("../../../../config/neurobridge.toml");
/// The largest nesting of references; a deeper one is circular.
const MAX_DEPTH: usize = 16;

/// Adds the value of the shipped file to each key of a schema, and a description to `type`, which has none of its own.
/// Secrets have no examples.
pub(super) fn add(schema: &mut Value) {
    // A line that begins with `#` and no space is a key with its default.
    let lines = ALL_KEYS.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest,
        _ => line,
    });
    // A test proves that the file is valid; a schema without examples is valid too.
    let Ok(values) = toml::from_str::<Map<String, Value>>(&lines.collect::<Vec<_>>().join("\n")) else {
        return;
    };
    add_to_table(schema, "", &values);
}

/// Adds the values to the table at `node`, a JSON pointer, and to the tables below it.
fn add_to_table(schema: &mut Value, node: &str, values: &Map<String, Value>) {
    let mut tables = Vec::new();
    alternatives(schema, node, values, MAX_DEPTH, &mut tables);
    for table in tables {
        for (key, value) in values {
            let named = format!("{table}/properties/{}", key.replace('~', "~0").replace('/', "~1"));
            let any = format!("{table}/additionalProperties");
            let is_named = schema.pointer(&named).is_some();
            match value {
                Value::Object(below) => add_to_table(schema, if is_named { &named } else { &any }, below),
                Value::String(text) if text == "…" => {}
                value if is_named => {
                    if let Some(Value::Object(property)) = schema.pointer_mut(&named) {
                        if key == "type" {
                            let words = "The type, which determines the other keys.";
                            property.entry("description").or_insert_with(|| words.into());
                        }
                        property
                            .entry("examples")
                            .or_insert_with(|| Value::Array(vec![value.clone()]));
                    }
                }
                _ => {}
            }
        }
    }
}

/// Collects the tables that a node refers to, through references and alternatives. Omits tables of another `type` than that of
/// `values`.
fn alternatives(
    schema: &Value,
    node: &str,
    values: &Map<String, Value>,
    depth: usize,
    found: &mut Vec<String>,
) {
    let (Some(object), Some(depth)) = (schema.pointer(node), depth.checked_sub(1)) else {
        return;
    };
    let target = object.get("$ref").and_then(Value::as_str);
    let target = target.map(|reference| reference.trim_start_matches('#').to_owned());
    let several = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|key| {
        let count = object.get(key).and_then(Value::as_array).map_or(0, Vec::len);
        (0..count).map(move |index| format!("{node}/{key}/{index}"))
    });
    for node in target.into_iter().chain(several) {
        alternatives(schema, &node, values, depth, found);
    }
    let kind = object.pointer("/properties/type/const");
    let is_of_kind = kind.is_none_or(|kind| values.get("type") == Some(kind));
    if is_of_kind && (object.get("properties").or(object.get("additionalProperties"))).is_some() {
        found.push(node.to_owned());
    }
}
