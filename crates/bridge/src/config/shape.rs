//! Queries on the configuration's JSON Schema, in the form that `schemars` generates: the keys of a table, and
//! the valid values of a key.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The key whose value selects one of several tables.
const TAG: &str = "type";
/// The largest nesting of references and alternatives; a deeper one is circular.
const MAX_DEPTH: usize = 16;

/// The schema's alternatives for one position in the configuration.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    root: &'a Value,
    pub(super) alternatives: Vec<&'a Map<String, Value>>,
    /// The alternatives and the schemas that refer to them; a referring schema comes before its target. `keyword` returns the value
    /// of the first one that has the keyword.
    notes: Vec<&'a Map<String, Value>>,
}

impl<'a> Shape<'a> {
    /// Returns the shape of the whole configuration.
    pub(super) fn root(root: &'a Value) -> Self {
        Self::of(root, [root])
    }

    fn of(root: &'a Value, nodes: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut notes = Vec::new();
        for node in nodes {
            expand(root, node, MAX_DEPTH, &mut notes);
        }
        let defining_keywords = ["type", "properties", "const", "enum"];
        // The `null` alternatives are omitted, because TOML has no null.
        let is_alternative = |node: &&&Map<String, Value>| {
            defining_keywords.iter().any(|key| node.contains_key(*key))
                && node.get("type").is_none_or(|kind| kind != "null")
        };
        let alternatives = notes.iter().filter(is_alternative).copied().collect();
        Self {
            root,
            alternatives,
            notes,
        }
    }

    /// Returns the shape of a key of a table; empty when the schema has no such key.
    pub(super) fn child(&self, key: &str) -> Self {
        let below =
            |node: &&'a Map<String, Value>| property(node, key).or_else(|| node.get("additionalProperties"));
        Self::of(self.root, self.alternatives.iter().filter_map(below))
    }

    /// Returns the shape of an array's items.
    pub(super) fn items(&self) -> Self {
        Self::of(
            self.root,
            self.alternatives.iter().filter_map(|node| node.get("items")),
        )
    }

    /// Returns the shape at a path of keys.
    pub(super) fn at(&self, path: &[impl AsRef<str>]) -> Self {
        path.iter().map(AsRef::as_ref).fold(self.clone(), |shape, key| {
            let is_item = key.parse::<usize>().is_ok() && shape.allows("array");
            if is_item { shape.items() } else { shape.child(key) }
        })
    }

    /// Narrows the shape to the tables whose `type` is `value`; without a value, to those in which `type` is optional. Alternatives
    /// without a `type` remain.
    pub(super) fn of_type(&self, value: Option<&str>) -> Self {
        let fits = |node: &&&Map<String, Value>| match (tag(node), value) {
            (Some(tag), Some(value)) => tag == value,
            (Some(_), None) => !requires(node, TAG),
            (None, _) => true,
        };
        let alternatives = self.alternatives.iter().filter(fits).copied().collect();
        Self {
            alternatives,
            ..self.clone()
        }
    }

