//! The `neurobridge` program under test, and the cargo commands that build it.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::paths::{target_dir, workspace_root};

/// The variable with the path of the program to test; `cargo xtask test` sets it after the build.
pub const BINARY_VARIABLE: &str = "NEUROBRIDGE_TEST_BINARY";

/// Returns the path of the `neurobridge` program: that of [`BINARY_VARIABLE`] or, if it is not set, of a program that
/// is built now, once per process.
///
/// # Panics
/// Panics if the program cannot be built.
pub fn neurobridge() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let binary = BUILT.get_or_init(|| match env::var_os(BINARY_VARIABLE) {
        Some(binary) => PathBuf::from(binary),
        None => build("neurobridge", "neurobridge", Profile::Dev).unwrap_or_else(|error| panic!("{error:#}")),
    });
    binary.clone()
}

/// Returns a cargo command in the workspace's root, with the environment of the user's own shell.
///
/// Cargo describes the current package to the programs it runs, in environment variables. These variables are removed,
/// because build scripts that depend on them (such as ring's) would run again and recompile their dependents: a minute
/// and a half at each change between `cargo test` and `cargo xtask test`.
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

/// The build profile of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Compiles fast.
    Dev,
    /// Runs fast.
    Release,
}

/// Builds one program of the workspace and returns its path. Cargo's messages are printed to standard error.
///
/// # Errors
/// Returns an error if cargo fails.
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
        bail!("`cargo build --package {package} --bin {binary}` exited with {status}");
    }
    Ok(target_dir().join(folder).join(binary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_command_has_no_package_variables() {
        assert!(env::var_os("CARGO_MANIFEST_DIR").is_some(), "started by cargo");
        let cargo = cargo();
        let removed: Vec<_> = cargo.get_envs().filter(|(_, value)| value.is_none()).collect();
        for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR"] {
            assert!(removed.iter().any(|(removed, _)| *removed == name), "{name}");
        }
    }
}
