//! The environment as a part of the configuration: `NEUROBRIDGE__SINKS__KAFKA__TOPIC`.

use std::{collections::BTreeMap, ffi::OsString};

use figment::value::{Dict, Value};

use super::{
    document::KeyPath,
    report::{Origin, Problem, Report},
    shape::Shape,
};

/// What our variables begin with. Two underscores: for a service called `neurobridge` Kubernetes itself sets
/// `NEUROBRIDGE_PORT` and more of that kind in every container.
pub const PREFIX: &str = "NEUROBRIDGE__";

/// What stands between the keys of a path.
const SEPARATOR: &str = "__";
/// What a person writes who takes one underscore to be enough.
const SHORT_PREFIX: &str = "NEUROBRIDGE_";

/// Our variables.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// What each of them sets.
    pub(super) layers: Vec<Dict>,
    /// The variable that set each key.
    keys: BTreeMap<KeyPath, String>,
    /// For the tables around these keys, one of the variables.
    tables: BTreeMap<KeyPath, String>,
}

impl Environment {
    /// Takes our variables out of an environment, and adds to `report` those that can't be read.
    ///
    /// A text stays as it is wherever the configuration expects one: figment would make numbers, booleans and arrays
    /// of the tokens `007`, `true` and `[x]`.
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
                // Not read, it would leave the bridge with another value than its operator believes.
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
                report.push(refused("found bytes that are no UTF-8, expected text"));
                continue;
            };
            let place = shape.at(path.iter().map(String::as_str));
            environment.insert(&name, path, parse(text, &place));
        }
        environment
    }

    /// The variable that a key comes from, or one of those that a table comes from.
    pub(super) fn origin(&self, key: &[String]) -> Option<Origin> {
        let variable = self.keys.get(key).or_else(|| self.tables.get(key))?;
        Some(Origin::Variable(variable.clone()))
    }

    /// The keys that variables set.
    pub(super) fn keys(&self) -> impl Iterator<Item = &KeyPath> {
        self.keys.keys()
    }

    /// Whether a variable sets this very key.
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

    /// Keys within a value of its own are known by place as well: `{ path = "…" }`.
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

/// The key that words with underscores between them lead to, if there is one for a value that is no table.
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

/// Reads a value as the configuration expects it: arrays and tables in figment's notation, texts as they are.
fn parse(text: String, place: &Shape<'_>) -> Value {
    let start = text.trim_start();
    let is_text = place.allows("string")
        && !(start.starts_with('[') && place.allows("array"))
        && !(start.starts_with('{') && place.allows("object"));
    if is_text {
        return Value::from(text);
    }
    // What looks like no value at all is taken for text.
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
    fn texts_stay_as_they_are_and_all_else_is_parsed() {
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
    fn what_kubernetes_sets_is_not_ours() {
        let (environment, report) = read(&[
            ("NEUROBRIDGE_PORT", "tcp://10.0.0.1:9797"),
            ("NEUROBRIDGE_SERVICE_HOST", "10.0.0.1"),
            ("NEUROBRIDGE_PORT_9797_TCP_ADDR", "10.0.0.1"),
        ]);
        assert!(environment.layers.is_empty() && report.is_empty());
    }

    #[test]
    fn single_underscores_are_told_of_where_they_lead_to_a_key() {
        let schema = super::super::load::schema();
        let mut report = Report::default();
        let names = [
            "NEUROBRIDGE_SINKS_KAFKA_EU_BOOTSTRAP_SERVERS",
            "NEUROBRIDGE_SOURCES_MAIN_TOKEN",
            "NEUROBRIDGE_DATA_DIR",
            "neurobridge_http_listen",
            // Another service's, as Kubernetes sets it; a table; ours; no key at all.
            "NEUROBRIDGE_HTTP_SERVICE_HOST",
            "NEUROBRIDGE_SINKS_PORT_9797_TCP_PROTO",
            "NEUROBRIDGE_SINKS",
            "NEUROBRIDGE__HTTP__LISTEN",
            "NEUROBRIDGE_",
        ];
        let variables = names.map(|name| (name.into(), "127.0.0.1:1".into()));
        let environment = Environment::read(variables, &Shape::root(&schema), &mut report);
        let told = |problem: &Problem| problem.message.rsplit(' ').next().map(str::to_owned);
        let told: Vec<_> = report.problems().iter().filter_map(told).collect();
        assert_eq!(
            told,
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
    fn a_name_without_keys_is_refused() {
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
