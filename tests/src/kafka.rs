//! A real Apache Kafka as a child process: one node, broker and controller in one (KRaft).

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

pub use self::config::{KafkaOptions, Listener, Member, Secure};
use self::config::{LOG4J, Ports, server_properties};
pub use self::installation::{KafkaInstallation, MINIMUM_JAVA, VERSION};
pub use self::tool::Grant;
pub use self::wire::answers;
use crate::paths::Scratch;
use crate::poll::wait_with_progress;
use crate::ports::free_ports;
use crate::process::Process;
use crate::relay::Relay;

/// The id of every cluster started here: the sixteen letters `neurobridge-test` in base64, as Kafka writes ids.
const CLUSTER_ID: &str = "bmV1cm9icmlkZ2UtdGVzdA";

/// Three seconds on two quiet cores; a machine that compiles meanwhile takes several times as long.
const START_TIMEOUT: Duration = Duration::from_secs(180);

/// Two seconds as a rule; it moves leadership away and closes its log first.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

/// What the broker logs when all its listeners take requests and the controller counts it in.
const READY: &str = "Kafka Server started";

/// A Kafka of one's own, with its data in a folder of its own.
///
/// Dropped, it is killed and its folder removed (kept when the thread panics, for its log). See [`Process`] for what
/// happens when the program dies.
#[derive(Debug)]
pub struct Kafka {
    // Before the folder: fields are dropped in this order, and the broker writes into the folder until it is dead.
    process: Option<Process>,
    installation: KafkaInstallation,
    options: KafkaOptions,
    ports: Ports,
    relay: Option<Relay>,
    dir: Scratch,
}

impl Kafka {
    /// Formats and starts a broker in a new folder under the target directory, and waits until it answers.
    ///
    /// # Errors
    /// When Kafka is not installed (the error says which command gets it), or does not answer within three minutes; the
    /// error then ends with the tail of its log.
    pub fn start(options: KafkaOptions) -> Result<Self> {
        Self::start_in(Scratch::new("kafka")?, options)
    }

    /// Like [`Kafka::start`], in the given folder.
    ///
    /// # Errors
    /// The same.
    pub fn start_in(dir: Scratch, options: KafkaOptions) -> Result<Self> {
        let installation = KafkaInstallation::find()?;
        let ports = Ports::from(free_ports()?);
        let controller = format!("127.0.0.1:{}", ports.controller);
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

    /// Returns `host:port` of the listener without encryption or authentication, whose clients are super-users.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_of(Listener::Plaintext)
    }

    /// Returns `host:port` of a listener; all but [`Listener::Plaintext`] exist only with [`KafkaOptions::secure`].
    pub fn bootstrap_of(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.ports.of(listener))
    }

    /// Returns the folder with configuration, log and data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the child process, or nothing while the broker is stopped.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Stops the broker in order (SIGTERM) and waits until it has ended.
    ///
    /// # Errors
    /// When it is not running, or does not end within 45 seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.running()?.terminate(STOP_TIMEOUT)?;
        self.process = None;
        Ok(())
    }

    /// Kills the broker (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Freezes the broker (SIGSTOP): connections stay open, nothing answers.
    ///
    /// # Errors
    /// When it is not running.
    pub fn freeze(&mut self) -> Result<()> {
        self.running()?.freeze()
    }

    /// Lets a frozen broker go on (SIGCONT).
    ///
    /// # Errors
    /// When it is not running.
    pub fn thaw(&mut self) -> Result<()> {
        self.running()?.thaw()
    }

    /// Separates the broker from its controller, which fences it after its session time-out (two seconds by default): it answers
    /// its clients, and its metadata lists no broker and no leader.
    ///
    /// # Errors
    /// When it was started without [`KafkaOptions::fenceable`].
    pub fn fence(&self) -> Result<()> {
        self.relay()?.cut();
        Ok(())
    }

    /// Connects the broker with its controller again, which lists it after the next heartbeat.
    ///
    /// # Errors
    /// When it was started without [`KafkaOptions::fenceable`].
    pub fn unfence(&self) -> Result<()> {
        self.relay()?.restore();
        Ok(())
    }

    fn relay(&self) -> Result<&Relay> {
        self.relay
            .as_ref()
            .context("this Kafka cannot be fenced: it was started without `fenceable`")
    }

    /// Starts a stopped or killed broker on the same ports with the same data, and waits until it answers.
    ///
    /// # Errors
    /// When it is running, or does not answer within three minutes.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("Kafka in {} is running already", self.dir.path().display());
        }
        let mut command = self.java(self.options.heap_mib);
        if !self.options.optimised {
            // The first compiler alone starts faster, and leaves the cores to what is tested.
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

    /// Lets the broker and its folder outlive this program, and returns the broker's process id.
    ///
    /// # Errors
    /// When it is not running.
    pub fn detach(mut self) -> Result<u32> {
        let process = self.process.take().context("Kafka is not running")?;
        self.dir.keep();
        Ok(process.detach())
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process
            .as_mut()
            .context("Kafka is not running: it was stopped or killed before")
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
        // They would be added to ours, and print a line about it.
        command
            .env_remove("JAVA_TOOL_OPTIONS")
            .env_remove("_JAVA_OPTIONS")
            .env_remove("KAFKA_OPTS");
        command
    }
}

fn wait_until_ready(process: &mut Process, bootstrap: &str) -> Result<()> {
    let started = wait_with_progress("Kafka's first answer", START_TIMEOUT, |patience| {
        patience.observe(process.log_bytes());
        if let Some(status) = process.exit_status()? {
            bail!("Kafka ended with {status} instead of starting");
        }
        let ready = process.logged()?.contains(READY) && answers(bootstrap).is_ok();
        Ok(ready.then_some(()))
    });
    started.with_context(|| process.log_tail())
}

#[cfg(test)]
mod tests;
