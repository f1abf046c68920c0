//! A real Prometheus as a child process, and where it is on this machine.

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

/// The word for it in [`SKIP_VARIABLE`].
pub const SKIP_WORD: &str = "prometheus";

/// It reads its configuration, makes a database and binds a port.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The programs `prometheus` and `promtool`.
#[derive(Debug, Clone)]
pub struct PrometheusInstallation {
    /// The server.
    pub prometheus: PathBuf,
    /// What checks and tests rules.
    pub promtool: PathBuf,
}

impl PrometheusInstallation {
    /// Finds what `cargo xtask test` fetched, else what is installed.
    ///
    /// # Errors
    /// When there is neither; the error says which command gets it.
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
            "there is no Prometheus with its promtool here; `cargo xtask test` fetches it, \
             `sudo apt-get install prometheus` installs it"
        );
    }

    /// Returns the folder in which the distribution's package is unpacked.
    pub fn fetched_dir() -> PathBuf {
        target_dir().join("tools").join("prometheus")
    }

    /// Finds it for a test; nothing when the test is to be skipped.
    ///
    /// # Panics
    /// When there is none.
    pub fn for_test() -> Option<Self> {
        if skipped_by_name(SKIP_WORD) {
            return None;
        }
        let found = Self::find();
        Some(found.unwrap_or_else(|error| panic!("{error:#}; {SKIP_VARIABLE}={SKIP_WORD} skips the test")))
    }
}

/// A running Prometheus. Dropped, it is killed.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: String,
}

/// An alert that is pending or firing.
#[derive(Debug, Clone, Deserialize)]
pub struct Alert {
    /// Its labels, `alertname` among them.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Its texts, as they were rendered.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// `pending` or `firing`.
    pub state: String,
}

impl Alert {
    /// Whether it has this name, and is about this instance.
    pub fn is(&self, name: &str, instance: &str) -> bool {
        self.labels.get("alertname").is_some_and(|found| found == name)
            && self.labels.get("instance").is_some_and(|found| found == instance)
    }
}

impl Prometheus {
    /// Starts one with the configuration file `config`, its data in `dir`, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
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
        wait_for("Prometheus", START_TIMEOUT, || {
            if let Some(status) = prometheus.process.exit_status()? {
                bail!(
                    "Prometheus ended with {status}:\n{}",
                    prometheus.process.log_tail()
                );
            }
            Ok(http::get(&prometheus.address, "/-/ready").ok())
        })?;
        Ok(prometheus)
    }

    /// Asks an instant query; the values of the series that it gives, those that are no number left out.
    ///
    /// # Errors
    /// When the query is wrong, or gives no vector.
    pub fn query(&self, query: &str) -> Result<Vec<f64>> {
        let data = self.get(&format!("/api/v1/query?query={}", encode(query)))?;
        ensure!(
            data["resultType"] == "vector",
            "{query} gives no vector but {}",
            data["resultType"]
        );
        let series = data["result"].as_array().context("a vector without a list")?;
        let values = series
            .iter()
            .filter_map(|series| series["value"][1].as_str()?.parse::<f64>().ok());
        Ok(values.filter(|value| !value.is_nan()).collect())
    }

    /// The values of a label, of the series that `selector` selects.
    ///
    /// # Errors
    /// When the selector is wrong.
    pub fn label_values(&self, selector: &str, label: &str) -> Result<Vec<String>> {
        let data = self.get(&format!(
            "/api/v1/label/{label}/values?match[]={}",
            encode(selector)
        ))?;
        serde_json::from_value(data).context("label values that are no list of texts")
    }

    /// The alerts that are pending or firing.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn alerts(&self) -> Result<Vec<Alert>> {
        let mut data = self.get("/api/v1/alerts")?;
        serde_json::from_value(data["alerts"].take()).context("alerts of another form")
    }

    fn get(&self, path: &str) -> Result<Value> {
        let mut answer: Value = serde_json::from_str(&http::get_patiently(&self.address, path)?)?;
        ensure!(answer["status"] == "success", "{path} is answered with {answer}");
        Ok(answer["data"].take())
    }
}

/// Reads a file of the folder `config/prometheus`.
///
/// # Errors
/// When it can't be read.
pub fn shipped(name: &str) -> Result<String> {
    let path = crate::paths::workspace_root()
        .join("config/prometheus")
        .join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a text so that it can stand in a URL's query.
fn encode(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode("a{b=\"c|d\"} > 0"), "a%7Bb%3D%22c%7Cd%22%7D%20%3E%200");
    }
}
