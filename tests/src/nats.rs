//! A real nats-server as a child process, with JetStream; and three of them as a cluster.

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

/// A tenth of a second on a quiet machine; a cluster elects its leader first, and a server with gigabytes in its streams
/// looks through them.
const START_TIMEOUT: Duration = Duration::from_secs(180);

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A nats-server of one's own, with its data in a folder of its own.
///
/// Dropped, it is killed and its folder removed (kept when the thread panics, for its log). See [`Process`] for what
/// happens when the program dies.
#[derive(Debug)]
pub struct Nats {
    // Before the folder: fields are dropped in this order, and the server writes into the folder until it is dead.
    process: Option<Process>,
    binary: PathBuf,
    options: NatsOptions,
    ports: Ports,
    dir: Scratch,
}

impl Nats {
    /// Starts a server in a new folder under the target directory, and waits until it calls itself healthy.
    ///
    /// # Errors
    /// When nats-server is not installed (the error says which command gets it), or is not healthy within three minutes;
    /// the error then ends with the tail of its log.
    pub fn start(options: NatsOptions) -> Result<Self> {
        Self::start_in(Scratch::new("nats")?, options)
    }

    /// Like [`Nats::start`], in the given folder.
    ///
    /// # Errors
    /// The same.
    pub fn start_in(dir: Scratch, options: NatsOptions) -> Result<Self> {
        let mut server = Self::prepare(dir, options)?;
        server.start_again()?;
        Ok(server)
    }

    /// Everything but the start itself: a cluster's servers must be started before any of them is healthy.
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

    /// Asks a monitoring endpoint and returns the body of the answer.
    ///
    /// # Errors
    /// When the server does not answer, or with another status than 200.
    pub fn ask(&self, path: &str) -> Result<String> {
        get_patiently(&self.monitor(), path)
    }

    /// Returns the folder with configuration, log and data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the child process, or nothing while the server is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Stops the server in order (SIGTERM) and waits until it has ended.
    ///
    /// # Errors
    /// When it is not running, or does not end within half a minute.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.terminate(STOP_TIMEOUT)?;
        self.process = None;
        Ok(())
    }

    /// Kills the server (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Freezes the server (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.freeze()
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.thaw()
    }

    /// Lets the server turn its clients away in order, over `lame_duck_duration`, and then end (SIGUSR2).
    ///
    /// # Errors
    /// When it is not running.
    pub fn lame_duck(&mut self) -> Result<()> {
        self.running()?.signal(Signal::SIGUSR2)
    }

    /// Replaces [`NatsOptions::config`] and lets the running server read it again (SIGHUP).
    ///
    /// # Errors
    /// When it is not running, or does not log that it has taken the new configuration.
    pub fn reconfigure(&mut self, config: &str) -> Result<()> {
        const TAKEN: &str = "Reloaded server configuration";
        config.clone_into(&mut self.options.config);
        self.write_config()?;
        let process = self.process.as_mut().context("nats-server is not running")?;
        let before = process.logged()?.matches(TAKEN).count();
        process.signal(Signal::SIGHUP)?;
        let reloaded = wait_for("the new configuration of nats-server", START_TIMEOUT, || {
            Ok((process.logged()?.matches(TAKEN).count() > before).then_some(()))
        });
        reloaded.with_context(|| process.log_tail())
    }

    /// Starts a stopped or killed server on the same ports with the same data, and waits until it is healthy.
    ///
    /// # Errors
    /// When it is running, or is not healthy within three minutes.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.await_health()
    }

    /// Lets the server and its folder outlive this program, and returns its process id.
    ///
    /// # Errors
    /// When it is not running.
    pub fn detach(mut self) -> Result<u32> {
        let process = self.process.take().context("nats-server is not running")?;
        self.dir.keep();
        Ok(process.detach())
    }

    fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("nats-server in {} is running already", self.dir.path().display());
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
                bail!("nats-server ended with {status} instead of starting");
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
            .context("nats-server is not running: it was stopped or killed before")
    }
}

#[cfg(test)]
mod tests;
