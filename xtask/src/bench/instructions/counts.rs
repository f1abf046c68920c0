//! The stored counts of instructions, and the comparison of new counts with the stored ones.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The measured feeds: NeuroIO with its own reader and as a declared feed, and a declared feed with four events in a frame.
pub(super) const CASES: [&str; 3] = ["neuroio", "declared", "okx"];
/// The steps of the work for an event, in order.
pub(super) const STEPS: [&str; 3] = ["read", "store", "publish"];

/// The growth in percent that is accepted with the compiler and the processor of the stored counts.
const LIMIT: u64 = 5;
/// The growth in percent that is accepted with another compiler, valgrind or processor, which change the counts. A small growth
/// has no meaning then, but a large growth still shows an error.
const LOOSE_LIMIT: u64 = 25;

/// The instructions for each event, by step.
pub(super) type Steps = BTreeMap<String, u64>;

/// The counts, and the environment on which they depend in addition to the code.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    pub(super) tools: Tools,
    pub(super) cases: BTreeMap<String, Steps>,
}

/// The environment of a measurement: compiler, valgrind and processor.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tools {
    /// The output of `rustc --version`.
    pub(super) rustc: String,
    /// The output of `valgrind --version`.
    pub(super) valgrind: String,
    /// The architecture and the features that valgrind offers.
    pub(super) processor: String,
}

/// The result of a comparison.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) lines: Vec<String>,
    pub(super) is_accepted: bool,
}

impl Counts {
    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("invalid counts")
    }

    /// Returns the file's text.
    pub(super) fn to_text(&self) -> String {
        let Tools {
            rustc,
            valgrind,
            processor,
        } = &self.tools;
        let mut text = format!(
            "# Instructions for each event. `cargo xtask bench --instructions --accept` writes this file.\n\n[tools]\n\
             rustc = {rustc:?}\nvalgrind = {valgrind:?}\nprocessor = {processor:?}\n"
        );
        for (case, steps) in &self.cases {
            text.push_str(&format!("\n[cases.{case}]\n"));
            for step in STEPS {
                if let Some(count) = steps.get(step) {
                    text.push_str(&format!("{step} = {count}\n"));
                }
            }
        }
        text
    }

    fn get(&self, case: &str, step: &str) -> Option<u64> {
        self.cases.get(case)?.get(step).copied()
    }
}

/// Compares new counts with the stored ones: no step of a case may grow by more than the limit.
pub(super) fn compare(stored: &Counts, found: &Counts) -> Verdict {
    let mut lines = vec![format!(
        "{:10} {:10} {:>9} {:>9} {:>9}",
        "case", "step", "stored", "now", "change"
    )];
    let differences = differences(&stored.tools, &found.tools);
    let limit = if differences.is_empty() {
        LIMIT
    } else {
        LOOSE_LIMIT
    };
    let (mut refused, mut has_shrunk) = (Vec::new(), false);
    for case in CASES {
        for step in STEPS {
            let now = found.get(case, step).unwrap_or_default();
            let Some(before) = stored.get(case, step) else {
                lines.push(format!("{case:10} {step:10} {:>9} {now:>9}", "none"));
                refused.push(format!(
                    "{case}, {step}: no stored count, found {now} instructions for each event"
                ));
                continue;
            };
            let change = (now as f64 / before.max(1) as f64 - 1.0) * 100.0;
            lines.push(format!(
                "{case:10} {step:10} {before:>9} {now:>9} {change:>+8.1}%"
            ));
            if now * 100 > before * (100 + limit) {
                refused.push(format!(
                    "{case}, {step}: {now} instructions for each event, {change:.1} % more than the stored {before}; expected at most {limit} % more"
                ));
            }
            has_shrunk |= now * (100 + LIMIT) < before * 100;
        }
    }
    let is_accepted = refused.is_empty();
    if !differences.is_empty() {
        lines.push(format!(
            "compiler, valgrind or processor differ from those of the stored counts, so growth up to {LOOSE_LIMIT} % is \
             accepted: {}",
            differences.join("; ")
        ));
    }
    lines.append(&mut refused);
    if !is_accepted {
        lines.push("if the growth is intended, run `cargo xtask bench --instructions --accept` and commit xtask/instructions.toml".to_owned());
    } else if has_shrunk && differences.is_empty() {
        lines.push(
            "fewer instructions than stored; run `cargo xtask bench --instructions --accept` to store the new counts".to_owned(),
        );
    }
    Verdict { lines, is_accepted }
}

fn differences(stored: &Tools, found: &Tools) -> Vec<String> {
    [
        (&stored.rustc, &found.rustc),
        (&stored.valgrind, &found.valgrind),
        (&stored.processor, &found.processor),
    ]
    .into_iter()
    .filter(|(stored, found)| stored != found)
    .map(|(stored, found)| format!("stored with {stored}, found {found}"))
    .collect()
}

/// Returns the number of all instructions in a file of callgrind.
pub(super) fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rustc: &str, count: u64) -> Counts {
        let steps: Steps = STEPS.map(|step| (step.to_owned(), count)).into();
        Counts {
            tools: Tools {
                rustc: rustc.to_owned(),
                ..Tools::default()
            },
            cases: CASES.map(|case| (case.to_owned(), steps.clone())).into(),
        }
    }

    fn with(rustc: &str, case: &str, step: &str, count: u64) -> Counts {
        let mut counts = counts(rustc, 1000);
        counts.cases.get_mut(case).unwrap().insert(step.to_owned(), count);
        counts
    }

    #[test]
    fn growth_of_one_step_above_the_limit_is_refused() {
        let stored = counts("1", 1000);
        for (count, is_accepted) in [(1000, true), (1050, true), (1051, false), (100, true)] {
            let verdict = compare(&stored, &with("1", "okx", "store", count));
            assert_eq!(verdict.is_accepted, is_accepted, "{count}");
        }
        let text = compare(&stored, &with("1", "okx", "store", 1100))
            .lines
            .join("\n");
        assert!(
            text.contains("okx, store: 1100 instructions for each event, 10.0 % more than the stored 1000"),
            "{text}"
        );
        assert!(text.contains("--accept"), "{text}");
    }

    #[test]
    fn other_compiler_has_a_wider_limit() {
        let stored = counts("1", 1000);
        for (count, is_accepted) in [(1250, true), (1251, false)] {
            let verdict = compare(&stored, &with("2", "neuroio", "read", count));
            assert_eq!(verdict.is_accepted, is_accepted, "{count}");
            let text = verdict.lines.join("\n");
            assert!(text.contains("stored with 1, found 2"), "{text}");
        }
    }

    #[test]
    fn missing_count_is_refused() {
        let mut stored = counts("1", 1000);
        stored.cases.remove("okx");
        assert!(!compare(&stored, &counts("1", 1000)).is_accepted);
    }

    #[test]
    fn stored_text_is_read_back() {
        let counts = counts("rustc 1.95.0 (\"x\")", 7);
        assert_eq!(Counts::parse(&counts.to_text()).unwrap(), counts);
        assert_eq!(total("summary: 4\ntotals: 12\n"), Some(12));
        assert_eq!(total("summary: 4\n"), None);
    }
}
