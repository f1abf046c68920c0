//! A real Apache Kafka as a child process: one node that is broker and controller (KRaft).

#[cfg(feature = "clients")]
pub mod admin;
pub mod cluster;
mod config;
mod installation;
#[cfg(feature = "clients")]
pub mod records;
#[cfg(feature = "clients")]
mod retry;
mod tool;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::config::{KafkaOptions, Listener, Member, Relayed, Secure};
use self::config::{LOG4J, Ports, server_properties};
pub use self::installation::{KafkaInstallation, MINIMUM_JAVA, VERSION};
pub use self::tool::Grant;
pub use self::wire::answers;
use crate::paths::Scratch;
use crate::poll::wait_with_progress;
use crate::ports::free_ports;
use crate::process::Process;
use crate::relay::Relay;

/// The id of every test cluster: the sixteen characters `neurobridge-test` in base64, Kafka's format for ids.
const CLUSTER_ID: &str = "bmV1cm9icmlkZ2UtdGVzdA";

/// The time limit for a start, which takes three seconds on two idle cores, and several times as long during a compilation.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// The time limit for a shutdown, which usually takes two seconds: the broker transfers leadership and closes its log.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// The broker's log message after all its listeners accept requests and the controller has registered it.
const READY: &str = "Kafka Server started";

/// A Kafka process with its own data folder.
///
/// When dropped, it is killed and its folder is removed (the folder is kept when the thread panics, because it contains
/// the log). See [`Process`] for the case that this program dies.
#[derive(Debug)]
pub struct Kafka {
    // Declared before the folder: fields are dropped in this order, and the broker writes to the folder until it is
    // killed.
    process: Option<Process>,
    installation: KafkaInstallation,
    options: KafkaOptions,
    ports: Ports,
    relay: Option<Relay>,
    dir: Scratch,
}

impl Kafka {
    /// Formats the storage, starts a broker in a new folder below the target directory, and waits until it answers.
    ///
    /// # Errors
    /// Returns an error if Kafka is not installed (the error contains the command that installs it), or if it does not
    /// answer within three minutes; the error then contains the last lines of its log.
    pub fn start(options: KafkaOptions) -> Result<Self> {
        Self::start_in(Scratch::new("kafka")?, options)
    }

    /// Like [`Kafka::start`], in the given folder.
    ///
    /// # Errors
    /// Returns an error in the same cases.
    pub fn start_in(dir: Scratch, options: KafkaOptions) -> Result<Self> {
        let installation = KafkaInstallation::find()?;
        let ports = Ports::from(free_ports()?);
        let controller = format!("127.0.0.1:{}", ports.controller);
        // The broker reaches the controller in its own process through this relay, so that the connection can be cut.
        let relay = options.fenceable.then(|| Relay::to(controller)).transpose()?;
        let mut kafka = Self {
            process: None,
            installation,
            options,
            ports,
            relay,
            dir,
        };
        fs::write(
            kafka.config_file(),
            server_properties(
                &kafka.options,
                &kafka.ports,
                &kafka.dir.join("data"),
                kafka.relay.as_ref().map(Relay::address),
            ),
        )
        .with_context(|| format!("writing {}", kafka.config_file().display()))?;
        fs::write(kafka.dir.join("log4j2.yaml"), LOG4J).context("writing the broker's log4j2.yaml")?;
        kafka.format()?;
        kafka.start_again()?;
        Ok(kafka)
    }

