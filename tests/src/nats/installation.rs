//! Where nats-server is on this machine.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::paths::brokers_dir;

/// The version of nats-server that is fetched and tested with.
pub const VERSION: &str = "2.15.2";

/// A nats-server program.
#[derive(Debug, Clone)]
pub struct NatsInstallation {
    /// The program.
    pub binary: PathBuf,
}

impl NatsInstallation {
    /// Finds what `cargo xtask brokers install` fetched, else the distribution's.
    ///
    /// # Errors
    /// When there is neither; the error says which command gets it.
    pub fn find() -> Result<Self> {
        let fetched = Self::fetched_binary();
        if fetched.is_file() {
            return Ok(Self { binary: fetched });
        }
        let Some(found) = Self::of_distribution() else {
            bail!("there is no nats-server here; type `cargo xtask brokers install` to get it");
        };
        Ok(found)
    }

    /// Returns where the fetched program is, once it was fetched.
    pub fn fetched_binary() -> PathBuf {
        brokers_dir()
            .join("cache")
            .join("nats-server")
            .join("nats-server")
    }

    /// Returns the distribution's program, where it is installed: often an old one.
    pub fn of_distribution() -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
        folders
            .map(|folder| folder.join("nats-server"))
            .find(|binary| binary.is_file())
            .map(|binary| Self { binary })
    }

    /// Returns the version that the program reports, such as `v2.15.2`; nothing when it does not run.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(&self.binary).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_ascii_whitespace().last().map(str::to_owned)
    }
}
