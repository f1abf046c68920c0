//! A real Prometheus as a child process, and the search for its programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::http;
use crate::paths::{Scratch, target_dir};
use crate::poll::wait_for;
use crate::ports::free_ports;
use crate::process::Process;
use crate::shared::{SKIP_VARIABLE, skipped_by_name};

/// The word for Prometheus in [`SKIP_VARIABLE`].
pub const SKIP_WORD: &str = "prometheus";

/// The time limit for a start, which includes reading the configuration, creating a database and binding a port.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The paths of the programs `prometheus` and `promtool`.
#[derive(Debug, Clone)]
pub struct PrometheusInstallation {
    /// The path of the server.
    pub prometheus: PathBuf,
    /// The path of the program that checks and tests rules.
    pub promtool: PathBuf,
}

impl PrometheusInstallation {
    /// Finds the programs that `cargo xtask test` downloaded, otherwise installed ones.
    ///
    /// # Errors
    /// Returns an error if the programs are missing; the error contains the commands that download or install them.
    pub fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [Self::fetched_dir().join("usr/bin")]
            .into_iter()
            .chain(env::split_paths(&path));
        for folder in folders {
            let found = Self {
                prometheus: folder.join("prometheus"),
                promtool: folder.join("promtool"),
            };
            if found.prometheus.is_file() && found.promtool.is_file() {
                return Ok(found);
            }
        }
        bail!(
            "prometheus and promtool are missing; `cargo xtask test` downloads them, or run \
             `sudo apt-get install prometheus`"
        );
    }

    /// Returns the folder in which the distribution's package is unpacked.
    pub fn fetched_dir() -> PathBuf {
        target_dir().join("tools").join("prometheus")
    }

    /// Finds the programs for a test; returns `None` if the test is to be skipped.
    ///
    /// # Panics
    /// Panics if the programs are missing.
    pub fn for_test() -> Option<Self> {
        if skipped_by_name(SKIP_WORD) {
            return None;
        }
        let found = Self::find();
        Some(found.unwrap_or_else(|error| panic!("{error:#}; {SKIP_VARIABLE}={SKIP_WORD} skips the test")))
    }
}

/// A running Prometheus, which is killed when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: String,
}

/// A pending or firing alert.
#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    /// The labels, including `alertname`.
    pub labels: std::collections::BTreeMap<String, String>,
    /// The rendered annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// The state: `pending` or `firing`.
    pub state: String,
}

impl Alert {
    /// Returns whether the alert has this name and this instance.
    pub fn is(&self, name: &str, instance: &str) -> bool {
        self.labels.get("alertname").is_some_and(|found| found == name)
            && self.labels.get("instance").is_some_and(|found| found == instance)
    }
}

impl Prometheus {
    /// Starts Prometheus with the configuration file `config` and its data in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// Returns an error if Prometheus exits or is not ready within a minute.
    pub fn start(installation: &PrometheusInstallation, config: &Path, dir: &Scratch) -> Result<Self> {
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(&installation.prometheus);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Process::spawn("prometheus", &mut command, &dir.join("prometheus.log"))?;
        let mut prometheus = Self { process, address };
        wait_for("Prometheus to be ready", START_TIMEOUT, || {
            if let Some(status) = prometheus.process.exit_status()? {
                bail!(
                    "Prometheus exited with {status}:\n{}",
                    prometheus.process.log_tail()
                );
            }
            Ok(http::get(&prometheus.address, "/-/ready").ok())
        })?;
        Ok(prometheus)
    }

    /// Executes an instant query and returns the values of the resulting series, without the NaN values.
    ///
    /// # Errors
    /// Returns an error if the query is invalid or its result is not a vector.
    pub fn query(&self, query: &str) -> Result<Vec<f64>> {
        let data = self.get(&format!("/api/v1/query?query={}", encode(query)))?;
        ensure!(
            data["resultType"] == "vector",
            "the result of {query} is {}, not a vector",
            data["resultType"]
        );
        let series = data["result"].as_array().context("the vector has no list")?;
        let values = series
            .iter()
            .filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
        Ok(values.filter(|value| !value.is_nan()).collect())
    }

    /// Returns the values of a label in the series that `selector` selects.
    ///
    /// # Errors
    /// Returns an error if the selector is invalid.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let data = self.get(&format!(
            "/api/v1/label/{label}/values?match[]={}",
            encode(selector)
        ))?;
        serde_json::from_value(data).context("the label values are not a list of strings")
    }

    /// Returns the pending and firing alerts.
    ///
    /// # Errors
    /// Returns an error if Prometheus does not answer.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        let mut data = self.get("/api/v1/alerts")?;
        serde_json::from_value(data["alerts"].take()).context("the alerts have an unexpected form")
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut answer: Value = serde_json::from_str(&http::get_patiently(&self.address, path)?)?;
        ensure!(answer["status"] == "success", "{path} responded with {answer}");
        Ok(answer["data"].take())
    }
}

/// Reads a file from the folder `config/prometheus`.
///
/// # Errors
/// Returns an error if the file cannot be read.
pub fn shipped(name: &str) -> Result<String> {
    let path = crate::paths::workspace_root()
        .join("config/prometheus")
        .join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Encodes a text for the query of a URL.
fn encode(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("a{b=\"c|d\"} > 0"), "a%7Bb%3D%22c%7Cd%22%7D%20%3E%200");
    }
}
