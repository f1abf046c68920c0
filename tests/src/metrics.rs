//! What a bridge exports, read from the text of its `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

/// A metric, with all its series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    /// Its name; those of a histogram's series have `_bucket`, `_sum` and `_count` after it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it tells.
    pub help: String,
    /// Its labels, each with the values that were seen.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

/// Reads Prometheus' text format, as far as a bridge uses it, in the order of the text.
///
/// # Errors
/// When a line is not of that format, or of no metric that was announced.
pub fn parse(text: &str) -> Result<Vec<Family>> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').context("a HELP line without a text")?;
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
            .with_context(|| format!("before the first HELP line: {line}"))?;
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a TYPE line without a type")?;
            if name != family.name {
                bail!("a TYPE line of {name} after the HELP line of {}", family.name);
            }
            kind.clone_into(&mut family.kind);
            continue;
        }
        let (series, _) = line
            .rsplit_once(' ')
            .with_context(|| format!("no value: {line}"))?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        if base(name, &family.kind) != family.name {
            bail!("{name} is among the series of {}", family.name);
        }
        for (label, value) in matchers(labels) {
            family.labels.entry(label).or_default().insert(value);
        }
    }
    Ok(families)
}

/// The name of a metric by that of one of its series.
fn base<'a>(series: &'a str, kind: &str) -> &'a str {
    let suffixes = ["_bucket", "_sum", "_count"].into_iter();
    let mut bases = suffixes.filter_map(|suffix| series.strip_suffix(suffix));
    if kind == "histogram" {
        bases.next().unwrap_or(series)
    } else {
        series
    }
}

/// Reads `a="1",b="2"}`, or a selector of a query: `a=~"1|2", b!="3"}`. Values have no quotation marks in them.
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
    fn reads_names_labels_and_values() {
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
    fn a_series_of_another_metric_is_an_error() {
        assert!(parse("# HELP a A.\n# TYPE a gauge\nb 1\n").is_err());
        assert!(parse("a 1\n").is_err());
    }

    #[test]
    fn reads_selectors() {
        let found = matchers("instance=~\"$instance\", outcome!=\"a|b\"}[5m]) > 0");
        let found: Vec<_> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(found, [("instance", "$instance"), ("outcome", "a|b")]);
    }
}
