//! A real nats-server with JetStream as a child process, and a cluster of three servers.

#[cfg(feature = "clients")]
pub mod client;
mod cluster;
mod config;
mod greeting;
mod installation;
#[cfg(feature = "clients")]
pub mod messages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

pub use self::cluster::NatsCluster;
pub use self::config::NatsOptions;
use self::config::{Ports, config_file};
pub use self::greeting::answers;
pub use self::installation::{NatsInstallation, VERSION};
use crate::http::{get, get_patiently};
use crate::paths::Scratch;
use crate::poll::{wait_for, wait_with_progress};
use crate::ports::free_ports;
use crate::process::Process;

/// The time limit for a start, which takes a tenth of a second on an idle machine. A cluster first elects its leader, and a
/// server with gigabytes in its streams first recovers the streams.
const START_TIMEOUT: Duration = Duration::from_secs(180);

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A nats-server process with its own data folder.
///
/// When dropped, it is killed and its folder is removed (the folder is kept when the thread panics, because it contains
/// the log). See [`Process`] for the case that this program dies.
#[derive(Debug)]
pub struct Nats {
    // Declared before the folder: fields are dropped in this order, and the server writes to the folder until it is
    // killed.
    process: Option<Process>,
    binary: PathBuf,
    options: NatsOptions,
    ports: Ports,
    dir: Scratch,
}

impl Nats {
    /// Starts a server in a new folder below the target directory and waits until it reports that it is healthy.
    ///
    /// # Errors
    /// Returns an error if nats-server is not installed (the error contains the command that installs it), or if it is
    /// not healthy within three minutes; the error then contains the last lines of its log.
    pub fn start(options: NatsOptions) -> Result<Self> {
        Self::start_in(Scratch::new("nats")?, options)
    }

    /// Like [`Nats::start`], in the given folder.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_in(dir: Scratch, options: NatsOptions) -> Result<Self> {
        let mut server = Self::prepare(dir, options)?;
        server.start_again()?;
        Ok(server)
    }

    /// Chooses the program and the ports, but does not start the server: all servers of a cluster have to be started before
    /// the first one becomes healthy.
    fn prepare(dir: Scratch, options: NatsOptions) -> Result<Self> {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => NatsInstallation::find()?.binary,
        };
        let ports = Ports::from(free_ports()?);
        Ok(Self {
            process: None,
            binary,
            options,
            ports,
            dir,
        })
    }

    /// Returns the URL for clients, `nats://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Returns `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// Returns `host:port` of the monitoring endpoints (`/varz`, `/jsz`, `/healthz`, …).
    pub fn monitor(&self) -> String {
        format!("127.0.0.1:{}", self.ports.http)
    }

    /// Requests a monitoring endpoint and returns the body of the response.
    ///
    /// # Errors
    /// Returns an error if the server does not answer, or if the status is not 200.
    pub fn get(&self, path: &str) -> Result<String> {
        get_patiently(&self.monitor(), path)
    }

    /// Returns the folder with the configuration, the log and the data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the child process, or `None` while the server is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Shuts down the server (SIGTERM) and waits until it has exited.
    ///
    /// # Errors
    /// Returns an error if the server is not running or does not exit within half a minute.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.terminate(STOP_TIMEOUT)?;
        self.process = None;
        Ok(())
    }

    /// Kills the server (SIGKILL) and waits until it has exited.
    ///
    /// # Errors
    /// Returns an error if the server is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Freezes the server (SIGSTOP): connections stay open, but nothing answers.
    ///
    /// # Errors
    /// Returns an error if the server is not running.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.freeze()
    }

    /// Resumes a frozen server (SIGCONT).
    ///
    /// # Errors
    /// Returns an error if the server is not running.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.thaw()
    }

    /// Starts the lame duck mode (SIGUSR2), in which the server disconnects its clients over `lame_duck_duration` and
    /// then exits.
    ///
    /// # Errors
    /// Returns an error if the server is not running.
    pub fn lame_duck(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGUSR2)
    }

    /// Replaces [`NatsOptions::config`] and makes the running server reload it (SIGHUP).
    ///
    /// # Errors
    /// Returns an error if the server is not running, or does not log the reload.
    pub fn reconfigure(&mut self, config: &str) -> Result<()> {
        const RELOADED: &str = "Reloaded server configuration";
        config.clone_into(&mut self.options.config);
        self.write_config()?;
        let process = self.process.as_mut().context("nats-server is not running")?;
        let before = process.logged()?.matches(RELOADED).count();
        process.signal(Signal::SIGHUP)?;
        let reloaded = wait_for("nats-server to reload its configuration", START_TIMEOUT, || {
            Ok((process.logged()?.matches(RELOADED).count() > before).then_some(()))
        });
        reloaded.with_context(|| process.log_tail())
    }

    /// Restarts a stopped or killed server on the same ports with the same data, and waits until it is healthy.
    ///
    /// # Errors
    /// Returns an error if the server is running, or is not healthy within three minutes.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.await_health()
    }

    /// Keeps the server and its folder when this program exits, and returns the server's process id.
    ///
    /// # Errors
    /// Returns an error if the server is not running.
    pub fn detach(mut self) -> Result<u32> {
        let process = self.process.take().context("nats-server is not running")?;
        self.dir.keep();
        Ok(process.detach())
    }

    fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("nats-server in {} is already running", self.dir.path().display());
        }
        self.write_config()?;
        let mut command = Command::new(&self.binary);
        command
            .current_dir(self.dir.path())
            .arg("-c")
            .arg(self.dir.join("nats.conf"));
        self.process = Some(Process::spawn(
            "nats-server",
            &mut command,
            &self.dir.join("nats.log"),
        )?);
        Ok(())
    }

    fn await_health(&mut self) -> Result<()> {
        let monitor = self.monitor();
        let process = self.running()?;
        let healthy = wait_with_progress("nats-server to be healthy", START_TIMEOUT, |patience| {
            patience.observe(process.log_bytes());
            if let Some(status) = process.exit_status()? {
                bail!("nats-server exited with {status} during its start");
            }
            Ok(get(&monitor, "/healthz").is_ok().then_some(()))
        });
        healthy.with_context(|| process.log_tail())
    }

    fn write_config(&self) -> Result<()> {
        let path = self.dir.join("nats.conf");
        let text = config_file(&self.options, &self.ports, &self.dir.join("data"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .context("nats-server is not running: it was stopped or killed")
    }
}

#[cfg(test)]
mod tests;