    /// Returns `host:port` of the listener without encryption or authentication, whose clients are superusers.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_of(Listener::Plaintext)
    }

    /// Returns `host:port` of a listener; listeners other than [`Listener::Plaintext`] exist only with
    /// [`KafkaOptions::secure`].
    pub fn bootstrap_of(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.ports.of(listener))
    }

    /// Returns the folder with the configuration, the log and the data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the child process, or `None` while the broker is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Shuts down the broker (SIGTERM) and waits until it has exited.
    ///
    /// # Errors
    /// Returns an error if the broker is not running or does not exit within 45 seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.terminate(STOP_TIMEOUT)?;
        self.process = None;
        Ok(())
    }

    /// Kills the broker (SIGKILL) and waits until it has exited.
    ///
    /// # Errors
    /// Returns an error if the broker is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Freezes the broker (SIGSTOP): connections stay open, but nothing answers.
    ///
    /// # Errors
    /// Returns an error if the broker is not running.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.freeze()
    }

    /// Resumes a frozen broker (SIGCONT).
    ///
    /// # Errors
    /// Returns an error if the broker is not running.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.thaw()
    }

    /// Separates the broker from its controller, which fences it after the session timeout (two seconds by default).
    /// The broker then answers its clients with metadata that lists no broker and no leader.
    ///
    /// # Errors
    /// Returns an error if Kafka was started without [`KafkaOptions::fenceable`].
    pub fn fence(&self) -> Result<()> {
        self.relay()?.cut();
        Ok(())
    }

    /// Reconnects the broker with its controller, which lists it again after the next heartbeat.
    ///
    /// # Errors
    /// Returns an error if Kafka was started without [`KafkaOptions::fenceable`].
    pub fn unfence(&self) -> Result<()> {
        self.relay()?.restore();
        Ok(())
    }

    fn relay(&self) -> Result<&Relay> {
        self.relay
            .as_ref()
            .context("cannot fence Kafka: it was started without `fenceable`")
    }

    /// Restarts a stopped or killed broker on the same ports with the same data, and waits until it answers.
    ///
    /// # Errors
    /// Returns an error if the broker is running, or does not answer within three minutes.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("Kafka in {} is already running", self.dir.path().display());
        }
        let mut command = self.java(self.options.heap_mib);
        if !self.options.optimised {
            // With only the first compiler, Java starts faster and leaves more CPU time to the tested program.
            command.arg("-XX:TieredStopAtLevel=1");
        }
        command.arg(format!(
            "-Dlog4j2.configurationFile={}",
            self.dir.join("log4j2.yaml").display()
        ));
        command
            .args(["-cp", &self.installation.class_path(), "kafka.Kafka"])
            .arg(self.config_file());
        let process = Process::spawn("Kafka", &mut command, &self.dir.join("kafka.log"))?;
        let process = self.process.insert(process);
        let bootstrap = format!("127.0.0.1:{}", self.ports.of(Listener::Plaintext));
        wait_until_ready(process, &bootstrap)
    }

    /// Keeps the broker and its folder when this program exits, and returns the broker's process id.
    ///
    /// # Errors
    /// Returns an error if the broker is not running.
    pub fn detach(mut self) -> Result<u32> {
        let process = self.process.take().context("Kafka is not running")?;
        self.dir.keep();
        Ok(process.detach())
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .context("Kafka is not running: it was stopped or killed")
    }

    fn format(&self) -> Result<()> {
        let config = self.config_file();
        let config = config.to_string_lossy();
        let mut args = vec!["format", "-t", CLUSTER_ID, "-c", &config];
        if self.options.member.is_none() {
            args.push("--standalone");
        }
        let users = self.options.secure.iter().flat_map(|secure| &secure.users);
        let scram: Vec<String> = users
            .flat_map(|(name, password)| {
                ["SCRAM-SHA-256", "SCRAM-SHA-512"]
                    .map(|kind| format!("{kind}=[name={name},password={password}]"))
            })
            .collect();
        for credential in &scram {
            args.extend(["--add-scram", credential]);
        }
        self.tool("kafka.tools.StorageTool", &args)
            .context("formatting Kafka's data folder")
            .map(drop)
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn java(&self, heap_mib: u32) -> Command {
        let mut command = Command::new(&self.installation.java);
        command
            .current_dir(self.dir.path())
            .arg("-XX:+UseSerialGC")
            .arg(format!("-Xmx{heap_mib}m"));
        // Java would add the values of these variables to its arguments and print a line about them.
        command
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("JDK_JAVA_OPTIONS")
            .env_remove("_JAVA_OPTIONS");
        command
    }
}

fn wait_until_ready(process: &mut Process, bootstrap: &str) -> Result<()> {
    let started = wait_with_progress("Kafka's first response", START_TIMEOUT, |patience| {
        patience.observe(process.log_bytes());
        if let Some(status) = process.exit_status()? {
            bail!("Kafka exited with {status} during its start");
        }
        let ready = process.logged()?.contains(READY) && answers(bootstrap).is_ok();
        Ok(ready.then_some(()))
    });
    started.with_context(|| process.log_tail())
}

#[cfg(test)]
mod tests;
