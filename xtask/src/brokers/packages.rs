//! The distribution's packages, on Debian and its kin.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::shell::{output, run_quietly, say, succeeds};

/// A slow mirror and a hundred megabytes of Java.
const LIMIT: Duration = Duration::from_secs(900);

/// Installs the first package of `candidates` that the distribution has.
///
/// # Errors
/// When there is no apt-get, or no right to use it; the error says what to type.
pub(super) fn install(reason: &str, candidates: &[&str]) -> Result<()> {
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
