//! The alert rules, the dashboard and the documents must agree with each other and with the metrics of a bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use neurobridge_tests::bridge::Bridge;
use neurobridge_tests::metrics::{Family, matchers, parse};
use neurobridge_tests::paths::Scratch;
use neurobridge_tests::prometheus::PrometheusInstallation;
use neurobridge_tests::reference;

use super::support::{Dashboard, read, rules, selectors, shipped};

/// The configuration of a member of a cluster whose source and lease are unreachable.
const SOURCE: &str = "[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n[spool]\ntype = \"disk\"\n\
    [cluster]\nname = \"main\"\nlease = { type = \"nats\", servers = [\"nats://127.0.0.1:1\"], bucket = \"leases\" }\n";

#[test]
fn promtool_accepts_rules_and_passes_their_tests() {
    let Some(installation) = PrometheusInstallation::for_test() else {
        return;
    };
    for arguments in [
        ["check", "rules", "config/prometheus/rules.yml"],
        ["check", "config", "config/prometheus/prometheus.yml"],
        ["test", "rules", "config/prometheus/rules_test.yml"],
    ] {
        let output = Command::new(&installation.promtool)
            .args(arguments)
            .current_dir(shipped(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let tests = read("config/prometheus/rules_test.yml");
    for rule in rules() {
        assert!(
            tests.contains(&format!("alertname=\"{}\", alertstate=\"firing\"", rule.alert)),
            "no unit test covers the alert {}",
            rule.alert
        );
    }
}

#[test]
fn alerts_have_a_runbook_and_a_panel() {
    let document = read("docs/operations.md");
    let titles: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### Neurobridge"))
        .collect();
    let rules = rules();
    let alerts: BTreeSet<&str> = rules
        .iter()
        .map(|rule| rule.alert.strip_prefix("Neurobridge").unwrap())
        .collect();
    assert_eq!(titles, alerts);
    let panels: BTreeMap<String, String> = Dashboard::read()
        .panels()
        .map(|panel| {
            (
                panel["id"].to_string(),
                panel["description"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    let dir = Scratch::new("runbooks").unwrap();
    let bridge = Bridge::start(&dir, SOURCE).unwrap();
    let served = bridge.get("/runbooks").unwrap();
    for rule in &rules {
        let runbook = format!("docs/operations.md#{}", rule.alert.to_lowercase());
        assert_eq!(rule.annotations["runbook"], runbook);
        let anchor = rule.alert.to_lowercase();
        let url = format!("http://{{{{ $labels.instance }}}}/runbooks#{anchor}");
        assert_eq!(rule.annotations["runbook_url"], url);
        assert!(
            served.contains(&format!("<h3 id=\"{anchor}\">{}</h3>", rule.alert)),
            "{anchor}"
        );
        let (_, link) = rule.annotations["dashboard"].split_once("viewPanel=").unwrap();
        let id = link.split('&').next().unwrap();
        assert!(
            panels.get(id).is_some_and(|panel| panel.contains(&runbook)),
            "{} links to panel {id}, whose description does not contain {runbook}",
            rule.alert
        );
    }
}

/// Returns the metrics of a bridge by name.
fn exported() -> BTreeMap<String, Family> {
    let dir = Scratch::new("exported").unwrap();
    let bridge = Bridge::start(&dir, SOURCE).unwrap();
    let families = parse(&bridge.get("/metrics").unwrap()).unwrap();
    families
        .into_iter()
        .map(|family| (family.name.clone(), family))
        .collect()
}

#[test]
fn metrics_and_labels_in_queries_are_exported() {
    let exported = exported();
    let mut queries: Vec<(String, String)> =
        rules().into_iter().map(|rule| (rule.alert, rule.expr)).collect();
    queries.extend(Dashboard::read().queries());
    let mut named = 0;
    for (place, query) in queries {
        for (metric, labels) in selectors(&query) {
            if metric == "up" {
                continue;
            }
            let family = exported
                .get(&metric)
                .or_else(|| exported.get(metric.strip_suffix("_bucket")?));
            let family = family.unwrap_or_else(|| panic!("{place}: {metric} is not exported"));
            named += 1;
            for (label, values) in matchers(&labels) {
                // Prometheus adds these labels.
                if ["instance", "job"].contains(&&*label) {
                    continue;
                }
                let known = family.labels.get(&label);
                let known = known.unwrap_or_else(|| panic!("{place}: {metric} has no label {label}"));
                for value in values.split('|').filter(|value| !value.starts_with('$')) {
                    assert!(
                        known.contains(value),
                        "{place}: {label} of {metric} is never {value}"
                    );
                }
            }
        }
    }
    assert!(named > 40, "{named}");
}

#[test]
fn metrics_reference_matches_the_bridge() {
    let made = reference::make().unwrap();
    assert!(
        made == read("docs/metrics.md"),
        "docs/metrics.md is outdated; run `cargo xtask docs`"
    );
}

/// The table abbreviates some metric names with `…`. Only complete names are checked.
#[test]
fn documented_metrics_to_start_with_are_exported() {
    let exported = exported();
    let operations = read("docs/operations.md");
    let (_, section) = operations.split_once("\n## Metrics to start with\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let names = section.split('`').filter(|word| word.starts_with("neurobridge_"));
    let mut count = 0;
    for name in names {
        let name = name.split('{').next().unwrap();
        assert!(
            exported.contains_key(name),
            "the table names {name}, which is not exported"
        );
        count += 1;
    }
    assert!(count > 5, "{count}");
}
