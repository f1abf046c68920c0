//! Queries on the configuration's JSON Schema: the keys of a table and the types of a value. Supports the subset of JSON
//! Schema that `schemars` generates for the types in use.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::excerpt;

/// The largest nesting of alternatives; a deeper one is a circular reference.
const MAX_DEPTH: usize = 16;

/// The schema's alternatives for one position in the configuration.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    root: &'a Value,
    alternatives: Vec<&'a Map<String, Value>>,
}

impl<'a> Shape<'a> {
    /// Returns the shape of the whole configuration.
    pub(super) fn root(root: &'a Value) -> Self {
        Self::of(root, [root])
    }

    fn of(root: &'a Value, nodes: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut alternatives = Vec::new();
        for node in nodes {
            expand(root, node, MAX_DEPTH, &mut alternatives);
        }
        Self { root, alternatives }
    }

    /// Returns the shape of a key of a table; empty when the schema has no such key.
    pub(super) fn child(&self, key: &str) -> Self {
        let nodes = self
            .alternatives
            .iter()
            .filter_map(|node| property(node, key).or_else(|| node.get("additionalProperties")));
        Self::of(self.root, nodes)
    }

    /// Returns the shape of an array's items.
    pub(super) fn items(&self) -> Self {
        Self::of(
            self.root,
            self.alternatives.iter().filter_map(|node| node.get("items")),
        )
    }

    /// Returns the shape at a path of keys.
    pub(super) fn at<'k>(&self, path: impl IntoIterator<Item = &'k str>) -> Self {
        path.into_iter().fold(self.clone(), |shape, key| {
            if key.parse::<usize>().is_ok() && shape.allows("array") {
                shape.items()
            } else {
                shape.child(key)
            }
        })
    }

    /// Removes the alternatives that are not tables, and those that a string of this table excludes (`type = "kafka"`): their
    /// keys must not be suggested here.
    pub(super) fn narrow(&self, table: &Map<String, Value>) -> Self {
        let fits = |node: &Map<String, Value>| {
            may_be(node, "object")
                && properties(node).is_none_or(|properties| {
                    properties.iter().all(|(key, schema)| {
                        schema
                            .get("const")
                            .is_none_or(|wanted| table.get(key) == Some(wanted))
                    })
                })
        };
        Self {
            root: self.root,
            alternatives: self
                .alternatives
                .iter()
                .copied()
                .filter(|node| fits(node))
                .collect(),
        }
    }

    /// Returns whether no value is valid here.
    pub(super) fn is_empty(&self) -> bool {
        self.alternatives.is_empty()
    }

    /// Returns whether a table may have this key.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.alternatives.iter().any(|node| {
            property(node, key).is_some()
                || node
                    .get("additionalProperties")
                    .is_some_and(|more| *more != Value::Bool(false))
        })
    }

    /// Returns key and value of the lines (`type = "disk"`) that select an alternative with this key.
    pub(super) fn tags_of(&self, key: &str) -> Vec<(&'a str, &'a Value)> {
        self.alternatives
            .iter()
            .filter(|node| property(node, key).is_some())
            .filter_map(|node| {
                properties(node)?
                    .iter()
                    .find_map(|(tag, schema)| Some((tag.as_str(), schema.get("const")?)))
            })
            .collect()
    }

    /// Returns whether any table of the configuration has a key of this name.
    pub(super) fn mentions(&self, key: &str) -> bool {
        let mut names = BTreeSet::new();
        excerpt::names(self.root, &mut names);
        names.contains(key)
    }

    /// Returns the named keys, sorted.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        let mut keys: Vec<&str> = self
            .alternatives
            .iter()
            .filter_map(|node| properties(node))
            .flat_map(|properties| properties.keys().map(String::as_str))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Returns the keys that every alternative requires.
    pub(super) fn required(&self) -> Vec<&'a str> {
        let needs = |node: &'a Map<String, Value>| node.get("required").and_then(Value::as_array);
        let Some((first, others)) = self.alternatives.split_first() else {
            return Vec::new();
        };
        needs(first)
            .into_iter()
            .flatten()
            .filter(|key| {
                others
                    .iter()
                    .all(|node| needs(node).is_some_and(|keys| keys.contains(key)))
            })
            .filter_map(Value::as_str)
            .collect()
    }

    /// Returns whether a value of this JSON type is valid here.
    pub(super) fn allows(&self, json_type: &str) -> bool {
        self.alternatives.iter().any(|node| may_be(node, json_type))
    }

    /// Returns a placeholder for a missing or invalid value, where one can be generated, so that the other errors of a table
    /// are found.
    pub(super) fn stand_in(&self) -> Option<Value> {
        self.alternatives.iter().find_map(|node| {
            let choice = node
                .get("const")
                .or_else(|| node.get("enum")?.as_array()?.first());
            choice.cloned().or_else(|| {
                if may_be(node, "string") {
                    Some(Value::String(String::new()))
                } else {
                    may_be(node, "array").then(|| Value::Array(Vec::new()))
                }
            })
        })
    }

    /// Returns the first sentence of the description.
    pub(super) fn description(&self) -> Option<&'a str> {
        let text = self
            .alternatives
            .iter()
            .find_map(|node| node.get("description")?.as_str())?;
        let end = text.find(". ").map_or(text.len(), |stop| stop + 1);
        text.get(..end)
    }

    /// Returns whether a table has this key as a named property, not as one of any name.
    #[cfg(all(test, feature = "kafka", feature = "nats"))]
    pub(super) fn names(&self, key: &str) -> bool {
        self.alternatives.iter().any(|node| property(node, key).is_some())
    }

    /// Returns whether a key of this table has a description: its own, or that of its type.
    #[cfg(all(test, feature = "kafka", feature = "nats"))]
    pub(super) fn describes(&self, key: &str) -> bool {
        self.alternatives
            .iter()
            .filter_map(|node| property(node, key))
            .any(|own| own.get("description").is_some())
            || self.child(key).description().is_some()
    }

    /// Returns whether a key of this table has an example.
    #[cfg(all(test, feature = "kafka", feature = "nats"))]
    pub(super) fn has_example(&self, key: &str) -> bool {
        self.alternatives
            .iter()
            .filter_map(|node| property(node, key))
            .any(|own| own.get("examples").is_some())
    }

    /// Returns the default of a key of this table.
    #[cfg(all(test, feature = "kafka", feature = "nats"))]
    pub(super) fn default(&self, key: &str) -> Option<&'a Value> {
        self.alternatives
            .iter()
            .find_map(|node| property(node, key)?.get("default"))
    }

    /// Returns whether the value is an address or an array of addresses.
    pub(super) fn is_address(&self) -> bool {
        self.has_format(neurobridge_core::address::SCHEMA_FORMAT)
    }

    fn has_format(&self, name: &str) -> bool {
        let has_it = |node: &&Map<String, Value>| node.get("format").is_some_and(|format| format == name);
        self.alternatives.iter().any(has_it)
    }

    /// Returns whether the value is a secret.
    pub(super) fn is_secret(&self) -> bool {
        self.has_format(neurobridge_core::secret::SCHEMA_FORMAT)
            || self.alternatives.iter().any(|node| {
                node.get("writeOnly")
                    .is_some_and(|hidden| *hidden == Value::Bool(true))
            })
    }
}

