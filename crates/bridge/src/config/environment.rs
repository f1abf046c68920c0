//! Configuration keys from environment variables such as `NEUROBRIDGE__SINKS__KAFKA__TOPIC`.

use std::{collections::BTreeMap, ffi::OsString};

use figment::value::{Dict, Value};

use super::{
    document::KeyPath,
    report::{Origin, Problem, Report},
    shape::Shape,
};

/// The prefix of the bridge's variables. It has two underscores because Kubernetes sets `NEUROBRIDGE_PORT` and similar
/// variables in every container for a service called `neurobridge`.
pub const PREFIX: &str = "NEUROBRIDGE__";

/// The separator between the keys of a path.
const SEPARATOR: &str = "__";
/// The prefix of variables that were written with single underscores by mistake.
const SHORT_PREFIX: &str = "NEUROBRIDGE_";

/// The bridge's environment variables.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// The value that each variable sets, as a nested table.
    pub(super) layers: Vec<Dict>,
    /// The variable that set each key.
    keys: BTreeMap<KeyPath, String>,
    /// One of the variables for each table around these keys.
    tables: BTreeMap<KeyPath, String>,
}

impl Environment {
    /// Reads the bridge's variables from an environment, and adds invalid ones to `report`.
    ///
    /// A value stays a string wherever the configuration expects one: figment would turn the tokens `007`, `true` and
    /// `[x]` into a number, a boolean and an array.
    pub(super) fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        shape: &Shape<'_>,
        report: &mut Report,
    ) -> Self {
        let mut environment = Self::default();
        // Sorted, so that the outcome does not depend on the order of the environment, and a table comes before its keys.
        let ours: BTreeMap<String, OsString> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| begins_with(name, SHORT_PREFIX))
            .collect();
        for (name, value) in ours {
            if !begins_with(&name, PREFIX) {
                let words = name[SHORT_PREFIX.len()..].to_ascii_lowercase();
                let words: Vec<&str> = words.split('_').collect();
                // If it were ignored, the bridge would run with another value than its operator believes.
                if let Some(key) = meant(shape, &words) {
                    let keys: Vec<String> = key.iter().map(|key| key.to_uppercase()).collect();
                    report.push(Problem {
                        origin: Origin::Variable(name),
                        key: String::new(),
                        message: format!(
                            "found single underscores in its name, expected two before each key: {PREFIX}{}",
                            keys.join(SEPARATOR)
                        ),
                        hint: None,
                        excerpt: None,
                    });
                }
                continue;
            }
            let path: KeyPath = name[PREFIX.len()..]
                .to_ascii_lowercase()
                .split(SEPARATOR)
                .map(str::to_owned)
                .collect();
            let refused = |message: &str| Problem {
                origin: Origin::Variable(name.clone()),
                key: path.join("."),
                message: message.to_owned(),
                hint: None,
                excerpt: None,
            };
            if path.iter().any(String::is_empty) {
                let message = "found an empty key in its name, expected keys with two underscores between them, as in \
                               NEUROBRIDGE__HTTP__LISTEN";
                report.push(Problem {
                    key: String::new(),
                    ..refused(message)
                });
                continue;
            }
            let Ok(text) = value.into_string() else {
                report.push(refused("found invalid UTF-8, expected text"));
                continue;
            };
            let place = shape.at(path.iter().map(String::as_str));
            environment.insert(&name, path, parse(text, &place));
        }
        environment
    }

    /// Returns the variable that sets a key, or one of those that set keys of a table.
    pub(super) fn origin(&self, key: &[String]) -> Option<Origin> {
        let variable = self.keys.get(key).or_else(|| self.tables.get(key))?;
        Some(Origin::Variable(variable.clone()))
    }

    /// Returns the keys that variables set.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyPath> {
        self.keys.keys()
    }

    /// Returns whether a variable sets this key itself.
    pub(super) fn sets(&self, key: &[String]) -> bool {
        self.keys.contains_key(key)
    }

    fn insert(&mut self, name: &str, path: KeyPath, value: Value) {
        for length in 1..path.len() {
            self.tables
                .entry(path[..length].to_vec())
                .or_insert_with(|| name.to_owned());
        }
        self.note(name, path.clone(), &value);
        let layer = path
            .into_iter()
            .rev()
            .fold(value, |value, key| Value::from(Dict::from([(key, value)])));
        self.layers.extend(layer.into_dict());
    }

    /// Records the origin of a key, and of the keys within an inline table such as `{ path = "…" }`.
    fn note(&mut self, name: &str, path: KeyPath, value: &Value) {
        if let Value::Dict(_, table) = value {
            for (key, value) in table {
                let mut path = path.clone();
                path.push(key.clone());
                self.note(name, path, value);
            }
        }
        self.keys.insert(path, name.to_owned());
    }
}

