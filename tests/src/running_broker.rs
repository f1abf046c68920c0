//! Brokers that run from `cargo xtask brokers up` until `cargo xtask brokers down`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::paths::brokers_dir;
use crate::poll::wait_until;
use crate::shared::Broker;

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A broker that runs independently of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningBroker {
    /// The process id, which is also the id of the process group.
    pub pid: u32,
    /// The address: `host:port`, or a URL for NATS.
    pub address: String,
}

impl RunningBroker {
    /// Returns the data folder of a running broker; without a running broker, it may contain the data of an earlier one.
    pub fn dir(broker: Broker) -> PathBuf {
        brokers_dir().join("standing").join(broker.word())
    }

    /// Finds a running broker by the file that [`RunningBroker::note`] wrote; the file of a broker that has exited is ignored.
    pub fn find(broker: Broker) -> Option<Self> {
        let text = fs::read_to_string(pid_file(broker)).ok()?;
        let (pid, address) = text.trim().split_once(' ')?;
        let broker_process = Self {
            pid: pid.parse().ok()?,
            address: address.to_owned(),
        };
        broker_process.is_running(broker).then_some(broker_process)
    }

    /// Writes the process id and the address to a file, for [`RunningBroker::find`].
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn note(&self, broker: Broker) -> Result<()> {
        let path = pid_file(broker);
        fs::write(&path, format!("{} {}\n", self.pid, self.address))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Stops the broker (SIGTERM, or SIGKILL after half a minute) and removes its data.
    ///
    /// # Errors
    /// Returns an error if the broker cannot be stopped, or if its folder cannot be removed.
    pub fn stop(&self, broker: Broker) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid).context("the process id is out of range")?);
        kill(pid, Signal::SIGTERM).with_context(|| format!("stopping {broker}, process {pid}"))?;
        let ended = || !self.is_running(broker);
        if wait_until(&format!("the end of {broker}"), STOP_TIMEOUT, ended).is_err() {
            killpg(pid, Signal::SIGKILL).with_context(|| format!("killing {broker}, process {pid}"))?;
            wait_until(&format!("the end of {broker}"), STOP_TIMEOUT, ended)?;
        }
        let file = pid_file(broker);
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        let dir = Self::dir(broker);
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// Returns whether the process is this broker: the command line has to contain the folder of the broker, because the
    /// process id may belong to another process by now.
    fn is_running(&self, broker: Broker) -> bool {
        let Ok(command) = fs::read(Path::new("/proc").join(self.pid.to_string()).join("cmdline")) else {
            return false;
        };
        String::from_utf8_lossy(&command).contains(&*Self::dir(broker).to_string_lossy())
    }
}

fn pid_file(broker: Broker) -> PathBuf {
    brokers_dir()
        .join("standing")
        .join(format!("{}.pid", broker.word()))
}