fn may_be(node: &Map<String, Value>, json_type: &str) -> bool {
    match node.get("type") {
        Some(Value::String(only)) => only == json_type,
        Some(Value::Array(types)) => types.iter().any(|one| one == json_type),
        // Enumerations of strings, and tables with alternatives, may have no type.
        _ if node.contains_key("const") || node.contains_key("enum") => json_type == "string",
        _ => json_type == "object",
    }
}

fn properties(node: &Map<String, Value>) -> Option<&Map<String, Value>> {
    node.get("properties")?.as_object()
}

fn property<'a>(node: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    properties(node)?.get(key)
}

/// Resolves references and alternatives to schemas with constraints of their own.
fn expand<'a>(root: &'a Value, node: &'a Value, depth: usize, found: &mut Vec<&'a Map<String, Value>>) {
    let (Some(object), Some(depth)) = (node.as_object(), depth.checked_sub(1)) else {
        return;
    };
    if let Some(target) = object
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.strip_prefix('#')?))
    {
        expand(root, target, depth, found);
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        for alternative in object
            .get(several)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            expand(root, alternative, depth, found);
        }
    }
    let constraints = ["type", "properties", "additionalProperties", "const", "enum"];
    if constraints.iter().any(|key| object.contains_key(*key)) {
        found.push(object);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
    fn keys_are_known_through_references_and_alternatives() {
        let schema = schema();
        let root = Shape::root(&schema);
        assert_eq!(root.keys(), ["name", "sinks", "token"]);
        assert!(!root.knows("nmae"));
        let sink = root.at(["sinks", "any_name"]);
        assert_eq!(sink.keys(), ["path", "servers", "type"]);
        assert_eq!(sink.required(), ["type"]);
        assert!(sink.at(["servers", "0"]).allows("string"));
        assert!(root.child("sinks").knows("any_name"));
    }

    #[test]
    fn table_of_one_type_has_only_the_keys_of_that_type() {
        let schema = schema();
        let sink = Shape::root(&schema).at(["sinks", "x"]);
        let file = sink.narrow(json!({ "type": "file" }).as_object().unwrap());
        assert_eq!(
            (file.keys(), file.required()),
            (vec!["path", "type"], vec!["type", "path"])
        );
        assert_eq!(sink.tags_of("servers"), [("type", &json!("kafka"))]);
        assert!(
            sink.narrow(json!({ "type": "nats" }).as_object().unwrap())
                .is_empty()
        );
    }

    #[test]
    fn optional_table_knows_its_required_keys() {
        let schema = json!({ "properties": { "sasl": { "anyOf": [
            { "type": "object", "required": ["user"], "properties": { "user": { "type": "string" } } },
            { "type": "null" },
        ] } } });
        let sasl = Shape::root(&schema).child("sasl");
        assert!(sasl.required().is_empty());
        assert_eq!(sasl.narrow(&Map::new()).required(), ["user"]);
    }

    #[test]
    fn strings_choices_and_arrays_have_placeholders() {
        let schema = json!({ "properties": {
            "text": { "type": ["string", "null"] },
            "choice": { "oneOf": [{ "type": "string", "const": "a" }, { "type": "string", "const": "b" }] },
            "words": { "type": "array" },
            "number": { "type": "integer" },
        } });
        let stand_in = |key| Shape::root(&schema).child(key).stand_in();
        assert_eq!(stand_in("text"), Some(json!("")));
        assert_eq!(stand_in("choice"), Some(json!("a")));
        assert_eq!(stand_in("words"), Some(json!([])));
        assert_eq!(stand_in("number"), None);
    }

    #[test]
    fn types_and_secrets_are_recognised() {
        let schema = schema();
        let root = Shape::root(&schema);
        assert!(root.child("name").allows("string") && !root.child("name").allows("integer"));
        assert!(root.child("token").is_secret() && !root.child("name").is_secret());
    }
}
