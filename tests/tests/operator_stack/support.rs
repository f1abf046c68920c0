//! Helpers that read the shipped files: the rules, the dashboard and the configuration of Prometheus.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use neurobridge_tests::paths::{Scratch, workspace_root};
use neurobridge_tests::program::neurobridge;
use neurobridge_tests::prometheus;
use serde::Deserialize;
use serde_json::Value;

/// Returns the path of a file in the repository.
pub(crate) fn shipped(path: &str) -> PathBuf {
    workspace_root().join(path)
}

pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(shipped(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the version of the workspace, which is also the image's tag.
pub(crate) fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Runs `neurobridge check` with this file.
pub(crate) fn check(file: &str, variables: &[(&str, &str)]) -> Output {
    Command::new(neurobridge())
        .args(["check", "-c", file])
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

/// An alert rule.
#[derive(Debug, Deserialize)]
pub(crate) struct Rule {
    pub(crate) alert: String,
    pub(crate) expr: String,
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

pub(crate) fn rules() -> Vec<Rule> {
    let groups = yaml("config/prometheus/rules.yml")["groups"].take();
    let rules = groups
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    rules
        .map(|rule| serde_json::from_value(rule.clone()).unwrap())
        .collect()
}

/// The Grafana dashboard.
pub(crate) struct Dashboard(Value);

impl Dashboard {
    pub(crate) fn read() -> Self {
        Self(serde_json::from_str(&read("config/grafana/dashboards/neurobridge.json")).unwrap())
    }

    /// Returns all panels except rows.
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Value> {
        let panels = self.0["panels"].as_array().unwrap();
        panels.iter().filter(|panel| panel["type"] != "row")
    }

    /// Returns the queries of panels and annotations with their positions.
    pub(crate) fn queries(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let panels = self.panels().flat_map(|panel| {
            let targets = panel["targets"].as_array().unwrap();
            targets
                .iter()
                .map(move |target| (text(&panel["title"]), text(&target["expr"])))
        });
        let annotations = self.0["annotations"]["list"].as_array().unwrap();
        let annotations = annotations
            .iter()
            .filter(|annotation| annotation["builtIn"] != 1)
            .map(|annotation| (text(&annotation["name"]), text(&annotation["expr"])));
        panels.chain(annotations).collect()
    }

    /// Returns the variables that are read from Prometheus: the name, and the selector and label of
    /// `label_values(selector, label)`.
    pub(crate) fn variables(&self) -> Vec<(String, String, String)> {
        let list = self.0["templating"]["list"].as_array().unwrap();
        let queried = list.iter().filter(|variable| variable["type"] == "query");
        queried
            .map(|variable| {
                let query = variable["query"]["query"].as_str().unwrap();
                let inner = query
                    .strip_prefix("label_values(")
                    .and_then(|rest| rest.strip_suffix(')'));
                let (selector, label) = inner.unwrap().rsplit_once(", ").unwrap();
                let name = variable["name"].as_str().unwrap();
                (name.to_owned(), selector.to_owned(), label.to_owned())
            })
            .collect()
    }
}

/// Returns every selector of a query: the metric's name and the text in braces after it.
pub(crate) fn selectors(query: &str) -> Vec<(String, String)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_name) {
        let length = rest[start..].find(|c| !is_name(c)).unwrap_or(rest.len() - start);
        let name = &rest[start..start + length];
        rest = &rest[start + length..];
        if !["neurobridge_", "process_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            && name != "up"
        {
            continue;
        }
        let mut labels = "";
        if let Some(inner) = rest.strip_prefix('{') {
            let end = inner.find('}').unwrap();
            (labels, rest) = (&inner[..end], &inner[end..]);
        }
        found.push((name.to_owned(), labels.to_owned()));
    }
    found
}

/// Writes the shipped configuration and rules of Prometheus with these bridges as targets, and with thresholds of
/// seconds instead of minutes and hours.
pub(crate) fn write_config(dir: &Scratch, bridges: &[String]) {
    let replaced = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        text.replace(from, to)
    };
    let config = prometheus::shipped("prometheus.yml").unwrap();
    let config = replaced(config, "interval: 5s", "interval: 1s");
    let targets = format!("[\"{}\"]", bridges.join("\", \""));
    let config = replaced(config, "[\"bridge:9797\"]", &targets);
    fs::write(dir.join("prometheus.yml"), config).unwrap();
    let rules = prometheus::shipped("rules.yml").unwrap();
    let rules = replaced(rules, "> 3600\n", "> 3\n");
    let rules = replaced(rules, "> 300\n", "> 3\n");
    let rules = replaced(rules, "> 2\n", "> 0\n");
    let rules = replaced(rules, "> 60\n", "> 3\n");
    fs::write(dir.join("rules.yml"), rules).unwrap();
}
