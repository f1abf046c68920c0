//! The metrics reference, `docs/metrics.md`, generated from the metrics of a running bridge.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;

use crate::bridge::Bridge;
use crate::metrics::{Family, parse};
use crate::paths::{Scratch, workspace_root};

const HEAD: &str = "\
<!-- Made by `cargo xtask docs` from what a running bridge exports; a test compares. -->
# Metrics
This page lists all metrics of `/metrics`. Every series exists from the start of the bridge, with the value 0 before its first event, so
that a rate covers the first event. Labels have few values, which never contain a person or an event.

[operations.md](operations.md) describes the alerts based on these metrics, and what to do when one fires.
";

/// The parts of the reference: a title, and the prefixes of the metrics' names.
const PARTS: [(&str, &[&str]); 5] = [
    (
        "Sources, by the label `source`",
        &["neurobridge_source_", "neurobridge_event_"],
    ),
    ("The spool", &["neurobridge_spool_"]),
    ("Sinks, by the label `sink`", &["neurobridge_sink_"]),
    (
        "A member of a cluster, by the label `cluster`",
        &["neurobridge_cluster_"],
    ),
    ("The program and its process", &[""]),
];

/// Labels whose values depend on the configuration or on the version.
const OPEN_LABELS: [&str; 7] = ["source", "sink", "version", "le", "part", "hash", "cluster"];

/// Returns the path of the reference.
pub fn path() -> PathBuf {
    workspace_root().join("docs/metrics.md")
}

/// Starts a bridge without external servers and generates the reference from its metrics.
///
/// # Errors
/// Returns an error if the bridge does not start, or if its metrics cannot be read.
pub fn make() -> Result<String> {
    let dir = Scratch::new("reference")?;
    // No server has to answer at this address: all series exist before the first connection.
    let bridge = Bridge::start(
        &dir,
        "[sources.main]\nurl = \"ws://127.0.0.1:1/\"\ntoken = \"t\"\n\
         [spool]\ntype = \"disk\"\n\
         [cluster]\nname = \"main\"\n\
         lease = { type = \"nats\", servers = [\"nats://127.0.0.1:1\"], bucket = \"leases\" }\n",
    )?;
    let mut families = parse(&bridge.get("/metrics")?)?;
    let mut text = HEAD.to_owned();
    for (title, prefixes) in PARTS {
        let (part, rest): (Vec<_>, Vec<_>) = families
            .into_iter()
            .partition(|family| prefixes.iter().any(|prefix| family.name.starts_with(prefix)));
        families = rest;
        write_part(&mut text, title, &part);
    }
    Ok(text)
}

fn write_part(text: &mut String, title: &str, families: &[Family]) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "\n## {title}\n| metric | type | description |\n|---|---|---|"
    );
    for Family {
        name,
        kind,
        help,
        labels,
    } in families
    {
        let mut description = help.clone();
        for (label, values) in labels {
            if !OPEN_LABELS.contains(&&**label) {
                let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
                let _ = write!(description, " `{label}`: {}.", values.join(", "));
            }
        }
        let _ = writeln!(text, "| `{name}` | {kind} | {description} |");
    }
}
