//! The bridge as a process: the real program, real signals, its `/status`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::http;
use crate::paths::Scratch;
use crate::poll::{wait_for, wait_with_progress};
use crate::ports::free_ports;
use crate::process::Process;
use crate::program::neurobridge;
use crate::status::Status;

/// The program has to bind a port and to open files.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    process: Process,
    address: String,
    dir: PathBuf,
}

impl Bridge {
    /// Starts a bridge with this configuration (without `data_dir` and `[http]`, which are filled in, and a long
    /// `drain_timeout` where it has none), and waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer within a minute.
    pub fn start(dir: &Scratch, config: &str) -> Result<Self> {
        Self::start_with(dir, config, &[])
    }

    /// Like [`Bridge::start`], with its standard error somewhere else than in a file.
    ///
    /// # Errors
    /// The same.
    pub fn start_with_stderr(dir: &Scratch, config: &str, stderr: Stdio) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            Process::spawn_logging_to("bridge", command, stderr, log)
        })
    }

    /// Like [`Bridge::start`], with these variables in its environment.
    ///
    /// # Errors
    /// The same.
    pub fn start_with(dir: &Scratch, config: &str, variables: &[(&str, &str)]) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            command.envs(variables.iter().copied());
            Process::spawn("bridge", command, log)
        })
    }

    /// Like [`Bridge::start`], with these signals ignored from the start, as by `nohup`: names for a shell's `trap`.
    ///
    /// # Errors
    /// The same.
    pub fn start_ignoring(dir: &Scratch, config: &str, signals: &str) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            let mut shell = Command::new("sh");
            let script = format!("trap '' {signals}; exec \"$@\"");
            shell.args(["-c", &script, "sh"]);
            shell.arg(command.get_program()).args(command.get_args());
            shell.env_remove("RUST_LOG");
            Process::spawn("bridge", &mut shell, log)
        })
    }

    fn launch(
        dir: &Scratch,
        config: &str,
        spawn: impl FnOnce(&mut Command, &Path) -> Result<Process>,
    ) -> Result<Self> {
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let data_dir = dir.join("data");
        let file = dir.join("neurobridge.toml");
        // The default is what a container has. On a busy machine a backlog of many seconds is delivered at the stop; whoever
        // waits for the end has a limit of its own.
        let drain = if config.contains("drain_timeout") {
            ""
        } else {
            "drain_timeout = \"10m\"\n"
        };
        let whole = format!("data_dir = {data_dir:?}\n{drain}{config}\n[http]\nlisten = \"{address}\"\n");
        fs::write(&file, whole).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(neurobridge());
        command.args(["run", "-c"]).arg(&file).env_remove("RUST_LOG");
        let process = spawn(&mut command, &dir.join("bridge.log"))?;
        let mut bridge = Self {
            process,
            address,
            dir: data_dir,
        };
        wait_for("the bridge", START_TIMEOUT, || {
            if let Some(status) = bridge.process.exit_status()? {
                anyhow::bail!("the bridge ended with {status}:\n{}", bridge.process.log_tail());
            }
            Ok(http::get(&bridge.address, "/livez").ok())
        })?;
        Ok(bridge)
    }

    /// The folder of what it keeps.
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }

    /// `host:port` of its page.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its `/status`, whose ledgers are held to their sums.
    ///
    /// # Errors
    /// When it does not answer, or a ledger does not balance.
    pub fn status(&self) -> Result<Status> {
        Status::read(&self.get("/status")?)
    }

    /// Waits until `/status` says something; every answer meanwhile must balance. A ledger that changes is progress.
    ///
    /// # Errors
    /// When it does not within `limit` (see [`crate::poll::Patience`]), or nobody listens any more; the error has the last
    /// status and the log's tail.
    pub fn wait(&self, what: &str, limit: Duration, says: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let found = wait_with_progress(what, limit, |patience| {
            let status = self.status()?;
            let sources = status.sources.values().map(|source| &source.ledger);
            let sinks = status.sinks.values().map(|sink| &sink.ledger);
            patience.observe(format!(
                "{:?} {:?}",
                sources.collect::<Vec<_>>(),
                sinks.collect::<Vec<_>>()
            ));
            let found = says(&status).then(|| status.clone());
            last = Some(status);
            Ok(found)
        });
        let last = last.map_or_else(|| "none".to_owned(), |status| status.to_string());
        found.with_context(|| format!("last status: {last}\nlog:\n{}", self.process.log_tail()))
    }

    /// What one of its pages says.
    ///
    /// # Errors
    /// When it does not answer with 200.
    pub fn get(&self, path: &str) -> Result<String> {
        http::get_patiently(&self.address, path)
    }

    /// The sum of all series of this metric that have all these labels, written `name="value"`.
    ///
    /// # Errors
    /// When there is no such series.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let text = self.get("/metrics")?;
        let mut values = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
            let (found, rest) = series.split_once('{').unwrap_or((series, ""));
            if found == name && labels.iter().all(|label| rest.contains(label)) {
                values.push(value.parse().with_context(|| format!("the value of {line}"))?);
            }
        }
        ensure!(!values.is_empty(), "no series of {name} with {labels:?}");
        Ok(values.iter().sum())
    }

    /// The names and labels of all series of its metrics, sorted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn series(&self) -> Result<BTreeSet<String>> {
        let text = self.get("/metrics")?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (series, _) = line.rsplit_once(' ').context("a line without a value")?;
                Ok(series.to_owned())
            })
            .collect()
    }

    /// Sends a signal and waits for the end; the exit status and the whole log.
    ///
    /// # Errors
    /// When it does not end within `timeout`.
    pub fn stop(mut self, signal: Signal, timeout: Duration) -> Result<(ExitStatus, String)> {
        self.process.signal(signal)?;
        let status = self.process.wait(timeout)?;
        Ok((status, self.process.logged()?))
    }
}
