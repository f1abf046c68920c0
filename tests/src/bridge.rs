//! Runs the bridge as a separate process: the real program, with real signals and its `/status`.

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

/// The time limit for a start, which includes binding a port and opening files.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    process: Process,
    address: String,
    dir: PathBuf,
}

impl Bridge {
    /// Starts a bridge with this configuration and waits until it answers. `data_dir`, `[http]` and, if it is missing,
    /// a long `drain_timeout` are added to the configuration.
    ///
    /// # Errors
    /// Returns an error if the bridge exits or does not answer within a minute.
    pub fn start(dir: &Scratch, config: &str) -> Result<Self> {
        Self::start_with(dir, config, &[])
    }

    /// Like [`Bridge::start`], with `stderr` as the standard error instead of a file.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_with_stderr(dir: &Scratch, config: &str, stderr: Stdio) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            Process::spawn_logging_to("bridge", command, stderr, log)
        })
    }

    /// Like [`Bridge::start`], with these environment variables.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_with(dir: &Scratch, config: &str, variables: &[(&str, &str)]) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            command.envs(variables.iter().copied());
            Process::spawn("bridge", command, log)
        })
    }

    /// Like [`Bridge::start`], with `--watch`.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_watching(dir: &Scratch, config: &str) -> Result<Self> {
        Self::launch(dir, config, |command, log| {
            command.arg("--watch");
            Process::spawn("bridge", command, log)
        })
    }

    /// Like [`Bridge::start`], with these signals ignored from the start, as with `nohup`. `signals` contains names for
    /// a shell's `trap`.
    ///
    /// # Errors
    /// Returns an error in the same cases.
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
        Self::launch_with_paths(dir, dir.path(), config, spawn)
    }

    /// Like [`Bridge::start`], in the folder `dir` and with relative paths, so that the bridge's page shows no path of this
    /// machine.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_with_relative_paths(dir: &Scratch, config: &str) -> Result<Self> {
        Self::launch_with_paths(dir, Path::new(""), config, |command, log| {
            command.current_dir(dir.path());
            Process::spawn("bridge", command, log)
        })
    }

    /// Starts the bridge. `base` is the path of `dir` in the configuration and the command line of the bridge.
    fn launch_with_paths(
        dir: &Scratch,
        base: &Path,
        config: &str,
        spawn: impl FnOnce(&mut Command, &Path) -> Result<Process>,
    ) -> Result<Self> {
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let file = dir.join("neurobridge.toml");
        // The default drain timeout suits containers. In a test on a busy machine, a shutdown may have to deliver a long
        // backlog, so the limit is long; the test has its own time limit for the shutdown.
        let drain = if config.contains("drain_timeout") {
            ""
        } else {
            "drain_timeout = \"10m\"\n"
        };
        let data_dir = base.join("data");
        let whole = format!("data_dir = {data_dir:?}\n{drain}{config}\n[http]\nlisten = \"{address}\"\n");
        fs::write(&file, whole).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(neurobridge());
        command.args(["run", "-c"]).arg(base.join("neurobridge.toml"));
        command.env_remove("RUST_LOG");
        let process = spawn(&mut command, &dir.join("bridge.log"))?;
        let mut bridge = Self {
            process,
            address,
            dir: dir.join("data"),
        };
        bridge.await_answer()?;
        Ok(bridge)
    }

    fn await_answer(&mut self) -> Result<()> {
        wait_for("the bridge to answer", START_TIMEOUT, || {
            if let Some(status) = self.process.exit_status()? {
                anyhow::bail!("the bridge exited with {status}:\n{}", self.process.log_tail());
            }
            Ok(http::get(&self.address, "/livez").ok())
        })?;
        Ok(())
    }

    /// Restarts the bridge after its exit, at the same address and with the current content of its configuration file.
    ///
    /// # Errors
    /// Returns an error in the same cases as [`Bridge::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let dir = self.dir.parent().context("the data folder has no parent")?;
        let mut command = Command::new(neurobridge());
        command.args(["run", "-c"]).arg(dir.join("neurobridge.toml"));
        command.env_remove("RUST_LOG");
        self.process = Process::spawn("bridge", &mut command, &dir.join("bridge.log"))?;
        self.await_answer()
    }

    /// Returns the data folder.
    pub fn data_dir(&self) -> &Path {
        &self.dir
    }

    /// Returns `host:port` of the HTTP server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Reads `/status` and checks that its ledgers balance.
    ///
    /// # Errors
    /// Returns an error if the bridge does not answer, or if a ledger does not balance.
    pub fn status(&self) -> Result<Status> {
        Status::read(&self.get("/status")?)
    }

    /// Waits until `/status` satisfies a condition. The ledgers of every response have to balance, and a changed ledger
    /// counts as progress.
    ///
    /// # Errors
    /// Returns an error if the condition is not met within `limit` (see [`crate::poll::Patience`]) or if the bridge no
    /// longer listens; the error contains the last status and the end of the log.
    pub fn wait(&self, what: &str, limit: Duration, condition: impl Fn(&Status) -> bool) -> Result<Status> {
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
            let found = condition(&status).then(|| status.clone());
            last = Some(status);
            Ok(found)
        });
        let last = last.map_or_else(|| "none".to_owned(), |status| status.to_string());
        found.with_context(|| format!("last status: {last}\nlog:\n{}", self.process.log_tail()))
    }

    /// Requests a path of the HTTP server and returns the body of the response.
    ///
    /// # Errors
    /// Returns an error if the bridge does not answer, or if the status is not 200.
    pub fn get(&self, path: &str) -> Result<String> {
        http::get_patiently(&self.address, path)
    }

    /// Returns the sum of all series of a metric that have all these labels, each in the form `name="value"`.
    ///
    /// # Errors
    /// Returns an error if there is no such series.
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

    /// Returns the sorted names and labels of all series in `/metrics`.
    ///
    /// # Errors
    /// Returns an error if the bridge does not answer.
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

    /// Sends a signal, waits until the process has exited, and returns the exit status and the complete log.
    ///
    /// # Errors
    /// Returns an error if the process does not exit within `timeout`.
    pub fn stop(mut self, signal: Signal, timeout: Duration) -> Result<(ExitStatus, String)> {
        self.process.signal(signal)?;
        let status = self.process.wait(timeout)?;
        Ok((status, self.process.logged()?))
    }
}