    /// Returns the values of `type` for which a table has this key.
    pub(super) fn types_with(&self, key: &str) -> Vec<&'a str> {
        let having = self
            .alternatives
            .iter()
            .filter(|node| property(node, key).is_some());
        having.filter_map(|node| tag(node)).collect()
    }

    /// Returns whether no value is valid at this position.
    pub(super) fn is_empty(&self) -> bool {
        self.alternatives.is_empty()
    }

    /// Returns whether any table of the configuration has a key of this name.
    pub(super) fn mentions(&self, key: &str) -> bool {
        fn is_in(schema: &Value, key: &str) -> bool {
            match schema {
                Value::Object(node) => {
                    property(node, key).is_some() || node.values().any(|below| is_in(below, key))
                }
                Value::Array(items) => items.iter().any(|item| is_in(item, key)),
                _ => false,
            }
        }
        is_in(self.root, key)
    }

    /// Returns the named keys, sorted.
    pub(super) fn keys(&self) -> Vec<&'a str> {
        let properties = self
            .alternatives
            .iter()
            .filter_map(|node| node.get("properties")?.as_object());
        let keys: BTreeSet<&str> = properties.flat_map(Map::keys).map(String::as_str).collect();
        keys.into_iter().collect()
    }

    /// Returns whether every alternative requires this key; false without alternatives.
    pub(super) fn requires(&self, key: &str) -> bool {
        !self.is_empty() && self.alternatives.iter().all(|node| requires(node, key))
    }

    /// Returns whether a value of this JSON type is valid at this position.
    pub(super) fn allows(&self, json_type: &str) -> bool {
        self.alternatives.iter().any(|node| match node.get("type") {
            Some(Value::String(only)) => only == json_type,
            Some(Value::Array(types)) => types.iter().any(|one| one == json_type),
            _ => false,
        })
    }

    /// Returns whether a text, a number or a boolean is valid at this position.
    pub(super) fn allows_scalar(&self) -> bool {
        ["string", "integer", "number", "boolean"]
            .iter()
            .any(|kind| self.allows(kind))
    }

    /// Returns the valid words if the schema allows only fixed words (`const`, `enum`), otherwise an empty list.
    pub(super) fn words(&self) -> Vec<&'a str> {
        let words = |node: &&'a Map<String, Value>| match (node.get("const"), node.get("enum")) {
            (Some(word), _) => word.as_str().map(|word| vec![word]),
            (None, Some(Value::Array(words))) => Some(words.iter().filter_map(Value::as_str).collect()),
            _ => None,
        };
        let words: Option<Vec<_>> = self.alternatives.iter().map(words).collect();
        words.unwrap_or_default().concat()
    }

    /// Returns the value of a keyword.
    pub(super) fn keyword(&self, name: &str) -> Option<&'a Value> {
        self.notes.iter().find_map(|node| node.get(name))
    }

    /// Returns the first example.
    pub(super) fn example(&self) -> Option<&'a Value> {
        self.keyword("examples")?.get(0)
    }

    /// Returns a valid value in place of a missing or invalid one, so that the other errors of its table are found.
    pub(super) fn stand_in(&self) -> Option<Value> {
        if let Some(word) = self.words().first() {
            return Some((*word).into());
        }
        let default = self
            .keyword("default")
            .filter(|default| !default.is_null() && !default.is_object());
        default
            .or_else(|| self.example())
            .cloned()
            .or_else(|| self.is_secret().then(|| "…".into()))
    }

    /// Returns the first sentence of the description.
    pub(super) fn description(&self) -> Option<&'a str> {
        let text = self.keyword("description")?.as_str()?;
        Some(
            text.split_once(". ")
                .map_or(text, |(first, _)| first)
                .trim_end_matches('.'),
        )
    }

    /// Returns whether the value is an address or an array of addresses.
    pub(super) fn is_address(&self) -> bool {
        self.has_format(neurobridge_core::address::SCHEMA_FORMAT)
    }

    /// Returns whether the value is a secret.
    pub(super) fn is_secret(&self) -> bool {
        self.has_format(neurobridge_core::secret::SCHEMA_FORMAT)
    }

    fn has_format(&self, name: &str) -> bool {
        self.notes
            .iter()
            .any(|node| node.get("format").is_some_and(|format| format == name))
    }
}

fn property<'a>(node: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    node.get("properties")?.get(key)
}

fn tag(node: &Map<String, Value>) -> Option<&str> {
    property(node, TAG)?.get("const")?.as_str()
}

fn requires(node: &Map<String, Value>, key: &str) -> bool {
    let required = node.get("required").and_then(Value::as_array);
    required.is_some_and(|keys| keys.iter().any(|required| required == key))
}

/// Collects a schema and those that it refers to.
fn expand<'a>(root: &'a Value, node: &'a Value, depth: usize, found: &mut Vec<&'a Map<String, Value>>) {
    let (Some(object), Some(depth)) = (node.as_object(), depth.checked_sub(1)) else {
        return;
    };
    let target = object.get("$ref").and_then(Value::as_str);
    let target = target.and_then(|reference| root.pointer(reference.strip_prefix('#')?));
    let several = ["oneOf", "anyOf", "allOf"]
        .iter()
        .filter_map(|key| object.get(*key)?.as_array());
    found.push(object);
    for node in target.into_iter().chain(several.flatten()) {
        expand(root, node, depth, found);
    }
}