fn begins_with(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Returns the key path that the words between underscores spell, if it exists and its value is not a table.
fn meant(shape: &Shape<'_>, words: &[&str]) -> Option<KeyPath> {
    if words.is_empty() {
        let types = ["string", "integer", "number", "boolean", "array"];
        return types.iter().any(|of| shape.allows(of)).then(KeyPath::new);
    }
    (1..=words.len()).find_map(|length| {
        let (key, rest) = words.split_at(length);
        let key = key.join("_");
        if key.is_empty() || !shape.knows(&key) {
            return None;
        }
        let mut path = meant(&shape.child(&key), rest)?;
        path.insert(0, key);
        Some(path)
    })
}

/// Parses a value according to the schema: arrays and tables in figment's notation, strings unchanged.
fn parse(text: String, place: &Shape<'_>) -> Value {
    let start = text.trim_start();
    let is_text = place.allows("string")
        && !(start.starts_with('[') && place.allows("array"))
        && !(start.starts_with('{') && place.allows("object"));
    if is_text {
        return Value::from(text);
    }
    // Anything that does not parse as a value is a string.
    text.parse()
        .unwrap_or_else(|never: std::convert::Infallible| match never {})
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Environment, Report) {
        let schema = json!({ "type": "object", "properties": {
            "token": { "type": "string" },
            "max": { "type": "integer" },
            "names": { "type": "array", "items": { "type": "string" } },
            "proxy": { "type": ["string", "null"] },
        } });
        let mut report = Report::default();
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        let environment = Environment::read(variables, &Shape::root(&schema), &mut report);
        (environment, report)
    }

    fn values(variables: &[(&str, &str)]) -> serde_json::Value {
        serde_json::to_value(read(variables).0.layers).unwrap()
    }

    #[test]
    fn strings_are_not_parsed_and_other_values_are() {
        for token in ["007", "true", "[x]", "{x}", " a ", "\"q\"", "1.50", ""] {
            assert_eq!(
                values(&[("NEUROBRIDGE__TOKEN", token)]),
                json!([{ "token": token }])
            );
        }
        assert_eq!(values(&[("NEUROBRIDGE__MAX", "7")]), json!([{ "max": 7 }]));
        assert_eq!(
            values(&[("NEUROBRIDGE__NAMES", "[a, b]")]),
            json!([{ "names": ["a", "b"] }])
        );
        assert_eq!(
            values(&[("NEUROBRIDGE__PROXY", "none")]),
            json!([{ "proxy": "none" }])
        );
    }

    #[test]
    fn variables_of_kubernetes_are_ignored() {
        let (environment, report) = read(&[
            ("NEUROBRIDGE_PORT", "tcp://10.0.0.1:9797"),
            ("NEUROBRIDGE_SERVICE_HOST", "10.0.0.1"),
            ("NEUROBRIDGE_PORT_9797_TCP_ADDR", "10.0.0.1"),
        ]);
        assert!(environment.layers.is_empty() && report.is_empty());
    }

    #[test]
    fn single_underscores_are_reported_if_they_spell_a_key() {
        let schema = super::super::load::schema();
        let mut report = Report::default();
        let names = [
            "NEUROBRIDGE_SINKS_KAFKA_EU_BOOTSTRAP_SERVERS",
            "NEUROBRIDGE_SOURCES_MAIN_TOKEN",
            "NEUROBRIDGE_DATA_DIR",
            "neurobridge_http_listen",
            // A variable set by Kubernetes for another service; a table; a valid variable; no key at all.
            "NEUROBRIDGE_HTTP_SERVICE_HOST",
            "NEUROBRIDGE_SINKS_PORT_9797_TCP_PROTO",
            "NEUROBRIDGE_SINKS",
            "NEUROBRIDGE__HTTP__LISTEN",
            "NEUROBRIDGE_",
        ];
        let variables = names.map(|name| (name.into(), "127.0.0.1:1".into()));
        let environment = Environment::read(variables, &Shape::root(&schema), &mut report);
        let suggested = |problem: &Problem| problem.message.rsplit(' ').next().map(str::to_owned);
        let suggested: Vec<_> = report.problems().iter().filter_map(suggested).collect();
        assert_eq!(
            suggested,
            [
                "NEUROBRIDGE__DATA_DIR",
                "NEUROBRIDGE__SINKS__KAFKA_EU__BOOTSTRAP_SERVERS",
                "NEUROBRIDGE__SOURCES__MAIN__TOKEN",
                "NEUROBRIDGE__HTTP__LISTEN",
            ]
        );
        assert_eq!(environment.keys.len(), 1);
    }

    #[test]
    fn variable_with_an_empty_key_is_an_error() {
        for name in ["NEUROBRIDGE__", "NEUROBRIDGE____TOKEN", "NEUROBRIDGE__TOKEN__"] {
            let (environment, report) = read(&[(name, "x")]);
            assert!(environment.layers.is_empty());
            assert!(
                report
                    .to_string()
                    .contains(&format!("environment variable {name}")),
                "{report}"
            );
        }
    }
}
