//! Finds nats-server on this machine.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::paths::brokers_dir;

/// The version of nats-server that is downloaded and tested.
pub const VERSION: &str = "2.15.2";

/// An installed nats-server.
#[derive(Debug, Clone)]
pub struct NatsInstallation {
    /// The path of the program.
    pub binary: PathBuf,
}

impl NatsInstallation {
    /// Finds the program installed by `cargo xtask brokers install`, otherwise that of the distribution.
    ///
    /// # Errors
    /// Returns an error if there is neither; the error contains the command that installs the program.
    pub fn find() -> Result<Self> {
        let fetched = Self::fetched_binary();
        if fetched.is_file() {
            return Ok(Self { binary: fetched });
        }
        let Some(found) = Self::of_distribution() else {
            bail!("nats-server is missing; run `cargo xtask brokers install`");
        };
        Ok(found)
    }

    /// Returns the path of the downloaded program.
    pub fn fetched_binary() -> PathBuf {
        brokers_dir()
            .join("cache")
            .join("nats-server")
            .join("nats-server")
    }

    /// Returns the program of the distribution, often an old version, if it is installed.
    pub fn of_distribution() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
        folders
            .map(|folder| folder.join("nats-server"))
            .find(|binary| binary.is_file())
            .map(|binary| Self { binary })
    }

    /// Returns the version that the program reports, such as `v2.15.2`, or `None` if it does not run.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(&self.binary).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_ascii_whitespace().last().map(str::to_owned)
    }
}
