//! Installs and unpacks packages of the distribution, on Debian and its derivatives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::geteuid;

use crate::shell::{log, output, run_quietly, succeeds};

/// The time limit for the download of Java, a hundred megabytes, from a slow mirror.
const LIMIT: Duration = Duration::from_secs(900);

/// Installs the first of the `candidates` that the distribution offers.
///
/// # Errors
/// Returns an error if apt-get is missing or not permitted; the message contains the command to type.
pub(crate) fn install(reason: &str, candidates: &[&str]) -> Result<()> {
    let names = candidates.join(" or ");
    if !succeeds("apt-get", &["--version"]) {
        bail!(
            "{reason}, and apt-get is not available to install {names}; install it with your system's package manager"
        );
    }
    let Some(prefix) = privilege() else {
        bail!(
            "{reason}; run: sudo apt-get update && sudo apt-get install {}",
            candidates[0]
        );
    };
    let mut package = candidates.iter().find(|name| is_available(name));
    if package.is_none() {
        apt(prefix, "apt-get update", &["update", "-q"])?;
        package = candidates.iter().find(|name| is_available(name));
    }
    let Some(package) = package else {
        bail!("{reason}, and the distribution has no package {names}; install it manually");
    };
    let arguments = ["install", "-q", "-y", "--no-install-recommends", package];
    let name = format!("apt-get install {package}");
    if let Err(error) = apt(prefix, &name, &arguments) {
        // The package lists may name files that the mirror no longer has.
        log(&format!(
            "{name} failed; retrying with new package lists: {}",
            error.root_cause()
        ));
        apt(prefix, "apt-get update", &["update", "-q"])?;
        apt(prefix, &name, &arguments)?;
    }
    Ok(())
}

/// Unpacks a package of the distribution into the folder `into` without installing it, which needs no privileges and
/// starts no service.
///
/// # Errors
/// Returns an error if apt-get is missing or does not know the package; the message contains the command to type.
pub(crate) fn unpack(reason: &str, package: &str, into: &Path) -> Result<()> {
    if !succeeds("apt-get", &["--version"]) {
        bail!(
            "{reason}, and apt-get is not available to download {package}; install it with your system's package manager"
        );
    }
    if !is_available(package) {
        let Some(prefix) = privilege() else {
            bail!("{reason}; run: sudo apt-get update && sudo apt-get install {package}");
        };
        apt(prefix, "apt-get update", &["update", "-q"])?;
    }
    let work = into.with_extension("unpacking");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing the old {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("creating the folder {}", work.display()))?;
    let name = format!("apt-get download {package}");
    log(&name);
    let mut download = Command::new("apt-get");
    download.args(["download", "-q", package]).current_dir(&work);
    run_quietly(&name, &mut download, LIMIT)
        .with_context(|| format!("{reason}; run: sudo apt-get update && sudo apt-get install {package}"))?;
    let archive = only_file(&work)?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(&archive).arg(work.join("root"));
    run_quietly("dpkg-deb", &mut unpack, LIMIT)?;
    // The rename is atomic: an interrupted download leaves nothing that looks like a program.
    fs::rename(work.join("root"), into).with_context(|| format!("moving {package} to {}", into.display()))?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let entry = entries.next().context("apt-get downloaded no file")??;
    Ok(entry.path())
}

/// Returns the command that runs `apt-get` as root: empty for root, `sudo -n` if sudo needs no password, or `None`.
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
    log(name);
    let words: Vec<&str> = prefix
        .iter()
        .copied()
        .chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .collect();
    let mut command = Command::new(words[0]);
    run_quietly(name, command.args(&words[1..]).args(arguments), LIMIT)
}
