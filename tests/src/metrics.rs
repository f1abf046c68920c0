//! The metrics of a bridge, parsed from the text of its `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// A metric with all its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// The metric's name; the series of a histogram append `_bucket`, `_sum` and `_count`.
    pub name: String,
    /// The metric's type: `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// The help text.
    pub help: String,
    /// The labels with the values that occur.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Parses the part of Prometheus' text format that a bridge uses, in the order of the text.
///
/// # Errors
/// Returns an error if a line is invalid, or if its metric was not declared before.
pub fn parse(text: &str) -> Result<Vec<Family>> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').context("a HELP line has no text")?;
            families.push(Family {
                name: name.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: BTreeMap::new(),
            });
            continue;
        }
        let family = families
            .last_mut()
            .with_context(|| format!("a line before the first HELP line: {line}"))?;
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a TYPE line has no type")?;
            if name != family.name {
                bail!("a TYPE line of {name} after the HELP line of {}", family.name);
            }
            kind.clone_into(&mut family.kind);
            continue;
        }
        let (series, _) = line
            .rsplit_once(' ')
            .with_context(|| format!("a line without a value: {line}"))?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if base(name, &family.kind) != family.name {
            bail!(
                "the series {name} follows the HELP line of another metric, {}",
                family.name
            );
        }
        for (label, value) in matchers(labels) {
            family.labels.entry(label).or_default().insert(value);
        }
    }
    Ok(families)
}

/// Returns the name of the metric to which a series belongs.
fn base<'a>(series: &'a str, kind: &str) -> &'a str {
    let suffixes = ["_bucket", "_sum", "_count"].into_iter();
    let mut bases = suffixes.filter_map(|suffix| series.strip_suffix(suffix));
    if kind == "histogram" {
        bases.next().unwrap_or(series)
    } else {
        series
    }
}

/// Parses `a="1",b="2"}`, or a selector of a query: `a=~"1|2", b!="3"}`. Values contain no quotation marks.
pub fn matchers(text: &str) -> Vec<(String, String)> {
    let mut pieces = text.split('"');
    let mut found = Vec::new();
    while let (Some(label), Some(value)) = (pieces.next(), pieces.next()) {
        let label = label.trim_matches([',', ' ', '=', '~', '!', '{', '}']);
        found.push((label.to_owned(), value.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_parsed() {
        let text = "# HELP a A thing.\n# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"4\",y=\"2\"} 0\n\
                    # HELP b Time.\n# TYPE b histogram\nb_bucket{le=\"1\"} 0\nb_sum 0\nb_count 0\n";
        let families = parse(text).unwrap();
        let values = |family: &Family, label: &str| family.labels[label].iter().cloned().collect::<Vec<_>>();
        assert_eq!(families.len(), 2);
        assert_eq!(values(&families[0], "x"), ["1", "4"]);
        assert_eq!((&*families[1].name, &*families[1].kind), ("b", "histogram"));
        assert_eq!(values(&families[1], "le"), ["1"]);
    }

    #[test]
    fn series_of_undeclared_metric_is_an_error() {
        assert!(parse("# HELP a A.\n# TYPE a gauge\nb 1\n").is_err());
        assert!(parse("a 1\n").is_err());
    }

    #[test]
    fn selectors_are_parsed() {
        let found = matchers("instance=~\"$instance\", outcome!=\"a|b\"}[5m]) > 0");
        let found: Vec<_> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, [("instance", "$instance"), ("outcome", "a|b")]);
    }
}
