//! Reads the gaps that the bridge reports, with `neurobridge gaps ls`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use neurobridge_tests::program::neurobridge;
use serde::Deserialize;

/// The interval at which the gaps are read. The history of the bridge merges the oldest gaps when it has more than a thousand.
/// A merged gap includes the time between the original gaps, and would explain missing events of that time.
const INTERVAL: Duration = Duration::from_secs(30);

/// A gap as `neurobridge gaps ls --json` prints it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(in super::super) struct Gap {
    pub(super) id: u64,
    pub(super) source: String,
    pub(super) began: Timestamp,
    pub(super) ended: Option<Timestamp>,
    pub(super) reason: String,
    pub(super) outcome: String,
}

impl Gap {
    /// Returns whether the gap has a final outcome.
    pub(super) fn is_final(&self) -> bool {
        self.ended.is_some() && self.outcome != "filling"
    }
}

/// The gaps of a run, each in the state in which its outcome became final.
#[derive(Debug)]
pub(in super::super) struct GapLog {
    config: PathBuf,
    gaps: BTreeMap<u64, Gap>,
    read: Instant,
}

impl GapLog {
    /// Reads the gaps of the bridge with this configuration file.
    pub(super) fn new(config: PathBuf) -> Self {
        Self {
            config,
            gaps: BTreeMap::new(),
            read: Instant::now(),
        }
    }

    /// Reads the gaps if [`INTERVAL`] has passed since the last reading.
    pub(in super::super) fn observe(&mut self) -> Result<()> {
        if self.read.elapsed() >= INTERVAL {
            self.read()?;
        }
        Ok(())
    }

    /// Reads the gaps, and returns whether all of them have a final outcome.
    pub(in super::super) fn read(&mut self) -> Result<bool> {
        self.read = Instant::now();
        let gaps = self.reported()?;
        let are_final = gaps.iter().all(Gap::is_final);
        for gap in gaps {
            let known = self.gaps.entry(gap.id).or_insert_with(|| gap.clone());
            if !known.is_final() {
                *known = gap;
            }
        }
        Ok(are_final)
    }

    /// Returns the gaps, the oldest first.
    pub(super) fn gaps(&self) -> Vec<Gap> {
        self.gaps.values().cloned().collect()
    }

    fn reported(&self) -> Result<Vec<Gap>> {
        let mut command = Command::new(neurobridge());
        command
            .args(["gaps", "ls", "--json", "--config"])
            .arg(&self.config);
        let output = command.output().context("running neurobridge gaps ls")?;
        ensure!(
            output.status.success(),
            "neurobridge gaps ls exited with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = String::from_utf8(output.stdout)?;
        lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("invalid gap: {line}")))
            .collect()
    }
}

/// Returns the number of gaps by reason and outcome.
pub(super) fn summary(gaps: &[Gap]) -> String {
    let mut kinds: Vec<String> = gaps
        .iter()
        .map(|gap| format!("{} {}", gap.reason, gap.outcome))
        .collect();
    kinds.sort_unstable();
    let counted: Vec<String> = kinds
        .chunk_by(|one, other| one == other)
        .map(|alike| format!("{} {}", alike.len(), alike[0]))
        .collect();
    format!("{} gaps: {}", gaps.len(), counted.join(", "))
}
