//! The program under test.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::paths::{target_dir, workspace_root};

/// Names the program to test; `cargo xtask test` sets it after it has built it.
pub const BINARY_VARIABLE: &str = "NEUROBRIDGE_TEST_BINARY";

/// Returns the path of the `neurobridge` program: the one that [`BINARY_VARIABLE`] names, else one that is built now
/// (once for each process; nothing is done when it is up to date).
///
/// # Panics
/// When it can't be built.
pub fn neurobridge() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let binary = BUILT.get_or_init(|| match env::var_os(BINARY_VARIABLE) {
        Some(binary) => PathBuf::from(binary),
        None => build("neurobridge", "neurobridge", Profile::Dev).unwrap_or_else(|error| panic!("{error:#}")),
    });
    binary.clone()
}

/// Cargo in the workspace's root, as if the user had started it.
///
/// A program that cargo runs is told of its own package. Build scripts that look at the same variables (ring's does) would run
/// anew, and all that depends on them would be compiled again: a minute and a half, at each change between `cargo test` and
/// `cargo xtask test`.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    for (name, _) in env::vars_os() {
        let of_package = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_"));
        if of_package {
            command.env_remove(name);
        }
    }
    command
}

/// How a program is to be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Fast to compile.
    Dev,
    /// Fast to run.
    Release,
}

/// Builds one program of the workspace and returns its path. Cargo's messages go to standard error.
///
/// # Errors
/// When cargo fails.
pub fn build(package: &str, binary: &str, profile: Profile) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", package, "--bin", binary]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            command.arg("--release");
            "release"
        }
    };
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("`cargo build --package {package} --bin {binary}` ended with {status}");
    }
    Ok(target_dir().join(folder).join(binary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_of_the_package_that_asks() {
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some(), "started by cargo");
        let cargo = cargo();
        let removed: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(removed.iter().any(|(removed, _)| *removed == name), "{name}");
        }
    }
}
