//! The distribution's packages, on Debian and its kin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::shell::{output, run_quietly, say, succeeds};

/// A slow mirror and a hundred megabytes of Java.
const LIMIT: Duration = Duration::from_secs(900);

/// Installs the first package of `candidates` that the distribution has.
///
/// # Errors
/// When there is no apt-get, or no right to use it; the error says what to type.
pub(crate) fn install(reason: &str, candidates: &[&str]) -> Result<()> {
    let names = candidates.join(" or ");
    if !succeeds("apt-get", &["--version"]) {
        bail!(
            "{reason}, and there is no apt-get to install {names} with: please install it in your system's way"
        );
    }
    let Some(prefix) = privilege() else {
        bail!(
            "{reason}; type: sudo apt-get update && sudo apt-get install {}",
            candidates[0]
        );
    };
    let mut package = candidates.iter().find(|name| is_available(name));
    if package.is_none() {
        apt(prefix, "apt-get update", &["update", "-q"])?;
        package = candidates.iter().find(|name| is_available(name));
    }
    let Some(package) = package else {
        bail!("{reason}, and the distribution has no {names}: please install it yourself");
    };
    let arguments = ["install", "-q", "-y", "--no-install-recommends", package];
    let name = format!("apt-get install {package}");
    if let Err(error) = apt(prefix, &name, &arguments) {
        // The lists may be older than what the mirror still has.
        say(&format!(
            "{name} failed, trying again with new lists: {}",
            error.root_cause()
        ));
        apt(prefix, "apt-get update", &["update", "-q"])?;
        apt(prefix, &name, &arguments)?;
    }
    Ok(())
}

/// Unpacks a package of the distribution into the folder `into`, without installing it: that takes no rights, and starts
/// no service on this machine.
///
/// # Errors
/// When there is no apt-get, or it does not know the package; the error says what to type.
pub(crate) fn unpack(reason: &str, package: &str, into: &Path) -> Result<()> {
    if !succeeds("apt-get", &["--version"]) {
        bail!(
            "{reason}, and there is no apt-get to get {package} with: please install it in your system's way"
        );
    }
    if !is_available(package) {
        let Some(prefix) = privilege() else {
            bail!("{reason}; type: sudo apt-get update && sudo apt-get install {package}");
        };
        apt(prefix, "apt-get update", &["update", "-q"])?;
    }
    let work = into.with_extension("unpacking");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing the old {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("making the folder {}", work.display()))?;
    let name = format!("apt-get download {package}");
    say(&name);
    let mut download = Command::new("apt-get");
    download.args(["download", "-q", package]).current_dir(&work);
    run_quietly(&name, &mut download, LIMIT)
        .with_context(|| format!("{reason}; type: sudo apt-get update && sudo apt-get install {package}"))?;
    let archive = only_file(&work)?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&archive).arg(work.join("root"));
    run_quietly("dpkg-deb", &mut unpack, LIMIT)?;
    // Whole or not at all: what was interrupted does not look like a program that is there.
    fs::rename(work.join("root"), into).with_context(|| format!("moving {package} to {}", into.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let entry = entries.next().context("apt-get brought nothing")??;
    Ok(entry.path())
}

/// What to put before `apt-get`: nothing as root, sudo where it asks for no password.
fn privilege() -> Option<&'static [&'static str]> {
    if geteuid().is_root() {
        return Some(&[]);
    }
    succeeds("sudo", &["-n", "true"]).then_some(&["sudo", "-n"])
}

fn is_available(package: &str) -> bool {
    let policy = output("apt-cache", &["policy", package]).unwrap_or_default();
    policy.lines().any(|line| {
        line.trim()
            .strip_prefix("Candidate:")
            .is_some_and(|found| !found.contains("(none)"))
    })
}

fn apt(prefix: &[&str], name: &str, arguments: &[&str]) -> Result<()> {
    say(name);
    let words: Vec<&str> = prefix
        .iter()
        .copied()
        .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .collect();
    let mut command = Command::new(words[0]);
    run_quietly(name, command.args(&words[1..]).args(arguments), LIMIT)
}
